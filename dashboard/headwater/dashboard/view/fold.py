"""Law: what is shown is a fold over what was heard; a message twice, or one that cannot be read, changes nothing told.

`take` is the whole of it: a fleet as it was known, a message and the time of its coming in, a fleet as it is known out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from headwater.dashboard.view.state import (
    MAX_HAPPENINGS,
    MAX_NODES,
    MAX_ROUNDS,
    MAX_RUNS,
    MAX_TURNS,
    Closed,
    Fleet,
    Happening,
    Heard,
    Link,
    RoundName,
    RunHeard,
    Seen,
    Turn,
)
from headwater.schemas.statuses import Event, MemberStatus, NodeStatus, RoundStatus, RunState, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode_status

SAME_WITHIN_S: Final = 60.0
"""Two tellings of one happening, a node's own and its parent's, are not further apart."""

_LOOK_BACK: Final = 64
"""Newest happenings among which another telling of one is looked for."""

_RUN_KINDS: Final[Mapping[RunState, str]] = {
    "running": "run.started",
    "finished": "run.finished",
    "stopped": "run.stopped",
    "failed": "run.failed",
    "paused": "run.paused",
}

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    retained: bool


def take(fleet: Fleet, topics: Topics, message: Message, now: float) -> Fleet:
    """The fleet with this message heard at `now`; what cannot be read is only counted."""
    try:
        taken = _taken(fleet, topics, message, now)
    except WireError:
        return replace(fleet, unreadable=fleet.unreadable + 1)
    return fleet if taken is fleet else replace(taken, revision=fleet.revision + 1)


def linked(fleet: Fleet, link: Link) -> Fleet:
    """The fleet with one of its brokers as it is now."""
    before = fleet.links.get(link.name)
    if before is not None and (before.state, before.problem) == (link.state, link.problem):
        return fleet
    return replace(fleet, links={**fleet.links, link.name: link}, revision=fleet.revision + 1)


def _taken(fleet: Fleet, topics: Topics, message: Message, now: float) -> Fleet:
    topic, payload = message.topic, message.payload
    if topic == topics.run:
        return _run(fleet, decode_status(payload, RunStatus), now)
    if topic == topics.round:
        return _round(fleet, decode_status(payload, RoundStatus), message, now)
    if topic.startswith(topics.cluster("+")[:-1]):
        status = decode_status(payload, RoundStatus)
        return _at_parent(fleet, status, message, now) if topic == topics.cluster(status.parent) else fleet
    if topic.startswith(topics.event()[:-1]):
        event = decode_status(payload, Event)
        writer = topic.rsplit("/", 1)[-1]
        return _event(fleet, event, writer, now) if event.source == f"/hw/{topics.fleet}/{writer}" else fleet
    place = topics.parse(topic)
    if place is None or place.branch != "status":
        return fleet
    status_of_node = decode_status(payload, NodeStatus)
    return _node(fleet, status_of_node, message, now) if status_of_node.node == place.node else fleet


# ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _node(fleet: Fleet, status: NodeStatus, message: Message, now: float) -> Fleet:
    before = fleet.nodes.get(status.node)
    changed = before is None or (before.status.state, before.status.boot) != (status.state, status.boot)
    known_since = now if before is not None or not message.retained else None
    since = known_since if before is None or changed else before.since
    alive_at = before.alive_at if before else None
    if not message.retained and status.state == "online":
        alive_at = now
    seen = Seen(status, since, alive_at)
    if before == seen:
        return fleet
    nodes = bounded({**fleet.nodes, status.node: seen}, MAX_NODES)
    known = replace(fleet, nodes=nodes, cloud=status.node if status.role == "cloud" else fleet.cloud)
    if not changed or (message.retained and before is None):
        return known
    kind = f"node.{status.state}"
    told = Happening(f"{kind}/{status.node}/{status.boot}", now, kind, status.node, about=f"{kind}/{status.node}")
    return _happened(known, told)


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(fleet: Fleet, status: RunStatus, now: float) -> Fleet:
    heard = fleet.runs.get(status.run, RunHeard())
    if heard.status == status:
        return fleet
    known = replace(
        fleet,
        run=status,
        runs=bounded({**fleet.runs, status.run: replace(heard, status=status)}, MAX_RUNS),
    )
    was_paused = heard.status is not None and heard.status.state == "paused"
    kind = "run.resumed" if was_paused and status.state == "running" else _RUN_KINDS.get(status.state)
    if kind is None or heard.status is None or heard.status.state == status.state:
        return known
    about = f"{kind}/{status.run}"
    told = Happening(f"{about}/{status.round}", now, kind, "", status.run, detail=status.detail, about=about)
    return _happened(known, told)


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────


def name_of(status: RoundStatus) -> RoundName:
    return RoundName(status.parent, status.run, status.round, status.step, status.attempt)


def _round(fleet: Fleet, status: RoundStatus, message: Message, now: float) -> Fleet:
    """The cloud's round: as at any parent, and beside that a point of its run when it ends."""
    known = _at_parent(fleet, status, message, now)
    if known is fleet:
        return fleet
    known = replace(known, cloud=status.parent)
    heard = known.runs.get(status.run, RunHeard())
    name = name_of(status)
    if status.state == "open" or any(name_of(closed.status) == name for closed in reversed(heard.rounds)):
        return known
    rounds = (*heard.rounds, Closed(status.model_copy(update={"members": ()}), now))[-MAX_ROUNDS:]
    known = replace(known, runs=bounded({**known.runs, status.run: replace(heard, rounds=rounds)}, MAX_RUNS))
    kind = f"round.{status.state}"
    detail = f"{status.received} of {status.cohort} in, {status.elapsed_s:.1f} s"
    about = "/".join(map(str, (kind, *name)))
    told = Happening(about, now, kind, status.parent, status.run, status.round, "", detail, about)
    return known if message.retained else _happened(known, told)


