"""Law: runs are those that the history tells of and those that were heard, each once, the newest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headwater.dashboard.view.course import Point, heard_course, merged, trained
from headwater.dashboard.view.state import Fleet, Heard, RunHeard
from headwater.dashboard.view.table import Cell, Line, line, mark, node, run
from headwater.dashboard.view.words import UNKNOWN, count, duration, number, percent, rate, size, turn
from headwater.schemas.statuses import MemberStatus, RoundStatus, RunStatus


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as a list shows it; `began_at` is None before it began, or where that was before somebody listened."""

    id: str
    name: str
    state: str
    round: int
    rounds: int
    began_at: float | None = None
    detail: str = ""


def all_runs(recorded: tuple[RunRow, ...], fleet: Fleet) -> tuple[RunRow, ...]:
    """What was heard is newer than what was asked for; the history knows more runs."""
    heard = {
        run: RunRow(
            run, told.status.name, told.status.state, told.status.round, told.status.rounds, None, told.status.detail
        )
        for run, told in fleet.runs.items()
        if told.status is not None
    }
    known = {row.id for row in recorded}
    newer = [row for run, row in reversed(heard.items()) if run not in known]
    return (*newer, *(_newer(row, heard.get(row.id)) for row in recorded))


def _newer(recorded: RunRow, heard: RunRow | None) -> RunRow:
    if heard is None or recorded.state in ("finished", "stopped", "failed"):
        return recorded
    return RunRow(
        recorded.id,
        recorded.name,
        heard.state,
        max(recorded.round, heard.round),
        heard.rounds,
        recorded.began_at,
        heard.detail,
    )


def course_of(fleet: Fleet, run: str, recorded: tuple[Point, ...]) -> tuple[Point, ...]:
    return merged(recorded, heard_course(fleet.runs.get(run, RunHeard()).rounds))


def status_of(fleet: Fleet, run: str) -> RunStatus | None:
    heard = fleet.runs.get(run)
    return heard.status if heard else None


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────

MAX_LINES: Final = 400
"""Of members in a table; the others are in the tree."""


def member_lines(fleet: Fleet, run: str) -> tuple[Line, ...]:
    """Who is in the newest round of each parent that works on this run: the cloud's children, then each cluster's."""
    lines = [
        _member_line(told.status, member)
        for told in _newest(fleet, run)
        for member in sorted(told.status.members, key=_by_need)
        if member.state != "idle"
    ]
    return tuple(lines[:MAX_LINES])


def link_lines(fleet: Fleet, run: str) -> tuple[Line, ...]:
    """What each parent's links carried in its newest round: the cloud's first."""
    return tuple(
        line(
            told.status.parent,
            Cell(f"{told.status.parent} and those below it", f"/node/{told.status.parent}"),
            turn(told.status, before=""),
            size(told.status.bytes_down),
            size(told.status.bytes_up),
            rate(told.rate_down),
            rate(told.rate_up),
        )
        for told in _newest(fleet, run)[:MAX_LINES]
    )


def _newest(fleet: Fleet, run: str) -> list[Heard]:
    heard = [told for told in fleet.rounds.values() if told.status.run == run]
    return sorted(heard, key=lambda told: (told.status.parent != fleet.cloud, told.status.parent))


def _by_need(member: MemberStatus) -> tuple[bool, bool, str]:
    """Those first that something is the matter with, then those that are waited for."""
    return member.state not in ("refused", "left"), member.state != "waiting", member.node


def _member_line(of: RoundStatus, member: MemberStatus) -> Line:
    return line(
        f"{of.parent}/{member.node}",
        node(member.node),
        mark(member.state),
        f"{of.parent}, {turn(of)}",
        count(member.examples) if member.examples else UNKNOWN,
        number(member.loss),
        duration(member.after_s),
        duration(member.train_s),
        size(member.size_bytes) if member.size_bytes else UNKNOWN,
    )


def outcome_lines(known: tuple[RunRow, ...], courses: Mapping[str, tuple[Point, ...]]) -> tuple[Line, ...]:
    """What came of each run so far."""
    states = {row.id: row.state for row in known}
    return tuple(_outcome(name, states.get(name, "unknown"), course) for name, course in courses.items())


def _outcome(name: str, state: str, course: tuple[Point, ...]) -> Line:
    points = trained(course)
    measured = [point for point in points if point.accuracy is not None]
    worst = [point.worst for point in points if point.worst is not None]
    losses = [point.loss for point in points if point.loss is not None]
    return line(
        name,
        run(name),
        mark(state),
        count(len(points)),
        percent(measured[-1].accuracy if measured else None),
        percent(worst[-1] if worst and measured else None),
        number(losses[-1] if losses else None),
        duration(sum(point.elapsed_s for point in course) if course else None),
        size(sum(point.bytes_down + point.bytes_up for point in course) if course else None),
    )
