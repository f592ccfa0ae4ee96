"""Law: amqtt, mended by subclassing. Each override below mends a defect that a test shows in the stock broker.

A message goes from its publisher's socket to its subscribers' queues in one step, so there is no queue between
them, the order is kept, and a publisher waits (its own socket unread) while a subscriber is behind. Whatever ends
a client, `leave` is its one exit: the last will is published there, once, unless the client said goodbye.
Sessions are clean: a client that asks for a kept one gets a clean one, and the CONNACK says so.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

from headwater.transport.broker.access import Access
from headwater.transport.broker.auth import Passwords, read_password_file
from headwater.transport.broker.config import BrokerConfig, BrokerStartError, Tls
from headwater.transport.broker.connection import READ_SIZE_BYTES, Connection, FlowProtocol
from headwater.transport.broker.handler import ClientHandler
from headwater.transport.broker.packets import (
    CONNECT,
    DISCONNECT,
    MQTT_3_1_1,
    PING_RESPONSE,
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Frame,
    Message,
    ProtocolViolation,
    as_bytes,
    decode,
    decode_publish,
    encode_acknowledgement,
    packet_id_of,
)
from headwater.transport.broker.retained import Retained, RetainedStore
from headwater.transport.broker.router import Router
from headwater.transport.broker.stock import (
    DECODING_ERRORS,
    IDENTIFIER_REJECTED,
    UNACCEPTABLE_PROTOCOL_VERSION,
    Broker,
    BufferReader,
    ConnackPacket,
    ListenerConfig,
    Session,
    SubscribePacket,
    UnsubscribePacket,
)
from headwater.transport.broker.stock import BrokerConfig as StockConfig
from headwater.transport.broker.topic_filters import is_filter, is_topic

_SWEEP_INTERVAL_S: Final = 0.25
_SHUTDOWN_TIMEOUT_S: Final = 5.0
_MAX_QOS: Final = 1
_MAX_QOS2_OPEN: Final = 1024
_REFUSED: Final = 0x80
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What one broker did since it started."""

    messages_received: int = 0
    messages_delivered: int = 0
    publishes_refused: int = 0
    subscriptions_refused: int = 0
    retained_refused: int = 0
    connections_refused: int = 0
    wills_published: int = 0