def _at_parent(fleet: Fleet, status: RoundStatus, message: Message, now: float) -> Fleet:
    before = fleet.rounds.get(status.parent)
    if before is not None and (before.status == status or _is_older(status, before.status)):
        return fleet
    heard = _with_rates(before, status, now)
    known = replace(fleet, rounds=bounded({**fleet.rounds, status.parent: heard}, MAX_NODES))
    if not message.retained:
        known = replace(known, nodes=_alive(known.nodes, _news_of(before, status), now))
    return _turns(known, status, now) if status.state != "open" else known


def _is_older(status: RoundStatus, before: RoundStatus) -> bool:
    """Whether a round came late, from another broker than the newest: of the same run, but not behind it."""
    if status.run != before.run:
        return False
    ours, theirs = name_of(status)[2:], name_of(before)[2:]
    return ours < theirs or (ours == theirs and before.state != "open" and status.state == "open")


def _with_rates(before: Heard | None, status: RoundStatus, now: float) -> Heard:
    """Bytes a second since the last telling of the same round, or since it opened."""
    same = before is not None and name_of(before.status) == name_of(status)
    down, up, began_at = (
        (before.status.bytes_down, before.status.bytes_up, before.at)
        if before is not None and same
        else (0, 0, now - status.elapsed_s)
    )
    elapsed_s = max(now - began_at, 0.05)
    return Heard(
        status, now, max(0.0, (status.bytes_down - down) / elapsed_s), max(0.0, (status.bytes_up - up) / elapsed_s)
    )


def _news_of(before: Heard | None, status: RoundStatus) -> list[str]:
    """Whose update came in since the last telling."""
    had: set[str] = set()
    if before is not None and name_of(before.status) == name_of(status):
        had = {member.node for member in before.status.members if member.state == "received"}
    return [member.node for member in status.members if member.state == "received" and member.node not in had]


def _alive(nodes: Mapping[str, Seen], names: list[str], now: float) -> Mapping[str, Seen]:
    known = {name: replace(nodes[name], alive_at=now) for name in names if name in nodes}
    return {**nodes, **known} if known else nodes


def _turns(fleet: Fleet, status: RoundStatus, now: float) -> Fleet:
    """Each member's turn in a round that has ended; told again it is told once."""
    name = name_of(status)
    added = {
        member.node: (*turns, _turn(member, status, name, now))[-MAX_TURNS:]
        for member in status.members
        if not (turns := fleet.turns.get(member.node, ())) or turns[-1].round != name
    }
    return replace(fleet, turns=bounded({**fleet.turns, **added}, MAX_NODES))


def _turn(member: MemberStatus, status: RoundStatus, name: RoundName, now: float) -> Turn:
    share = member.examples / status.examples if status.examples and member.state == "received" else None
    return Turn(
        name,
        status.task,
        now,
        member.state,
        member.examples,
        share,
        member.after_s,
        member.loss,
        member.train_s,
        member.size_bytes,
    )


# ── happenings ──────────────────────────────────────────────────────────────────────────────────────────────────


def _event(fleet: Fleet, event: Event, writer: str, now: float) -> Fleet:
    """What the cloud or a gateway tells; a round's opening says nothing that its end does not."""
    kind = event.type.removeprefix("headwater.")
    if kind == "round.opened":
        return fleet
    data = event.data
    node = data.node or (writer if kind.startswith("round.") else "")
    round_ = (writer, data.run, data.round, data.step or 0, data.attempt or 0)
    about = {"node": (node,), "run": (data.run,), "round": round_}.get(kind.split(".")[0], (event.id,))
    told = Happening(
        f"{event.source} {event.id}",
        # Nothing is told before it happens: what claims to be of tomorrow would stand above all that comes today.
        min(datetime.fromisoformat(event.time).timestamp(), now),
        kind,
        node,
        data.run or "",
        data.round,
        data.reason or "",
        data.detail or "",
        "/".join(map(str, (kind, *about))),
        is_told=True,
    )
    return _happened(fleet, told)


def _happened(fleet: Fleet, told: Happening) -> Fleet:
    """With one more happening, unless it was told before, or seen from here, or by somebody else."""
    recent = fleet.happenings[-_LOOK_BACK:]
    if any(other.id == told.id or _are_the_same(other, told) for other in recent):
        return fleet
    return replace(fleet, happenings=(*fleet.happenings, told)[-MAX_HAPPENINGS:])


def _are_the_same(one: Happening, other: Happening) -> bool:
    """Of two that were told, or seen, each is its own: a run may be paused twice in a minute."""
    both_ways = one.is_told != other.is_told
    return both_ways and one.about == other.about and abs(one.at - other.at) < SAME_WITHIN_S


def bounded(mapping: dict[K, V], most: int) -> dict[K, V]:
    """Without the oldest, where there are more than `most`."""
    while len(mapping) > most:
        del mapping[next(iter(mapping))]
    return mapping
