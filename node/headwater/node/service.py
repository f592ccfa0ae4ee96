"""Law: a service ends in three ways: it was asked to stop (0), interrupted (130), or one clear sentence and its code.

SIGTERM and SIGINT cancel the service's tasks, whose clean-up says goodbye to the brokers; nothing lingers.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from headwater.node.logs import say_at_the_end
from headwater.schemas.errors import HeadwaterError

INTERRUPTED: Final = 130
STOP_WITH_PARENT: Final = "HW_STOP_WITH_PARENT"
"""Environment variable by which a testbed makes sure that its fleet does not outlive it: its process number, or 1 for
whoever starts the service."""


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run an async service until it ends; returns the process's exit code and says an error's sentence on stderr."""
    try:
        return asyncio.run(_until_signal(main))
    except HeadwaterError as error:
        say_at_the_end(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


async def together(*services: Awaitable[None]) -> None:
    """Run services side by side; when one fails, the others are stopped and its error is raised."""
    tasks = [asyncio.ensure_future(service) for service in services]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _stop_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, be it before this one looked for the first time. Looks
    every half second, which works everywhere."""
    started_by = parent if parent > 1 else os.getppid()

    def look() -> None:
        if os.getppid() != started_by:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(0.5, look)

    asyncio.get_running_loop().call_later(0.5, look)


async def _until_signal(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    if parent := os.environ.get(STOP_WITH_PARENT):
        _stop_with_parent(int(parent))
    received: list[signal.Signals] = []

    def stop(which: signal.Signals) -> None:
        received.append(which)
        task.cancel()

    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, stop, which)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for which in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(which)
    return INTERRUPTED if received and received[0] == signal.SIGINT else 0
