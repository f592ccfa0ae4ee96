"""Law: a run is asked for, stopped, paused and resumed through the history alone; its coordinator hears of it there."""

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Query, Response

from headwater.cloud.api.answers import refusal_of, run_detail_of, run_of
from headwater.cloud.api.pages import DEFAULT_LIMIT, Limit, OfFleet, RunPath, Skip, behind
from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.cloud.asking import ask
from headwater.cloud.history import RunRecord
from headwater.cloud.history.reading import Part
from headwater.cloud.history.states import Request
from headwater.schemas import patterns
from headwater.schemas.errors import ConfigError
from headwater.schemas.http import PREFIX, Refusals, Run, RunDetail, RunRequest, Runs


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["runs"], prefix="/runs")
    _add_readers(paths, api)
    _add_writers(paths, api)
    return paths


def _add_readers(paths: APIRouter, api: Api) -> None:
    reading = api.history.reading

    @paths.get("", summary="Runs, newest first", responses=responses(404))
    def runs(
        fleet: OfFleet = None,
        limit: Limit = DEFAULT_LIMIT,
        before: Annotated[
            str | None, Query(pattern=patterns.STORED, description="Only those older than this run: `next` of a page.")
        ] = None,
    ) -> Runs:
        page = reading.runs(fleet, limit, before)
        fleets = api.fleets_for(*page.entries)
        told = tuple(run_of(record, fleets) for record in page.entries)
        return Runs(runs=told, next=told[-1].run if page.more else None)

    @paths.get("/{run}", summary="A run, with what was asked for", responses=responses(404))
    def run(run: RunPath) -> RunDetail:
        record = reading.run(run)
        return run_detail_of(record, api.fleets_for(record))

    @paths.get("/{run}/refusals", summary="What was refused or declined, newest first", responses=responses(404))
    def refusals(run: RunPath, limit: Limit = DEFAULT_LIMIT, skip: Skip = 0) -> Refusals:
        page = reading.refusals(run, Part(limit, skip))
        told = tuple(map(refusal_of, page.entries))
        return Refusals(refusals=told, next=behind(skip, len(told), page.more))


def _add_writers(paths: APIRouter, api: Api) -> None:
    @paths.post(
        "",
        status_code=201,
        summary="Ask a fleet for a run",
        description="It begins when those before it in its fleet have ended. For operators.",
        responses={201: {"headers": _LOCATION}, **responses(400, 409, 413)},
    )
    def start(asked: RunRequest, response: Response) -> Run:
        record = _start(api, asked)
        response.headers["Location"] = f"{PREFIX}/runs/{record.id}"
        return run_of(record, api.fleets_for(record))

    def add(request: Request, summary: str) -> None:
        @paths.post(
            f"/{{run}}/{request}", name=request, operation_id=request, summary=summary,
            responses=responses(404, 409),
        )  # fmt: skip
        def asked(run: RunPath) -> Run:
            record = api.history.request(run, request, api.now())
            return run_of(record, ())

    add("stop", "Stop a run: a queued or paused one at once, a running one after its round")
    add("pause", "Let a run rest after its round; it keeps its fleet")
    add("resume", "Let a paused run go on")


_LOCATION = {"Location": {"description": "The path of the run.", "schema": {"type": "string"}}}


def _start(api: Api, asked: RunRequest) -> RunRecord:
    return ask(
        api.history,
        asked.fleet or api.fleet,
        asked.description,
        _decoded(asked.forward),
        run=asked.run,
        now=api.now(),
        salt=api.salt(),
    )


def _decoded(forward: str | None) -> bytes | None:
    try:
        return None if forward is None else base64.b64decode(forward, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"forward: {error}; give the ONNX file's bytes in base64") from None
