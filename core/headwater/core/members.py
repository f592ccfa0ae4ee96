"""Law: who is there is a value, made of what children say and of when they were last heard, by the listener's clock.

            ┌──── birth, or any word of a child whose silence can be judged ────┐
            ▼                                                                   │
    present ──── its will ─────────────────────────────────► offline ───────────┤
            ──── nothing for `SILENCES` times `every_s` ───► silent  ───────────┤
            ──── a birth below another parent ─────────────► moved   ──── birth ┘

A child that never said how often it gives a sign of life is not judged by its silence. A will counts if it is of the
process that spoke last: the broker may send a former connection's late. A process that speaks again after another took
its place means that two share one identity. It is only reported, once for each two, for a message that was held up on
its way looks the same; whoever spoke last counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.statuses import NodeStatus

SILENCES: Final = 3
"""So many signs of life in a row may be lost."""

MAX_BOOTS_KEPT: Final = 8
"""Processes remembered of one identity, the last ones."""

Absence = Literal["offline", "silent", "moved"]


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Said:
    """A node's retained word on itself: its birth or its last will."""

    status: NodeStatus


@dataclass(frozen=True, slots=True)
class Heard:
    """Any message of a child to this parent. Only a sign of life tells `boot` and `every_s`."""

    node: str
    boot: str = ""
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Relinked:
    """This parent's own link is back: that it heard nobody meanwhile was not the children's silence."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed, and this parent's own link is up."""


Event = Said | Heard | Relinked | Tick


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Appeared:
    """A child is there that was not."""

    node: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A child that is there says something else of itself, its data for instance."""

    node: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """A child that is there began anew: a process that was not seen before."""

    node: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A child that was there is not."""

    node: str
    why: Absence


@dataclass(frozen=True, slots=True)
class TwoIdentities:
    """Two processes use one identity: the one that spoke last, and the one that it took over from."""

    node: str
    boots: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Full:
    """A child was not admitted: this parent has its `MAX_CHILDREN`, all of them there."""

    node: str


Effect = Appeared | Changed | Restarted | Gone | TwoIdentities | Full


# ── the members ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Member:
    """One child. `absence` None means that it is there.

    `boots` are its processes, the one that spoke last at the end; `doubted` are the pairs of them already reported.
    `every_s` is what the last process announced, None if it did not yet. `heard_at` is of the listener's clock.
    """

    status: NodeStatus
    heard_at: float
    absence: Absence | None
    every_s: float | None = None
    boots: tuple[str, ...] = ()
    doubted: frozenset[frozenset[str]] = frozenset()

    def is_silent(self, now: float) -> bool:
        return self.every_s is not None and now - self.heard_at >= SILENCES * self.every_s


@dataclass(frozen=True, slots=True)
class Members:
    """The children of `parent`, also those that went: `MAX_CHILDREN` at most, the longest gone make room."""

    parent: str
    children: Mapping[str, Member] = field(default_factory=dict)

    @property
    def present(self) -> dict[str, NodeStatus]:
        """Those who are there, with their last word on themselves."""
        return {node: member.status for node, member in self.children.items() if member.absence is None}


def step(members: Members, event: Event, now: float) -> tuple[Members, tuple[Effect, ...]]:
    """What the membership becomes, and what that means to others."""
    match event:
        case Said(status) if status.parent == members.parent:
            return _said(members, status, now)
        case Said(status) if status.state == "online" and status.node in members.children:
            return _moved(members, status)
        case Heard(node, boot, every_s) if node in members.children:
            return _heard(members, node, boot, every_s, now)
        case Relinked():
            children = {node: replace(member, heard_at=now) for node, member in members.children.items()}
            return replace(members, children=children), ()
        case Tick():
            return _look(members, now)
    return members, ()


def _with(members: Members, member: Member) -> Members:
    return replace(members, children={**members.children, member.status.node: member})


def _said(members: Members, status: NodeStatus, now: float) -> tuple[Members, tuple[Effect, ...]]:
    before = members.children.get(status.node)
    if before is None:
        return _admit(members, status, now)
    if status.state == "offline":
        current = before.boots[-1] if before.boots else ""
        if status.boot != current:
            return members, ()
        after = replace(before, status=status, absence=before.absence or "offline")
        return _with(members, after), () if before.absence else (Gone(status.node, "offline"),)
    after, effects = _booted(before, status.boot)
    if before.absence:
        effects = (Appeared(status.node), *effects)
    elif status != before.status and Restarted(status.node) not in effects:
        effects = (Changed(status.node), *effects)
    return _with(members, replace(after, status=status, heard_at=now, absence=None)), effects


def _admit(members: Members, status: NodeStatus, now: float) -> tuple[Members, tuple[Effect, ...]]:
    """A will is kept too: the process may have spoken since, on a connection whose birth came before it."""
    absence: Absence | None = "offline" if status.state == "offline" else None
    if len(members.children) >= MAX_CHILDREN:
        gone = [node for node, member in members.children.items() if member.absence]
        if absence or not gone:
            return members, () if absence else (Full(status.node),)
        longest = min(gone, key=lambda node: members.children[node].heard_at)
        members = replace(members, children={node: m for node, m in members.children.items() if node != longest})
    member = Member(status, now, absence, boots=(status.boot,) if status.boot else ())
    return _with(members, member), () if absence else (Appeared(status.node),)


def _moved(members: Members, status: NodeStatus) -> tuple[Members, tuple[Effect, ...]]:
    before = members.children[status.node]
    after, effects = _booted(replace(before, status=status, absence="moved"), status.boot)
    return _with(members, after), effects if before.absence else (Gone(status.node, "moved"), *effects)


def _heard(
    members: Members, node: str, boot: str, every_s: float | None, now: float
) -> tuple[Members, tuple[Effect, ...]]:
    after, effects = _booted(replace(members.children[node], heard_at=now), boot)
    if every_s is not None:
        after = replace(after, every_s=every_s)
    if after.absence in ("offline", "silent") and after.every_s is not None:
        # A mistake mends itself: what was only late on its way is followed by silence, which is judged.
        after = replace(after, status=after.status.model_copy(update={"state": "online"}), absence=None)
        effects = (Appeared(node), *effects)
    return _with(members, after), effects


def _look(members: Members, now: float) -> tuple[Members, tuple[Effect, ...]]:
    silent = {
        node: replace(member, absence="silent")
        for node, member in members.children.items()
        if member.absence is None and member.is_silent(now)
    }
    if not silent:
        return members, ()
    return replace(members, children={**members.children, **silent}), tuple(Gone(node, "silent") for node in silent)


def _booted(member: Member, boot: str) -> tuple[Member, tuple[Effect, ...]]:
    """The child with this process as the one that spoke last; an unnamed one tells nothing.

    A new process has not yet said how often it gives a sign of life. Whoever was gone begins anew for everyone here
    when it appears, whether or not its process did.
    """
    if not boot or boot == (member.boots[-1] if member.boots else None):
        return member, ()
    boots = (*(other for other in member.boots if other != boot), boot)[-MAX_BOOTS_KEPT:]
    doubted = frozenset(pair for pair in member.doubted if pair <= frozenset(boots))
    node = member.status.node
    if boot not in member.boots:
        is_new = bool(member.boots) and member.absence is None
        return replace(member, boots=boots, doubted=doubted, every_s=None), (Restarted(node),) if is_new else ()
    other = member.boots[-1]
    pair = frozenset((boot, other))
    effects = () if pair in doubted else (TwoIdentities(node, (boot, other)),)
    return replace(member, boots=boots, doubted=doubted | {pair}), effects
