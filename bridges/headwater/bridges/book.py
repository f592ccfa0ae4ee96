"""Law: of each node and of the fleet the newest word is kept, and nothing else; who changed is told.

Pure: topics and payloads in, names of what changed out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from headwater.schemas.statuses import NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode_status

MAX_NODES: Final = 20_000
"""Of a larger fleet the first are told."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it last said of itself, and the newest round that has its part. `accuracy` is of the model that the
    fleet had then."""

    status: NodeStatus
    round: int | None = None
    accuracy: float | None = None


class Book:
    """What a fleet's topics for people said last."""

    def __init__(self, fleet: str) -> None:
        self._topics = Topics(fleet)
        self.fleet = fleet
        self.run: RunStatus | None = None
        self._nodes: dict[str, Node] = {}
        self._parts: dict[str, tuple[str, int]] = {}

    @property
    def filters(self) -> tuple[str, ...]:
        return self._topics.all_rounds, self._topics.status()

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._nodes

    def take(self, topic: str, payload: bytes) -> frozenset[str]:
        """The nodes of whom this says something new; "" stands for the fleet itself.

        Raises:
            WireError: it is none of the statuses that belong there.
        """
        parsed = self._topics.parse(topic)
        if parsed is not None and parsed.branch == "status":
            return self._take_node(parsed.node, payload)
        if topic == self._topics.run:
            return self._take_run(decode_status(payload, RunStatus))
        if topic == self._topics.round or topic.startswith(self._topics.cluster("+")[:-1]):
            return self._take_round(decode_status(payload, RoundStatus))
        return frozenset()

    def _take_node(self, node: str, payload: bytes) -> frozenset[str]:
        if not payload:
            # Its retained word was taken away: it is no part of the fleet any more.
            return frozenset(("", node)) if self._nodes.pop(node, None) else frozenset()
        status = decode_status(payload, NodeStatus)
        if status.node != node:
            raise WireError("unauthorised", f"node: {status.node} on the topic of {node}")
        known = self._nodes.get(node)
        if known is None and len(self._nodes) >= MAX_NODES:
            return frozenset()
        # A last will says nothing of data and software; what was known stays true.
        if status.state == "offline" and known is not None and not status.data:
            status = status.model_copy(update={"data": known.status.data})
        after = replace(known, status=status) if known else self._with_part(Node(status))
        self._nodes[node] = after
        # How many are there is the fleet's.
        came_or_went = known is None or known.status.state != status.state
        return frozenset(("", node) if came_or_went else (node,) if after != known else ())

    def _with_part(self, node: Node) -> Node:
        part = self._parts.get(node.status.node)
        return replace(node, round=part[1]) if part else node

    def _take_run(self, run: RunStatus) -> frozenset[str]:
        changed, self.run = run != self.run, run
        if not changed:
            return frozenset()
        told = {""}
        for name, node in self._nodes.items():
            part = self._parts.get(name)
            if run.accuracy is not None and part is not None and part[0] == run.run and node.accuracy != run.accuracy:
                self._nodes[name] = replace(node, accuracy=run.accuracy)
                told.add(name)
        return frozenset(told)

    def _take_round(self, round_: RoundStatus) -> frozenset[str]:
        if round_.task != "train":
            return frozenset()
        changed = set()
        for member in round_.members:
            if member.state != "received" or (member.node not in self._parts and len(self._parts) >= MAX_NODES):
                continue
            self._parts[member.node] = (round_.run, round_.round)
            node = self._nodes.get(member.node)
            if node is not None and node.round != round_.round:
                self._nodes[member.node] = replace(node, round=round_.round)
                changed.add(member.node)
        return frozenset(changed)
