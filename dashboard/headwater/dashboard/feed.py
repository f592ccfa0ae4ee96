"""Law: the feed listens to every broker for itself; one that goes away is shown, and comes back by itself."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final

from headwater.dashboard.view.fold import Message, linked, take
from headwater.dashboard.view.state import Fleet, Link, LinkState
from headwater.dashboard.view.tree import Picture, pictured
from headwater.node.service import together
from headwater.schemas.errors import AccessRefused, ConfigError
from headwater.schemas.settings import BrokerSettings, DashboardSettings
from headwater.schemas.topics import Topics
from headwater.transport.listener import Listener

log = logging.getLogger("headwater.dashboard")

LOOK_EVERY_S: Final = 0.25
"""How often it is looked whether a broker is still there."""

REFUSED_AGAIN_S: Final = 30.0
"""A broker that refused is asked again after so long: its rules may have been mended."""

CONNECTING_S: Final = 3.0
"""A broker that was never heard is away after so long."""


class Feed:
    """What was heard, as one value that only grows newer."""

    def __init__(self, settings: DashboardSettings, now: Callable[[], float] = time.time) -> None:
        self._topics = Topics(settings.fleet)
        self._brokers = settings.brokers
        self._now = now
        self._picture: tuple[int, Picture] = (-1, Picture())
        self.fleet = Fleet()

    async def run(self) -> None:
        """Listen until cancelled."""
        # Any number may run anywhere: none ends the connection of another.
        client = f"dashboard-{secrets.token_hex(4)}"
        await together(*(self._follow(name, broker, client) for name, broker in self._brokers.items()))

    @property
    def picture(self) -> Picture:
        """The tree as it stands, worked out once for all who look."""
        if self._picture[0] != self.fleet.revision:
            self._picture = (self.fleet.revision, pictured(self.fleet))
        return self._picture[1]

    # ── one broker ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self, name: str, broker: BrokerSettings, client: str) -> None:
        where, began_at = f"{broker.host}:{broker.port}", self._now()
        while True:
            listener = Listener(
                broker,
                client=f"{client}-{name}"[:64],
                topics=(self._topics.all_rounds, self._topics.status()),
                on_message=self._hear,
            )
            watching = asyncio.create_task(self._watch(name, where, listener, began_at))
            try:
                await listener.run()
            except (AccessRefused, ConfigError) as error:
                problem = str(error)
                log.error("%s", problem)
            finally:
                watching.cancel()
            self._tell(name, where, "refused", problem)
            await asyncio.sleep(REFUSED_AGAIN_S)

    async def _watch(self, name: str, where: str, listener: Listener, began_at: float) -> None:
        proven = False
        while True:
            proven = proven or listener.connected
            patient = not proven and self._now() - began_at < CONNECTING_S
            state: LinkState = "up" if listener.connected else "connecting" if patient else "away"
            self._tell(name, where, state)
            await asyncio.sleep(LOOK_EVERY_S)

    def _tell(self, name: str, where: str, state: LinkState, problem: str = "") -> None:
        self.fleet = linked(self.fleet, Link(name, where, state, self._now(), problem))

    def _hear(self, topic: str, payload: bytes, retained: bool) -> None:
        self.fleet = take(self.fleet, self._topics, Message(topic, payload, retained), self._now())
