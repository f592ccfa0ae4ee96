"""Law: a round is a value. `(round, event, now) -> (round, effects)`, at every tier, with nothing else inside.

    open ──── everyone expected, or enough, is in ───► closed
      │  └─── deadline, quorum in ───────────────────► closed
      └────── deadline, no quorum / nobody left ─────► failed

Enough is what over-selection needs of the more that it asked (Bonawitz et al. 2019, section 9), or the updates that
make a version in a buffered run (FedBuff, Nguyen et al. 2022, algorithm 1). A round that tolerates staleness takes
updates of the run's earlier rounds too, up to a hard cap, each once and discounted.

The engine decides on headers alone (who, which round, what weight), so a round of any model size is a small value;
whoever holds it folds the tensors when told to `Fold`. An event that is illegal in a state changes nothing and comes
back as a `Refuse` with its reason. A round that failed is tried again as a new round with the next `attempt`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from headwater.core.select import share_of
from headwater.core.staleness import discount
from headwater.schemas.messages import Delta, Reason, RoundKey

State = Literal["open", "closed", "failed"]


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Arrived:
    """A delta whose tensors were already checked against the manifest."""

    key: RoundKey
    sender: str
    weight: float
    examples: int
    devices: int

    @classmethod
    def of(cls, delta: Delta) -> "Arrived":
        return cls(delta.key, delta.sender, delta.weight, delta.examples, delta.devices)


@dataclass(frozen=True, slots=True)
class Joined:
    """A child appeared, or came back."""

    node: str


@dataclass(frozen=True, slots=True)
class Left:
    """A child's last will arrived."""

    node: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A child said that it cannot follow this plan."""

    key: RoundKey
    node: str


@dataclass(frozen=True, slots=True)
class Invited:
    """A child that was not chosen is asked after all, in place of one that declines."""

    node: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = Arrived | Joined | Left | Declined | Invited | Tick


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fold:
    """Add `factor` times the delta of this event to the round's sum, and its whole weight to the divisor."""

    sender: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the delta of this event for the next round, if there is room: this one is over and could have taken it."""

    sender: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell the sender that its delta is in."""

    sender: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the sender that its delta is not taken, and why."""

    sender: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Close:
    """The round ended, in the state that the new value carries."""


Effect = Fold | Hold | Acknowledge | Refuse | Close


# ── the round ───────────────────────────────────────────────────────────────────────────────────────────────────


Contributor = tuple[str, RoundKey]
"""An update by its sender and the plan that it answers."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How old an update may be, in model versions, and by what power its age discounts it.

    `counted` are the updates that earlier rounds of the run already hold, as far back as `max_staleness` reaches.
    """

    max_staleness: int = 0
    exponent: float = 0.5
    counted: frozenset[Contributor] = frozenset()


@dataclass(frozen=True, slots=True)
class Round:
    """A round at one parent.

    `cohort` may contribute; of those, `away` (left or declined) are not waited for. `received` maps each contributor
    to its weight, `late` does for updates of earlier rounds. `quorum` is the number of updates without which the round
    fails at its deadline; `enough` of them end it (0: no such number). `open_to_all` admits children that appear while
    the round is open. Times are seconds of the caller's monotonic clock.
    """

    key: RoundKey
    cohort: frozenset[str]
    quorum: int
    opened_at: float
    deadline_at: float
    open_to_all: bool = True
    enough: int = 0
    tolerance: Tolerance = Tolerance()
    state: State = "open"
    away: frozenset[str] = frozenset()
    received: dict[str, float] = field(default_factory=dict)
    late: dict[Contributor, float] = field(default_factory=dict)
    devices: int = 0
    examples: int = 0

    @property
    def waiting(self) -> frozenset[str]:
        """Whom the round still waits for."""
        return self.cohort - self.received.keys() - self.away

    @property
    def updates(self) -> int:
        return len(self.received) + len(self.late)

    @property
    def weight(self) -> float:
        return math.fsum((*self.received.values(), *self.late.values()))


def open_round(
    key: RoundKey,
    cohort: Iterable[str],
    *,
    quorum: float,
    deadline_s: float,
    now: float,
    open_to_all: bool = True,
    enough: int = 0,
    tolerance: Tolerance | None = None,
) -> Round:
    """A new round. `quorum` is a fraction in (0, 1] of the cohort, or of `enough` where fewer are enough; at least one
    update is always needed.

    Raises:
        ValueError: a quorum outside (0, 1] or a deadline that is not positive.
    """
    members = frozenset(cohort)
    if not 0 < quorum <= 1:
        raise ValueError(f"quorum: {quorum} is no fraction of the cohort; give a number above 0 and up to 1")
    if not deadline_s > 0:
        raise ValueError(f"deadline_s: {deadline_s} leaves no time; give a positive number of seconds")
    expected = min(enough, len(members)) if enough else len(members)
    needed = max(1, share_of(expected, quorum))
    return Round(key, members, needed, now, now + deadline_s, open_to_all, enough, tolerance or Tolerance())


def step(round_: Round, event: Event, now: float) -> tuple[Round, tuple[Effect, ...]]:
    """What the round becomes, and what is to be done. Time is looked at with every event, so a late one is late."""
    if round_.state == "open" and now >= round_.deadline_at:
        expired = _expire(round_)
        _, effects = _apply(expired, event)
        return expired, (Close(), *effects)
    after, effects = _apply(round_, event)
    if after.state == "open" and (_has_enough(after) or (not after.waiting and after.cohort)):
        after, effects = _settle(after, effects)
    return after, effects


def taken_up(round_: Round, update: Arrived) -> tuple[Round, tuple[Effect, ...]]:
    """As `step` for an update that was acknowledged before the round was opened anew.

    It was in, so neither the hour nor others who are enough by now keep it out. The round closes with its next event.
    """
    return _apply(round_, update)


def _has_enough(round_: Round) -> bool:
    return bool(round_.enough) and round_.updates >= round_.enough


def _expire(round_: Round) -> Round:
    return replace(round_, state="closed" if round_.updates >= round_.quorum else "failed")


def _settle(round_: Round, effects: tuple[Effect, ...]) -> tuple[Round, tuple[Effect, ...]]:
    """Nobody is left to wait for. Those who went may still come back until the deadline if the quorum needs them."""
    if round_.updates >= round_.quorum:
        return replace(round_, state="closed"), (*effects, Close())
    return round_, effects


def _apply(round_: Round, event: Event) -> tuple[Round, tuple[Effect, ...]]:
    match event:
        case Arrived():
            return _arrived(round_, event)
        case Joined(node) if round_.state == "open":
            return _joined(round_, node), ()
        case Left(node) if round_.state == "open":
            return replace(round_, away=round_.away | ({node} & round_.cohort)), ()
        case Invited(node) if round_.state == "open":
            return replace(round_, cohort=round_.cohort | {node}), ()
        case Declined(key, node) if round_.state == "open" and key == round_.key:
            return replace(round_, away=round_.away | ({node} & round_.cohort)), ()
    return round_, ()


def _joined(round_: Round, node: str) -> Round:
    cohort = round_.cohort | {node} if round_.open_to_all else round_.cohort
    return replace(round_, cohort=cohort, away=round_.away - {node})


def _arrived(round_: Round, delta: Arrived) -> tuple[Round, tuple[Effect, ...]]:
    if _is_in(round_, delta):
        # The sender did not hear the first receipt: the effect of arriving twice is that of arriving once.
        return round_, (Acknowledge(delta.sender),)
    reason = _objection(round_, delta)
    if reason:
        return round_, (Refuse(delta.sender, *reason),)
    if round_.state != "open":
        return round_, (Hold(delta.sender),)
    factor = discount(round_.key.round - delta.key.round, round_.tolerance.exponent)
    return _with(round_, delta), (Fold(delta.sender, factor), Acknowledge(delta.sender))


def _with(round_: Round, delta: Arrived) -> Round:
    after = replace(round_, devices=round_.devices + delta.devices, examples=round_.examples + delta.examples)
    if delta.key != round_.key:
        return replace(after, late={**after.late, (delta.sender, delta.key): delta.weight})
    received = {**after.received, delta.sender: delta.weight}
    return replace(after, received=received, away=after.away - {delta.sender})


def _is_in(round_: Round, delta: Arrived) -> bool:
    if delta.key == round_.key:
        return delta.sender in round_.received
    return (delta.sender, delta.key) in round_.late or (delta.sender, delta.key) in round_.tolerance.counted


def _gave_another(round_: Round, delta: Arrived) -> bool:
    """Whether an update of another attempt at the same round is in: a sender has one late update a version."""
    contributors = (*round_.late, *round_.tolerance.counted)
    return any(sender == delta.sender and key.round == delta.key.round for sender, key in contributors)


def _objection(round_: Round, delta: Arrived) -> tuple[Reason, str] | None:
    here, there = round_.key, delta.key
    most = round_.tolerance.max_staleness
    if there.run != here.run:
        return "unknown_round", f"run: {there.run} where {here.run} is under way"
    if order(there) > order(here):
        return "unknown_round", f"round {_label(there)} has not begun; round {_label(here)} is open"
    if there != here and not worth_taking(there, here, most):
        allowed = f"; at most {most} rounds behind are taken" if most else ""
        return "stale", f"round {_label(there)} is over; round {_label(here)} is open{allowed}"
    if there != here and _gave_another(round_, delta):
        return "duplicate", f"another update of {delta.sender} from round {there.round} is in"
    stranger = there == here and delta.sender not in round_.cohort
    if round_.state != "open" and (not most or (stranger and round_.open_to_all)):
        return "closed", f"round {_label(here)} has closed"
    if stranger:
        return "not_in_cohort", f"{delta.sender} was not chosen for round {_label(here)}"
    return None


def worth_taking(key: RoundKey, newest: RoundKey, max_staleness: int) -> bool:
    """Whether an update of `key` still counts where `newest` is the open round: the one rule of children and parents.

    Staleness is the number of model versions between them; without any, an earlier attempt is over too. What answers
    an edge round of another parent began from no version, and is never taken.
    """
    if key == newest:
        return True
    is_of_a_version = key.run == newest.run and key.step == newest.step
    return bool(max_staleness) and is_of_a_version and 0 <= newest.round - key.round <= max_staleness


def order(key: RoundKey) -> tuple[int, int, int]:
    """By which the rounds of one run follow each other: another attempt begins with the first step."""
    return key.round, key.attempt, key.step


def _label(key: RoundKey) -> str:
    return f"{key.round}.{key.step}.{key.attempt}"
