"""Law: what the paths need of their process is one value: its history, its fleet, its standing, its clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from headwater.cloud.api.answers import fleet_of
from headwater.cloud.history import History, RunRecord
from headwater.schemas.http import Fleet


@dataclass(frozen=True, slots=True)
class Standing:
    """What a coordinator is just now: whether it leads, and then whether it has its broker."""

    leads: bool = False
    is_connected: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """What the paths are made with.

    `standing` is asked anew by each call; `now` is UTC time; `salt` gives a few characters of chance.
    """

    history: History
    fleet: str
    standing: Callable[[], Standing]
    now: Callable[[], datetime]
    salt: Callable[[], str]

    def fleets(self) -> tuple[Fleet, ...]:
        now = self.now()
        return tuple(fleet_of(record, now) for record in self.history.reading.fleets())

    def fleets_for(self, *records: RunRecord) -> tuple[Fleet, ...]:
        """They are asked of a queued run alone, for why it waits."""
        return self.fleets() if any(record.state == "queued" for record in records) else ()
