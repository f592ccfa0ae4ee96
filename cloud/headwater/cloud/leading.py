"""Law: who leads says so, again and again; who stands by takes over when it has heard nothing for a whole lease.

Either side counts by its own monotonic clock, from before it asked the database: the leader steps aside when its last
sign of life is `lease_s` old, the other takes over when the last that it saw is. Where clocks run equally fast no two
lead at once, and where they do not, what the slower one still writes is refused (`history/transactions.py`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from headwater.cloud.history import HistoryAway, Lease, LeaseLost, LeaseRecord, Leases
from headwater.schemas.errors import ConfigError

log = logging.getLogger("headwater.cloud")

SIGNS_A_LEASE: Final = 3
"""How many signs of life a leader gives in the time of one lease."""

LOOK_EVERY_S: Final = 0.5
"""How often the lease is looked at, at most: a leader that ends in order is succeeded as fast."""

GIVE_BACK_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Watch:
    """The lease as it was seen last, and since when it has stood still, by the watcher's clock."""

    record: LeaseRecord
    since: float


Sight = Literal["takeable", "silent", "alive"]


def look(watch: Watch | None, record: LeaseRecord, now: float, lease_s: float) -> tuple[Watch, Sight]:
    """What the lease, read after `now`, tells: may it be taken, is its holder silent so far, or was it seen alive?"""
    if watch is None or watch.record != record:
        moved = watch is not None and not record.free
        watch = Watch(record, now)
        if moved:
            return watch, "alive"
    takeable = record.free or now - watch.since >= lease_s
    return watch, "takeable" if takeable else "silent"


class Leadership:
    """One coordinator's part in who leads its fleet.

    Args:
        holder: what people are told of it.
        standby: whether it waits where another leads.
        now: UTC time, for people.
    """

    def __init__(
        self,
        leases: Leases,
        fleet: str,
        holder: str,
        *,
        lease_s: float,
        standby: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._leases = leases
        self._fleet = fleet
        self._holder = holder
        self._lease_s = lease_s
        self._standby = standby
        self._now = now
        self._own_term: int | None = None

    async def gain(self) -> Lease:
        """Stand by until this coordinator leads.

        Raises:
            ConfigError: another leads, and `standby` is off.
            HistoryError: the database is damaged, or of another schema; one that is away is waited for.
        """
        loop = asyncio.get_running_loop()
        watch: Watch | None = None
        told = ""
        while True:
            now = loop.time()
            try:
                record = await asyncio.to_thread(self._leases.read_lease, self._fleet)
                watch, sight = look(watch, record, now, self._lease_s)
                # A term of its own that nobody has ended: it lost its lease to the database's absence alone.
                if sight == "takeable" or record.term == self._own_term:
                    lease = await self._take(record)
                    if lease is not None:
                        return lease
                what = f"standing by: {record.holder} leads fleet {self._fleet!r}"
            except HistoryAway as error:
                watch, sight, what = None, "silent", f"standing by, and waiting for the database: {error}"
            if sight == "alive" and not self._standby:
                raise ConfigError(
                    f"standby: false, and {what.removeprefix('standing by: ')}; end that one, or let this one stand by"
                )
            if what != told:
                log.info("%s", what)
                told = what
            await asyncio.sleep(min(self._lease_s / SIGNS_A_LEASE, LOOK_EVERY_S))

    async def _take(self, record: LeaseRecord) -> Lease | None:
        lease = await asyncio.to_thread(self._leases.take_lease, self._fleet, self._holder, record, self._now())
        if lease is not None:
            self._own_term = lease.term
            behind = "" if record.free else f"; nothing more was heard of {record.holder}"
            log.info("leading fleet %r, in term %d%s", self._fleet, lease.term, behind)
        return lease

    async def keep(self, lease: Lease) -> NoReturn:
        """Give signs of life. Raises LeaseLost when another leads, or when none came through for a whole lease."""
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            await asyncio.sleep(self._lease_s / SIGNS_A_LEASE)
            now = loop.time()
            try:
                async with asyncio.timeout(max(0.0, renewed_at + self._lease_s - now)):
                    await asyncio.to_thread(self._leases.renew_lease, lease, self._now())
                renewed_at = now
            except (HistoryAway, TimeoutError) as error:
                if loop.time() - renewed_at >= self._lease_s:
                    why = str(error) or "it did not answer in time"
                    raise LeaseLost(
                        f"no sign of life reached the database for {self._lease_s:g} s; stepping aside: {why}"
                    ) from None

    async def give_back(self, lease: Lease) -> None:
        """Let whoever stands by take over at once, if the database can be told."""
        with contextlib.suppress(HistoryAway, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_TIMEOUT_S):
                await asyncio.to_thread(self._leases.release_lease, lease, self._now())
