"""Law: a version of a model never changes, so whoever has it need not fetch it again."""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version as installed
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse

from headwater.cloud.api.answers import version_of
from headwater.cloud.api.pages import DEFAULT_LIMIT, MAX_ROUND, Limit, RunPath
from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.cloud.exporting import clusters_of, exported
from headwater.schemas.base import Name
from headwater.schemas.http import Models

MEDIA_TYPE: Final = "application/octet-stream"
PIECE_SIZE_BYTES: Final = 256 * 1024
FOR_GOOD: Final = "private, max-age=31536000, immutable"
"""How long a version may be kept: a year, by whoever was allowed to fetch it."""

Before = Annotated[int | None, Query(ge=0, le=MAX_ROUND + 1, description="Only older versions: `next` of a page.")]
Version = Annotated[int, Path(ge=0, le=MAX_ROUND, description="The round whose result it is; 0 is the first model.")]
Cluster = Annotated[Name | None, Query(description="Of several models that coexist the one, by its name.")]
Known = Annotated[str | None, Header(max_length=1024, description="Tags of what the caller has.")]

_ONNX: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The model as ONNX, ready for inference.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"ETag": {"description": "Names these bytes.", "schema": {"type": "string"}}},
    },
    304: {"description": "The caller has it."},
}


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["models"], prefix="/runs/{run}/models")

    @paths.get("", summary="Versions of a run's model, newest first", responses=responses(404))
    def models(run: RunPath, limit: Limit = DEFAULT_LIMIT, before: Before = None) -> Models:
        page = api.history.reading.models(run, limit, before)
        told = tuple(map(version_of, page.entries))
        clusters = clusters_of(api.history, run, told[0].version) if told else ()
        return Models(models=told, clusters=clusters, next=told[-1].version if page.more else None)

    @paths.get(
        "/{version}.onnx",
        summary="A version of the model as ONNX",
        response_class=StreamingResponse,
        responses={**_ONNX, **responses(404)},
    )
    def model(run: RunPath, version: Version, cluster: Cluster = None, if_none_match: Known = None) -> Response:
        tag = _tag(api.history.reading.version(run, version).sha256, cluster)
        headers = {"ETag": tag, "Cache-Control": FOR_GOOD}
        if if_none_match is not None and _names(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        _, payload = exported(api.history, run, version, cluster)
        named = f'attachment; filename="{run}-{version}.onnx"'
        headers |= {"Content-Length": str(len(payload)), "Content-Disposition": named}
        return StreamingResponse(_pieces(payload), headers=headers, media_type=MEDIA_TYPE)

    return paths


def _tag(sha256: bytes, cluster: str | None) -> str:
    """Follows from the stored model, which of several it is, and the software that writes it."""
    of = f"{sha256.hex()} {cluster or ''} {installed('headwater')}"
    return f'"{hashlib.sha256(of.encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'


def _names(if_none_match: str, tag: str) -> bool:
    told = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return "*" in told or tag in told


def _pieces(payload: bytes) -> Iterator[bytes]:
    view = memoryview(payload)
    for start in range(0, len(payload), PIECE_SIZE_BYTES):
        yield bytes(view[start : start + PIECE_SIZE_BYTES])
