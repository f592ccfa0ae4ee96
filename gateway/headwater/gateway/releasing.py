"""Law: a gateway hands on what its parent says of a release, with the wheel, and tells how far its cluster is.

It takes the wheel in before it says a word of it, so that whoever asks is served.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from headwater.node.parent import Parent
from headwater.node.releases import Begun, Software, asks_anyone, sum_up
from headwater.schemas.messages import Rollout

log = logging.getLogger("headwater.gateway")

LOOK_EVERY_S: Final = 1.0
"""At most; every delta of a large cluster is news."""


async def relay(software: Software, parent: Parent, tell_status: Callable[[], Awaitable[None]]) -> NoReturn:
    """Hand on, and tell: now, or with the next connection. Runs until cancelled."""
    handed_on: Rollout | None = None
    begun = Begun()
    while True:
        changes = software.news.changed(), parent.news.changed()
        rollout, release = software.rollout, software.release
        if rollout is not None and release is not None:
            if rollout != handed_on and await _hand_on(software, parent, rollout):
                handed_on = rollout
                log.info("release %d, version %s, stage %d goes down", release.counter, release.version, rollout.stage)
            if rollout == handed_on:
                below, begun = sum_up(rollout, release, parent.members, begun)
                if below != software.below:
                    software.below = below
                    await tell_status()
        await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
        for change in changes:
            change.cancel()
        await asyncio.sleep(LOOK_EVERY_S)


async def _hand_on(software: Software, parent: Parent, rollout: Rollout) -> bool:
    """False while the wheel is not there."""
    if asks_anyone(rollout) and software.wheel is None:
        if software.release is not None:
            software.fetch(software.release.wheel)
        return False
    await parent.tell_release(rollout, software.wheel)
    return True
