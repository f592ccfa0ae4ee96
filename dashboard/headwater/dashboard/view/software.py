"""Law: which software devices run is what they say of themselves; how far a release is, what the history says of it.

A state has its mark and its words in one table, whoever shows it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.table import Line, line, mark, node
from headwater.dashboard.view.tree import MAX_DEPTH, devices_of
from headwater.dashboard.view.words import UNKNOWN, count, duration, percent, plural
from headwater.schemas.http import ReleaseEntry, ReleaseState, ReleaseWish
from headwater.schemas.statuses import NodeStatus, RolloutStatus, UpdateState, UpdateStatus

MAX_VERSIONS: Final = 12
"""Versions with a bar each; the devices of all others have one together."""

MAX_LINES: Final = 200
"""Updates in a table; further ones are counted."""

MAX_NAMED: Final = 3
"""Canaries that are named where their stage is."""


class Word(NamedTuple):
    """The class of a state's mark, and the words for it."""

    mark: str
    text: str


UPDATES: Final[Mapping[UpdateState, Word]] = {
    "downloading": Word("waiting", "downloading"),
    "downloaded": Word("waiting", "downloaded"),
    "verified": Word("waiting", "verified, waits"),
    "updating": Word("waiting", "updating"),
    "updated": Word("received", "updated"),
    "failed": Word("failed", "failed"),
}
RELEASES: Final[Mapping[ReleaseState, Word]] = {
    "canary": Word("running", "canaries first"),
    "wider": Word("running", "goes wider"),
    "paused": Word("paused", "paused"),
    "done": Word("finished", "done"),
}
REPLACED: Final[Mapping[ReleaseState, Word]] = {
    "canary": Word("stopped", "replaced"),
    "wider": Word("stopped", "replaced"),
    "paused": Word("stopped", "was paused"),
    "done": Word("finished", "was done"),
}
"""Of a release that a newer one has replaced."""

COUNTS: Final[Mapping[str, str]] = {
    "updated": "updated",
    "under_way": "under way",
    "waiting": "waiting",
    "failed": "failed",
    "away": "away",
}


def counted(report: RolloutStatus) -> str:
    """How many devices are how far: those of whom there are any."""
    told = ((getattr(report, name), words) for name, words in COUNTS.items())
    return ", ".join(f"{count(number)} {words}" for number, words in told if number) or "nobody is asked"


def update_words(update: UpdateStatus) -> str:
    return f"{update.version}: {UPDATES[update.state].text}" + (f", {update.detail}" if update.detail else "")


# ── which software there is ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Bar:
    """`share` of a bar is full, and `failed` of it behind that is marked; both in [0, 1]."""

    label: str
    words: str
    share: float
    failed: float = 0.0


def versions(fleet: Fleet) -> tuple[Bar, ...]:
    """How many devices run which version, the newest version first; at last those that nobody heard say so."""
    devices = devices_of(fleet)
    heard = [seen.status for name, seen in fleet.nodes.items() if name in devices]
    running = Counter(status.software for status in heard if status.software)
    offline = Counter(status.software for status in heard if status.state == "offline")
    order = sorted(running, key=_by_number, reverse=True)
    told = [(version, running[version], _offline(offline[version])) for version in order[:MAX_VERSIONS]]
    others, unheard = order[MAX_VERSIONS:], len(devices) - running.total()
    if others:
        told.append((f"{count(len(others))} older versions", sum(running[version] for version in others), ""))
    if unheard:
        told.append(("not told", unheard, "; their broker is none of those that this dashboard listens to"))
    return tuple(
        Bar(label, f"{plural(number, 'device')}, {percent(number / len(devices), 0)}{more}", number / len(devices))
        for label, number, more in told
    )


def _by_number(version: str) -> tuple[list[int], str]:
    """0.10 is above 0.9."""
    return [int(digits) for digits in re.findall(r"[0-9]+", version)], version


def _offline(number: int) -> str:
    return f"; {count(number)} offline" if number else ""


def software_figures(fleet: Fleet, told: "Updates") -> dict[str, str]:
    running = {seen.status.software for seen in fleet.nodes.values() if seen.status.role == "device"}
    return {
        "devices": count(len(devices_of(fleet))),
        "versions": count(len(running - {""})),
        "under way": count(told.under_way),
        "failed": count(told.failed),
    }


# ── who is at it ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Updates:
    """Updates under way and failed ones. `more` is how many `lines` are left out."""

    under_way: int
    failed: int
    lines: tuple[Line, ...]
    more: int = 0


def updates(fleet: Fleet, release: ReleaseEntry | None) -> Updates:
    """What devices say of their updates, and for those that are not heard what their gateways and the history say.

    The failed come first, then those under way, then clusters that only their gateway speaks for.
    """
    own = {name: seen.status.update for name, seen in fleet.nodes.items() if seen.status.update is not None}
    # Whoever is heard is believed; what others tell of a device may be of a while ago.
    failed = {name: told for name, told in _failures(fleet, release).items() if name not in own}
    failed |= {name: _line(name, update) for name, update in own.items() if update.state == "failed"}
    going = {name: _line(name, update) for name, update in own.items() if update.state not in ("failed", "updated")}
    clusters = dict(_spoken_for(fleet))
    lines = (*_sorted(failed), *_sorted(going), *_sorted({name: _cluster(name, of) for name, of in clusters.items()}))
    return Updates(
        len(going) + sum(below.under_way for below in clusters.values()),
        len(failed) + sum(below.failed - len(below.failures) for below in clusters.values()),
        lines[:MAX_LINES],
        max(0, len(lines) - MAX_LINES),
    )


