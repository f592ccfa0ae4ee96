"""A demo's dashboard as it starts: who waits for it hears that it ended, and can be stopped meanwhile."""

import asyncio
import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from headwater.testbed.machine import free_port
from headwater.testbed.processes import ProcessDied, Processes
from headwater.testbed.showing import Showing, show
from headwater.testbed.tree import Standing, Tree

SOON_S = 20.0
"""Enough for a process to begin on a busy machine, and far from the time that a dashboard is given."""


def of_fleet(name: str, processes: Processes) -> Standing:
    return Standing(Tree(name, {}, {}), processes, {"cloud": free_port()}, (), "sqlite://")


def test_a_dashboard_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(ProcessDied, match=r"dashboard ended with code 2.*fleet"):
        asyncio.run(show(of_fleet("no/fleet", processes), free_port(), Showing(), Console(file=io.StringIO())))


def test_who_waits_for_a_dashboard_can_be_stopped_at_once(tmp_path: Path) -> None:
    async def stopped(processes: Processes) -> None:
        showing = asyncio.ensure_future(
            show(of_fleet("plant", processes), free_port(), Showing(), Console(file=io.StringIO()))
        )
        with processes:
            await asyncio.sleep(0.1)
            # It never comes, and is waited for.
            processes.kill(processes.started[0])
            await asyncio.sleep(0.1)
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    began = time.monotonic()
    asyncio.run(stopped(Processes(tmp_path)))
    assert time.monotonic() - began < SOON_S
