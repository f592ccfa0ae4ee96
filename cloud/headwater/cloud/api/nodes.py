"""Law: of a node is told what it said of itself, and what rounds say of it; nothing is asked of it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from headwater.cloud.api.answers import node_of, part_of, refusal_of
from headwater.cloud.api.pages import DEFAULT_LIMIT, Limit, NodePath, OfFleet, Skip, behind
from headwater.cloud.api.problems import responses
from headwater.cloud.api.service import Api
from headwater.cloud.history.reading import Part
from headwater.schemas.base import NodeId
from headwater.schemas.http import Node, NodeDetail, Nodes


def router(api: Api) -> APIRouter:
    paths = APIRouter(tags=["nodes"], prefix="/nodes", responses=responses())
    reading = api.history.reading

    @paths.get("", summary="Nodes by name; by default those of the coordinator's fleet")
    def nodes(
        fleet: OfFleet = None,
        role: Annotated[Literal["gateway", "device"] | None, Query(description="Only these.")] = None,
        parent: Annotated[NodeId | None, Query(description="Only those below this node.")] = None,
        limit: Limit = DEFAULT_LIMIT,
        after: Annotated[NodeId | None, Query(description="Only those behind this name: `next` of a page.")] = None,
    ) -> Nodes:
        page = reading.nodes(fleet or api.fleet, limit, after or "", role, parent)
        told = tuple(Node(**node_of(record)) for record in page.entries)
        return Nodes(nodes=told, next=told[-1].node if page.more else None)

    @paths.get("/{node}", summary="A node, with its parts in rounds and its refusals", responses=responses(404))
    def node(node: NodePath, fleet: OfFleet = None, limit: Limit = DEFAULT_LIMIT, skip: Skip = 0) -> NodeDetail:
        of_fleet, part = fleet or api.fleet, Part(limit, skip)
        record = reading.node(of_fleet, node)
        parts, refusals = reading.parts_of(of_fleet, node, part), reading.refusals_of(of_fleet, node, part)
        return NodeDetail(
            **node_of(record),
            contributions=tuple(map(part_of, parts.entries)),
            refusals=tuple(map(refusal_of, refusals.entries)),
            next=behind(skip, limit, parts.more or refusals.more),
        )

    return paths
