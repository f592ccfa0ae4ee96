"""A throw-away PostgreSQL on loopback. Without one installed a test is skipped, but on CI it fails."""

import atexit
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import pytest

from headwater.testbed.machine import ToolMissing, free_port
from headwater.testbed.postgres import Postgres, database


def missing(what: str, how: str) -> None:
    """A part that is not installed: on CI nothing is skipped for want of a tool."""
    message = f"{what} is not installed ({how})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def database_url() -> Iterator[str]:
    """The URL of an empty database of its own."""
    with database(_server(), f"test_{free_port()}_{os.urandom(4).hex()}") as url:
        yield url


@lru_cache(maxsize=1)
def _server() -> Postgres:
    stack = ExitStack()
    atexit.register(stack.close)
    try:
        return stack.enter_context(Postgres())
    except ToolMissing:
        missing("PostgreSQL", "apt-get install postgresql")
        raise
