"""Law: whoever asks is answered beside the work, from a thread, with what the event loop says; one that hangs is told.

GET /metrics    Prometheus' text format
GET /healthz    200 while this node is well, else 503 and why
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, Final, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_LATEST

from headwater.node.identity import Identity
from headwater.node.listening import listening
from headwater.node.metrics import Exporter
from headwater.schemas.settings import MetricsSettings

MAX_AT_ONCE: Final = 8
"""Questions under way; whoever asks then is turned away."""

IDLE_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 5.0
"""After which the event loop is said to hang."""

LOOK_EVERY_S: Final = 0.2
"""How soon the server notices that it is to end."""

T = TypeVar("T")
Start = Callable[[str, list[tuple[str, str]]], Any]


@contextmanager
def scraped(settings: MetricsSettings, identity: Identity) -> Iterator[Exporter]:
    """The node's metrics, served while this lasts. To be entered inside the event loop.

    Raises:
        ConfigError: the port cannot be had.
    """
    bound = listening(settings.host, settings.port, "metrics.port", MAX_AT_ONCE)
    exporter = Exporter(identity)
    server = _Server(bound, _Answers(exporter, asyncio.get_running_loop()))
    looking = asyncio.ensure_future(exporter.run())
    thread = threading.Thread(target=server.serve_forever, args=(LOOK_EVERY_S,), name="metrics", daemon=True)
    thread.start()
    try:
        yield exporter
    finally:
        looking.cancel()
        # Not waited for: the thread may be waiting for this very loop.
        threading.Thread(target=_end, args=(server,), name="metrics end", daemon=True).start()


def _end(server: "_Server") -> None:
    server.shutdown()
    server.server_close()


class _Answers:
    """The application: what is asked for, from the event loop."""

    def __init__(self, exporter: Exporter, loop: asyncio.AbstractEventLoop) -> None:
        self._exporter = exporter
        self._loop = loop

    def __call__(self, asked: Mapping[str, Any], start: Start) -> Iterable[bytes]:
        if asked["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answered(start, "405 Method Not Allowed", "only GET")
        try:
            match asked["PATH_INFO"]:
                case "/metrics":
                    return _answered(start, "200 OK", self._from_loop(self._exporter.exposition), CONTENT_TYPE_LATEST)
                case "/healthz":
                    ailments = self._from_loop(self._ailments)
                    told = "\n".join(ailments) or "well"
                    return _answered(start, "503 Service Unavailable" if ailments else "200 OK", told)
        except (NotInTime, RuntimeError):
            return _answered(start, "503 Service Unavailable", "the event loop does not answer")
        return _answered(start, "404 Not Found", "/metrics and /healthz")

    async def _ailments(self) -> list[str]:
        return self._exporter.ailments()

    def _from_loop(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Raises TimeoutError, or RuntimeError behind the loop's end."""

        async def asked() -> T:
            return await ask()

        asking = asked()
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result(ANSWER_TIMEOUT_S)
        except RuntimeError:
            asking.close()
            raise


def _answered(start: Start, status: str, body: str | bytes, kind: str = "text/plain; charset=utf-8") -> list[bytes]:
    payload = body if isinstance(body, bytes) else f"{body}\n".encode()
    start(status, [("Content-Type", kind), ("Content-Length", str(len(payload))), ("Cache-Control", "no-store")])
    return [payload]


class _Handler(WSGIRequestHandler):
    timeout = IDLE_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Questions are many, and no event of the node's."""


class _Server(ThreadingMixIn, WSGIServer):
    """`MAX_AT_ONCE` threads, on a socket that listens already."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, answers: _Answers) -> None:
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = "", bound.getsockname()[1]
        self.setup_environ()
        self.set_app(answers)
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up does so; the node's log is not for it."""
