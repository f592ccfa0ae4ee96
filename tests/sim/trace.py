"""Law: what happened in a world, in order, as it was seen from outside its nodes; judges look at nothing else.

Every event has its virtual time, the node that it is about and what it was. The text of a trace is the same for the
same seed, byte by byte.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from headwater.node.envelope import believed, opened
from headwater.schemas.messages import MESSAGES, Announcement, Chunk, Delta, Message, RoundKey
from headwater.schemas.statuses import NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode, decode_object, decode_status
from headwater.transport.session import Publication

FLEET: Final = "sim"
TOPICS: Final = Topics(FLEET)
_KINDS: Final = {message.kind: message for message in MESSAGES}


@dataclass(frozen=True, slots=True)
class Event:
    """`value` is what the event is about: a `Publication`, a `ClosedRound`, a `RoundResult`, or None; `said` tells it."""

    at: float
    who: str
    what: str
    value: Any = None
    said: str = ""


@dataclass(slots=True)
class Trace:
    events: list[Event] = field(default_factory=list)

    def add(self, at: float, who: str, what: str, value: Any = None, said: str = "") -> None:
        self.events.append(Event(at, who, what, value, said))

    def of(self, *what: str) -> Iterator[Event]:
        return (event for event in self.events if event.what in what)

    def lines(self) -> Iterator[str]:
        for event in self.events:
            said = described(event.value) if isinstance(event.value, Publication) else event.said
            yield f"{event.at:12.6f}  {event.who:<10} {event.what:<28} {said}".rstrip()

    def digest(self) -> str:
        """Of every event, payloads included."""
        hashed = hashlib.sha256()
        for event in self.events:
            carried = event.value if isinstance(event.value, Publication) else Publication("", b"")
            hashed.update(f"{event.at!r} {event.who} {event.what} {event.said} {carried.topic}\n".encode())
            hashed.update(carried.payload)
        return hashed.hexdigest()


@lru_cache(maxsize=4096)
def message_of(topic: str, payload: bytes) -> Message | NodeStatus | RoundStatus | RunStatus | None:
    """What a payload says; a delta or model in one chunk is the object itself."""
    leaf = topic.rsplit("/", 1)[1]
    try:
        if leaf == "status":
            return decode_status(payload, NodeStatus)
        if topic == TOPICS.run:
            return decode_status(payload, RunStatus)
        if topic.startswith(f"hw/1/{FLEET}/rounds/"):
            return decode_status(payload, RoundStatus)
        if leaf == "delta":
            return decode_object(opened(decode(payload, Chunk).data), Delta)
        if leaf == "announcement":
            return believed(payload)
        kind = _KINDS.get("chunk" if leaf == "chunk" else leaf)
        return decode(payload, kind) if kind else None
    except WireError:
        return None


def described(publication: Publication) -> str:
    """One line for people."""
    topic = publication.topic.removeprefix(f"hw/1/{FLEET}/")
    message = message_of(publication.topic, publication.payload)
    match message:
        case Announcement(plan=plan, closed=closed):
            opened = f"open {label(plan.key)} {plan.task}" if plan else "none open"
            return f"{topic}: {opened}, closed {label(closed) if closed else '-'}"
        case Delta(key=key, weight=weight, task=task):
            return f"{topic}: {task} {label(key)} weight {weight:g}"
        case NodeStatus(state=state, boot=boot):
            return f"{topic}: {state} {boot}"
        case RoundStatus():
            key = f"{message.round}.{message.step}.{message.attempt}"
            return f"{topic}: {key} {message.task} {message.state} {message.received}/{message.cohort}"
        case RunStatus():
            return f"{topic}: {message.state} {message.round}/{message.rounds} {message.detail}"
        case None:
            return topic
    key = getattr(message, "key", None)
    reason = getattr(message, "reason", "")
    return f"{topic}: {label(key) if isinstance(key, RoundKey) else ''} {reason}".rstrip(" :")


def label(key: RoundKey) -> str:
    return f"{key.round}.{key.step}.{key.attempt}"
