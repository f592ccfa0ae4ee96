"""Law: at most a budget of bytes is asked for at once, in the order of the offers, and everyone who waits gets a turn.

    offered ──► waiting ──── fits into the budget, or nothing else is under way ───► granted ──── finished ──► gone
                   ▲                                                                    │
                   └──────────── `grant_timeout_s` without a sign of it, to the end ────┘

A child that has a delta offers it; a grant is the parent's `Want` for all of it. Offers are taken from the front only,
so a large one is never passed by small ones, and one larger than the whole budget travels alone. Either message may be
lost: a repeated offer changes nothing, but where it was granted and nothing came of it for half of `grant_timeout_s` it
is granted again; any sooner and what is still on its way would travel twice. Holding a grant takes chunks, not offers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.messages import ObjectRef

# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Offered:
    """A child has this object ready. Another object than before takes the place of the child's former one."""

    sender: str
    object: ObjectRef


@dataclass(frozen=True, slots=True)
class Progressed:
    """A new chunk of what was granted came: the grant's time begins anew."""

    sender: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The child's object is in, or it is refused, or the child has gone: either way it is expected no longer."""

    sender: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = Offered | Progressed | Finished | Tick


# ── effect ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Grant:
    """Ask the sender for all chunks of its object."""

    sender: str
    object: ObjectRef


# ── the queue ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Granted:
    """An object under way, of which something was last seen `since`."""

    object: ObjectRef
    since: float


@dataclass(frozen=True, slots=True)
class Queue:
    """The offers at one parent, each sender's at most once, `MAX_CHILDREN` in all; a further offer is not heard.

    `waiting` is in the order of arrival. Times are seconds of the caller's monotonic clock.
    """

    budget_bytes: int
    grant_timeout_s: float
    waiting: Mapping[str, ObjectRef] = field(default_factory=dict)
    granted: Mapping[str, Granted] = field(default_factory=dict)

    @property
    def in_flight_bytes(self) -> int:
        """What was asked for and is not in: within the budget, or one object alone."""
        return sum(grant.object.size_bytes for grant in self.granted.values())


def open_queue(budget_bytes: int, grant_timeout_s: float) -> Queue:
    """An empty queue.

    Raises:
        ValueError: a budget or a timeout that is not positive.
    """
    if budget_bytes <= 0:
        raise ValueError(f"budget_bytes: {budget_bytes} lets nothing through; give a positive number")
    if not grant_timeout_s > 0:
        raise ValueError(f"grant_timeout_s: {grant_timeout_s} leaves no time to send; give a positive number")
    return Queue(budget_bytes, grant_timeout_s)


def step(queue: Queue, event: Event, now: float) -> tuple[Queue, tuple[Grant, ...]]:
    """What the queue becomes, and who is to send. Time is looked at with every event."""
    after, grants = _admit(_time_out(_apply(queue, event, now), now), now)
    if isinstance(event, Offered) and _may_be_lost(queue, event, now) and event.sender in after.granted:
        # A queue that has just granted it says so once.
        again = Grant(event.sender, event.object)
        grants = grants if again in grants else (again, *grants)
    return after, grants


def _may_be_lost(queue: Queue, offer: Offered, now: float) -> bool:
    grant = queue.granted.get(offer.sender)
    return grant is not None and now - grant.since >= queue.grant_timeout_s / 2


def _apply(queue: Queue, event: Event, now: float) -> Queue:
    match event:
        case Offered(sender, object_):
            return _offered(queue, sender, object_)
        case Progressed(sender) if sender in queue.granted:
            seen = replace(queue.granted[sender], since=now)
            return replace(queue, granted={**queue.granted, sender: seen})
        case Finished(sender):
            return _without(queue, sender)
    return queue


def _offered(queue: Queue, sender: str, object_: ObjectRef) -> Queue:
    grant = queue.granted.get(sender)
    if grant is not None:
        if grant.object == object_:
            return queue
        queue = _without(queue, sender)
    known = sender in queue.waiting
    if queue.waiting.get(sender) == object_ or (not known and _count(queue) >= MAX_CHILDREN):
        return queue
    return replace(queue, waiting={**queue.waiting, sender: object_})


def _count(queue: Queue) -> int:
    return len(queue.waiting) + len(queue.granted)


def _without(queue: Queue, sender: str) -> Queue:
    if sender in queue.granted:
        return replace(queue, granted={name: grant for name, grant in queue.granted.items() if name != sender})
    if sender in queue.waiting:
        return replace(queue, waiting={name: object_ for name, object_ in queue.waiting.items() if name != sender})
    return queue


def _time_out(queue: Queue, now: float) -> Queue:
    late = [name for name, grant in queue.granted.items() if now >= grant.since + queue.grant_timeout_s]
    if not late:
        return queue
    back = {name: queue.granted[name].object for name in late}
    kept = {name: grant for name, grant in queue.granted.items() if name not in back}
    return replace(queue, waiting={**queue.waiting, **back}, granted=kept)


def _admit(queue: Queue, now: float) -> tuple[Queue, tuple[Grant, ...]]:
    """Everyone from the front who fits."""
    in_flight_bytes, grants = queue.in_flight_bytes, list[Grant]()
    for sender, object_ in queue.waiting.items():
        alone = not queue.granted and not grants
        if not alone and in_flight_bytes + object_.size_bytes > queue.budget_bytes:
            break
        in_flight_bytes += object_.size_bytes
        grants.append(Grant(sender, object_))
    if not grants:
        return queue, ()
    asked = {grant.sender: Granted(grant.object, now) for grant in grants}
    left = {name: object_ for name, object_ in queue.waiting.items() if name not in asked}
    return replace(queue, waiting=left, granted={**queue.granted, **asked}), tuple(grants)
