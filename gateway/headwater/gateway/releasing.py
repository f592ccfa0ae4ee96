"""Law: a gateway hands on what its parent says of a release, with the wheel, and tells how far its cluster is.

It takes the wheel in before it says a word of it, so that whoever asks is served.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from headwater.node.parent import Parent
from headwater.node.releases import Begun, Ear, asks_anyone, sum_up
from headwater.schemas.messages import Rollout
from headwater.transport.session import LinkDown

log = logging.getLogger("headwater.gateway")

TELL_AFTER_S: Final = 1.0
"""Changes of a cluster within so long are told together."""


async def relay(ear: Ear, parent: Parent, tell_status: Callable[[], Awaitable[None]]) -> NoReturn:
    """Hand on, and tell. Runs until cancelled."""
    handed_on: Rollout | None = None
    begun = Begun()
    while True:
        changes = ear.news.changed(), parent.news.changed()
        rollout, release = ear.rollout, ear.release
        if rollout is not None and release is not None:
            if rollout != handed_on and await _hand_on(ear, parent, rollout):
                handed_on = rollout
                log.info("release %d, version %s, stage %d goes down", release.counter, release.version, rollout.stage)
            if rollout == handed_on:
                below, begun = sum_up(rollout, release, parent.members, begun)
                if below != ear.below:
                    ear.below = below
                    # The next connection tells it too.
                    with contextlib.suppress(LinkDown):
                        await tell_status()
                    await asyncio.sleep(TELL_AFTER_S)
        await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
        for change in changes:
            change.cancel()


async def _hand_on(ear: Ear, parent: Parent, rollout: Rollout) -> bool:
    """False while the wheel is not there."""
    if asks_anyone(rollout) and ear.wheel is None:
        if ear.release is not None:
            ear.fetch(ear.release.wheel)
        return False
    await parent.tell_release(rollout, ear.wheel)
    return True
