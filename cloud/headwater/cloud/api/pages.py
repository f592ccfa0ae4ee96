"""Law: what a reader may ask of a list has the same names and the same bounds everywhere."""

from typing import Annotated, Final

from fastapi import Path, Query

from headwater.schemas.base import NodeId, RunId
from headwater.schemas.http import DEFAULT_PAGE, MAX_PAGE, MAX_SKIP

MAX_ROUND: Final = 1_000_001
"""The most rounds of a run, and the one that measures."""

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries of one page.")]
Skip = Annotated[int, Query(ge=0, le=MAX_SKIP, description="Entries to pass over: `next` of the page before.")]
RunPath = Annotated[RunId, Path(description="The run's name.", examples=["20260102-030405-bearings-1f2e"])]
NodePath = Annotated[NodeId, Path(description="The node's name.", examples=["pump-7"])]
RoundPath = Annotated[int, Path(ge=0, le=MAX_ROUND, description="The round's number; 0 is the statistics pass.")]
OfFleet = Annotated[NodeId | None, Query(description="Only of this fleet.", examples=["plant"])]

DEFAULT_LIMIT: Final = DEFAULT_PAGE


def behind(skip: int, shown: int, more: bool) -> int | None:
    """`next` of a page."""
    return skip + shown if more else None
