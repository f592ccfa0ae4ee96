"""Law: the picture of a tree is rows, one for each parent, the cloud's first, each with a cell for each child.

A picture is plain data; what differs between two of them is a patch, and the first with the patch is the second.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from headwater.dashboard.view.state import Fleet, Heard
from headwater.dashboard.view.words import count, size, turn
from headwater.schemas.statuses import MemberStatus

MAX_CELLS: Final = 3_000
"""Cells in one picture; children beyond that are counted."""

MAX_NAMED: Final = 48
"""Up to so many devices in all, a cell bears its device's name."""

MAX_DEPTH: Final = 16

CellState = Literal["received", "waiting", "refused", "left", "idle", "online", "offline"]
WORDS: Final[Mapping[CellState, str]] = {
    "received": "its update is in",
    "waiting": "working",
    "refused": "refused",
    "left": "left the round",
    "idle": "not asked this time",
    "online": "online",
    "offline": "offline",
}
Cell = tuple[str, CellState]


@dataclass(frozen=True, slots=True)
class Row:
    """A parent and the children below it that are no parents themselves.

    `down` and `up` are what its links to them carried in its round. `rails` are the levels of the tree whose line
    goes on below this row; `flow` says whether bytes go `down`, `up`, both or not at all on the way to its own
    parent just now. `progress` is the share of its round's cohort that is in, None where no round is open.
    """

    id: str
    depth: int
    role: str
    state: str
    words: str
    down: str
    up: str
    flow: str
    progress: float | None
    cells: tuple[Cell, ...]
    more: str = ""
    rails: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    rows: tuple[Row, ...] = ()
    named: bool = True


def pictured(fleet: Fleet) -> Picture:
    """The tree as it stands; a node whose parent nobody heard of hangs below that name."""
    children = _children(fleet)
    parents = {name for name in children if name} | _parents_by_role(fleet)
    order = list(_ordered(fleet, children, parents))
    devices = sum(sum(child not in parents for child in children.get(name, ())) for name, _ in order)
    room = MAX_CELLS // max(1, len(order)) if devices > MAX_CELLS else MAX_CELLS
    rails = _rails([depth for _, depth in order])
    rows = tuple(
        replace(_row(fleet, name, depth, children.get(name, ()), parents, room), rails=lines)
        for (name, depth), lines in zip(order, rails, strict=True)
    )
    return Picture(rows, devices <= MAX_NAMED)


def patch(before: Picture, after: Picture) -> dict[str, Any] | None:
    """What the browser needs to go from one picture to the next: None for nothing, a whole picture where rows or cells
    came or went, and otherwise the fields of rows and the states of cells that changed, by their place."""
    if before == after:
        return None
    if before.named != after.named or [_shape(row) for row in before.rows] != [_shape(row) for row in after.rows]:
        return {"whole": whole(after)}
    changes = {
        str(place): changed
        for place, (old, new) in enumerate(zip(before.rows, after.rows, strict=True))
        if (changed := _changes(old, new))
    }
    return {"rows": changes}


def whole(picture: Picture) -> dict[str, Any]:
    """A picture as the browser takes it."""
    rows = [{name: getattr(row, name) for name in _FIELDS} | {"cells": list(row.cells)} for row in picture.rows]
    return {"named": picture.named, "rows": rows}


def tally(picture: Picture) -> dict[CellState, int]:
    """How many cells are in which state, in the legend's order."""
    found: dict[CellState, int] = dict.fromkeys(WORDS, 0)
    for row in picture.rows:
        for _, state in row.cells:
            found[state] += 1
    return found


_FIELDS: Final = ("id", "depth", "role", "state", "words", "down", "up", "flow", "progress", "more", "rails")


def _shape(row: Row) -> tuple[str, int, tuple[str, ...]]:
    return row.id, row.depth, tuple(name for name, _ in row.cells)


def _changes(old: Row, new: Row) -> dict[str, Any]:
    changed: dict[str, Any] = {name: getattr(new, name) for name in _FIELDS if getattr(old, name) != getattr(new, name)}
    cells = {
        str(place): state
        for place, ((_, was), (_, state)) in enumerate(zip(old.cells, new.cells, strict=True))
        if was != state
    }
    return changed | ({"cells": cells} if cells else {})


# ── who is below whom ───────────────────────────────────────────────────────────────────────────────────────────


def parent_of(fleet: Fleet, node: str) -> str | None:
    """By its own word, else by the round in which it is a member; None for the cloud, "" where nobody says."""
    seen = fleet.nodes.get(node)
    if seen is not None:
        return seen.status.parent
    if node == fleet.cloud:
        return None
    return next((name for name, heard in fleet.rounds.items() if _member(heard, node) is not None), "")


def devices_of(fleet: Fleet) -> set[str]:
    """By their own word, and those that only their parent's rounds tell of."""
    heard = {name for name, seen in fleet.nodes.items() if seen.status.role == "device"}
    return heard | (fleet.turns.keys() - fleet.rounds.keys() - fleet.nodes.keys())


