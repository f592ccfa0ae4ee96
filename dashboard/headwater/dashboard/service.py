"""Law: a dashboard is a feed, a history and a web server side by side; whoever others can reach asks who comes.

It answers on loopback by default. Elsewhere it wants a password, or the word that everyone in its network may look;
without a password it answers to its own names only, so that no foreign page can pass for it.
"""

import base64
import binascii
import hmac
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from nicegui import Client, core, ui
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from headwater.dashboard.door import HEALTH, KNOCK, Crowd, Door, Names, names_of
from headwater.dashboard.feed import Feed
from headwater.dashboard.history import History
from headwater.dashboard.pages.frame import register
from headwater.dashboard.pages.site import Site
from headwater.node.answering import BACKLOG, answer
from headwater.node.listening import Guest, listening
from headwater.node.service import together
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import AccessSettings, DashboardSettings, is_loopback

log = logging.getLogger("headwater.dashboard")

RECONNECT_S: Final = 15.0
"""A tab that was away for less goes on where it was."""

MAX_CONNECTIONS: Final = 512
"""At once that ask for pages; what a page hears by is another matter."""

ASK_WITHIN_S: Final = 30.0
"""From connecting, or from the last answer, to the end of a request's headers."""


async def serve(settings: DashboardSettings, *, tell: Callable[[str], None] = lambda url: None) -> None:
    """Show the fleet until told to stop; `tell` is given the address once it can be asked.

    Raises:
        ConfigError: the port is taken, the host has no such address, or others could look whom nobody let in.
    """
    password = guard(settings)
    # It would tell of each question to the history.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Who connects from now on waits in the port's queue until the server has begun.
    with listening(settings.host, settings.port, "port", BACKLOG) as bound:
        feed, history = Feed(settings), History(settings.api, settings.fleet, settings.api_token_file)
        config = _config(_app(settings, feed, history, password), settings.access)
        log.info("showing fleet %s on %s", settings.fleet, address(settings))
        tell(address(settings))
        try:
            await together(feed.run(), answer(uvicorn.Server(config), bound))
        finally:
            await history.close()


def address(settings: DashboardSettings) -> str:
    scheme = "https" if settings.access.certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}"


def guard(settings: DashboardSettings) -> str | None:
    """The password to ask for. Raises ConfigError where everyone could look and nobody said so."""
    access = settings.access
    if access.password_file is None:
        if not is_loopback(settings.host) and not access.open:
            raise ConfigError(
                f"host: {settings.host} can be reached by others, and there is no password; give access.password_file, "
                "or access.open = true where everyone in that network may look"
            )
        return None
    try:
        password = access.password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"access.password_file: {access.password_file} cannot be read; give a readable file"
        ) from None
    if not password:
        raise ConfigError(f"access.password_file: {access.password_file} is empty; put the password in its first line")
    return password


# ── the web server ──────────────────────────────────────────────────────────────────────────────────────────────


class _Guest(Guest, H11Protocol):
    at_once = MAX_CONNECTIONS
    within_s = ASK_WITHIN_S


class Password:
    """Asks each HTTP request for the password; a socket is known by what only an answered page holds."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self._app, self._password = app, password.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] != HEALTH
            and not self._knows(dict(scope["headers"]).get(b"authorization", b""))
        ):
            headers = [(b"www-authenticate", b'Basic realm="headwater"'), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)

    def _knows(self, header: bytes) -> bool:
        kind, _, told = header.partition(b" ")
        if kind.lower() != b"basic":
            return False
        try:
            given = base64.b64decode(told, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return hmac.compare_digest(given, self._password)


def _app(settings: DashboardSettings, feed: Feed, history: History, password: str | None) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Door, names=_names(settings, password), crowd=_crowd)
    if password is not None:
        app.add_middleware(Password, password=password)
    # A page would be made for each time that somebody asks.
    app.add_api_route(HEALTH, lambda: PlainTextResponse("well\n"))
    app.add_api_route(KNOCK, lambda: PlainTextResponse("come in\n"), methods=["POST"])
    root = register(Site(settings.fleet, feed, history))
    ui.run_with(
        app,
        root=root,
        title="Headwater",
        tailwind=False,
        dark=None,
        reconnect_timeout=RECONNECT_S,
        show_welcome_message=False,
        language="en-US",
    )
    return app


def _names(settings: DashboardSettings, password: str | None) -> Names | None:
    """None where a password is what lets people in: a browser tells it to no other name than it was told by."""
    if password is not None and not settings.access.hosts:
        return None
    return names_of(socket.gethostname(), settings.host, settings.access.hosts)


def _crowd() -> Crowd:
    # One that nothing was heard of yet is about to come; one that left has given its place back.
    pages = Client.instances.values()
    viewers = sum(page.has_socket_connection or page.environ is None for page in pages)
    return Crowd(viewers, len(pages), len(core.sio.eio.sockets))


def _config(app: FastAPI, access: AccessSettings) -> uvicorn.Config:
    """Raises ConfigError for a certificate or key that cannot be used."""
    encrypted: dict[str, Any] = {}
    if access.certificate:
        key = access.key or access.certificate
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(access.certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"access.certificate: {error}; give a certificate and its key in PEM") from None
        encrypted = {"ssl_certfile": str(access.certificate), "ssl_keyfile": str(key)}
    return uvicorn.Config(app, http=_Guest, log_config=None, log_level="warning", access_log=False, **encrypted)
