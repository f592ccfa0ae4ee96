"""Law: whoever predicts wants the newest window: a reader that is slower than the sensors loses the oldest, counted."""

import asyncio
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """One complete window: x of one example, without the batch axis; `at_s` is the time of its last grid point."""

    x: NDArray[np.float32]
    at_s: float


@dataclass(frozen=True, slots=True)
class Following:
    """What came behind a window, where a source's target is that: flat, as a target is; `at_s` is the window's."""

    values: NDArray[np.float32]
    at_s: float


class Feed:
    """The windows of one source as they come, each followed by what came behind it, for one reader:
    `async for window in feed`. Ends when it is closed."""

    def __init__(self, bound: int) -> None:
        self._windows: deque[LiveWindow | Following] = deque(maxlen=bound)
        self._news = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def offer(self, window: LiveWindow | Following) -> None:
        self.dropped += len(self._windows) == self._windows.maxlen
        self._windows.append(window)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    @property
    def closed(self) -> bool:
        return self._closed

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> LiveWindow | Following:
        while not self._windows:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._windows.popleft()
