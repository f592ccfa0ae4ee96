"""Waiting for what other processes do, with a bound."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def eventually(what: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return found


def until(there: Callable[[], bool], log: Path, limit_s: float = 60.0) -> None:
    """Where it takes too long, what is in the log says why."""
    deadline = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def wait_online(folder: Path, nodes: tuple[str, ...]) -> None:
    eventually(lambda: all("connected" in (folder / f"{node}.log").read_text() for node in nodes))
    # Births reach the parents a moment later.
    time.sleep(0.5)
