"""Law: what runs beside is held on to until it ends, and there is never more of it than a stated number."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """Tasks that nobody waits for, `most` at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: dict[asyncio.Task[None], None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> bool:
        """False where too much is under way already: `work` is not begun, and whoever needs it asks again."""
        if len(self._tasks) >= self._most:
            work.close()
            return False
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return True