class MendedBroker(Broker):  # type: ignore[misc]
    """amqtt's broker, for one TCP or TLS listener and no plugins. Make it inside the event loop that runs it."""

    def __init__(self, config: BrokerConfig, passwords: Passwords | None, tls_context: ssl.SSLContext | None) -> None:
        super().__init__(StockConfig(listeners={"default": ListenerConfig(bind=config.host)}, plugins={}))
        self._limits, self._host, self._port = config.limits, config.host, config.port
        self._passwords, self._tls_context = passwords, tls_context
        self._access = Access(config.acl)
        self._router = Router[ClientHandler](lambda client, topic: self._may(client, "read", topic))
        self._retained = RetainedStore(config.limits.max_retained, config.limits.max_retained_size_bytes)
        self._connections: dict[Connection, asyncio.Task[Any] | None] = {}
        self._listener: asyncio.Server | None = None
        self.counters = Counters()

    async def listen(self) -> int:
        """Takes the port, without accepting yet, and returns it.

        Raises:
            OSError: the port or the address cannot be had.
        """
        self._listener = await asyncio.get_running_loop().create_server(
            self._accept,
            self._host,
            self._port,
            backlog=self._limits.backlog,
            ssl=self._tls_context,
            ssl_handshake_timeout=self._limits.connect_timeout_s if self._tls_context else None,
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S if self._tls_context else None,
            start_serving=False,
        )
        return int(self._listener.sockets[0].getsockname()[1])

    async def shutdown(self) -> None:
        """Ends every connection, without last wills, then the stock broker."""
        if self._listener:
            self._listener.close()
        for _, client in list(self._sessions.values()):
            self.leave(client, with_will=False)
        tasks = [task for task in self._connections.values() if task]
        for connection in self._connections:
            connection.drop("the broker stops")
        if tasks:
            await asyncio.wait(tasks, timeout=_SHUTDOWN_TIMEOUT_S)
        await super().shutdown()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str = "default"
    ) -> None:
        """The whole life of one connection."""
        connection = Connection(reader, writer, self._limits)
        if len(self._connections) >= self._limits.max_connections:
            self.counters.connections_refused += 1
            connection.drop("too many connections")
            return
        self._connections[connection] = asyncio.current_task()
        client: ClientHandler | None = None
        try:
            async with aclosing(connection.frames()) as frames:
                client = await self._admit(connection, frames)
                if client:
                    await self._converse(client, frames)
        except (ProtocolViolation, OSError) as error:
            connection.drop(f"{type(error).__name__}: {error}")
        finally:
            connection.drop("")
            if client:
                self.leave(client)
            if connection.fault:
                _log.info("client %r dropped: %s", client and client.session.client_id, connection.fault)
            del self._connections[connection]

    def leave(self, client: ClientHandler, *, with_will: bool = True) -> None:
        """Takes the client out of everything, then publishes its last will, once."""
        if client.has_left:
            return
        client.has_left = True
        client.connection.drop("")
        self._router.leave(client)
        if self._sessions.get(client.session.client_id, (None, None))[1] is client:
            del self._sessions[client.session.client_id]
        will = client.will
        if with_will and will and self._may_publish(client, will.topic):
            self.counters.wills_published += 1
            self._route(client, will)

    # The stock broker's loops

    async def _create_server_instance(self, *_: Any) -> asyncio.Server:
        if not self._listener:
            raise BrokerStartError("listen() comes before start()")
        await self._listener.start_serving()
        return self._listener

    async def _broadcast_loop(self) -> None:
        """There is nothing to broadcast: `_route` delivers."""
        await self._broadcast_shutdown_waiter

    async def _session_monitor(self) -> None:
        """Ends the clients that are silent beyond their keep-alive, or do not read."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            now_s = asyncio.get_running_loop().time()
            for _, client in list(self._sessions.values()):
                reason = client.overdue(now_s, self._limits.slow_reader_timeout_s)
                if reason:
                    client.connection.drop(reason)
                    self.leave(client)

    def _accept(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader(limit=READ_SIZE_BYTES)
        return FlowProtocol(reader, self.stream_connected)

    # Letting in

    async def _admit(self, connection: Connection, frames: AsyncGenerator[Frame, None]) -> ClientHandler | None:
        async with asyncio.timeout(self._limits.connect_timeout_s):
            first = await anext(frames, None)
        if first is None:
            return None
        if first.kind != CONNECT:
            raise ProtocolViolation("the first packet is not CONNECT")
        client, session = await self._decode_connect(connection, first)
        authentic = await self._authenticate(session, None)
        user = session.username if self._passwords else None
        client.admit(session, connection, user, self._limits.max_unacknowledged)
        if not authentic:
            _log.warning("client %r: wrong user name or password", session.client_id)
            await client.mqtt_connack_authorize(False)
            await connection.close()
            return None
        _, earlier = self._sessions.get(session.client_id, (None, None))
        if earlier and earlier.user != user:
            _log.warning("client %r: the id is in use by another user", session.client_id)
            await self._turn_away(connection, IDENTIFIER_REJECTED)
            return None
        if earlier:
            earlier.connection.drop("taken over by a second connection")
            self.leave(earlier)
        if not session.clean_session:
            _log.info("client %r asked for a kept session and gets a clean one", session.client_id)
        self._sessions[session.client_id] = (session, client)
        await client.mqtt_connack_authorize(True)
        return client

    async def _decode_connect(self, connection: Connection, frame: Frame) -> tuple[ClientHandler, Session]:
        if frame.body[:6] == b"\0\x04MQTT" and frame.body[6:7] != bytes((MQTT_3_1_1,)):
            await self._turn_away(connection, UNACCEPTABLE_PROTOCOL_VERSION)
            raise ProtocolViolation("CONNECT: only MQTT 3.1.1 is spoken here")
        packet = BufferReader(as_bytes(frame))
        try:
            client, session = await ClientHandler.init_from_connect(packet, connection, self.plugins_manager)
        except DECODING_ERRORS as error:
            raise ProtocolViolation(f"malformed CONNECT: {error}") from error
        if await packet.read() or (session.will_flag and (not is_topic(session.will_topic) or session.will_qos > 2)):
            raise ProtocolViolation("malformed CONNECT")
        return client, session

    async def _turn_away(self, connection: Connection, return_code: int) -> None:
        connection.write(ConnackPacket.build(0, return_code).to_bytes())
        await connection.close()

    async def _authenticate(self, session: Session, _: Any) -> bool:
        if self._passwords is None:
            return True
        user, password = session.username, session.password
        session.password = None
        return user is not None and password is not None and await self._passwords.verify(user, password)

    # Conversation

    async def _converse(self, client: ClientHandler, frames: AsyncGenerator[Frame, None]) -> None:
        async for frame in frames:
            if frame.kind == PUBLISH:
                await self._receive(client, decode_publish(frame))
            elif frame.kind == PUBACK:
                client.acknowledge(packet_id_of(frame))
            elif frame.kind == DISCONNECT:
                client.session.will_flag = False
                return
            else:
                await self._answer(client, frame)
            if client.has_left:
                return

    async def _answer(self, client: ClientHandler, frame: Frame) -> None:
        if frame.kind == PINGREQ:
            client.connection.write(PING_RESPONSE)
        elif frame.kind == SUBSCRIBE:
            await self._subscribe(client, frame)
        elif frame.kind == UNSUBSCRIBE:
            await self._unsubscribe(client, frame)
        elif frame.kind == PUBREL:
            client.qos2_received.discard(packet_id_of(frame))
            client.connection.write(encode_acknowledgement(PUBCOMP, packet_id_of(frame)))
        else:
            raise ProtocolViolation(f"packet of type {frame.kind} out of place")

    async def _receive(self, client: ClientHandler, message: Message) -> None:
        self.counters.messages_received += 1
        if message.qos == 2 and message.packet_id in client.qos2_received:
            client.connection.write(encode_acknowledgement(PUBREC, message.packet_id))
            return
        if self._may_publish(client, message.topic):
            await self._wait_for_receivers(client, message.topic)
            self._route(client, message)
        if message.qos == 1:
            client.connection.write(encode_acknowledgement(PUBACK, message.packet_id))
        elif message.qos == 2:
            if len(client.qos2_received) >= _MAX_QOS2_OPEN:
                raise ProtocolViolation(f"{_MAX_QOS2_OPEN} messages at QoS 2 are open")
            client.qos2_received.add(message.packet_id)
            client.connection.write(encode_acknowledgement(PUBREC, message.packet_id))

    async def _wait_for_receivers(self, client: ClientHandler, topic: str) -> None:
        while behind := next((c for c, _ in self._router.receivers(topic) if c.connection.is_congested), None):
            await self._hold(client, behind)

    async def _hold(self, client: ClientHandler, behind: ClientHandler) -> None:
        """Leaves `client` unread until `behind` has caught up or is gone: at most the slow reader's timeout."""
        client.is_held = True
        await behind.connection.drained()
        client.is_held = False
        client.connection.heard_at_s = asyncio.get_running_loop().time()

    def _route(self, client: ClientHandler, message: Message) -> None:
        if message.retain and not self._retained.keep(Retained(message.topic, message.payload, message.qos)):
            self.counters.retained_refused += 1
            if client.is_new_refusal(message.topic):
                _log.warning("topic %r: not retained, the broker keeps too much already", message.topic)
        for receiver, qos in self._router.receivers(message.topic):
            self.counters.messages_delivered += 1
            receiver.deliver(message, qos)

    def _may(self, client: ClientHandler, access: Literal["read", "write"], topic: str) -> bool:
        return self._access.may(client.user, access, topic, client.session.client_id)

    def _may_publish(self, client: ClientHandler, topic: str) -> bool:
        if self._may(client, "write", topic):
            return True
        self.counters.publishes_refused += 1
        if client.is_new_refusal(topic):
            _log.warning("client %r may not write %r: dropped", client.session.client_id, topic)
        return False

    # Subscriptions

    async def _subscribe(self, client: ClientHandler, frame: Frame) -> None:
        packet = await decode(SubscribePacket, frame)
        asked: list[tuple[str, int]] = packet.payload.topics
        if not asked or any(qos > 2 for _, qos in asked):
            raise ProtocolViolation("malformed SUBSCRIBE")
        codes = [self._grant(client, topic_filter, qos) for topic_filter, qos in asked]
        await client.mqtt_acknowledge_subscription(packet.variable_header.packet_id, codes)
        for (topic_filter, _), code in zip(asked, codes, strict=True):
            if code != _REFUSED:
                await self._send_retained(client, topic_filter, code)

    async def _unsubscribe(self, client: ClientHandler, frame: Frame) -> None:
        packet = await decode(UnsubscribePacket, frame)
        if not packet.payload.topics:
            raise ProtocolViolation("malformed UNSUBSCRIBE")
        for topic_filter in packet.payload.topics:
            self._router.unsubscribe(client, topic_filter)
        await client.mqtt_acknowledge_unsubscription(packet.variable_header.packet_id)

    def _grant(self, client: ClientHandler, topic_filter: str, qos: int) -> int:
        full = self._router.subscription_count(client) >= self._limits.max_subscriptions
        if full or not is_filter(topic_filter) or not self._may_subscribe(client, topic_filter):
            self.counters.subscriptions_refused += 1
            _log.warning("client %r may not subscribe %r", client.session.client_id, topic_filter[:200])
            return _REFUSED
        granted = min(qos, _MAX_QOS)
        self._router.subscribe(client, topic_filter, granted)
        return granted

    def _may_subscribe(self, client: ClientHandler, topic_filter: str) -> bool:
        return self._access.may_subscribe(client.user, topic_filter, client.session.client_id)

    async def _send_retained(self, client: ClientHandler, topic_filter: str, qos: int) -> None:
        """To this client alone. Each topic is looked up when its turn comes, so nothing older follows newer."""
        topics = [message.topic for message in self._retained.matching(topic_filter)]
        for topic in topics:
            while client.connection.is_congested:
                await self._hold(client, client)
            message = self._retained.get(topic)
            if message and self._may(client, "read", topic):
                client.deliver(Message(topic, message.payload, message.qos), qos, retain=True)


