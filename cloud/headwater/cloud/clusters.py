"""Law: what gateways tell people of their clusters is written down beside, and neither delays a round nor decides one.

It comes by the cloud's own connection, and is no part of what a round sends and receives. A gateway speaks for itself
alone. What is heard while the database is away waits, the newest `MAX_WAITING` rounds of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn

from headwater.cloud.history.records import ClusterKey
from headwater.node.news import News
from headwater.schemas.statuses import RoundStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode_status
from headwater.transport.session import Ear

log = logging.getLogger("headwater.cloud")

MAX_WAITING: Final = 256
AT_ONCE: Final = 32
"""Rounds in one transaction."""

GATHER_S: Final = 0.25
"""So long they are gathered for one: it costs as much as what is in it, and takes its turn with the rounds' own."""


class Clusters:
    """The cloud's ear for its clusters' rounds.

    Args:
        record: writes some of them down.
    """

    def __init__(self, fleet: str, record: Callable[[Sequence[RoundStatus]], Awaitable[object]]) -> None:
        self._record = record
        self._topics = Topics(fleet)
        self._news = News()
        self._waiting: dict[ClusterKey, RoundStatus] = {}
        self._last: dict[str, ClusterKey] = {}

    @property
    def ear(self) -> Ear:
        """What has to be on the cloud's connection."""
        return Ear(self._topics.cluster("+"), self._on_message)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            status = decode_status(payload, RoundStatus)
        except WireError as error:
            log.warning("dropped the round of a cluster, on %s: %s", topic, error)
            return
        if topic != self._topics.cluster(status.parent):
            log.warning("dropped the round of cluster %s: it came on %s", status.parent, topic)
            return
        key = ClusterKey.of(status)
        # A retained one comes again with every connection.
        if status.state == "open" or self._last.get(status.parent) == key or key in self._waiting:
            return
        self._waiting[key] = status
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            log.warning(
                "round %d of cluster %s is not written down: too much waits for the database",
                oldest.round,
                oldest.gateway,
            )
        self._news.tell()

    async def run(self) -> NoReturn:
        """Write down what is heard, until cancelled. Raises what `record` raises."""
        while True:
            if not self._waiting:
                await self._news.wait()
                await asyncio.sleep(GATHER_S)
            some = dict(list(self._waiting.items())[:AT_ONCE])
            await self._record(tuple(some.values()))
            for key in some:
                self._waiting.pop(key, None)
                # At most one for each of the broker's users.
                self._last[key.gateway] = key
