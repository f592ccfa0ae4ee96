"""Law: how far a release may go is decided in `releasing`, and kept before the fleet is told of it.

Who leads goes on with it where the last one stopped. It goes beside the coordinator, under the same lease: a release
does not wait for a run, nor a run for a release.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from headwater.cloud import releasing
from headwater.cloud.history import History, ReleaseRecord
from headwater.cloud.patience import Patience
from headwater.cloud.releasing import Progress
from headwater.node.parent import Parent
from headwater.node.releases import Begun, sum_up
from headwater.schemas.messages import Rollout

log = logging.getLogger("headwater.cloud")

LOOK_EVERY_S: Final = 2.0
"""How often the history is asked for a new release or an operator's wish."""


class RollingOut:
    """The cloud's part in a release.

    Args:
        now: UTC time.
        chance: uniform in [0, 1), for the jitter of waits.
    """

    def __init__(
        self,
        fleet: str,
        parent: Parent,
        history: History,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._fleet = fleet
        self._parent = parent
        self._history = history
        self._now = now
        self._told: Rollout | None = None
        self._begun = Begun()
        self._sql = Patience(_nothing_to_say, chance).sql

    async def run(self) -> NoReturn:
        """Roll the fleet's newest release out, until cancelled. Raises HistoryError, or LeaseLost."""
        await self._parent.session.wait_connected()
        while True:
            record = await self._sql(self._history.releases.current, self._fleet)
            if record is not None:
                await self._roll_out(record)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _roll_out(self, record: ReleaseRecord) -> None:
        progress = record.progress
        if record.wish is not None:
            progress = await self._go(record, progress, releasing.Asked(record.wish))
        await self._announce(record, progress)
        rollout = releasing.word(progress, record.encoded, record.signature)
        report, self._begun = sum_up(rollout, record.release, self._parent.members, self._begun)
        await self._go(record, progress, releasing.Told(report))

    async def _go(self, record: ReleaseRecord, progress: Progress, event: releasing.Event) -> Progress:
        after, effects = releasing.step(progress, event, self._now().timestamp())
        if isinstance(event, releasing.Asked) and releasing.Keep() not in effects:
            # A wish that changes nothing is fulfilled.
            effects = (releasing.Keep(),)
        for effect in effects:
            match effect:
                case releasing.Keep():
                    await self._sql(self._history.releases.keep, self._fleet, after, record.wish, self._now())
                case releasing.Announce():
                    await self._announce(record, after)
        return after

    async def _announce(self, record: ReleaseRecord, progress: Progress) -> None:
        rollout = releasing.word(progress, record.encoded, record.signature)
        if rollout == self._told:
            return
        wheel = await self._sql(self._history.releases.wheel, record.release)
        await self._parent.tell_release(rollout, wheel)
        self._told = rollout
        log.info(
            "release %d, version %s: %s, stage %d%s",
            record.release.counter,
            record.release.version,
            progress.state,
            progress.stage,
            f" ({progress.detail})" if progress.detail else "",
        )


async def _nothing_to_say(_: str) -> None:
    """The coordinator tells people that the database is away."""
