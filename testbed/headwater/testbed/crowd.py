"""Law: a crowd is many sessions in one process, each a real connection; it tells how many stand and who gave up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from headwater.schemas.settings import BrokerSettings
from headwater.transport.session import Caller, Session

_LOOK_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Return:
    """How a crowd came together: when the first, half and all were connected, in seconds; `all_s` None: not all."""

    first_s: float | None
    half_s: float | None
    all_s: float | None
    connected: int
    gave_up: int


class Crowd:
    """`size` clients of one broker; see `gathered`."""

    def __init__(self, broker: BrokerSettings, fleet: str, size: int) -> None:
        self.sessions = [_session(broker, fleet, f"d{number}") for number in range(size)]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> int:
        return sum(session.connected for session in self.sessions)

    @property
    def gave_up(self) -> int:
        """Sessions that have ended by themselves, as none should."""
        return sum(task.done() for task in self._tasks)

    async def settled(self, connected: int, timeout_s: float) -> Return:
        """Wait until exactly so many are connected, `timeout_s` at most."""
        loop, since = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        reached: dict[int, float] = {}
        marks = (1, len(self.sessions) // 2, len(self.sessions))
        while True:
            there, after_s = self.connected, loop.time() - since
            for mark in marks:
                if there >= mark:
                    reached.setdefault(mark, after_s)
            if there == connected or after_s > timeout_s:
                first_s, half_s, all_s = (reached.get(mark) for mark in marks)
                return Return(first_s, half_s, all_s, there, self.gave_up)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _start(self) -> None:
        self._tasks = [asyncio.create_task(session.run()) for session in self.sessions]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def gathered(broker: BrokerSettings, fleet: str, size: int) -> AsyncIterator[Crowd]:
    """A crowd that comes, and goes at the end."""
    crowd = Crowd(broker, fleet, size)
    crowd._start()
    try:
        yield crowd
    finally:
        await crowd._stop()


def _session(broker: BrokerSettings, fleet: str, node: str) -> Session:
    async def nothing_to_say() -> None:
        return None

    return Session(
        broker,
        Caller(
            fleet=fleet,
            node=node,
            client=node,
            filters=(),
            on_message=lambda topic, payload, retained: None,
            on_connect=nothing_to_say,
        ),
    )
