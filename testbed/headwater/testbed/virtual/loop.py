"""Law: time is what the next timer says; one thread, no socket, and the same calls give the same order.

A real event loop whose selector does not wait: where nothing is ready, the clock jumps to the next timer. What would
run in a thread runs in the loop, after a latency that its owner chooses. A program that waits for nothing that can
come, or spins without time passing, is told so instead of hanging.
"""

import asyncio
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

MAX_TURNS_AN_INSTANT: Final = 100_000
"""Turns of the loop without time passing, beyond which somebody spins."""

CLOCK_RESOLUTION_S: Final = 1e-9

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Somebody waits, and nothing is scheduled that could wake them."""


class Spinning(RuntimeError):
    """The loop turns and turns in one instant, or past the time that it was given."""


class _Selector:
    """Stands where sockets are watched: there are none, so it only moves the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.advance(timeout)
        return []

    def close(self) -> None: ...


class VirtualLoop(base_events.BaseEventLoop):
    """An event loop on virtual time, which begins at 0 s.

    Args:
        until_s: virtual time beyond which `Spinning` is raised: a world that does not end is an error.
        thread_latency_s: how long a call to `asyncio.to_thread` takes before it has its effect.
    """

    def __init__(self, *, until_s: float = 1e9, thread_latency_s: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__()
        self._selector = _Selector(self)
        self._clock_resolution = CLOCK_RESOLUTION_S
        self._until_s = until_s
        self._thread_latency_s = thread_latency_s
        self._now = 0.0
        self._turns = 0

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def advance(self, timeout: float | None) -> None:
        """One turn: to the next timer where nothing is ready now (`timeout` 0).

        Raises:
            Deadlock: nothing is ready and no timer is set.
            Spinning: too many turns in one instant, or the end of the time that was given.
        """
        if timeout is None:
            raise Deadlock(f"at {self._now:.3f} s: somebody waits, and neither a timer nor a message is on its way")
        if timeout == 0:
            self._turns += 1
            if self._turns > MAX_TURNS_AN_INSTANT:
                self._turns = 0
                raise Spinning(f"at {self._now:.3f} s: {MAX_TURNS_AN_INSTANT} turns without time passing")
            return
        self._turns = 0
        self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        if self._now > self._until_s:
            raise Spinning(f"not at its end by {self._until_s:g} s of virtual time")

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """`func` in the loop, `thread_latency_s` from now; as with a thread, who stops waiting does not stop it."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._thread_latency_s(), run)
        return future

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    async def shutdown_default_executor(self, timeout: float | None = None) -> None: ...


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]], loop: VirtualLoop | None = None) -> T:
    """`asyncio.run` on a virtual loop: what is left at the end is cancelled."""
    loop = loop or VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        try:
            # Oldest first: a set's order is no order.
            left = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
