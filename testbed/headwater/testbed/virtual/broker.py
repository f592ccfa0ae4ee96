"""Law: a broker promises what MQTT promises with clean sessions, and not a bit more.

At least once while a connection lasts, in order within a topic, retained messages to whoever subscribes, a last will
when a connection dies; nothing is sent again after a connection, and a restart forgets everything. What it may do
wrong (duplicates, lost QoS 0, late wills, dropped queues) it does as its random generator says.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, Literal

from headwater.testbed.virtual.links import Lane, Links, down_lane, up_lane
from headwater.transport.broker.router import Router
from headwater.transport.session import LinkDown, Publication

MAX_QUEUED: Final = 1000
"""Messages on the way to one client; further ones are dropped, as Mosquitto does by default."""

ACKNOWLEDGEMENT_BYTES: Final = 4

Happening = Literal["published", "delivered", "dropped", "connected", "lost", "will"]
Observe = Callable[[Happening, str, Publication | None], None]
"""(what happened, to which client, with which message)."""


@dataclass(slots=True)
class Bytes:
    """Payload bytes at one broker, by direction."""

    received: int = 0
    sent: int = 0


@dataclass(slots=True, eq=False)
class Wire:
    """One connection of one client, from CONNECT to its end.

    `context` is where its callbacks run. `held` is what a stall keeps back, in order; `stalled` says that neither
    direction moves. `open` is the broker's view, `attended` the client's: after a power cut they differ for a while.
    """

    client: str
    will: Publication | None
    deliver: Callable[[str, bytes, bool], None]
    lost: Callable[[], None]
    context: Context
    links: Links
    up: Lane
    down: Lane
    open: bool = True
    attended: bool = True
    stalled: bool = False
    queued: int = 0
    held: list[Callable[[], None]] = field(default_factory=list)
    awaited: dict["asyncio.Future[None]", None] = field(default_factory=dict)


class Broker:
    """One broker with its clients.

    Args:
        rng: draws latencies, duplicates and losses.
        keepalive_s: a silent connection is given up after one and a half of these.
        persistent: retained messages outlive a restart (Mosquitto with persistence on).
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        *,
        keepalive_s: float = 30.0,
        persistent: bool = False,
        observe: Observe = lambda happening, client, publication: None,
    ) -> None:
        self.name = name
        self.bytes = Bytes()
        self.up = True
        self._loop = loop
        self._rng = rng
        self._keepalive_s = keepalive_s
        self._persistent = persistent
        self._observe = observe
        self._wires: dict[str, Wire] = {}
        self._cut: dict[str, int] = {}
        self._retained: dict[str, Publication] = {}
        self._router: Router[Wire] = Router(lambda wire, topic: True)

    # ── a client's side ─────────────────────────────────────────────────────────────────────────────────────────

    def reachable(self, client: str) -> bool:
        return self.up and not self._cut.get(client)

    def connect(
        self,
        client: str,
        links: Links,
        *,
        will: Publication | None,
        deliver: Callable[[str, bytes, bool], None],
        lost: Callable[[], None],
        context: Context,
    ) -> Wire:
        """A new connection; one under the same name is taken over, and its will published.

        Raises:
            LinkDown: the broker cannot be reached.
        """
        if not self.reachable(client):
            raise LinkDown(f"{self.name}: not reachable")
        self.reset(client)
        wire = Wire(client, will, deliver, lost, context, links, up_lane(links), down_lane(links))
        self._wires[client] = wire
        self._observe("connected", client, None)
        return wire

    def subscribe(self, wire: Wire, filters: tuple[str, ...]) -> None:
        for topic_filter in filters:
            self._router.subscribe(wire, topic_filter, 1)
        for publication in tuple(self._retained.values()):
            if any(receiver is wire for receiver, _ in self._router.receivers(publication.topic)):
                self._send(wire, publication, retained=True)

    async def publish(self, wire: Wire, publication: Publication, timeout_s: float) -> None:
        """Hand a message over; with QoS 1 returns when the broker has acknowledged it.

        Raises:
            LinkDown: the connection went, or no answer came in time. The message may have arrived all the same.
        """
        if not wire.attended:
            raise LinkDown(f"{self.name}: not connected")
        answered: asyncio.Future[None] = self._loop.create_future()
        self._travel(
            wire, wire.up, publication.topic, len(publication.payload), self._arrived(wire, publication, answered)
        )
        if publication.qos == 0:
            return
        wire.awaited[answered] = None
        timer = self._loop.call_later(timeout_s, _fail, answered, f"{self.name}: no answer within {timeout_s:g} s")
        try:
            await answered
        finally:
            timer.cancel()
            wire.awaited.pop(answered, None)

    def leave(self, wire: Wire) -> None:
        """An orderly end, without a will; over a stalled link the broker does not hear of it, and misses the client."""
        wire.attended = False
        if not wire.stalled:
            self._end(wire, will=False)

    def abandon(self, wire: Wire, *, noticed_after_s: float | None = None) -> None:
        """The client's process is gone. Its kernel still sends what it has and closes the socket; or, where
        `noticed_after_s` is None, the power is cut, and the broker misses the client after its keep-alive."""
        wire.attended = False
        wire.stalled = wire.stalled or noticed_after_s is None
        after_s = 1.5 * self._keepalive_s if noticed_after_s is None else noticed_after_s
        self._loop.call_later(after_s, self._end, wire)

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self, client: str, for_s: float) -> None:
        """Nothing passes between this client and the broker for a while. A short stall is made up for by TCP; after
        the keep-alive both ends give the connection up, each by its own clock."""
        self._cut[client] = self._cut.get(client, 0) + 1
        self._loop.call_later(for_s, self._heal, client)
        wire = self._wires.get(client)
        if wire is not None and not wire.stalled:
            wire.stalled = True
            self._loop.call_later(self._keepalive_s * self._rng.uniform(1.0, 1.5), self._give_up, wire)
            self._loop.call_later(self._keepalive_s * 1.5, self._miss, wire)

    def reset(self, client: str) -> None:
        """The connection breaks, both ends notice."""
        wire = self._wires.get(client)
        if wire is not None:
            self._end(wire)

    def stop(self) -> None:
        """The broker dies: every connection breaks, and nobody is left to publish wills."""
        self.up = False
        for wire in tuple(self._wires.values()):
            self._end(wire, will=False)
        if not self._persistent:
            self._retained.clear()

    def start(self) -> None:
        self.up = True

    def forge(self, publication: Publication) -> None:
        """Whoever has the broker says this."""
        if self.up:
            self._route(publication)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _arrived(self, wire: Wire, publication: Publication, answered: "asyncio.Future[None]") -> Callable[[], None]:
        def arrived() -> None:
            if not wire.open:
                return
            self.bytes.received += len(publication.payload)
            self._observe("published", wire.client, publication)
            self._route(publication)
            if publication.qos:
                self._travel(wire, wire.down, "", ACKNOWLEDGEMENT_BYTES, partial(_succeed, answered))

        return arrived

    def _route(self, publication: Publication) -> None:
        if publication.retain:
            self._retain(publication)
        for wire, _ in self._router.receivers(publication.topic):
            chance = self._rng.random()
            if publication.qos == 0 and chance < wire.links.losses:
                continue
            self._send(wire, publication, retained=False)
            if publication.qos and chance < wire.links.duplicates:
                self._send(wire, publication, retained=False)

    def _retain(self, publication: Publication) -> None:
        if publication.payload:
            self._retained[publication.topic] = publication
        else:
            self._retained.pop(publication.topic, None)

    def _send(self, wire: Wire, publication: Publication, *, retained: bool) -> None:
        if wire.queued >= MAX_QUEUED:
            self._observe("dropped", wire.client, publication)
            return
        wire.queued += 1
        self.bytes.sent += len(publication.payload)

        def delivered() -> None:
            wire.queued -= 1
            if wire.attended:
                self._observe("delivered", wire.client, publication)
                wire.deliver(publication.topic, publication.payload, retained)

        self._travel(wire, wire.down, publication.topic, len(publication.payload), delivered)

    def _travel(self, wire: Wire, lane: Lane, topic: str, size_bytes: int, arrive: Callable[[], None]) -> None:
        """`arrive` when the link lets it through, or never."""

        def through() -> None:
            if wire.stalled:
                wire.held.append(arrive)
            elif wire.open:
                arrive()

        at = lane.arrival(self._loop.time(), topic, size_bytes, self._rng)
        self._loop.call_at(at, through, context=wire.context)

    def _heal(self, client: str) -> None:
        self._cut[client] -= 1
        wire = self._wires.get(client)
        if self._cut[client] or wire is None or not wire.stalled or not wire.attended:
            return
        wire.stalled = False
        held, wire.held = wire.held, []
        for arrive in held:
            # One after the other, each in its own turn: a kernel hands over what waited in order.
            self._loop.call_soon(partial(self._late, wire, arrive), context=wire.context)

    def _late(self, wire: Wire, arrive: Callable[[], None]) -> None:
        if wire.stalled:
            wire.held.append(arrive)
        elif wire.open:
            arrive()

    def _give_up(self, wire: Wire) -> None:
        """The client no longer believes in its connection."""
        if wire.stalled and wire.attended:
            self._leave(wire)

    def _miss(self, wire: Wire) -> None:
        """The broker no longer believes in it."""
        if wire.stalled:
            self._end(wire)

    def _leave(self, wire: Wire) -> None:
        wire.attended = False
        for answered in tuple(wire.awaited):
            _fail(answered, f"{self.name}: the connection was lost")
        self._observe("lost", wire.client, None)
        self._loop.call_soon(wire.lost, context=wire.context)

    def _end(self, wire: Wire, *, will: bool = True) -> None:
        if not wire.open:
            return
        wire.open = False
        if self._wires.get(wire.client) is wire:
            del self._wires[wire.client]
        self._router.leave(wire)
        if wire.attended:
            self._leave(wire)
        if will and wire.will is not None and self.up:
            self._observe("will", wire.client, wire.will)
            self._route(wire.will)


def _succeed(answered: "asyncio.Future[None]") -> None:
    if not answered.done():
        answered.set_result(None)


def _fail(answered: "asyncio.Future[None]", why: str) -> None:
    if not answered.done():
        answered.set_exception(LinkDown(why))
