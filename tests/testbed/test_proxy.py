"""Law: real sockets on both sides: what goes in comes out, in order and whole, as late as the weather says, until it breaks."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.testbed.faults.proxy import HELD_SEGMENTS, SEGMENT_BYTES, STALL_S, Proxy, Weather
from support.waiting import eventually

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Server:
    """Sends back what it reads, unless it is told to read nothing."""

    port: int = 0
    accepted: int = 0
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(OSError):
            await self.reads.wait()
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    async with listening:
        made.reads.set()
        yield made
        made.reads.set()


async def connect(proxy: Proxy) -> Ends:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def echo(ends: Ends, data: bytes) -> float:
    """Seconds until all of it came back."""
    reader, writer = ends
    began = time.monotonic()
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 10) == data
    return time.monotonic() - began


async def test_fair_weather_passes_every_byte_in_order(server: Server) -> None:
    data = bytes(range(256)) * 4096
    async with Proxy(server.port) as proxy:
        await echo(await connect(proxy), data)


async def test_bad_weather_passes_every_byte_in_order_too(server: Server) -> None:
    data = bytes(range(256)) * 1024
    weather = Weather(delay_s=0.01, jitter_s=0.05, stall_share=0.1)
    async with Proxy(server.port, seed=1, weather=weather) as proxy:
        # Sixteen segments each way, two in a hundred of them stalled at least.
        assert await echo(await connect(proxy), data) >= 2 * weather.delay_s


async def test_delay_counts_each_way_and_may_change_while_it_runs(server: Server) -> None:
    async with Proxy(server.port) as proxy:
        ends = await connect(proxy)
        await echo(ends, b"warm")
        proxy.weather = Weather(delay_s=0.15)
        assert 0.3 <= await echo(ends, b"slow") < 1.5
        proxy.weather = Weather()
        assert await echo(ends, b"fast") < 0.3


async def test_a_rate_is_kept(server: Server) -> None:
    async with Proxy(server.port, weather=Weather(rate_bytes_s=100_000)) as proxy:
        # 50 kB at 100 kB/s each way, the ways overlapping but for one segment.
        assert 0.5 <= await echo(await connect(proxy), bytes(50_000)) < 3.0


async def test_every_segment_lost_is_every_segment_late(server: Server) -> None:
    async with Proxy(server.port, weather=Weather(stall_share=1.0)) as proxy:
        assert await echo(await connect(proxy), b"x") >= 2 * STALL_S


async def test_a_cut_resets_both_ends_and_refuses_until_it_is_healed(server: Server) -> None:
    async with Proxy(server.port) as proxy:
        reader, writer = await connect(proxy)
        await echo((reader, writer), b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 3)
        await emptied(proxy)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await echo(await connect(proxy), b"during")
        assert server.accepted == 1
        proxy.heal()
        await echo(await connect(proxy), b"after")


async def emptied(proxy: Proxy) -> None:
    await asyncio.to_thread(eventually, lambda: not proxy.wires, 5)


async def test_silence_holds_and_tells_nobody_and_healing_delivers(server: Server) -> None:
    async with Proxy(server.port) as proxy:
        reader, writer = await connect(proxy)
        await echo((reader, writer), b"before")
        proxy.silence()
        writer.write(b"held")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(4), 0.3)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(4), 3) == b"held"


async def test_one_wire_may_be_worse_than_the_others(server: Server) -> None:
    async with Proxy(server.port) as proxy:
        first, second = await connect(proxy), await connect(proxy)
        await echo(first, b"a")
        await echo(second, b"b")
        proxy.wires[0].silence()
        first[1].write(b"held")
        await echo(second, b"passes")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first[0].readexactly(4), 0.2)
        proxy.wires[0].heal()
        assert await asyncio.wait_for(first[0].readexactly(4), 3) == b"held"
        proxy.wires[0].reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(first[0].read(1), 3)
        await echo(second, b"stands")


async def test_every_segment_may_be_the_last(server: Server) -> None:
    async with Proxy(server.port, weather=Weather(reset_share=1.0)) as proxy:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await echo(await connect(proxy), b"x")


async def test_the_end_of_one_side_reaches_the_other_behind_all_data(server: Server) -> None:
    async with Proxy(server.port, weather=Weather(delay_s=0.1)) as proxy:
        reader, writer = await connect(proxy)
        await echo((reader, writer), b"x")
        writer.close()
        await emptied(proxy)
        assert server.accepted == 1


async def test_what_it_holds_is_bounded_while_nobody_reads(server: Server) -> None:
    server.reads.clear()
    async with Proxy(server.port) as proxy:
        proxy.silence()
        _, writer = await connect(proxy)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * 2**20:
                writer.write(bytes(SEGMENT_BYTES))
                await asyncio.wait_for(writer.drain(), 0.5)
                sent += SEGMENT_BYTES
        # What the proxy holds, its reader's two limits, and the kernel's buffers on both sides.
        assert sent < HELD_SEGMENTS * SEGMENT_BYTES + 16 * 2**20
        assert sent >= HELD_SEGMENTS * SEGMENT_BYTES
        writer.transport.abort()


async def test_a_target_that_is_not_there_ends_the_connection(unused_tcp_port: int) -> None:
    async with Proxy(unused_tcp_port) as proxy:
        reader, _ = await connect(proxy)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(1), 3) == b""


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_a_segment_is_held_at_least_for_the_delay_and_no_longer_than_all_together(
    delay_s: float, jitter_s: float, chance: float
) -> None:
    held_s = Weather(delay_s=delay_s, jitter_s=jitter_s, stall_share=0.5).held_s(lambda: chance)
    assert delay_s <= held_s <= delay_s + jitter_s + STALL_S
