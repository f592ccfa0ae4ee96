"""Law: where no password is asked for, only a name that nobody else can point here is answered; and all have a place,
or are told that there is none.

A stranger's page may have its own name lead to an address of this network, and would then read along: such a name is in
the Host header, for browsers send what stands in the address. An IP address means itself, so whoever asks by one means
this dashboard. A socket, and whatever else says which page it comes from, comes from a page of this dashboard's own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.schemas.settings import name_in

MAX_VIEWERS: Final = 200
"""Pages that are open, or about to be, in all."""

MAX_KEPT: Final = 2 * MAX_VIEWERS
"""Pages, and their sockets, that are kept at once: those too that left a moment ago and may come back."""

AGAIN_S: Final = 15
"""Where there is no place, it may be asked for again after so long."""

HEALTH: Final = "/healthz"
"""Says that the process lives, to whoever asks, and nothing else."""

KNOCK: Final = "/knock"
"""A page to which nothing comes asks here why."""

SOCKET: Final = "/_nicegui_ws/"
_PARTS: Final = ("/_nicegui/", "/favicon.ico")
"""What a page is made of: it stands in this software, tells of no fleet, and costs nothing to keep."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as it decides who is let in; `origin` is "" where none is told."""

    path: str
    host: str
    origin: str = ""
    goes_on: bool = False
    """Whether it is of a socket that is there already."""


@dataclass(frozen=True, slots=True)
class Names:
    """By which this dashboard is asked for: `own` ones of its machine, and `listed` ones from its settings."""

    own: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who is here: `viewers` have a page open, or are about to; `pages` and `sockets` are all that is kept of them."""

    viewers: int = 0
    pages: int = 0
    sockets: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    said: str


# ── by which name ───────────────────────────────────────────────────────────────────────────────────────────────


def names_of(machine: str, host: str, listed: Iterable[str]) -> Names:
    """Names that are answered beside IP addresses.

    Args:
        machine: what it calls itself; its neighbours say that without the domain, or with `.local` behind it.
        host: where it was told to listen.
        listed: names from the settings.
    """
    short = machine.partition(".")[0]
    own = ("localhost", machine, short, f"{short}.local", host)
    return Names(frozenset(name.lower() for name in own if name), frozenset(name.lower() for name in listed))


def wrong_name(asked: Asked, names: Names) -> Refusal | None:
    """Why a request of that Host, and from that Origin, is not answered, or None."""
    name = _plain(name_in(asked.host))
    if name not in names.own | names.listed and not _is_address(name):
        return Refusal(
            403,
            f"host: {asked.host!r} is no name of this dashboard, and a stranger can have any name lead here. Ask for "
            f"it by localhost or an IP address; or put the name into its settings: access.hosts = [{name!r}]",
        )
    page = urlsplit(asked.origin).netloc.lower()
    if (
        not asked.origin
        or asked.path.startswith(_PARTS)
        or page == asked.host.lower()
        or _plain(name_in(page)) in names.listed
    ):
        return None
    return Refusal(
        403,
        f"origin: a page of {asked.origin!r} asks {asked.host!r}, and only this dashboard's own pages may. Where that "
        f"is its name at a proxy, put it into its settings: access.hosts = [{_plain(name_in(page))!r}]",
    )


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


# ── whether there is a place ────────────────────────────────────────────────────────────────────────────────────


def no_place(asked: Asked, crowd: Crowd) -> Refusal | None:
    """Why nothing more is kept for a request, or None."""
    if asked.path.startswith((SOCKET, KNOCK)):
        has_place = asked.goes_on or crowd.sockets < MAX_KEPT
    else:
        has_place = asked.path.startswith(_PARTS) or (crowd.viewers < MAX_VIEWERS and crowd.pages < MAX_KEPT)
    if has_place:
        return None
    return Refusal(
        503,
        f"{MAX_VIEWERS} pages of this dashboard are open, and it keeps no more. Close one that nobody looks at, or "
        "start a second dashboard beside it, for any number may run; then load this page again.",
    )


# ── the door itself ─────────────────────────────────────────────────────────────────────────────────────────────


class Door:
    """Lets in who may come. `names` is None where a password is asked for instead."""

    def __init__(self, app: ASGIApp, names: Names | None, crowd: Callable[[], Crowd]) -> None:
        self._app, self._names, self._crowd = app, names, crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        goes_on = b"sid" in parse_qs(scope["query_string"])
        asked = Asked(scope["path"], headers.get("host", ""), headers.get("origin", ""), goes_on)
        refused = wrong_name(asked, self._names) if self._names is not None else None
        refused = refused or no_place(asked, self._crowd())
        if refused is None:
            await self._app(scope, receive, send)
            return
        told = {"retry-after": str(AGAIN_S)} if refused.status == 503 else {}
        await PlainTextResponse(refused.said + "\n", refused.status, told)(scope, receive, send)
