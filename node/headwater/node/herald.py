"""Law: events go to whoever listens, in their order; what a broker that is away would make wait is bounded.

An event that was on its way when its link went is sent again, and may arrive twice: its id says that it is one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from headwater.node.events import WINDOW_S, Ledger, Writer, step
from headwater.node.identity import Identity
from headwater.node.news import News
from headwater.node.observing import Seen
from headwater.node.service import together
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.session import LinkDown

log = logging.getLogger("headwater.node")

MAX_WAITING: Final = 1024
"""Events that wait for a link; the oldest make room."""

RETRY_AFTER_S: Final = 1.0

Publish = Callable[[str, bytes], Awaitable[None]]
"""Hands a topic's message to a broker. Raises LinkDown."""


class Herald:
    """A node's events.

    Args:
        now: UTC time, for people.
    """

    def __init__(self, identity: Identity, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._writer = Writer(identity.fleet, identity.node, identity.boot)
        self._topic = Topics(identity.fleet).event(identity.node)
        self._now = now
        self._ledger = Ledger()
        self._outlets: list[_Outlet] = []

    def saw(self, seen: Seen | None) -> None:
        """Something happened, or (None) time passed."""
        now = asyncio.get_running_loop().time()
        self._ledger, events = step(self._ledger, self._writer, seen, now, self._now())
        for event in events:
            payload = encode_status(event)
            for outlet in self._outlets:
                outlet.put(payload)

    async def run(self, *outlets: Publish) -> None:
        """Tell what is seen from now on through each outlet, until cancelled."""
        self._outlets = [_Outlet(self._topic, publish) for publish in outlets]
        await together(self._tick(), *(outlet.run() for outlet in self._outlets))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            if self._ledger.more:
                self.saw(None)


class _Outlet:
    """What waits for one broker."""

    def __init__(self, topic: str, publish: Publish) -> None:
        self._topic = topic
        self._publish = publish
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._news = News()

    def put(self, payload: bytes) -> None:
        self._waiting.append(payload)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._news.tell()

    async def run(self) -> None:
        while True:
            if not self._waiting:
                await self._news.wait()
                continue
            payload = self._waiting[0]
            try:
                await self._publish(self._topic, payload)
            except LinkDown:
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            if self._dropped:
                log.warning("%d events made room for newer ones while the link was down", self._dropped)
                self._dropped = 0
            if self._waiting and self._waiting[0] is payload:
                self._waiting.popleft()
