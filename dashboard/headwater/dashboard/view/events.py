"""Law: what happened is shown newest first, and can be narrowed to a kind and to a node."""

from collections.abc import Callable, Mapping
from typing import Final

from headwater.dashboard.view.state import Happening
from headwater.dashboard.view.table import Line, line, mark, node, run

MAX_SHOWN: Final = 300

KINDS: Final = ("refusals", "nodes", "runs", "rounds")
AT_FIRST: Final = frozenset({"refusals", "nodes", "runs"})
"""Ends of rounds are many, and the run's page has them."""

_GROUPS: Final[Mapping[str, str]] = {
    "round": "rounds",
    "run": "runs",
    "node": "nodes",
    "delta": "refusals",
    "plan": "refusals",
    "enrolment": "refusals",
}
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "round.closed": ("received", "round closed"),
    "round.failed": ("failed", "round failed"),
    "run.started": ("running", "run started"),
    "run.finished": ("finished", "run finished"),
    "run.stopped": ("stopped", "run stopped"),
    "run.failed": ("failed", "run failed"),
    "run.paused": ("paused", "run paused"),
    "run.resumed": ("running", "run resumed"),
    "node.online": ("online", "online"),
    "node.offline": ("offline", "offline"),
    "node.enrolled": ("received", "enrolled"),
    "enrolment.refused": ("refused", "certificate refused"),
    "delta.refused": ("refused", "update refused"),
    "plan.declined": ("left", "plan declined"),
}


def group_of(kind: str) -> str:
    return _GROUPS.get(kind.split(".")[0], "")


def chosen(
    happenings: tuple[Happening, ...], kinds: frozenset[str], text: str, most: int = MAX_SHOWN
) -> tuple[Happening, ...]:
    """Those of these kinds whose node, run or words have this text, newest first."""
    wanted = text.strip().lower()
    newest_first = sorted(happenings, key=lambda told: told.at, reverse=True)
    found = (
        told
        for told in newest_first
        if group_of(told.kind) in kinds and wanted in f"{told.node} {told.run} {told.reason} {told.detail}".lower()
    )
    return tuple(told for told, _ in zip(found, range(most), strict=False))


def lines(happenings: tuple[Happening, ...], clock: Callable[[float], str]) -> tuple[Line, ...]:
    return tuple(_line(told, clock(told.at)) for told in happenings)


def short_lines(happenings: tuple[Happening, ...], clock: Callable[[float], str]) -> tuple[Line, ...]:
    """When, what, and of whom, where there is no room for more."""
    return tuple(
        line(told.id, clock(told.at), mark(*_words(told)), node(told.node) if told.node else run(told.run))
        for told in happenings
    )


def _words(told: Happening) -> tuple[str, str]:
    return _WORDS.get(told.kind, ("unknown", told.kind))


def _line(told: Happening, at: str) -> Line:
    return line(
        told.id,
        at,
        mark(*_words(told)),
        node(told.node),
        run(told.run),
        "" if told.round is None else str(told.round),
        told.reason.replace("_", " "),
        told.detail,
    )
