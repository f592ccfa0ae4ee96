"""Law: what watches a node is made by its service and handed in; a node that nobody watches does the same work.

Events go to people at the node's brokers, metrics to whoever asks this machine. Either may be left out.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headwater.node.herald import Herald, Publish
from headwater.node.observing import Seen
from headwater.schemas.statuses import NodeStatus
from headwater.transport.session import Connection

Gauge = Callable[[], float | None]
"""A number of now; None where there is none."""


@dataclass(frozen=True, slots=True)
class Sights:
    """What can be looked at in a running node, inside its event loop.

    `links` are its connections by name; one that is between two has none. `members` are a parent's children. `gauges`
    are whatever else has a number, by the name of its metric.
    """

    links: Mapping[str, Callable[[], Connection | None]] = field(default_factory=dict)
    members: Callable[[], Mapping[str, NodeStatus]] | None = None
    gauges: Mapping[str, Gauge] = field(default_factory=dict)


class Metrics(Protocol):
    """What counts for a collector: `node.metrics.Exporter`."""

    def saw(self, seen: Seen) -> None: ...

    def look_at(self, sights: Sights) -> None:
        """From now on these are the node's; none are, where it stands by."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """Who watches one node."""

    herald: Herald | None = None
    metrics: Metrics | None = None

    def saw(self, seen: Seen) -> None:
        """Tell all of them what happened."""
        if self.herald is not None:
            self.herald.saw(seen)
        if self.metrics is not None:
            self.metrics.saw(seen)

    async def run(self, sights: Sights, *outlets: Publish) -> None:
        """Have them look at a node, and its events go out, until cancelled."""
        if self.metrics is not None:
            self.metrics.look_at(sights)
        try:
            await (self.herald.run(*outlets) if self.herald is not None else asyncio.Event().wait())
        finally:
            if self.metrics is not None:
                self.metrics.look_at(Sights())


UNWATCHED = Watch()
