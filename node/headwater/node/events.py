"""Law: what happened becomes at most one event, whose id follows from what it is about; of one kind there are so many
a second, and then their number.

`(ledger, what was seen, now) -> (ledger, events)`: no clock and no socket inside. The ids of a round's and of a run's
events follow from the round, and from the run and how often it was paused, so that a process which tells them again
after a restart tells the same events; all others are counted, beside the name of the process's start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from headwater.node.observing import (
    Came,
    Declined,
    Ended,
    Enrolled,
    NotEnrolled,
    NotTaken,
    Opened,
    RunTold,
    Seen,
    Went,
)
from headwater.schemas.messages import RoundKey
from headwater.schemas.statuses import Event, EventData, EventType, RunState, RunStatus

MAX_A_SECOND: Final = 10
"""Events of one kind; further ones are told as a number when the second is over."""

MORE: Final = "more"
"""The reason of such an event."""

REFUSED: Final = "unauthorised"
"""The reason for whoever asked for a certificate and has none."""

WINDOW_S: Final = 1.0
_TYPE: Final[Mapping[RunState, EventType]] = {
    "running": "headwater.run.started",
    "finished": "headwater.run.finished",
    "stopped": "headwater.run.stopped",
    "failed": "headwater.run.failed",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a writer, a time and, where `name` is empty, an id."""

    type: EventType
    subject: str
    data: EventData
    name: str = ""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who tells: a node in one start of its process."""

    fleet: str
    node: str
    boot: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """What was told: how many of each kind since `since`, how many more there were, how many events in all, and where
    the last run stood."""

    since: float = 0.0
    told: Mapping[EventType, int] = field(default_factory=dict)
    more: Mapping[EventType, int] = field(default_factory=dict)
    count: int = 0
    run: RunStatus | None = None


def step(ledger: Ledger, writer: Writer, seen: Seen | None, now: float, time: datetime) -> tuple[Ledger, list[Event]]:
    """The events to tell now, in order. Without `seen` time has passed, and no more.

    Args:
        now: of a monotonic clock, in seconds.
        time: UTC, for people.
    """
    ledger, drafts = _over(ledger, writer, now)
    draft = draft_of(seen, ledger.run) if seen is not None else None
    if isinstance(seen, RunTold):
        ledger = replace(ledger, run=seen.status)
    if draft is not None:
        told = ledger.told.get(draft.type, 0)
        if told < MAX_A_SECOND:
            drafts.append(draft)
            ledger = replace(ledger, told={**ledger.told, draft.type: told + 1})
        else:
            ledger = replace(ledger, more={**ledger.more, draft.type: ledger.more.get(draft.type, 0) + 1})
    events = [_event(one, writer, ledger.count + place, time) for place, one in enumerate(drafts)]
    return replace(ledger, count=ledger.count + len(events)), events


def _over(ledger: Ledger, writer: Writer, now: float) -> tuple[Ledger, list[Draft]]:
    """What the second that is over owes."""
    if now - ledger.since < WINDOW_S:
        return ledger, []
    owed = [
        Draft(kind, writer.node, EventData(reason=MORE, detail=f"{number} more of this kind"))
        for kind, number in ledger.more.items()
    ]
    return replace(ledger, since=now, told={}, more={}), owed


def _event(draft: Draft, writer: Writer, number: int, time: datetime) -> Event:
    return Event(
        id=draft.name or f"{writer.boot}.{number}",
        source=f"/hw/{writer.fleet}/{writer.node}",
        type=draft.type,
        subject=draft.subject,
        time=f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z",
        data=draft.data,
    )


def draft_of(seen: Seen, run: RunStatus | None = None) -> Draft | None:
    """The event that something seen makes, or None where people need not hear of it.

    Args:
        run: the last run that was told of, as it stood then.
    """
    match seen:
        case Opened(key):
            return _of_round("headwater.round.opened", key)
        case Ended(result) if result.closed:
            return _of_round("headwater.round.closed", result.plan.key)
        case Ended(result):
            given = f"{result.round.updates} of the {result.round.quorum} updates that it needs, by the deadline"
            return _of_round("headwater.round.failed", result.plan.key, reason="no_quorum", detail=given)
        case Came(node):
            return Draft("headwater.node.online", node, EventData(node=node))
        case Went(node, why):
            return Draft("headwater.node.offline", node, EventData(node=node, reason=why))
        case NotTaken(node, key, reason, detail):
            return Draft("headwater.delta.refused", node, _about(key, node=node, reason=reason, detail=detail[:1024]))
        case Declined(node, key, reason, detail):
            return Draft("headwater.plan.declined", node, _about(key, node=node, reason=reason, detail=detail[:1024]))
        case Enrolled() | NotEnrolled():
            return _of_enrolment(seen)
        case RunTold(status):
            return _of_run(status, run)
    return None


def _about(key: RoundKey | None, **more: str) -> EventData:
    return EventData.model_validate(({} if key is None else key.model_dump()) | more)


def _of_round(kind: EventType, key: RoundKey, **more: str) -> Draft:
    what = kind.rpartition(".")[2]
    name = f"{key.run}/{key.round}.{key.step}.{key.attempt}/{what}"
    return Draft(kind, f"{key.run}/{key.round}", _about(key, **more), name)


def _of_enrolment(seen: Enrolled | NotEnrolled) -> Draft:
    if isinstance(seen, Enrolled):
        data = EventData(node=seen.node, detail=f"by token {seen.token_id}")
        return Draft("headwater.node.enrolled", seen.node, data, f"enrolled/{seen.token_id}")
    data = EventData(node=seen.node, reason=REFUSED, detail=f"token {seen.token_id}: {seen.detail}"[:1024])
    return Draft("headwater.enrolment.refused", seen.node, data)


def _of_run(status: RunStatus, told: RunStatus | None) -> Draft | None:
    before = told if told is not None and told.run == status.run else None
    if before is not None and (before.state, before.pauses) == (status.state, status.pauses):
        return None
    data = EventData(run=status.run, round=status.round, detail=status.detail or None)
    kind: EventType | None = _TYPE.get(status.state)
    name = f"{status.run}/{status.state}"
    if status.state == "paused" or (status.state == "running" and before is not None and before.state == "paused"):
        kind = "headwater.run.paused" if status.state == "paused" else "headwater.run.resumed"
        name = f"{status.run}/{kind.rpartition('.')[2]}/{status.pauses}"
    elif status.state == "running" and status.round:
        # A coordinator that takes up a run behind some round did not start it.
        return None
    return Draft(kind, status.run, data, name) if kind is not None else None
