"""Law: what a reader may ask of a list has the same names and the same bounds everywhere."""

from typing import Annotated, Final

from fastapi import Path, Query, Request

from headwater.schemas.base import NodeId, RunId
from headwater.schemas.config import did_you_mean
from headwater.schemas.errors import ConfigError
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


def only_known(request: Request) -> None:
    """A name that a path does not know is refused: `?limt=5` would be answered as if nobody had asked for less.

    Raises:
        ConfigError: with the name that was meant.
    """
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise ConfigError(f"query.{name[:100]}: unknown{did_you_mean(name, known)}")
