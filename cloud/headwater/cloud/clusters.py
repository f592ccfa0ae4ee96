"""Law: what gateways tell people of their clusters is written down beside, and neither delays a round nor decides one.

It comes on a connection of its own, so that it is no part of what a round sends and receives. A gateway speaks for
itself alone. What is heard while the database is away waits, the newest `MAX_WAITING` rounds of it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn

from headwater.node.news import News
from headwater.node.service import together
from headwater.schemas.statuses import RoundStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode_status
from headwater.transport.session import Caller, Connect

log = logging.getLogger("headwater.cloud")

MAX_WAITING: Final = 256
AT_ONCE: Final = 32
"""Rounds in one transaction."""

Key = tuple[str, str, int, int, int, str]


class Clusters:
    """The cloud's ear for its clusters' rounds.

    Args:
        record: writes some of them down.
    """

    def __init__(
        self, connect: Connect, fleet: str, node: str, record: Callable[[Sequence[RoundStatus]], Awaitable[object]]
    ) -> None:
        self._record = record
        self._topics = Topics(fleet)
        self._news = News()
        self._waiting: dict[Key, RoundStatus] = {}
        self._last: dict[str, Key] = {}
        caller = Caller(
            fleet=fleet,
            node=node,
            client=f"{node}.clusters",
            filters=(self._topics.cluster("+"),),
            on_message=self._on_message,
            on_connect=self._on_connect,
        )
        self._session = connect(caller)

    async def run(self) -> None:
        """Hear and write down until cancelled. Raises what the connection and `record` raise."""
        await together(self._session.run(), self._write_down())

    async def _on_connect(self) -> None:
        """Nothing is said here."""

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            status = decode_status(payload, RoundStatus)
        except WireError as error:
            log.warning("dropped the round of a cluster, on %s: %s", topic, error)
            return
        if topic != self._topics.cluster(status.parent):
            log.warning("dropped the round of cluster %s: it came on %s", status.parent, topic)
            return
        key = _key(status)
        # A retained one comes again with every connection.
        if status.state == "open" or self._last.get(status.parent) == key or key in self._waiting:
            return
        self._waiting[key] = status
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            log.warning(
                "round %d of cluster %s is not written down: too much waits for the database", oldest[2], oldest[0]
            )
        self._news.tell()

    async def _write_down(self) -> NoReturn:
        while True:
            if not self._waiting:
                await self._news.wait()
            some = dict(list(self._waiting.items())[:AT_ONCE])
            await self._record(tuple(some.values()))
            for key in some:
                self._waiting.pop(key, None)
                # At most one for each of the broker's users.
                self._last[key[0]] = key


def _key(status: RoundStatus) -> Key:
    return status.parent, status.run, status.round, status.step, status.attempt, status.task
