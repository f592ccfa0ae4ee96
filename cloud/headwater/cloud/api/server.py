"""Law: the API is served inside the coordinator's process, in bounds of its own, and takes nothing from the rounds."""

import socket
from typing import Final

import uvicorn
from anyio import to_thread
from uvicorn.protocols.http.h11_impl import H11Protocol

from headwater.cloud.api.gate import Application
from headwater.node.answering import answer
from headwater.node.listening import Guest

MAX_CONNECTIONS: Final = 512
"""At once; whoever comes then is told to come again."""

THREADS: Final = 8
"""In which the history is asked: fewer than a database has connections for."""

IDLE_TIMEOUT_S: Final = 30
ASK_WITHIN_S: Final = 30.0
"""From connecting, or from the last answer, to the end of a request's headers."""


class _Guest(Guest, H11Protocol):
    at_once = MAX_CONNECTIONS
    within_s = ASK_WITHIN_S


async def serve(app: Application, bound: socket.socket) -> None:
    """Answer until cancelled."""
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    config = uvicorn.Config(
        app,
        http=_Guest,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=IDLE_TIMEOUT_S,
    )
    await answer(uvicorn.Server(config), bound)
