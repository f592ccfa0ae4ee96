"""Law: alive is whoever answers; ready is who leads with a broker and a database, and who is not says what it lacks."""

from typing import Final

import anyio
from anyio import to_thread
from fastapi import APIRouter, Response

from headwater.cloud.api.service import Api, Standing
from headwater.schemas.errors import HistoryError
from headwater.schemas.http import Health, Readiness

DATABASE_TIMEOUT_S: Final = 3.0
"""A database that takes longer to say that it is there is not."""


def readiness(standing: Standing, database: str) -> Readiness:
    """`database` says what is wrong with it, "" for nothing."""
    lacks = []
    if not standing.leads:
        lacks.append("another coordinator leads, or this one has not begun to; it stands by")
    elif not standing.is_connected:
        lacks.append("no connection to the broker")
    if database:
        lacks.append(database)
    return Readiness(
        ready=not lacks,
        role="leading" if standing.leads else "standby",
        broker=standing.is_connected,
        database=not database,
        detail="; ".join(lacks),
    )


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["health"])

    @paths.get("/health", summary="Whether the process answers")
    async def health() -> Health:
        return Health()

    @paths.get(
        "/ready",
        summary="Whether this coordinator leads, with its broker and its database",
        responses={503: {"model": Readiness, "description": "It does not; `detail` says what it lacks."}},
    )
    async def ready(response: Response) -> Readiness:
        told = readiness(api.standing(), await _of_database())
        if not told.ready:
            response.status_code = 503
        return told

    async def _of_database() -> str:
        with anyio.move_on_after(DATABASE_TIMEOUT_S):
            try:
                await to_thread.run_sync(api.history.reading.is_there, abandon_on_cancel=True)
            except HistoryError as error:
                return str(error)
            return ""
        return f"the database did not answer within {DATABASE_TIMEOUT_S:g} s"

    return paths