class EmbeddedBroker:
    """A broker inside the running event loop. `spawn` runs one in its own process."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self._broker: MendedBroker | None = None
        self._passwords: Passwords | None = None

    @property
    def counters(self) -> Counters:
        return self._broker.counters if self._broker else Counters()

    async def start(self) -> int:
        """Listens, and returns the port.

        Raises:
            BrokerStartError: a file that cannot be used, or a port that cannot be had.
        """
        config = self.config
        tls_context = make_tls_context(config.tls) if config.tls else None
        if config.password_file is not None:
            self._passwords = Passwords(read_password_file(config.password_file))
        broker = MendedBroker(config, self._passwords, tls_context)
        try:
            port = await broker.listen()
        except OSError as error:
            await self.stop()
            raise BrokerStartError(
                f"host, port: cannot listen on {config.host}:{config.port}: {error.strerror or error}; stop what "
                "listens there, or set another port (0 takes any free one)"
            ) from error
        await broker.start()
        self._broker = broker
        return port

    async def stop(self) -> None:
        """Ends every connection and gives the port back. Without effect on a broker that does not run."""
        broker, self._broker = self._broker, None
        passwords, self._passwords = self._passwords, None
        if broker:
            await broker.shutdown()
        if passwords:
            passwords.close()


def make_tls_context(tls: Tls) -> ssl.SSLContext:
    """The context of a TLS 1.2+ listener.

    Raises:
        BrokerStartError: a file that is missing, or is no certificate or key, or the two do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise BrokerStartError(
            f"tls: certificate_file {tls.certificate_file!r}, key_file {tls.key_file!r} or client_ca_file "
            f"{tls.client_ca_file!r} cannot be used: {error}; each must be PEM, and the key the certificate's own"
        ) from error
    return context
