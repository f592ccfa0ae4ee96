"""Law: which fleets there are, and who coordinates them, is what their leases and their runs say."""

from fastapi import APIRouter

from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.schemas.http import Fleets


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["fleets"], responses=responses())

    @paths.get("/fleets", summary="The fleets of this database, and who coordinates them")
    def fleets() -> Fleets:
        return Fleets(fleets=api.fleets())

    return paths
