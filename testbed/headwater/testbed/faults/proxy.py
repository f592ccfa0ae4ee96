"""Law: a wire between two sockets is as bad as it is told to be, and keeps the order and every byte until it breaks.

TCP hides loss from its users as waiting, so a lost packet is a stall of one retransmission, and too many are a reset.
A wire that is silent holds what it took and passes it on when it is healed; one that is cut resets and refuses. What
it holds is bounded: a sender that is ahead waits, as with a full window.
"""

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

SEGMENT_BYTES: Final = 16 * 1024
"""What is delayed, stalled and paced as one."""

HELD_SEGMENTS: Final = 16
"""In each direction of each connection."""

MAX_CONNECTIONS: Final = 4096
CLOSE_TIMEOUT_S: Final = 5.0
STALL_S: Final = 0.2
"""TCP's least time to a retransmission, RFC 6298 as Linux has it."""

log = logging.getLogger("headwater.testbed")

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER without time: closing is a reset."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad a wire is. Shares are chances for each segment, of at most `SEGMENT_BYTES`.

    Each segment takes `delay_s` and up to `jitter_s` more, and never overtakes. `stall_share` of them are lost and come
    `STALL_S` later, `reset_share` end the connection. `rate_bytes_s` is for each direction of each connection.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    stall_share: float = 0.0
    reset_share: float = 0.0
    rate_bytes_s: float | None = None

    def __str__(self) -> str:
        told = {
            f"{self.delay_s:.2f} to {self.delay_s + self.jitter_s:.2f} s late": self.delay_s or self.jitter_s,
            f"{self.stall_share:.0%} lost": self.stall_share,
            f"{self.reset_share:.1%} reset": self.reset_share,
            f"{self.rate_bytes_s or 0:.0f} bytes/s": self.rate_bytes_s,
        }
        return ", ".join(text for text, holds in told.items() if holds) or "fair"

    def held_s(self, chance: Callable[[], float]) -> float:
        """How long the next segment is on its way; `chance` gives numbers uniform in [0, 1)."""
        return self.delay_s + self.jitter_s * chance() + (STALL_S if chance() < self.stall_share else 0.0)

    def sending_s(self, size_bytes: int) -> float:
        """How long so many bytes keep the wire busy."""
        return size_bytes / self.rate_bytes_s if self.rate_bytes_s else 0.0


FAIR: Final = Weather()
State = Literal["open", "silent", "cut"]


@dataclass(frozen=True, slots=True)
class _Segment:
    due_at: float
    data: bytes


class Wire:
    """One connection through a proxy. Its own weather and state count where they are worse than the proxy's."""

    def __init__(self, proxy: "Proxy", ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._proxy = proxy
        self._ends = ends
        self._silent = False
        self.weather: Weather | None = None

    def silence(self) -> None:
        """Nothing passes, and neither end is told, until `heal`."""
        self._silent = True

    def heal(self) -> None:
        self._silent = False
        self._proxy._changed()

    def reset(self) -> None:
        """Both ends see the connection reset."""
        for end in self._ends:
            _reset(end)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One direction, until its end; what was taken by then is delivered first."""
        held: asyncio.Queue[_Segment | None] = asyncio.Queue(HELD_SEGMENTS)
        taking = asyncio.ensure_future(self._take(source, held))
        try:
            while segment := await held.get():
                await self._deliver(segment, sink)
        finally:
            taking.cancel()

    async def _take(self, source: asyncio.StreamReader, held: "asyncio.Queue[_Segment | None]") -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(SEGMENT_BYTES):
                weather = self._weather
                if self._proxy.chance() < weather.reset_share:
                    self.reset()
                    break
                await held.put(_Segment(self._proxy.now() + weather.held_s(self._proxy.chance), data))
        await held.put(None)

    async def _deliver(self, segment: "_Segment", sink: asyncio.StreamWriter) -> None:
        await asyncio.sleep(segment.due_at - self._proxy.now())
        while self._silent or self._proxy.state == "silent":
            await self._proxy._until_changed()
        await asyncio.sleep(self._weather.sending_s(len(segment.data)))
        sink.write(segment.data)
        await sink.drain()

    @property
    def _weather(self) -> Weather:
        return self.weather or self._proxy.weather


class Proxy:
    """Listens on `port` (0: any) and passes each connection on to `target`, over a wire of this weather.

    As an async context manager it listens inside. `weather` may be set at any time; `wires` are its connections.
    """

    def __init__(
        self, target: int, *, port: int = 0, seed: int = 0, host: str = "127.0.0.1", weather: Weather = FAIR
    ) -> None:
        self.target = target
        self.port = port
        self.weather = weather
        self.state: State = "open"
        self.wires: list[Wire] = []
        self.chance = random.Random(seed).random
        self._host = host
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._waiters: set[asyncio.Future[None]] = set()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def silence(self) -> None:
        """Nothing passes on any connection, and nobody is told, until `heal`."""
        self.state = "silent"

    def cut(self) -> None:
        """Every connection is reset, and new ones too, until `heal`."""
        self.state = "cut"
        for wire in tuple(self.wires):
            wire.reset()
        self._changed()

    def heal(self) -> None:
        self.state = "open"
        self._changed()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self.port, limit=SEGMENT_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # asyncio's server would tell of it; it is `__aexit__` that ends what is under way.
            return
        except (OSError, TimeoutError) as error:
            # Either end may go at any time: that ends the wire, and is what a proxy is for.
            log.debug("a wire to %d ended: %s", self.target, error)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.state == "cut" or len(self.wires) >= MAX_CONNECTIONS:
            _reset(writer)
            return
        onward_reader, onward = await asyncio.open_connection(self._host, self.target, limit=SEGMENT_BYTES)
        wire = Wire(self, (writer, onward))
        for end in (writer, onward):
            end.transport.set_write_buffer_limits(high=SEGMENT_BYTES)
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wires.append(wire)
        ways = [
            asyncio.ensure_future(wire._carry(reader, onward)),
            asyncio.ensure_future(wire._carry(onward_reader, writer)),
        ]
        try:
            # MQTT ends a connection as a whole, so the first direction's end is that of both.
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
            await _closed(onward)
            await _closed(writer)
        finally:
            self.wires.remove(wire)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            onward.transport.abort()

    def _changed(self) -> None:
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    async def _until_changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


def _reset(end: asyncio.StreamWriter) -> None:
    endpoint = end.get_extra_info("socket")
    if endpoint.fileno() >= 0:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()


async def _closed(end: asyncio.StreamWriter) -> None:
    """What was written is sent first, where the other end reads."""
    end.close()
    await asyncio.wait_for(end.wait_closed(), CLOSE_TIMEOUT_S)
