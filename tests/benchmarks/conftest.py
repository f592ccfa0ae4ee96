"""Lets these tests import what they are about, and keeps a benchmark's silence to itself."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _talkative_again() -> Iterator[None]:
    """A benchmark, which has a process of its own, turns the log down; other tests read it."""
    log = logging.getLogger("headwater")
    level = log.level
    yield
    log.setLevel(level)
