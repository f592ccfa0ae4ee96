"""Law: the API is served inside the coordinator's process, ends with it, and never takes its signals.

It binds before anything else begins, so that a port in use is told at once.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from anyio import to_thread
from uvicorn.protocols.http.h11_impl import H11Protocol

from headwater.cloud.api.gate import Application
from headwater.node.listening import Guest

BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 512
"""At once; whoever comes then is told to come again."""

THREADS: Final = 8
"""In which the history is asked: fewer than a database has connections for."""

GOODBYE_TIMEOUT_S: Final = 2
IDLE_TIMEOUT_S: Final = 30
ASK_WITHIN_S: Final = 30.0
"""From connecting, or from the last answer, to the end of a request's headers."""


class _Guest(Guest, H11Protocol):
    at_once = MAX_CONNECTIONS
    within_s = ASK_WITHIN_S


class _Server(uvicorn.Server):
    """Whoever serves beside it hears the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Application, bound: socket.socket) -> None:
    """Answer until cancelled; calls under way have `GOODBYE_TIMEOUT_S` to end."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    server = _Server(
        uvicorn.Config(
            app,
            http=_Guest,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=IDLE_TIMEOUT_S,
            timeout_graceful_shutdown=GOODBYE_TIMEOUT_S,
        )
    )
    serving = asyncio.ensure_future(server.serve([bound]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=GOODBYE_TIMEOUT_S + 1)
        serving.cancel()
