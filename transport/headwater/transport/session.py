"""Law: one client, kept connected. Lost, it comes back, resubscribes and says who it is; it never queues unbounded.

MQTT 5 is tried first for its reason codes and limits; 3.1.1 is the floor on which everything works. The first
connection proves itself by an echo: brokers of 3.1.1 acknowledge what an ACL then drops, so only hearing oneself shows
that one may speak. After that a lost link is an event, not an error.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from paho.mqtt.client import topic_matches_sub

from headwater.schemas.errors import AccessRefused
from headwater.schemas.links import BrokerSettings
from headwater.schemas.topics import Topics
from headwater.transport.link import Client, Link, OnMessage, log
from headwater.transport.link import LinkDown as LinkDown
from headwater.transport.link import Publication as Publication

ECHO_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes since the session began."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        return Traffic(self.sent_bytes - before.sent_bytes, self.received_bytes - before.received_bytes)


@dataclass(frozen=True, slots=True)
class Ear:
    """Whoever hears `filter` on a node's connection beside the node's own affairs; it is no part of its traffic."""

    filter: str
    on_message: OnMessage


@dataclass(frozen=True, slots=True)
class Caller:
    """Who connects, and what for.

    `node` is the node's name: the topics below it are its own, and it is its user name where the broker has users.
    `client` is the MQTT client identifier; it differs where a node has two connections. `filters` are subscribed to at
    QoS 1. `on_message` gets every message, in the event loop; `on_connect` runs after each connection is proven:
    births, announcements. `will` is published by the broker when the connection dies, and by itself when it stops.
    `ears` hear their topics on the same connection.
    """

    fleet: str
    node: str
    client: str
    filters: tuple[str, ...]
    on_message: OnMessage
    on_connect: Callable[[], Awaitable[None]]
    will: Publication | None = None
    ears: tuple[Ear, ...] = ()

    @property
    def all_filters(self) -> tuple[str, ...]:
        """What is subscribed to, for all who hear."""
        return (*self.filters, *(ear.filter for ear in self.ears))

    def hearer(self, topic: str) -> OnMessage | None:
        """Whose ear a message on `topic` is for, or None where it is the caller's own affair."""
        return next((ear.on_message for ear in self.ears if topic_matches_sub(ear.filter, topic)), None)


class Connection(Protocol):
    """What a node needs of a connection to a broker: `Session` over MQTT, or a simulated one."""

    traffic: Traffic

    @property
    def connected(self) -> bool: ...

    async def wait_connected(self) -> None: ...

    async def run(self) -> None:
        """Stay connected until cancelled."""
        ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message to the broker. Raises LinkDown."""
        ...

    def leave_quietly(self) -> None:
        """Say no goodbye at the end: another process is this node by then."""
        ...


Connect = Callable[[Caller], Connection]
"""Makes the connection of a caller, which connects when it is run: `partial(Session, broker_settings)`."""


def with_ears(connect: Connect, *ears: Ear) -> Connect:
    """Connections on which these hear too."""
    return lambda caller: connect(replace(caller, ears=(*caller.ears, *ears)))


class Session(Link):
    """A node's connection to one broker over MQTT."""

    def __init__(self, broker: BrokerSettings, caller: Caller) -> None:
        super().__init__(broker, client=caller.client, will=caller.will)
        self._node = caller.node
        self._echo_topic = Topics(caller.fleet).echo(caller.node)
        self._echo_token = b""
        self._echo_heard = asyncio.Event()
        self._filters = (*caller.all_filters, self._echo_topic)
        self._caller = caller
        self._on_connect = caller.on_connect
        self._client: Client | None = None
        self.traffic = Traffic()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message to the broker; returns when it has acknowledged it (QoS 1).

        Raises:
            LinkDown: there is no connection, it went, or the broker did not answer within `PUBLISH_TIMEOUT_S`.
        """
        client = self._client
        if client is None or not self.connected:
            raise LinkDown(f"{self._where}: not connected")
        try:
            await self._publish(client, Publication(topic, payload, qos, retain))
        finally:
            # Python 3.11's wait_for forgets a cancellation that comes together with its result; nobody else may.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    def leave_quietly(self) -> None:
        """Say no goodbye at the end: another process is this node by then."""
        self._will = None

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, client: Client) -> None:
        self._client = client
        try:
            await client.subscribe([(topic, 1) for topic in self._filters])
            await self._prove(client)
            self._came_up()
            log.info("connected to %s as %s", self._where, self._client_id)
            await self._on_connect()
            await self._stay(client)
        except asyncio.CancelledError:
            await self._say_goodbye(client)
            raise
        finally:
            self._client = None

    async def _prove(self, client: Client) -> None:
        """Hear oneself, or learn that the broker's rules forbid it."""
        self._echo_heard.clear()
        self._echo_token = secrets.token_bytes(8)
        await self._publish(client, Publication(self._echo_topic, self._echo_token))
        try:
            await client.unless_lost(self._echo_heard.wait(), ECHO_TIMEOUT_S)
        except TimeoutError:
            if self._proven:
                raise LinkDown(f"{self._where}: no echo within {ECHO_TIMEOUT_S:g} s") from None
            raise AccessRefused(
                f"broker {self._where}: user {self._broker.user or 'anonymous'!r} may not write and read its own topic "
                f"{self._echo_topic}"
                + (f" ({', '.join(sorted(client.refusals))})" if client.refusals else "")
                + f"; the user must be named like the node, {self._node!r}, and the broker's rules must come from "
                "`headwater broker acl`"
            ) from None

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        hearer = self._caller.hearer(topic)
        if hearer is None:
            self.traffic = Traffic(self.traffic.sent_bytes, self.traffic.received_bytes + len(payload))
        if topic == self._echo_topic:
            if payload == self._echo_token:
                self._echo_heard.set()
            return
        try:
            (hearer or self._caller.on_message)(topic, payload, retained)
        except Exception:
            # One bad message must not take the connection down with it.
            log.exception("a message on %s was dropped", topic)

    async def _publish(self, client: Client, publication: Publication) -> None:
        await self._hand_over(client, publication)
        self.traffic = Traffic(self.traffic.sent_bytes + len(publication.payload), self.traffic.received_bytes)