def _sorted(lines: Mapping[str, Line]) -> Iterator[Line]:
    return (lines[name] for name in sorted(lines))


def _line(name: str, update: UpdateStatus) -> Line:
    return line(name, node(name), mark(*UPDATES[update.state]), update.version or UNKNOWN, update.detail)


def _cluster(name: str, below: RolloutStatus) -> Line:
    word = UPDATES["failed" if below.failed else "downloading"]
    return line(f"below {name}", node(name), mark(word.mark, "its cluster"), UNKNOWN, counted(below))


def _failures(fleet: Fleet, release: ReleaseEntry | None) -> dict[str, Line]:
    """Of failed updates what others than the device itself tell."""
    told = [(seen.status.rollout, UNKNOWN) for seen in fleet.nodes.values() if seen.status.rollout is not None]
    if release is not None and release.report is not None:
        told.append((release.report, release.version))
    return {
        failure.node: line(failure.node, node(failure.node), mark(*UPDATES["failed"]), version, failure.detail)
        for report, version in told
        for failure in report.failures
    }


def _spoken_for(fleet: Fleet) -> Iterator[tuple[str, RolloutStatus]]:
    """Clusters with something to tell of which nobody below the gateway is heard."""
    statuses = {name: seen.status for name, seen in fleet.nodes.items()}
    speak = (status for status in statuses.values() if status.role == "device" or status.rollout is not None)
    heard = {parent for status in speak for parent in _above(statuses, status)}
    for name, status in statuses.items():
        below = status.rollout
        if below is not None and name not in heard and (below.under_way or below.waiting or below.failed):
            yield name, below


def _above(statuses: Mapping[str, NodeStatus], status: NodeStatus) -> Iterator[str]:
    parent = status.parent
    for _ in range(MAX_DEPTH):
        if not parent:
            return
        yield parent
        parent = statuses[parent].parent if parent in statuses else None


# ── the release ─────────────────────────────────────────────────────────────────────────────────────────────────


def offered(release: ReleaseEntry) -> ReleaseWish:
    """What an operator may ask of the current release; what was asked for a moment ago can be taken back."""
    is_held = release.wish == "pause" if release.wish is not None else release.state == "paused"
    return "resume" if is_held else "pause"


def why(release: ReleaseEntry, clock: Callable[[float], str]) -> str:
    """What the current release waits for, or why it rests."""
    if release.wish is not None:
        return f"Somebody asked to {release.wish} it; the coordinator has not seen that yet."
    if release.state == "paused":
        return f"Paused, and nobody is asked: {release.detail}."
    if release.state == "done":
        return "Everyone who is there has it. Whoever was away takes it when they come back."
    if release.well_since is not None:
        since = release.well_since.timestamp()
        return f"All are well since {clock(since)}; the next stage begins at {clock(since + release.soak_s)}."
    return f"It waits: {release.detail or 'no device has heard of it yet'}."


def stages(release: ReleaseEntry) -> tuple[Bar, ...]:
    """How far each stage is, the first one first."""
    return tuple(_stage(release, number) for number in range(release.stages))


def _stage(release: ReleaseEntry, number: int) -> Bar:
    label, report = _asks(release, number), release.report
    if number < release.stage:
        return Bar(label, "passed", 1.0)
    if number > release.stage:
        return Bar(label, "not yet", 0.0)
    asked = sum(getattr(report, name) for name in COUNTS) if report is not None else 0
    if report is None or not asked:
        return Bar(label, "nobody has answered yet", 0.0)
    return Bar(label, counted(report), report.updated / asked, report.failed / asked)


def _asks(release: ReleaseEntry, number: int) -> str:
    """Whom a stage asks."""
    share = release.shares[number]
    if share == 1:
        return "everyone"
    named = release.canaries if number == 0 else ()
    more = (f"{count(len(named) - MAX_NAMED)} more",) if len(named) > MAX_NAMED else ()
    all_others = (f"{percent(share, 0)} of all",) if share else ()
    return " and ".join(filter(None, (", ".join((*named[:MAX_NAMED], *more)), *all_others)))


def release_facts(release: ReleaseEntry, clock: Callable[[float], str]) -> dict[str, str]:
    """When it was published, and by which rules it spreads."""
    canaries = ", of the canaries none" if release.stages > 1 else ""
    return {
        "published": clock(release.published_at.timestamp()),
        "last change": clock(release.changed_at.timestamp()),
        "must be well for": duration(release.soak_s),
        "may fail": f"{percent(release.max_failures, 0)} of those who tried{canaries}",
    }


def earlier_lines(releases: tuple[ReleaseEntry, ...], clock: Callable[[float], str]) -> tuple[Line, ...]:
    """Releases that were replaced, newest first, with how far each had come."""
    return tuple(
        line(
            str(told.counter),
            count(told.counter),
            told.version,
            mark(*REPLACED[told.state]),
            f"{told.stage + 1} of {told.stages}",
            count(getattr(told.report, "updated", None)),
            count(getattr(told.report, "failed", None)),
            clock(told.published_at.timestamp()),
        )
        for told in releases
        if not told.is_current
    )
