"""Law: who asks, and how much may come with it, is decided before a byte of the body is read.

    without tokens   whoever is on this machine reads; nobody writes
    viewer           reads
    operator         reads, starts, stops, pauses and resumes runs, and pauses and resumes releases

A browser's page from elsewhere is nobody: nothing is told to other origins, and without tokens the host must be asked
for by a name of this machine, so that no name of a stranger's can lead here.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.exceptions import HTTPException

from headwater.cloud.api.problems import answer, problem
from headwater.cloud.api.tokens import TokenBook
from headwater.schemas.http import MAX_FORWARD_LENGTH, PREFIX, Problem, TokenRole
from headwater.schemas.settings import is_loopback, name_in

OPEN_PATHS: Final = frozenset({"/health", "/ready", "/openapi.json"})
READING: Final = frozenset({"GET", "HEAD"})
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_RUN_BODY_BYTES: Final = MAX_FORWARD_LENGTH + MAX_BODY_BYTES
RUNS: Final = f"{PREFIX}/runs"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as it decides who may make it. `secret` is what came as a bearer's, "" without any."""

    method: str
    path: str
    host: str
    secret: str


def refusal(asked: Asked, book: TokenBook | None) -> Problem | None:
    """Why a request is not let in, or None."""
    if asked.path in OPEN_PATHS:
        return None
    if book is None:
        return _without_tokens(asked)
    token = book.whose(asked.secret) if asked.secret else None
    if token is None:
        said = "is none that is known here" if asked.secret else "is missing"
        return problem(401, f"authorization: the bearer token {said}; ask for one made by `headwater token add`")
    if not _may(token.role, asked.method):
        return problem(
            403, f"authorization: token {token.name!r} has the role viewer; {asked.method} needs an operator's"
        )
    return None


def _without_tokens(asked: Asked) -> Problem | None:
    if not is_loopback(name_in(asked.host)):
        return problem(
            403, f"host: {asked.host!r} is no name of this machine; without tokens the API is asked for by 127.0.0.1"
        )
    if not _may("viewer", asked.method):
        return problem(
            403,
            f"authorization: without tokens nobody may {asked.method}; make a token by `headwater token add NAME "
            "--role operator --file tokens.toml`, and name the file as http.tokens",
        )
    return None


def _may(role: TokenRole, method: str) -> bool:
    return role == "operator" or method in READING


def most_bytes(method: str, path: str) -> int:
    """Of a body. A run may bring its model along."""
    return MAX_RUN_BODY_BYTES if (method, path) == ("POST", RUNS) else MAX_BODY_BYTES


class Gate:
    """The application behind its gate."""

    def __init__(self, app: Application, book: TokenBook | None) -> None:
        self._app = app
        self._book = book

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, secret = headers.get(b"authorization", "").partition(" ")
        asked = Asked(
            scope["method"],
            scope["path"],
            headers.get(b"host", ""),
            secret.strip() if kind.lower() == "bearer" else "",
        )
        refused = refusal(asked, self._book) or _too_large(asked, headers)
        if refused is not None:
            await answer(refused)(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, most_bytes(asked.method, asked.path)), send)


def _too_large(asked: Asked, headers: Mapping[bytes, str]) -> Problem | None:
    most, said = most_bytes(asked.method, asked.path), headers.get(b"content-length", "0")
    if said.isdigit() and int(said) > most:
        return problem(413, f"body: {said} bytes; at most {most}")
    return None


def _bounded(receive: Receive, most: int) -> Receive:
    """A body that comes without its length ends at the bound."""
    so_far = 0

    async def bounded() -> Message:
        nonlocal so_far
        message = await receive()
        so_far += len(message.get("body", b""))
        if so_far > most:
            raise HTTPException(413, f"body: more than {most} bytes; send no more")
        return message

    return bounded
