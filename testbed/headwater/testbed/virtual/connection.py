"""Law: a node cannot tell this connection from a session: the same births, the same errors, the same reconnecting.

What it has of a session is its contract with the node, not its code: MQTT itself is tested on real brokers.
"""

import asyncio
import contextvars
import logging
from random import Random
from typing import Final

from headwater.schemas.topics import Topics
from headwater.testbed.virtual.broker import Broker, Wire
from headwater.testbed.virtual.links import Links
from headwater.transport.backoff import Backoff
from headwater.transport.link import GOODBYE_TIMEOUT_S, PUBLISH_TIMEOUT_S
from headwater.transport.session import Caller, LinkDown, Publication, Traffic

log = logging.getLogger("headwater.testbed")

MAX_RETRY_WAIT_S: Final = 5.0


class VirtualConnection:
    """A node's connection to a virtual broker. Its callbacks run in the context in which it was made."""

    def __init__(self, broker: Broker, caller: Caller, rng: Random, links: Links | None = None) -> None:
        self._broker = broker
        self._caller = caller
        self._will = caller.will
        self._rng = rng
        self._links = links or Links()
        self._context = contextvars.copy_context()
        self._wire: Wire | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._connected_at: float | None = None
        self.traffic = Traffic()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        await self._connected.wait()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        backoff, loop = Backoff(MAX_RETRY_WAIT_S), asyncio.get_running_loop()
        while True:
            self._connected_at = None
            try:
                await self._live()
            except LinkDown as error:
                log.debug("%s: %s", self._caller.client, error)
            lasted_s = 0.0 if self._connected_at is None else loop.time() - self._connected_at
            backoff = backoff.after(lasted_s)
            await asyncio.sleep(backoff.wait_s(self._rng.random()))

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message to the broker. Raises LinkDown."""
        wire = self._wire
        if wire is None or not self.connected:
            raise LinkDown(f"{self._broker.name}: not connected")
        await self._publish(wire, Publication(topic, payload, qos, retain))

    def leave_quietly(self) -> None:
        """Say no goodbye at the end: another process is this node by then."""
        self._will = None

    def die(self, *, noticed_after_s: float | None = None) -> None:
        """The node's process is gone: nothing is sent or heard from here on, and no goodbye is said."""
        wire, self._wire = self._wire, None
        self._connected.clear()
        if wire is not None:
            self._broker.abandon(wire, noticed_after_s=noticed_after_s)

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────

    async def _live(self) -> None:
        await asyncio.sleep(2 * self._links.latency_s + self._rng.random() * self._links.jitter_s)
        caller = self._caller
        self._lost.clear()
        self._wire = wire = self._broker.connect(
            caller.client,
            self._links,
            will=self._will,
            deliver=self._receive,
            lost=self._lost.set,
            context=self._context,
        )
        try:
            self._broker.subscribe(wire, caller.all_filters)
            # As a session does, which hears itself before it believes in a connection.
            await self._publish(wire, Publication(Topics(caller.fleet).echo(caller.node), b"echo"))
            self._connected_at = asyncio.get_running_loop().time()
            self._connected.set()
            await caller.on_connect()
            await self._lost.wait()
        except asyncio.CancelledError:
            if self._wire is wire:
                await self._say_goodbye(wire)
            raise
        finally:
            self._connected.clear()
            if self._wire is wire:
                self._wire = None
                self._broker.leave(wire)

    async def _publish(self, wire: Wire, publication: Publication) -> None:
        await self._broker.publish(wire, publication, PUBLISH_TIMEOUT_S)
        self.traffic = Traffic(self.traffic.sent_bytes + len(publication.payload), self.traffic.received_bytes)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        hearer = self._caller.hearer(topic)
        if hearer is None:
            self.traffic = Traffic(self.traffic.sent_bytes, self.traffic.received_bytes + len(payload))
        try:
            (hearer or self._caller.on_message)(topic, payload, retained)
        except Exception:
            # As in a session: one bad message must not take the connection down with it.
            log.exception("a message on %s was dropped", topic)

    async def _say_goodbye(self, wire: Wire) -> None:
        if self._will is None or not wire.attended:
            return
        try:
            await asyncio.wait_for(self._publish(wire, self._will), GOODBYE_TIMEOUT_S)
        except (TimeoutError, LinkDown) as error:
            log.debug("%s could not say goodbye: %s", self._caller.client, error)
