"""Law: what a page needs is handed to it: what was heard, what the history says, and who looks."""

import time
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headwater.dashboard.feed import Feed
from headwater.dashboard.history import History
from headwater.dashboard.view.charts import Theme, theme
from headwater.dashboard.view.words import clock


@dataclass(frozen=True, slots=True)
class Site:
    """What all who look have in common."""

    fleet: str
    feed: Feed
    history: History


@dataclass(slots=True)
class Visitor:
    """One browser tab: what it looks like there, and the time there."""

    choice: str = "auto"
    dark: bool = False
    zone: tzinfo = field(default=UTC)

    def told(self, choice: str, dark: bool, zone: str) -> None:
        """What the browser says of itself; a zone that this machine does not know is UTC."""
        self.choice, self.dark = choice, dark
        try:
            self.zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.zone = UTC

    @property
    def theme(self) -> Theme:
        return theme(self.dark)

    def clock(self, at: float | None) -> str:
        return clock(at, self.zone, now=time.time())
