"""Law: the mended broker keeps MQTT 3.1.1 where stock amqtt does not; both are asked the same over real sockets.

A test with `broker` in [stock, mended] names a defect: the stock broker must show it, the mended one must not.
Payloads and bytes on the wire are written by hand where a library client would be too polite.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
import psutil
import pytest
from amqtt.broker import Broker as StockBroker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.schemas.acl import Acl, Rule
from headwater.transport.broker import BrokerConfig, BrokerLimits, write_password_file
from headwater.transport.broker.access import Access
from headwater.transport.broker.server import EmbeddedBroker

SHORT_S = 0.15
"""How long nothing must come for it to count as nothing."""

Start = Callable[..., Awaitable[int]]


@dataclass
class RawClient:
    """An MQTT 3.1.1 client that sends exactly what it is told, and acknowledges nothing by itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    inbox: list[tuple[int, bytes]] = field(default_factory=list)

    @classmethod
    async def open(cls, port: int, *, receive_buffer_bytes: int = 0) -> "RawClient":
        sock = socket.socket()
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock, limit=1024))

    @classmethod
    async def connect(cls, port: int, client_id: str, *, receive_buffer_bytes: int = 0, **options: Any) -> "RawClient":
        client = await cls.open(port, receive_buffer_bytes=receive_buffer_bytes)
        client.send(connect_packet(client_id, **options))
        assert (await client.packet()) == (0x20, b"\0\0")
        return client

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def packet(self, timeout_s: float = 3.0) -> tuple[int, bytes]:
        """First byte and body of the next packet."""
        async with asyncio.timeout(timeout_s):
            first = (await self.reader.readexactly(1))[0]
            length = shift = 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            return first, await self.reader.readexactly(length)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> int:
        """The code of the SUBACK."""
        self.send(packet(0x82, b"\0\1" + text(topic_filter) + bytes((qos,))))
        first, body = await self.packet()
        assert (first, body[:2]) == (0x90, b"\0\1")
        return body[2]

    async def is_closed_within(self, timeout_s: float) -> bool:
        """Whether the broker closes the connection; what it sends before is thrown away."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    async def hears_nothing(self) -> bool:
        try:
            await self.packet(SHORT_S)
        except TimeoutError:
            return True
        return False

    def reset(self) -> None:
        """Closes so that the other side sees a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.transport.abort()


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def packet(first: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        encoded.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes((first,)) + bytes(encoded) + body


def connect_packet(
    client_id: str,
    *,
    keep_alive_s: int = 0,
    will: tuple[str, bytes] | None = None,
    will_retain: bool = False,
    user: str | None = None,
    password: str | None = None,
    clean: bool = True,
    level: int = 4,
) -> bytes:
    flags = clean << 1 | (will is not None) << 2 | will_retain << 5 | (user is not None) << 7
    flags |= (password is not None) << 6 | (8 if will else 0)
    body = text("MQTT") + bytes((level, flags)) + keep_alive_s.to_bytes(2, "big") + text(client_id)
    if will:
        body += text(will[0]) + len(will[1]).to_bytes(2, "big") + will[1]
    for credential in (user, password):
        if credential is not None:
            body += text(credential)
    return packet(0x10, body)


def publish_packet(topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 1, retain: bool = False) -> bytes:
    head = text(topic) + (packet_id.to_bytes(2, "big") if qos else b"")
    return packet(0x30 | qos << 1 | retain, head + payload)


PING, DISCONNECT = b"\xc0\x00", b"\xe0\x00"


async def run_stock() -> tuple[StockBroker, int]:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = StockBroker({"listeners": {"default": {"bind": "127.0.0.1:0"}}, "plugins": plugins})
    await broker.start()
    return broker, broker._servers["default"].instance.sockets[0].getsockname()[1]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts a broker in the test's own loop: `await start("stock")`, `await start("mended", acl=…)` gives a port."""
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    stops: list[Callable[[], Awaitable[None]]] = []

    async def start_one(kind: str = "mended", **settings: Any) -> int:
        if kind == "stock":
            broker, port = await run_stock()
            stops.append(broker.shutdown)
            return port
        embedded = EmbeddedBroker(BrokerConfig(port=0, **settings))
        start_one.broker = embedded  # type: ignore[attr-defined]
        stops.append(embedded.stop)
        return await embedded.start()

    yield start_one
    for stop in stops:
        async with asyncio.timeout(10):
            await stop()


stock_and_mended = pytest.mark.parametrize(
    ("kind", "is_mended"), [pytest.param("stock", False, id="stock"), pytest.param("mended", True, id="mended")]
)


class TestDefects:
    """What the stock broker gets wrong."""

    @stock_and_mended
    async def test_retained_messages_go_only_to_who_asked(self, start: Start, kind: str, is_mended: bool) -> None:
        port = await start(kind)
        owner = await RawClient.connect(port, "owner")
        assert await owner.subscribe("secret/#") == 1
        owner.send(publish_packet("secret/x", b"s", retain=True))
        await owner.packet()
        stranger = await RawClient.connect(port, "stranger")
        assert await stranger.hears_nothing() is is_mended
        owner.close()
        stranger.close()

    @stock_and_mended
    async def test_a_silent_client_is_dropped_and_its_will_published(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        port = await start(kind)
        watcher = await RawClient.connect(port, "watcher")
        await watcher.subscribe("status")
        silent = await RawClient.connect(port, "silent", keep_alive_s=1, will=("status", b"gone"))
        assert await silent.is_closed_within(1.0) is False
        assert await silent.is_closed_within(1.2) is is_mended
        if is_mended:
            assert (await watcher.packet())[1].endswith(b"gone")
            assert await watcher.hears_nothing()
        silent.close()
        watcher.close()

    @stock_and_mended
    async def test_a_connection_that_never_becomes_a_client_leaves_no_socket(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        port = await start(kind)
        clients = [await RawClient.open(port) for _ in range(20)]
        for client in clients:
            client.send(PING)
        await asyncio.sleep(SHORT_S)
        sockets = psutil.Process().net_connections("tcp")
        kept = [each for each in sockets if each.laddr.port == port and each.status != psutil.CONN_LISTEN]
        assert (not kept) is is_mended
        for client in clients:
            client.close()

    @stock_and_mended
    async def test_an_oversized_packet_ends_the_client_before_its_body(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        port = await start(kind)
        watcher = await RawClient.connect(port, "watcher")
        await watcher.subscribe("status")
        client = await RawClient.connect(port, "large", will=("status", b"gone"))
        client.send(b"\x30\xff\xff\xff\x7f")
        assert await client.is_closed_within(SHORT_S) is is_mended
        if is_mended:
            assert (await watcher.packet())[1].endswith(b"gone")
        client.close()
        watcher.close()

    @stock_and_mended
    async def test_a_reader_that_does_not_read_is_dropped_not_buffered(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        limits = BrokerLimits(max_queue_size_bytes=256_000, slow_reader_timeout_s=0.3)
        port = await start(kind, **({"limits": limits} if is_mended else {}))
        watcher = await RawClient.connect(port, "watcher")
        await watcher.subscribe("status")
        slow = await RawClient.connect(port, "slow", will=("status", b"gone"), receive_buffer_bytes=4096)
        await slow.subscribe("bulk")
        async with aiomqtt.Client("127.0.0.1", port) as publisher:
            for _ in range(60):
                await publisher.publish("bulk", bytes(256_000), qos=1, timeout=5)
        try:
            assert (await watcher.packet(1.0))[1].endswith(b"gone")
            dropped = True
        except TimeoutError:
            dropped = False
        assert dropped is is_mended
        slow.close()
        watcher.close()

    @stock_and_mended
    async def test_a_burst_of_connections_finds_room_in_the_backlog(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        port = await start(kind)
        sockets: list[socket.socket] = []
        with contextlib.ExitStack() as stack:
            for _ in range(300):  # in one breath: the loop that would accept them does not run meanwhile
                sock = stack.enter_context(socket.socket())
                sock.settimeout(0.2)
                try:
                    sock.connect(("127.0.0.1", port))
                except TimeoutError:
                    break
                sockets.append(sock)
            assert (len(sockets) == 300) is is_mended

    @stock_and_mended
    async def test_a_message_is_not_raised_above_its_own_qos(self, start: Start, kind: str, is_mended: bool) -> None:
        port = await start(kind)
        client = await RawClient.connect(port, "c")
        await client.subscribe("t", qos=1)
        client.send(publish_packet("t", b"x", qos=0))
        first, _ = await client.packet()
        assert (first >> 1 & 3 == 0) is is_mended
        client.close()

    @stock_and_mended
    async def test_what_is_not_acknowledged_does_not_hold_up_what_follows(
        self, start: Start, kind: str, is_mended: bool
    ) -> None:
        """The stock broker gives each open delivery a task and a timer; the mended one gives it a number."""
        port = await start(kind)
        client = await RawClient.connect(port, "mute")
        await client.subscribe("t", qos=1)
        sender = await RawClient.connect(port, "sender")
        tasks_before = len(asyncio.all_tasks())
        for number in range(200):
            sender.send(publish_packet("t", bytes((number,)), qos=1, packet_id=number + 1))
        received = [(await client.packet())[1] for _ in range(200)]
        assert [body[-1] for body in received] == list(range(200))
        assert len({body[3:5] for body in received}) == 200
        assert (len(asyncio.all_tasks()) <= tasks_before) is is_mended
        client.close()
        sender.close()


class TestWills:
    @pytest.mark.parametrize(
        ("ending", "published"),
        [
            pytest.param("disconnect", False, id="goodbye"),
            pytest.param("close", True, id="closed"),
            pytest.param("reset", True, id="reset"),
            pytest.param("garbage", True, id="protocol-violation"),
            pytest.param("connect", True, id="second-connect"),
            pytest.param("disconnect-and-more", False, id="goodbye-then-garbage"),
        ],
    )
    async def test_a_will_is_published_once_or_never(self, start: Start, ending: str, published: bool) -> None:
        port = await start()
        watcher = await RawClient.connect(port, "watcher")
        await watcher.subscribe("status")
        client = await RawClient.connect(port, "c", will=("status", b"gone"), will_retain=True)
        match ending:
            case "disconnect":
                client.send(DISCONNECT)
            case "disconnect-and-more":
                client.send(DISCONNECT + b"\xff\xff")
            case "garbage":
                client.send(b"\xff\xff")
            case "connect":
                client.send(connect_packet("c"))
            case "close":
                client.writer.close()
            case "reset":
                client.reset()
        if published:
            first, body = await watcher.packet()
            assert (first, body[:8], body[-4:]) == (0x32, text("status"), b"gone")
        assert await watcher.hears_nothing()
        late = await RawClient.connect(port, "late")
        await late.subscribe("status")
        if published:
            assert (await late.packet())[0] == 0x33
        assert await late.hears_nothing()
        for each in (client, watcher, late):
            each.close()

    async def test_a_second_client_of_the_same_id_takes_over(self, start: Start) -> None:
        port = await start()
        watcher = await RawClient.connect(port, "watcher")
        await watcher.subscribe("#")
        first = await RawClient.connect(port, "c", will=("status", b"gone"))
        await first.subscribe("t")
        second = await RawClient.connect(port, "c", will=("status", b"gone"))
        assert await first.is_closed_within(1)
        assert (await watcher.packet())[1].endswith(b"gone")
        watcher.send(publish_packet("t", b"x"))
        await watcher.packet()
        assert await second.hears_nothing()
        second.send(PING)
        assert await second.packet() == (0xD0, b"")
        second.send(DISCONNECT)
        assert await second.is_closed_within(1)
        assert await watcher.hears_nothing()
        watcher.close()

    async def test_the_will_of_the_first_comes_before_the_birth_of_the_second(self, start: Start) -> None:
        port = await start()
        for _ in range(5):
            client = await RawClient.connect(port, "c", will=("status", b"gone"), will_retain=True)
            client.send(publish_packet("status", b"here", qos=1, retain=True))
            assert (await client.packet())[0] == 0x40
        late = await RawClient.connect(port, "late")
        await late.subscribe("status")
        assert (await late.packet())[1].endswith(b"here")
        late.close()

    async def test_a_client_that_pings_stays(self, start: Start) -> None:
        port = await start()
        client = await RawClient.connect(port, "c", keep_alive_s=1)
        for _ in range(3):
            await asyncio.sleep(0.7)
            client.send(PING)
            assert await client.packet() == (0xD0, b"")
        client.close()


class TestDelivery:
    async def test_two_publishers_each_keep_their_order(self, start: Start) -> None:
        port = await start()
        received: list[tuple[str, int]] = []
        async with aiomqtt.Client("127.0.0.1", port) as subscriber:
            await subscriber.subscribe("t/+", qos=1)

            async def publish(name: str) -> None:
                async with aiomqtt.Client("127.0.0.1", port) as client:
                    for number in range(60):
                        await client.publish(f"t/{name}", str(number), qos=number % 3)

            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(publish("a"))
                group.create_task(publish("b"))
                async for message in subscriber.messages:
                    received.append((str(message.topic), int(message.payload)))
                    if len(received) == 120:
                        break
        for topic in ("t/a", "t/b"):
            assert [number for name, number in received if name == topic] == list(range(60))

    async def test_publishers_wait_for_a_reader_that_pauses_and_nothing_is_lost(self, start: Start) -> None:
        port = await start(limits=BrokerLimits(max_queue_size_bytes=200_000))
        reader = await RawClient.connect(port, "r", receive_buffer_bytes=4096)
        await reader.subscribe("bulk")
        sent = 0

        async def publish() -> None:
            nonlocal sent
            async with aiomqtt.Client("127.0.0.1", port) as publisher:
                for number in range(80):
                    await publisher.publish("bulk", number.to_bytes(4, "big") + bytes(200_000), qos=1, timeout=20)
                    sent += 1

        task = asyncio.create_task(publish())
        await asyncio.sleep(0.5)
        assert 0 < sent < 80
        numbers = [int.from_bytes((await reader.packet(10))[1][8:12], "big") for _ in range(80)]
        assert numbers == list(range(80))
        await task
        reader.close()

    async def test_a_held_publisher_is_not_taken_for_silent(self, start: Start) -> None:
        limits = BrokerLimits(max_queue_size_bytes=100_000, slow_reader_timeout_s=2.0)
        port = await start(limits=limits)
        slow = await RawClient.connect(port, "slow", receive_buffer_bytes=4096)
        await slow.subscribe("bulk")
        publisher = await RawClient.connect(port, "p", keep_alive_s=1)
        for _ in range(60):
            publisher.send(publish_packet("bulk", bytes(200_000)))
        publisher.send(PING)
        assert await publisher.packet(4) == (0xD0, b"")
        assert await slow.is_closed_within(1)
        publisher.close()

    async def test_qos_2_is_taken_once_and_delivered_at_qos_1(self, start: Start) -> None:
        port = await start()
        client = await RawClient.connect(port, "c")
        assert await client.subscribe("t", qos=2) == 1
        for _ in range(2):
            client.send(publish_packet("t", b"x", qos=2, packet_id=7))
        packets = [await client.packet() for _ in range(3)]
        assert sorted(packets) == [(0x32, b"\0\1t\0\1x"), (0x50, b"\0\7"), (0x50, b"\0\7")]
        client.send(packet(0x62, b"\0\7"))
        assert await client.packet() == (0x70, b"\0\7")
        client.send(publish_packet("t", b"y", qos=2, packet_id=7))
        assert {(await client.packet())[0] for _ in range(2)} == {0x32, 0x50}
        client.close()

    async def test_retained_is_replaced_cleared_and_sent_on_every_subscription(self, start: Start) -> None:
        port = await start()
        client = await RawClient.connect(port, "c")
        client.send(publish_packet("a/b", b"1", retain=True) + publish_packet("a/b", b"2", retain=True))
        for _ in range(2):
            await client.subscribe("a/+")
            assert await client.packet() == (0x31, b"\0\3a/b2")
        client.send(publish_packet("a/b", b"", retain=True))
        assert await client.packet() == (0x30, b"\0\3a/b")
        await client.subscribe("a/b")
        assert await client.hears_nothing()
        client.close()

    async def test_retained_beyond_the_bound_is_delivered_but_not_kept(self, start: Start, caplog: Any) -> None:
        port = await start(limits=BrokerLimits(max_retained=1))
        client = await RawClient.connect(port, "c")
        client.send(publish_packet("a", b"1", retain=True))
        await client.subscribe("#")
        assert (await client.packet())[1][-1:] == b"1"
        client.send(publish_packet("b", b"2", retain=True))
        assert (await client.packet())[1][-1:] == b"2"
        await client.subscribe("+")
        assert (await client.packet())[1][-1:] == b"1"
        assert await client.hears_nothing()
        assert "topic 'b': not retained" in caplog.text
        client.close()

    async def test_unsubscribed_means_unsubscribed(self, start: Start) -> None:
        port = await start()
        client = await RawClient.connect(port, "c")
        await client.subscribe("t")
        client.send(packet(0xA2, b"\0\2" + text("t")))
        assert await client.packet() == (0xB0, b"\0\2")
        client.send(publish_packet("t", b"x"))
        assert await client.hears_nothing()
        client.close()

    async def test_accepted_sockets_do_not_wait_to_fill_packets(self, start: Start) -> None:
        port = await start()
        client = await RawClient.connect(port, "c")
        (connection,) = start.broker._broker._connections  # type: ignore[attr-defined]
        sock = connection._stream.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()


class TestLimits:
    async def test_connections_beyond_the_bound_are_turned_away(self, start: Start) -> None:
        port = await start(limits=BrokerLimits(max_connections=2))
        clients = [await RawClient.connect(port, str(number)) for number in range(2)]
        third = await RawClient.open(port)
        assert await third.is_closed_within(1)
        clients.pop().close()
        await asyncio.sleep(0.05)
        clients.append(await RawClient.connect(port, "again"))
        for client in clients:
            client.close()

    async def test_who_says_nothing_is_not_kept(self, start: Start) -> None:
        port = await start(limits=BrokerLimits(connect_timeout_s=0.1))
        silent = await RawClient.open(port)
        slow = await RawClient.open(port)
        slow.send(connect_packet("c")[:5])
        assert await silent.is_closed_within(1)
        assert await slow.is_closed_within(1)

    async def test_open_acknowledgements_are_bounded(self, start: Start) -> None:
        port = await start(limits=BrokerLimits(max_unacknowledged=5))
        mute = await RawClient.connect(port, "mute")
        await mute.subscribe("t")
        polite = await RawClient.connect(port, "polite")
        await polite.subscribe("t")
        for number in range(6):
            polite.send(publish_packet("t", b"x", qos=1, packet_id=number + 1))
            while (received := await polite.packet())[0] != 0x32:
                pass
            polite.send(packet(0x40, received[1][3:5]))
        assert await mute.is_closed_within(1)
        polite.send(PING)
        while (await polite.packet())[0] != 0xD0:
            pass
        polite.close()

    async def test_subscriptions_of_a_client_are_bounded(self, start: Start) -> None:
        port = await start(limits=BrokerLimits(max_subscriptions=2))
        client = await RawClient.connect(port, "c")
        assert [await client.subscribe(name) for name in "abc"] == [1, 1, 0x80]
        client.close()


class TestAccess:
    ACL = Acl(
        rules=(
            Rule(access="write", filter="node/%u/#"),
            Rule(access="read", filter="node/%u/#"),
            Rule(access="read", filter="news"),
            Rule(access="read", filter="#", user="boss"),
            Rule(access="write", filter="#", user="boss"),
        )
    )

    @pytest.fixture
    async def port(self, start: Start, tmp_path: Path) -> int:
        write_password_file(tmp_path / "users", {"d1": "p1", "d2": "p2", "boss": "pb"})
        return await start(acl=self.ACL, password_file=str(tmp_path / "users"))

    @pytest.mark.parametrize(
        ("user", "password", "code"),
        [
            pytest.param("d1", "p1", 0, id="right"),
            pytest.param("d1", "p2", 5, id="wrong-password"),
            pytest.param("d3", "p1", 5, id="unknown-user"),
            pytest.param(None, None, 5, id="anonymous"),
            pytest.param("d1", None, 5, id="no-password"),
        ],
    )
    async def test_who_is_let_in(self, port: int, user: str | None, password: str | None, code: int) -> None:
        client = await RawClient.open(port)
        client.send(connect_packet("c", user=user, password=password))
        assert await client.packet() == (0x20, bytes((0, code)))
        assert await client.is_closed_within(0.1) is (code != 0)
        client.close()

    async def test_each_sees_and_says_only_what_it_may(self, port: int, start: Start, caplog: Any) -> None:
        d1 = await RawClient.connect(port, "d1", user="d1", password="p1")
        d2 = await RawClient.connect(port, "d2", user="d2", password="p2")
        boss = await RawClient.connect(port, "boss", user="boss", password="pb")
        assert await d1.subscribe("node/d1/#") == 1
        assert [await d1.subscribe(each) for each in ("#", "node/d2/x", "node/+/x", "$SYS/#", "node/#/x")] == [0x80] * 5
        await boss.subscribe("#")
        for _ in range(3):
            d2.send(publish_packet("node/d1/x", b"forged", qos=1, retain=True))
            assert (await d2.packet())[0] == 0x40
        assert await d1.hears_nothing()
        assert await boss.hears_nothing()
        assert caplog.text.count("client 'd2' may not write 'node/d1/x'") == 1
        assert start.broker.counters.publishes_refused == 3  # type: ignore[attr-defined]
        boss.send(publish_packet("node/d1/x", b"real", retain=True))
        assert (await d1.packet())[1].endswith(b"real")
        await boss.packet()
        assert await d2.subscribe("node/d2/#") == 1
        assert await d2.hears_nothing()
        for each in (d1, d2, boss):
            each.close()

    async def test_what_was_subscribed_by_mistake_is_still_not_delivered(
        self, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Access, "may_subscribe", lambda *_: True)
        boss = await RawClient.connect(port, "boss", user="boss", password="pb")
        boss.send(publish_packet("node/d1/x", b"1", qos=1, retain=True))
        await boss.packet()
        stranger = await RawClient.connect(port, "d2", user="d2", password="p2")
        assert await stranger.subscribe("#") == 1
        assert await stranger.hears_nothing()
        boss.send(publish_packet("node/d1/x", b"2"))
        assert await stranger.hears_nothing()
        stranger.close()
        boss.close()

    async def test_a_will_needs_the_same_right_as_a_message(self, port: int) -> None:
        boss = await RawClient.connect(port, "boss", user="boss", password="pb")
        await boss.subscribe("#")
        for topic, heard in (("news", False), ("node/d1/status", True)):
            client = await RawClient.connect(port, "d1", user="d1", password="p1", will=(topic, b"gone"))
            client.reset()
            assert await boss.hears_nothing() is not heard
        boss.close()

    async def test_nobody_takes_over_anothers_client_id(self, port: int) -> None:
        victim = await RawClient.connect(port, "d1", user="d1", password="p1")
        thief = await RawClient.open(port)
        thief.send(connect_packet("d1", user="d2", password="p2"))
        assert await thief.packet() == (0x20, b"\0\2")
        victim.send(PING)
        assert await victim.packet() == (0xD0, b"")
        victim.close()

    async def test_a_name_that_nobody_proved_has_no_rights(self, start: Start) -> None:
        port = await start(acl=self.ACL)
        client = await RawClient.connect(port, "c", user="boss", password="anything")
        assert await client.subscribe("node/boss/#") == 0x80
        assert await client.subscribe("news") == 1
        client.close()


class TestProtocol:
    async def test_a_kept_session_is_not_promised(self, start: Start) -> None:
        port = await start()
        for _ in range(2):
            client = await RawClient.connect(port, "c", clean=False)  # connect() wants session present = 0
            client.close()
            await asyncio.sleep(0.05)

    async def test_other_versions_are_told_so(self, start: Start) -> None:
        port = await start()
        client = await RawClient.open(port)
        client.send(connect_packet("c", level=5))
        assert await client.packet() == (0x20, b"\0\1")
        assert await client.is_closed_within(1)

    async def test_paho_in_a_thread_gets_through(self, start: Start) -> None:
        port = await start()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        loop, received = asyncio.get_running_loop(), asyncio.Queue[bytes]()
        client.on_connect = lambda *_: client.subscribe("t", 1)
        client.on_subscribe = lambda *_: client.publish("t", b"x" * 100_000, 1)
        client.on_message = lambda _c, _u, message: loop.call_soon_threadsafe(received.put_nowait, message.payload)
        client.connect_async("127.0.0.1", port)
        client.loop_start()
        async with asyncio.timeout(5):
            assert await received.get() == b"x" * 100_000
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)

    BAD_AFTER_CONNECT = (
        pytest.param(b"\xff\xff", id="no-packet"),
        pytest.param(b"\x30\x00", id="empty-publish"),
        pytest.param(publish_packet("a/#", b""), id="publish-to-a-filter"),
        pytest.param(packet(0x36, b"\0\1a\0\1"), id="publish-qos-3"),
        pytest.param(packet(0x82, b"\0\1"), id="subscribe-to-nothing"),
        pytest.param(packet(0x82, b"\0\1\0\5ab\0"), id="subscribe-cut"),
        pytest.param(packet(0x82, b"\0\1\0\1\xff\0"), id="subscribe-not-utf8"),
        pytest.param(packet(0x82, b"\0\1\0\1a\3"), id="subscribe-qos-3"),
        pytest.param(packet(0x82, b"\0"), id="subscribe-without-id"),
        pytest.param(packet(0xA2, b"\0\1"), id="unsubscribe-from-nothing"),
        pytest.param(packet(0x40, b"\0"), id="puback-cut"),
        pytest.param(packet(0x50, b"\0\1"), id="pubrec-out-of-place"),
        pytest.param(connect_packet("again"), id="second-connect"),
    )

    @pytest.mark.parametrize("data", BAD_AFTER_CONNECT)
    async def test_a_malformed_packet_ends_its_client_alone(self, start: Start, data: bytes) -> None:
        port = await start()
        bystander = await RawClient.connect(port, "bystander")
        client = await RawClient.connect(port, "c")
        client.send(data)
        assert await client.is_closed_within(1)
        bystander.send(PING)
        assert await bystander.packet() == (0xD0, b"")
        bystander.close()

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(packet(0x10, b""), id="empty"),
            pytest.param(packet(0x10, text("MQIsdp") + b"\3\2\0\0" + text("c")), id="mqtt-3.1"),
            pytest.param(connect_packet("c")[:-1] + b"", id="cut"),
            pytest.param(packet(0x10, connect_packet("c")[2:] + b"more"), id="trailing-bytes"),
            pytest.param(connect_packet("c", will=("a/#", b"x")), id="will-to-a-filter"),
            pytest.param(
                packet(0x10, text("MQTT") + b"\4\x1e\0\0" + text("c") + text("w") + text("m")), id="will-qos-3"
            ),
            pytest.param(packet(0x10, text("MQTT") + b"\4\3\0\0" + text("c")), id="reserved-flag"),
            pytest.param(publish_packet("t", b"x"), id="not-connect"),
        ],
    )
    async def test_a_malformed_connect_ends_its_connection(self, start: Start, data: bytes) -> None:
        port = await start(limits=BrokerLimits(connect_timeout_s=0.2))
        client = await RawClient.open(port)
        client.send(data)
        assert await client.is_closed_within(1)
        assert not start.broker._broker._connections  # type: ignore[attr-defined]


FIRST_BYTES = st.sampled_from([0x10, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x82, 0xA2, 0xC0, 0xE0]) | st.integers(0, 255)
PACKETS = st.lists(st.builds(packet, FIRST_BYTES, st.binary(max_size=40)) | st.binary(max_size=20), max_size=6)


class TestFuzz:
    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(packets=PACKETS, is_client=st.booleans())
    def test_any_bytes_leave_the_broker_alive_and_clean(self, packets: list[bytes], is_client: bool) -> None:
        faults: list[dict[str, Any]] = []

        async def story() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            broker = EmbeddedBroker(BrokerConfig(port=0))
            port = await broker.start()
            tasks = asyncio.all_tasks()
            client = await RawClient.open(port)
            client.send((connect_packet("c", will=("w", b"x")) if is_client else b"") + b"".join(packets))
            client.writer.write_eof()
            assert await client.is_closed_within(2)
            client.close()
            good = await RawClient.connect(port, "good")
            good.send(DISCONNECT)
            assert await good.is_closed_within(1)
            good.close()
            await asyncio.sleep(0)
            assert broker._broker is not None
            assert not broker._broker._connections
            assert not broker._broker._sessions
            assert asyncio.all_tasks() <= tasks
            await broker.stop()

        logging.getLogger("headwater.transport.broker").setLevel(logging.CRITICAL)
        try:
            asyncio.run(story())
        finally:
            logging.getLogger("headwater.transport.broker").setLevel(logging.NOTSET)
        assert not faults