def _children(fleet: Fleet) -> dict[str, list[str]]:
    below: dict[str, str] = {}
    for parent, heard in fleet.rounds.items():
        below.update({member.node: parent for member in heard.status.members})
    for parent in fleet.rounds:
        if parent != fleet.cloud and parent not in below:
            below[parent] = fleet.cloud
    # A node's own word goes before a parent's memory of it.
    below.update({name: seen.status.parent for name, seen in fleet.nodes.items() if seen.status.parent is not None})
    below.pop(fleet.cloud, None)
    children: dict[str, list[str]] = {}
    for node, parent in sorted(below.items()):
        children.setdefault(parent, []).append(node)
    return children


def _parents_by_role(fleet: Fleet) -> set[str]:
    found = {name for name, seen in fleet.nodes.items() if seen.status.role != "device"}
    return found | set(fleet.rounds) | ({fleet.cloud} if fleet.cloud else set())


def _ordered(fleet: Fleet, children: Mapping[str, list[str]], parents: set[str]) -> Iterator[tuple[str, int]]:
    """The parents from the cloud down, each before those below it; then those that hang on no cloud."""
    told: set[str] = set()

    def below(name: str, depth: int) -> Iterator[tuple[str, int]]:
        if name in told or depth > MAX_DEPTH:
            return
        told.add(name)
        yield name, depth
        for child in children.get(name, ()):
            if child in parents:
                yield from below(child, depth + 1)

    if fleet.cloud:
        yield from below(fleet.cloud, 0)
    of_somebody = {child for some in children.values() for child in some}
    for name in (*sorted(parents - of_somebody), *sorted(parents)):
        yield from below(name, 0)


def _rails(depths: list[int]) -> list[tuple[int, ...]]:
    """For each row the levels at which a later row hangs on the same parent: there the line goes on."""
    rails: list[tuple[int, ...]] = []
    going_on: set[int] = set()
    for depth in reversed(depths):
        rails.append(tuple(sorted(level for level in going_on if level <= depth)))
        going_on = {level for level in going_on if level < depth} | {depth}
    return rails[::-1]


def _row(fleet: Fleet, name: str, depth: int, children: list[str] | tuple[()], parents: set[str], room: int) -> Row:
    heard = fleet.rounds.get(name)
    members = {member.node: member for member in heard.status.members} if heard else {}
    leaves = [child for child in children if child not in parents]
    shown = leaves[:room]
    seen = fleet.nodes.get(name)
    role = seen.status.role if seen else ("cloud" if name == fleet.cloud else "gateway")
    return Row(
        id=name,
        depth=depth,
        role=role,
        state=seen.status.state if seen else "unknown",
        words=_words(heard, len(children)),
        down=size(heard.status.bytes_down) if heard else "",
        up=size(heard.status.bytes_up) if heard else "",
        flow=_flow(fleet, name),
        progress=_progress(heard),
        cells=tuple((child, cell_state(fleet, child, members.get(child))) for child in shown),
        more=f"and {count(len(leaves) - len(shown))} more" if len(leaves) > len(shown) else "",
    )


def cell_state(fleet: Fleet, node: str, member: MemberStatus | None) -> CellState:
    """What a cell shows: that it is offline before all else, then what its parent's round says of it."""
    seen = fleet.nodes.get(node)
    if seen is not None and seen.status.state == "offline":
        return "offline"
    if member is None:
        return "online" if seen is not None else "idle"
    return member.state


def _words(heard: Heard | None, children: int) -> str:
    if heard is None:
        return f"{count(children)} below, no round yet" if children else "nobody below yet"
    status = heard.status
    attempt = f", attempt {status.attempt + 1}" if status.attempt else ""
    ended = {"open": "", "closed": ", closed", "failed": ", failed"}[status.state]
    return f"{turn(status)}{attempt}{ended}: {count(status.received)} of {count(status.cohort)} in"


def _flow(fleet: Fleet, node: str) -> str:
    """On the way from a node's parent to it: bytes of a run that goes on."""
    parent = parent_of(fleet, node)
    heard = fleet.rounds.get(parent if parent else fleet.cloud) if parent is not None else None
    seen = fleet.nodes.get(heard.status.parent) if heard else None
    is_gone = seen is not None and seen.status.state == "offline"
    if heard is None or is_gone or fleet.run is None or fleet.run.state != "running":
        return ""
    return " ".join(way for way, going in (("down", heard.rate_down > 0), ("up", heard.rate_up > 0)) if going)


def _progress(heard: Heard | None) -> float | None:
    if heard is None or heard.status.state != "open" or not heard.status.cohort:
        return None
    return round(heard.status.received / heard.status.cohort, 3)


def _member(heard: Heard, node: str) -> MemberStatus | None:
    return next((member for member in heard.status.members if member.node == node), None)
