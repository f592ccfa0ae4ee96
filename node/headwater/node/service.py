"""Law: a service ends in three ways: it was asked to stop (0), interrupted (130), or one clear sentence and its code.

SIGTERM and SIGINT cancel the service's tasks, whose clean-up says goodbye to the brokers; nothing lingers.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from headwater.schemas.errors import HeadwaterError
from headwater.schemas.settings import LogSettings

INTERRUPTED: Final = 130
STOP_WITH_PARENT: Final = "HW_STOP_WITH_PARENT"
"""Environment variable by which a testbed makes sure that its fleet does not outlive it."""


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run an async service until it ends; returns the process's exit code and prints an error's sentence to stderr."""
    try:
        return asyncio.run(_until_signal(main))
    except HeadwaterError as error:
        print(f"headwater: {error}", file=sys.stderr)
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


def set_up_logging(settings: LogSettings, node: str) -> None:
    """One line an event, to stderr; text for people, or JSON for collectors."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines(node) if settings.format == "json" else _text(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _stop_with_parent() -> None:
    """End this process when the one that started it is gone. Looks every half second, which works everywhere."""
    started_by = os.getppid()

    def look() -> None:
        if os.getppid() != started_by:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(0.5, look)

    asyncio.get_running_loop().call_later(0.5, look)


async def _until_signal(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    if os.environ.get(STOP_WITH_PARENT):
        _stop_with_parent()
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


def _text(node: str) -> logging.Formatter:
    return logging.Formatter(f"%(asctime)s %(levelname)-7s {node}: %(message)s", "%Y-%m-%d %H:%M:%S")


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
