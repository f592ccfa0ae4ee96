"""Law: a round is told as it was recorded: its attempts, what its children gave, and the rounds of their clusters."""

from typing import Annotated

from fastapi import APIRouter, Query

from headwater.cloud.api.answers import cluster_of, part_of, round_of
from headwater.cloud.api.pages import DEFAULT_LIMIT, MAX_ROUND, Limit, RoundPath, RunPath, Skip, behind
from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.cloud.history.reading import Part
from headwater.schemas.http import ClusterRounds, Contributions, Rounds


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["rounds"], prefix="/runs/{run}/rounds", responses=responses(404))
    reading = api.history.reading

    @paths.get("", summary="Rounds in order, all attempts at each; `limit` counts numbers")
    def rounds(
        run: RunPath,
        limit: Limit = DEFAULT_LIMIT,
        after: Annotated[int, Query(ge=-1, le=MAX_ROUND, description="Only above this number: `next` of a page.")] = -1,
    ) -> Rounds:
        page = reading.rounds(run, limit, after)
        return Rounds(rounds=tuple(map(round_of, page.entries)), next=page.entries[-1].round if page.more else None)

    @paths.get("/{round}/contributions", summary="What the cloud's children gave to a round")
    def contributions(run: RunPath, round: RoundPath, limit: Limit = DEFAULT_LIMIT, skip: Skip = 0) -> Contributions:
        page = reading.contributions(run, round, Part(limit, skip))
        told = tuple(map(part_of, page.entries))
        return Contributions(contributions=told, next=behind(skip, len(told), page.more))

    @paths.get("/{round}/clusters", summary="The clusters' rounds within a round, with their members")
    def clusters(run: RunPath, round: RoundPath, limit: Limit = DEFAULT_LIMIT, skip: Skip = 0) -> ClusterRounds:
        page = reading.clusters(run, round, Part(limit, skip))
        told = tuple(map(cluster_of, page.entries))
        return ClusterRounds(clusters=told, next=behind(skip, len(told), page.more))

    return paths
