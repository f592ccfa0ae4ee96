"""Law: a database that is away is waited for, with one line when it goes and one when it is back.

Each wait is below `MAX_WAIT_S`. How often it is tried again has no bound of its own: whoever waits holds a lease, and
has lost it when it could not be renewed for so long.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from headwater.cloud.history import HistoryAway
from headwater.transport.backoff import Backoff

log = logging.getLogger("headwater.cloud")

MAX_WAIT_S: Final = 5.0

T = TypeVar("T")


class Patience:
    """Tries again what met a fault that passes.

    Args:
        tell: hears at the begin of an outage why work waits, and "" at its end.
        chance: uniform in [0, 1), for the jitter of the waits.
    """

    def __init__(self, tell: Callable[[str], Awaitable[None]], chance: Callable[[], float] = random.random) -> None:
        self._tell = tell
        self._chance = chance

    async def sql(self, transaction: Callable[..., T], *arguments: Any) -> T:
        """The result of one of the history's transactions, which blocks a thread of its own. Raises as `through`."""
        return await self.through(partial(asyncio.to_thread, transaction, *arguments))

    async def through(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first result of `attempt`. Raises what it raises, except HistoryAway."""
        backoff = Backoff(MAX_WAIT_S)
        while True:
            try:
                result = await attempt()
            except HistoryAway as error:
                if not backoff.failures:
                    log.warning("waiting for the database: %s", error)
                    await self._tell(f"waiting for the database: {error}")
                backoff = backoff.after(0.0)
            else:
                if backoff.failures:
                    log.info("the database is back; %d attempts failed", backoff.failures)
                    await self._tell("")
                return result
            await asyncio.sleep(backoff.wait_s(self._chance()))
