"""Law: what any connection to a broker shares: coming back by `Backoff`, MQTT 5 before 3.1.1, and what an end means.

A `Link` leaves one thing open: what is done on each connection, until it is lost.
"""

import asyncio
import logging
import random
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from headwater.schemas.errors import AccessRefused, BrokerUnreachable, ConfigError
from headwater.schemas.limits import MAX_MESSAGE_SIZE_BYTES
from headwater.schemas.links import BrokerSettings
from headwater.transport.backoff import Backoff
from headwater.transport.files import identifier, tls_context

T = TypeVar("T")

log = logging.getLogger("headwater.transport")
# What paho has to say comes back as exceptions, and is told once, in this module's words.
_paho_log = logging.getLogger("headwater.transport.paho")
_paho_log.setLevel(logging.CRITICAL)

MAX_INFLIGHT: Final = 32
"""QoS 1 publishes on the way at once; further ones wait in `MAX_WAITING`."""

MAX_WAITING: Final = 4096
"""Publishes that may wait in one client; a caller beyond that gets `LinkDown`."""

PUBLISH_TIMEOUT_S: Final = 20.0
GOODBYE_TIMEOUT_S: Final = 2.0
_PACKET_OVERHEAD_BYTES: Final = 1024
_REFUSED_LOGIN: Final = frozenset({4, 5, 134, 135, 138})
_OTHER_PROTOCOL: Final = frozenset({1, 132})
_TAKEN_OVER: Final = 142
"""MQTT 5: another client with the same identifier has connected."""

SUSPECT_AFTER: Final = 3
"""Connections in a row that did not last, after which a second client of this name is suspected: not every broker says
that there is one."""

OnMessage = Callable[[str, bytes, bool], None]
"""(topic, payload, retained), called inside the event loop: decide, schedule, do not block."""


