"""Law: what a device says of itself is told anew when it matters, no oftener."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from headwater.device.sensors import Sensors
from headwater.schemas.statuses import DataStatus
from headwater.transport.link import LinkDown

log = logging.getLogger("headwater.device")

LOOK_EVERY_S: Final = 5.0
READ_BATTERY_EVERY_S: Final = 60.0
NOTICEABLE: Final = 0.1
"""Relative change of a count that is worth a message."""

NOTICEABLE_PERCENT: Final = 1.0
"""Of a battery."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a device says of itself that changes."""

    data: Mapping[str, DataStatus] = field(default_factory=dict)
    battery_percent: float | None = None


class Battery:
    """The level of the device's battery, read at most once in `READ_BATTERY_EVERY_S`.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, sensors: Sensors, clock: Callable[[], float]) -> None:
        self._sensors = sensors
        self._clock = clock
        self._read_at_s = -READ_BATTERY_EVERY_S
        self._percent: float | None = None

    def percent(self) -> float | None:
        """None without a battery."""
        now_s = self._clock()
        if now_s - self._read_at_s >= READ_BATTERY_EVERY_S:
            self._read_at_s = now_s
            level = self._sensors.reading(datetime.now()).battery_percent
            self._percent = None if level is None else min(max(level, 0.0), 100.0)
        return self._percent


async def tell_changes(look: Callable[[], Awaitable[Word]], tell: Callable[[], Awaitable[None]]) -> None:
    """Call `tell` when a look shows a noticeable change, at most once in `LOOK_EVERY_S`. Runs until cancelled."""
    told = await look()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = await look()
        if not is_noticeable(told, now):
            continue
        try:
            await tell()
        except LinkDown as error:
            log.debug("the status waits for the link, and is told with it: %s", error)
            continue
        told = now


def is_noticeable(told: Word, now: Word) -> bool:
    if told.data.keys() != now.data.keys():
        return True
    return _drained(told.battery_percent, now.battery_percent) or any(
        _grown(told.data[key], now.data[key]) for key in now.data
    )


def _grown(told: DataStatus, now: DataStatus) -> bool:
    pairs = ((told.train_examples, now.train_examples), (told.test_examples, now.test_examples))
    return told.histogram != now.histogram or any(abs(after - before) > NOTICEABLE * before for before, after in pairs)


def _drained(told: float | None, now: float | None) -> bool:
    if told is None or now is None:
        return told is not now
    return abs(now - told) >= NOTICEABLE_PERCENT
