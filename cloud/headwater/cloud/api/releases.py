"""Law: a release is told as it stands; it is paused and resumed through the history, where its coordinator hears of it.

Publishing one is for whoever has the key that signs, and that never comes near a machine of the fleet.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from headwater.cloud.api.answers import release_of
from headwater.cloud.api.pages import DEFAULT_LIMIT, Limit, OfFleet
from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.schemas.http import ReleaseEntry, Releases, ReleaseWish
from headwater.schemas.limits import MAX_COUNT

CounterPath = Annotated[
    int,
    Path(ge=1, le=MAX_COUNT, description="The release's counter; a newer one's is larger.", examples=[2]),
]
Before = Annotated[
    int | None, Query(ge=1, le=MAX_COUNT, description="Only those older than this counter: `next` of a page.")
]


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["releases"], prefix="/releases", responses=responses())
    reading = api.history.reading

    @paths.get("", summary="Releases of the devices' software, newest first; by default of the coordinator's fleet")
    def releases(fleet: OfFleet = None, limit: Limit = DEFAULT_LIMIT, before: Before = None) -> Releases:
        page = reading.releases(fleet or api.fleet, limit, before)
        told = tuple(map(release_of, page.entries))
        return Releases(releases=told, next=told[-1].counter if page.more else None)

    @paths.get("/{counter}", summary="A release, and how far it is", responses=responses(404))
    def release(counter: CounterPath, fleet: OfFleet = None) -> ReleaseEntry:
        return release_of(reading.release(fleet or api.fleet, counter))

    def add(wish: ReleaseWish, summary: str) -> None:
        @paths.post(
            f"/{{counter}}/{wish}", name=f"{wish}_release", operation_id=f"{wish}_release", summary=summary,
            responses=responses(404, 409),
        )  # fmt: skip
        def asked(counter: CounterPath, fleet: OfFleet = None) -> ReleaseEntry:
            return release_of(api.history.releases.ask(fleet or api.fleet, wish, api.now(), counter))

    add("pause", "Ask no device any more; who has it keeps it")
    add("resume", "Go on with a paused release; failures that are known by now are forgiven")
    return paths