class LinkDown(Exception):
    """There is no connection, or it went while a publish was on its way. Whoever waits asks again."""


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Client(aiomqtt.Client):
    """aiomqtt with four seams opened: messages are handed over at once instead of through an unbounded queue, a
    publish that an MQTT 5 broker refused is reported, a broker that hangs up around CONNACK is noticed, and nobody
    waits for an answer behind the connection's end."""

    def __init__(self, *args: Any, deliver: OnMessage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deliver = deliver
        self.pending_calls_threshold = MAX_WAITING
        self.refusals: set[str] = set()

    async def __aenter__(self) -> Self:
        ended = self._disconnected
        await super().__aenter__()
        if ended.done():
            # The end came with the beginning; aiomqtt takes it for that of an earlier connection.
            self._disconnected = ended
            raise LinkDown("closed right after CONNACK")
        return self

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self._deliver(message.topic, message.payload, message.retain)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if getattr(reason_code, "is_failure", False):
            self.refusals.add(str(reason_code))
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttCodeError(reason_code, "closed before CONNACK"))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        if fut is self._disconnected:
            return await super()._wait_for(fut, timeout)
        try:
            return await self.unless_lost(fut, self.timeout if timeout is None else timeout)
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None

    async def unless_lost(self, awaited: Awaitable[T], timeout_s: float) -> T:
        """What is awaited. Raises TimeoutError, or LinkDown when the connection goes first."""
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait((task, self._disconnected), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self.is_lost():
                raise LinkDown("the connection went")
            raise TimeoutError
        finally:
            task.cancel()

    async def lost(self) -> None:
        """Returns when the connection is gone."""
        await asyncio.wait((self._disconnected,))
        self.is_lost()

    def is_lost(self) -> bool:
        # Looking at the exception also keeps asyncio from reporting it as never retrieved.
        if not self._disconnected.done():
            return False
        self._disconnected.exception()
        return True

    @property
    def is_taken_over(self) -> bool:
        """Whether the broker ended this connection for another client of the same name. Only MQTT 5 says so."""
        error = self._disconnected.exception() if self._disconnected.done() else None
        return error is not None and _code(error) == _TAKEN_OVER


class Link(ABC):
    """A connection to one broker that is made anew whenever it is lost.

    Args:
        client: the MQTT client identifier.
        patient: a broker that is not there yet is waited for, however long.
        will: published by the broker when this connection dies.
    """

    def __init__(
        self, broker: BrokerSettings, *, client: str, patient: bool = False, will: Publication | None = None
    ) -> None:
        self._broker = broker
        self._client_id = client
        self._patient = patient
        self._will = will
        self._protocols = _protocols(broker.protocol)
        self._protocol = self._protocols[0]
        self._proven = False
        self._connected = asyncio.Event()
        self._connected_at: float | None = None
        self._refusals_logged: set[str] = set()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        await self._connected.wait()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            BrokerUnreachable: no first connection within `connect_timeout_s`, where it is not patient.
            AccessRefused: the broker refused the login or, at the first connection, the topics.
            ConfigError: at the first connection, a file that it needs cannot be used.
        """
        started = time.monotonic()
        backoff = Backoff(self._broker.max_retry_wait_s)
        while True:
            client, self._connected_at = self._renewed_client(), None
            if client is None:
                backoff = backoff.after(0.0)
                await asyncio.sleep(backoff.wait_s(random.random()))
                continue
            try:
                await self._live(client)
            except (aiomqtt.MqttError, LinkDown, OSError) as error:
                if self._tries_older(error):
                    continue
                self._judge(error, time.monotonic() - started)
            backoff = backoff.after(self._lasted_s(), taken_over=client.is_taken_over)
            if client.is_taken_over or backoff.cut_short == SUSPECT_AFTER:
                self._tell_of_a_namesake(surely=client.is_taken_over)
            await asyncio.sleep(backoff.wait_s(random.random()))

    @abstractmethod
    async def _serve(self, client: Client) -> None:
        """What is done on a connection until it is lost: subscribe, then `_stay`."""

    @abstractmethod
    def _receive(self, topic: str, payload: bytes, retained: bool) -> None: ...

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _where(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    async def _live(self, client: Client) -> None:
        try:
            async with client:
                try:
                    await self._serve(client)
                finally:
                    self._connected.clear()
        finally:
            client.is_lost()

    def _came_up(self) -> None:
        """For `_serve`: this connection is as it should be."""
        self._proven = True
        self._connected_at = time.monotonic()
        self._connected.set()

    def _lasted_s(self) -> float:
        return 0.0 if self._connected_at is None else time.monotonic() - self._connected_at

    async def _hand_over(self, client: Client, publication: Publication) -> None:
        """A message to the broker, until it has acknowledged it (QoS 1). Raises LinkDown."""
        try:
            await client.publish(
                publication.topic, publication.payload, publication.qos, publication.retain, timeout=PUBLISH_TIMEOUT_S
            )
        except (LinkDown, aiomqtt.MqttError, ValueError, OSError) as error:
            raise LinkDown(f"{self._where}: {error}") from None
        for reason in client.refusals - self._refusals_logged:
            self._refusals_logged.add(reason)
            log.error("broker %s refused a publish on %s: %s", self._where, publication.topic, reason)

    async def _say_goodbye(self, client: Client) -> None:
        """The will is for who dies; who ends says it himself."""
        if self._will is None or not self.connected or client.is_lost():
            return
        try:
            await asyncio.wait_for(self._hand_over(client, self._will), GOODBYE_TIMEOUT_S)
        except (TimeoutError, LinkDown):
            log.info("could not say goodbye to %s", self._where)

    async def _stay(self, client: Client) -> None:
        await client.lost()
        log.warning("lost the connection to %s; reconnecting", self._where)

    def _renewed_client(self) -> Client | None:
        """None where a file cannot be used just now: of a link that has stood, somebody may be renewing it."""
        try:
            return self._new_client()
        except ConfigError as error:
            if not self._proven:
                raise
            log.error("no connection to %s (%s); trying again", self._where, error)
            return None

    def _new_client(self) -> Client:
        five = self._protocol is aiomqtt.ProtocolVersion.V5
        return Client(
            self._broker.host,
            self._broker.port,
            deliver=self._receive,
            identifier=identifier(self._client_id, self._broker),
            username=self._broker.user,
            password=self._broker.secret(),
            protocol=self._protocol,
            clean_session=None if five else True,
            clean_start=True if five else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_connect_properties() if five else None,
            keepalive=round(self._broker.keepalive_s),
            timeout=PUBLISH_TIMEOUT_S,
            max_inflight_messages=MAX_INFLIGHT,
            max_queued_outgoing_messages=MAX_WAITING,
            will=self._will and aiomqtt.Will(self._will.topic, self._will.payload, self._will.qos, self._will.retain),
            tls_context=self._tls_context(),
            tls_insecure=True if self._broker.tls and self._broker.tls.insecure else None,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            logger=_paho_log,
        )

    def _tls_context(self) -> ssl.SSLContext | None:
        return tls_context(self._broker)

    # ── what an end means ───────────────────────────────────────────────────────────────────────────────────────

    def _judge(self, error: Exception, elapsed_s: float) -> None:
        if _refusal(error) in _REFUSED_LOGIN and not self._proven:
            raise AccessRefused(
                f"broker {self._where} refused user {self._broker.user or 'anonymous'!r}: {error}; "
                "check broker.user and broker.password_file"
            ) from None
        if not self._proven and not self._patient and elapsed_s >= self._broker.connect_timeout_s:
            raise BrokerUnreachable(
                f"broker {self._where}: no connection within {self._broker.connect_timeout_s:g} s ({error}); "
                "check broker.host, broker.port and that the broker runs"
            ) from None
        log.warning("no connection to %s (%s); trying again", self._where, error)

    def _tell_of_a_namesake(self, *, surely: bool) -> None:
        name = self._client_id
        what = f"ended this connection for another client named {name!r}" if surely else "ends each connection soon"
        log.error(
            "broker %s %s; if two nodes run under the name %s, give each its own; waiting longer",
            self._where,
            what,
            name,
        )

    def _tries_older(self, error: Exception) -> bool:
        """Whether the broker may not know MQTT 5: then 3.1.1 is tried at once. Until a connection has stood each
        failure of that goes back to MQTT 5, for whatever is between here and the broker may have hung up as well."""
        if self._proven:
            return False
        tried, self._protocol = self._protocol, self._protocols[0]
        hung_up = "closed before CONNACK" in str(getattr(error, "args", ""))
        if tried is self._protocols[-1] or not (hung_up or _refusal(error) in _OTHER_PROTOCOL):
            return False
        self._protocol = self._protocols[-1]
        return True


def _protocols(choice: str) -> tuple[aiomqtt.ProtocolVersion, ...]:
    both = (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311)
    return {"auto": both, "5": both[:1], "3.1.1": both[1:]}[choice]


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = MAX_INFLIGHT
    properties.MaximumPacketSize = MAX_MESSAGE_SIZE_BYTES + _PACKET_OVERHEAD_BYTES
    return properties


def _code(error: BaseException) -> int | None:
    rc = getattr(error, "rc", None)
    value = getattr(rc, "value", rc)
    return int(value) if isinstance(value, int) else None


def _refusal(error: Exception) -> int | None:
    """The code of a CONNACK that said no. Paho's own errors have numbers of the same kind."""
    return _code(error) if isinstance(error, aiomqtt.exceptions.MqttConnectError) else None
