"""Law: a release reaches few devices first, and further ones only while those few are well; whoever stops it is named.

    canary ── all of them updated and well for `soak_s` ──► wider, stage by stage ──► done
       │                                                        │
       └── one failed ──────────► paused ◄── more failed than `max_failures` of those who tried
                                    │ ▲
                            resume ─┘ └─ pause (an operator)

An operator who goes on behind failures forgives those that are known by then. The rollout is a value; what the devices
say, the time and an operator's wish are events. A paused release asks nobody: who has it keeps it, who has not begun
stays as it is. Taking a release back is a newer release of an older version.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from pydantic import Field, FiniteFloat

from headwater.schemas import limits
from headwater.schemas.base import Frozen, NodeId, Weight
from headwater.schemas.http import ReleaseState, ReleaseWish
from headwater.schemas.messages import Rollout
from headwater.schemas.statuses import RolloutStatus

MAX_STAGES: Final = 16

Share = Annotated[FiniteFloat, Field(gt=0, le=1)]


class Policy(Frozen):
    """How a release spreads: first to `canaries` and a share of all others, then to `shares` of them, at last to all.

    A stage is passed when everyone whom it asks, and who is there, has been well for `soak_s`. Of a later stage
    `max_failures` of those who tried may have failed, and as many be gone, of the canaries none.
    """

    canaries: Annotated[tuple[NodeId, ...], Field(max_length=limits.MAX_CANARIES)] = ()
    canary_share: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.1
    shares: Annotated[tuple[Share, ...], Field(max_length=MAX_STAGES)] = ()
    soak_s: Weight = 600.0
    max_failures: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.05

    @property
    def stages(self) -> tuple[float, ...]:
        """The share of each stage; the last is everyone's."""
        first = (self.canary_share,) if self.canaries or self.canary_share else ()
        shares = (*first, *(share for share in self.shares if share < 1))
        return shares if shares and shares[-1] == 1 else (*shares, 1.0)


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Told:
    """What the devices say, summed over the tree."""

    report: RolloutStatus


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator wishes it."""

    wish: ReleaseWish


Event = Told | Asked


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the fleet whom the stage asks now."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the rollout as it is now; before anybody is told of it."""


Effect = Announce | Keep


# ── the rollout ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a release stands. `well_since` is when everyone of the stage was first seen well; times are UTC seconds.

    `said` counts the words on it, so that what the devices say of an earlier one is not taken for this one's.
    `forgiven` is how many failures an operator has seen, and went on.
    """

    counter: int
    policy: Policy
    stage: int = 0
    state: ReleaseState = "canary"
    said: int = 0
    well_since: float | None = None
    forgiven: int = 0
    detail: str = ""
    report: RolloutStatus | None = field(default=None, compare=False)

    @property
    def is_last(self) -> bool:
        return self.stage == len(self.policy.stages) - 1


def begin(counter: int, policy: Policy) -> Progress:
    return Progress(counter, policy, state="canary" if len(policy.stages) > 1 else "wider")


def word(progress: Progress, release: bytes, signature: bytes) -> Rollout:
    """What the cloud says of it to its children."""
    asks = progress.state != "paused"
    return Rollout(
        release=release,
        signature=signature,
        stage=progress.said,
        nodes=progress.policy.canaries if asks else (),
        share=progress.policy.stages[progress.stage] if asks else 0.0,
    )


def step(progress: Progress, event: Event, now: float) -> tuple[Progress, tuple[Effect, ...]]:
    """What becomes of it, and what is to be done, in order. An event that does not belong here changes nothing."""
    match event, progress.state:
        case Asked("pause"), "canary" | "wider" | "done":
            return _said(replace(progress, state="paused", detail="paused by an operator"))
        case Asked("resume"), "paused":
            state: ReleaseState = "canary" if progress.stage == 0 and not progress.is_last else "wider"
            failed = progress.report.failed if progress.report is not None else 0
            return _said(replace(progress, state=state, detail="", forgiven=failed))
        case Told(report), "canary" | "wider" | "done" if (report.counter, report.stage) == (
            progress.counter,
            progress.said,
        ):
            return _told(progress, report, now)
    return progress, ()


def _said(progress: Progress) -> tuple[Progress, tuple[Effect, ...]]:
    return replace(progress, said=progress.said + 1, well_since=None), (Keep(), Announce())


def _noted(before: Progress, after: Progress, report: RolloutStatus) -> tuple[Progress, tuple[Effect, ...]]:
    """What devices say is kept for people when it changes."""
    after = replace(after, report=report)
    return after, () if after == before and report == before.report else (Keep(),)


def _told(progress: Progress, report: RolloutStatus, now: float) -> tuple[Progress, tuple[Effect, ...]]:
    failure = _too_many(progress, report)
    if failure is not None:
        return _said(replace(progress, state="paused", detail=failure, report=report))
    why = _not_yet(progress, report)
    if why is not None:
        return _noted(progress, replace(progress, well_since=None, detail=why), report)
    since = now if progress.well_since is None else progress.well_since
    if progress.is_last:
        return _noted(progress, replace(progress, state="done", well_since=since, detail=""), report)
    if now - since >= progress.policy.soak_s:
        return _said(replace(progress, state="wider", stage=progress.stage + 1, detail="", report=report))
    return _noted(progress, replace(progress, well_since=since, detail="all well, and soaking"), report)


def _too_many(progress: Progress, report: RolloutStatus) -> str | None:
    """Why the release is stopped."""
    tried = report.failed + report.updated
    allowed = progress.forgiven + (0.0 if progress.state == "canary" else progress.policy.max_failures * tried)
    if report.failed <= allowed:
        return None
    first = report.failures[0] if report.failures else None
    of_one = f"; {first.node}: {first.detail}" if first is not None else ""
    return f"{report.failed} of {tried} that tried have failed{of_one}"[: limits.MAX_TEXT_LENGTH]


def _not_yet(progress: Progress, report: RolloutStatus) -> str | None:
    """What the stage waits for."""
    if report.waiting or report.under_way:
        counts = ((report.under_way, "under way"), (report.waiting, "waiting"))
        return ", ".join(f"{number} {words}" for number, words in counts if number)
    tolerated = 0.0 if progress.state == "canary" else progress.policy.max_failures * (report.updated + report.away)
    if report.away > tolerated:
        return f"{report.away} that had begun are not there"
    if progress.state != "canary":
        return None if report.updated else "nobody has it yet"
    # What failed and was not forgiven has paused the release already.
    failed = {failure.node for failure in report.failures}
    missing = sorted(set(progress.policy.canaries) - set(report.named) - failed)
    if missing:
        return f"canaries that are not there, or cannot be updated: {', '.join(missing)}"[: limits.MAX_TEXT_LENGTH]
    return None if report.updated else "the stage asks nobody who is there: name a canary, or give a larger share"
