"""Law: a web server is one service of its process: it takes none of its signals, and ends with it in a stated time.

The server is handed in: nobody loads its library for this.
"""

import asyncio
import contextlib
import socket
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

BACKLOG: Final = 128
"""Connections that may wait to be accepted."""

GOODBYE_TIMEOUT_S: Final = 2
"""Calls that are under way at the end are left behind after so long."""


class Server(Protocol):
    """What of uvicorn's is wanted here."""

    config: Any
    should_exit: bool

    def capture_signals(self) -> AbstractContextManager[None]: ...

    async def serve(self, sockets: list[socket.socket] | None = None) -> None: ...


async def answer(server: Server, bound: socket.socket) -> None:
    """Answer at a socket that listens until cancelled; calls under way then have `GOODBYE_TIMEOUT_S` to end."""
    server.config.timeout_graceful_shutdown = GOODBYE_TIMEOUT_S
    # Whoever serves beside it hears them.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.ensure_future(server.serve([bound]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=GOODBYE_TIMEOUT_S + 1)
        serving.cancel()
