"""Law: whoever waits for a change wakes at every change, looks for itself, and never waits without a bound it chose."""

import asyncio


class News:
    """A broadcast from callbacks to waiting tasks. It says that something changed, never what."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}

    def tell(self) -> None:
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    def changed(self) -> asyncio.Future[None]:
        """Done at the next change. Cancel it when it is no longer needed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        waiter.add_done_callback(lambda done: self._waiters.pop(done, None))
        return waiter

    async def wait(self, timeout_s: float | None = None) -> bool:
        """True when something changed, False when the time ran out first."""
        waiter = self.changed()
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
            return waiter.done()
        finally:
            waiter.cancel()
