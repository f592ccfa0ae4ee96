"""Law: what watches a node is made by its service and handed in; a node that nobody watches does the same work.

Events go to people at the node's brokers, metrics to whoever asks this machine. Either may be left out.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol

from headwater.node.child import Assignment, Decline, Work
from headwater.node.herald import Herald, Publish
from headwater.node.identity import Identity
from headwater.node.observing import Seen, Worked
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Delta
from headwater.schemas.settings import MetricsSettings
from headwater.schemas.statuses import DataStatus, NodeStatus
from headwater.transport.session import Connection

Gauge = Callable[[], float | None]
"""A number of now; None where there is none."""


@dataclass(frozen=True, slots=True)
class Sights:
    """What can be looked at in a running node, inside its event loop.

    `links` are its connections by name; one that is between two has none. `members` are a parent's children, `data`
    what this node has, or what is below it. `gauges` are whatever else has a number, by the name of its metric.
    """

    links: Mapping[str, Callable[[], Connection | None]] = field(default_factory=dict)
    members: Callable[[], Mapping[str, NodeStatus]] | None = None
    data: Callable[[], Mapping[str, DataStatus]] | None = None
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

    def working(self, work: Work) -> Work:
        """The same work, whose end they are told."""

        async def told(assignment: Assignment) -> Delta | Decline:
            result = await work(assignment)
            key = assignment.plan.key
            self.saw(Worked(key, result) if isinstance(result, Delta) else Worked(key, None, result.reason))
            return result

        return told

    async def run(self, sights: Sights, *outlets: Publish) -> None:
        """Have them look at a node, and its events go out, until cancelled."""
        if self.metrics is not None:
            self.metrics.look_at(sights)
        try:
            await (self.herald.run(*outlets) if self.herald is not None else asyncio.Event().wait())
        finally:
            if self.metrics is not None:
                self.metrics.look_at(Sights())


UNWATCHED: Final = Watch()


@contextmanager
def metrics(settings: MetricsSettings | None, identity: Identity) -> Iterator[Metrics | None]:
    """What counts for a collector, where there is to be one. To be entered inside the event loop.

    Raises:
        ConfigError: its library is missing, or its port cannot be had.
    """
    if settings is None:
        yield None
        return
    try:
        # What is off is not loaded: a device that nobody asks has no use for it.
        from headwater.node.scraping import scraped
    except ImportError as error:
        raise ConfigError(f"metrics: {error}; pip install 'headwater[metrics]', or take the table out") from None
    with scraped(settings, identity) as exporter:
        yield exporter


def disk(folder: Path) -> dict[str, Gauge]:
    """The gauges of where a node keeps what outlives it."""

    def usage(what: Literal["free", "total"]) -> float | None:
        # Before there is first something to keep the folder is not there.
        there = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), None)
        return float(getattr(shutil.disk_usage(there), what)) if there is not None else None

    return {
        "headwater_disk_free_bytes": partial(usage, "free"),
        "headwater_disk_size_bytes": partial(usage, "total"),
    }
