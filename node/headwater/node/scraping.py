"""Law: whoever asks is answered beside the work, from a thread, with what the event loop says; one that hangs is told.

GET /metrics    Prometheus' text format
GET /healthz    200 while this node is well, else 503 and why
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
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
CONNECTION_LIMIT_S: Final = 10.0
"""After which whoever still asks, or still reads, loses its place to others: a byte now and then is no silence."""

ANSWER_TIMEOUT_S: Final = 5.0
"""After which the event loop is said to hang."""

LOOK_EVERY_S: Final = 0.2
"""How soon the server notices that it is to end, or that a connection has lasted too long."""

T = TypeVar("T")
Start = Callable[[str, list[tuple[str, str]]], Any]


@contextlib.contextmanager
def scraped(
    settings: MetricsSettings, identity: Identity, connection_limit_s: float = CONNECTION_LIMIT_S
) -> Iterator[Exporter]:
    """The node's metrics, served while this lasts. To be entered inside the event loop.

    Args:
        connection_limit_s: how long one connection may last at most, `LOOK_EVERY_S` more or less.

    Raises:
        ConfigError: the port cannot be had.
    """
    bound = listening(settings.host, settings.port, "metrics.port", MAX_AT_ONCE)
    exporter = Exporter(identity)
    server = _Server(bound, _Answers(exporter, asyncio.get_running_loop()), connection_limit_s)
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
    """`MAX_AT_ONCE` threads, each for `connection_limit_s` at most, on a socket that listens already."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, answers: _Answers, connection_limit_s: float) -> None:
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = "", bound.getsockname()[1]
        self.setup_environ()
        self.set_app(answers)
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._connection_limit_s = connection_limit_s
        self._until: dict[socket.socket, float] = {}
        self._closing = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._closing:
            self._until[request] = time.monotonic() + self._connection_limit_s
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: Any) -> None:
        # Behind this its number may be another connection's.
        with self._closing:
            self._until.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called every `LOOK_EVERY_S`: wakes each thread whose connection has lasted too long."""
        now = time.monotonic()
        with self._closing:
            for request in [request for request, until in self._until.items() if until <= now]:
                del self._until[request]
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up does so; the node's log is not for it."""
