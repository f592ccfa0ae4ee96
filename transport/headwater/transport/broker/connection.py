"""Law: one client's socket: what it may send is measured before it is read, what it must read is bounded.

Whatever ends a connection ends it here, so that no socket outlives its client.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, cast

from headwater.transport.broker.config import BrokerLimits
from headwater.transport.broker.packets import Frame, Framer
from headwater.transport.broker.stock import StreamWriterAdapter

READ_SIZE_BYTES: Final = 128 * 1024


class FlowProtocol(asyncio.StreamReaderProtocol):
    """Remembers since when the client has had more to read than its bound allows."""

    paused_at_s: float | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self.paused_at_s = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.paused_at_s = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.paused_at_s = None


class Connection(StreamWriterAdapter):  # type: ignore[misc]
    """The stream of one client. asyncio sets TCP_NODELAY on every socket that it accepts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: BrokerLimits) -> None:
        super().__init__(writer)
        self._reader, self._stream = reader, writer
        self._flow = cast(FlowProtocol, writer.transport.get_protocol())
        self._framer = Framer(limits.max_packet_size_bytes)
        self._most_queued_bytes = 2 * limits.max_queue_size_bytes
        self.heard_at_s = asyncio.get_running_loop().time()
        self.fault = ""
        writer.transport.set_write_buffer_limits(high=limits.max_queue_size_bytes)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The packets of the client until it closes.

        Raises:
            ProtocolViolation: see `Framer.feed`.
            OSError: the connection broke.
        """
        time = asyncio.get_running_loop().time
        while data := await self._reader.read(READ_SIZE_BYTES):
            self.heard_at_s = time()
            for frame in self._framer.feed(data):
                yield frame

    def write(self, data: bytes) -> None:
        """Hands over `data`. Only what nobody waits for (wills) can exceed the bound: at its double, the end."""
        if self.is_closing:
            return
        self._stream.write(data)
        if self._stream.transport.get_write_buffer_size() > self._most_queued_bytes:
            self.drop("reads too slowly: its queue is full")

    @property
    def is_closing(self) -> bool:
        """Whether nothing more will reach the client."""
        return self._stream.transport.is_closing()

    @property
    def is_congested(self) -> bool:
        """Whether publishers should wait for this client."""
        return self._flow.paused_at_s is not None and not self.is_closing

    def congested_s(self, now_s: float) -> float:
        """For how long this client has been behind, in seconds."""
        return now_s - self._flow.paused_at_s if self._flow.paused_at_s is not None else 0.0

    async def drained(self) -> None:
        """Returns when the client has caught up, or is gone."""
        with suppress(OSError):
            await self._stream.drain()

    def drop(self, fault: str) -> None:
        """Ends the connection now, without sending what waits, unless it is being closed already."""
        self.fault = self.fault or fault
        if not self.is_closed:
            self._stream.transport.abort()

    async def close(self) -> None:
        """Sends the little that waits and ends the connection. Does not wait for the client."""
        self.is_closed = True
        self._stream.close()
