"""Law: whatever goes wrong is told as RFC 9457 says it, and its detail names the field, the value and the mend.

What is nobody's fault but ours goes into the log, and says no more than that to who asked.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from headwater.cloud.history import HistoryAway
from headwater.cloud.history.faults import Conflict, NotThere
from headwater.schemas.errors import ConfigError, HeadwaterError, ModelError
from headwater.schemas.http import Problem

log = logging.getLogger("headwater.cloud.api")

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5
MAX_SAID_LENGTH: Final = 100
"""Of a value that is told back to who sent it."""

_STATUS_OF: Final[tuple[tuple[type[HeadwaterError], int], ...]] = (
    (NotThere, 404),
    (Conflict, 409),
    (ConfigError, 422),
    (ModelError, 422),
    (HistoryAway, 503),
)


def problem(status: int, detail: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def answer(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    more = dict(headers or {})
    if told.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    if told.status == 503:
        more["Retry-After"] = str(RETRY_AFTER_S)
    return Response(told.model_dump_json(), told.status, more, MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of an operation's description: which problems it may answer with, beside those of every operation."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        for status in (401, 403, 422, *statuses, 500, 503)
    }


_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}


def tell_problems(app: FastAPI) -> None:
    """Every error of the application is told so."""

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        detail = _of_path(request, error.status_code) or str(error.detail)
        return answer(problem(error.status_code, detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        return answer(problem(422, "; ".join(map(_sentence, error.errors()))))

    @app.exception_handler(HeadwaterError)
    async def _(request: Request, error: HeadwaterError) -> Response:
        status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 500)
        if status == 500:
            log.error("%s %s: %s", request.method, request.url.path, error)
            return answer(problem(500, "the history could not be read; the cloud's log says why"))
        return answer(problem(status, str(error)))

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path, exc_info=error)
        return answer(problem(500, "something went wrong here; the cloud's log says what"))


def _of_path(request: Request, status: int) -> str | None:
    if status == 404:
        return f"path: {request.url.path!r} is none of this API; see /openapi.json"
    if status == 405:
        return f"method: {request.method} is not for {request.url.path!r}; see /openapi.json"
    return None


def _sentence(error: Mapping[str, Any]) -> str:
    """Of one thing that is wrong with a request: `query.limit: should be at most 500 (it is '501')`."""
    where = ".".join(str(part) for part in error["loc"])
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    value = (
        "" if isinstance(error.get("input"), dict | list | None) else f" (it is {error['input']!r:.{MAX_SAID_LENGTH}})"
    )
    return f"{where}: {said}{value}"
