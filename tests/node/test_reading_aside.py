"""Large deltas are read in a thread: the same rounds come of it, each delta is read once, and the loop is never held."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from headwater.node import parent as parents
from headwater.schemas.messages import Delta
from headwater.transport.objects import ObjectStore
from support.brokers import broker
from support.deltas import adds_one
from support.fleets import Fleet, contributors, hosted, plan, present


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with broker("embedded") as opened:
        yield opened


@pytest.fixture
async def fleet(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(parents, "READ_ASIDE_BYTES", 0)
    fleet = Fleet(port, tmp_path)
    yield fleet
    await fleet.end()


async def test_rounds_of_a_tree_are_what_they_were(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    cloud, gateway = fleet.parent("cloud", objects=objects), fleet.gateway("gw", "cloud")
    for node in ("d0", "d1"):
        fleet.device(node, "gw")
    fleet.device("d2", "cloud")
    await present(gateway, "d0", "d1")
    await present(cloud, "gw", "d2")
    for number in (1, 2):
        result = await hosted(cloud, plan(number, objects))
        assert contributors(result) == {"d0", "d1", "d2"}
        assert result.round.devices == 3


async def test_a_slow_reading_holds_nobody_up_and_is_not_done_twice(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a child waits before it reminds of its delta."""
    read, readers = parents.checked_tensors, []

    def slowly(delta: Delta, *rest: Any) -> Any:
        readers.append((delta.sender, threading.current_thread() is threading.main_thread()))
        time.sleep(1.3)
        return read(delta, *rest)

    monkeypatch.setattr(parents, "checked_tensors", slowly)
    objects = ObjectStore(10**7)
    cloud = fleet.parent("cloud", objects=objects)
    for node in ("d0", "d1"):
        fleet.device(node, "cloud")
    await present(cloud, "d0", "d1")
    longest_s = 0.0

    async def beat() -> None:
        nonlocal longest_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            longest_s = max(longest_s, time.monotonic() - before)

    beating = asyncio.create_task(beat())
    result = await hosted(cloud, plan(1, objects))
    beating.cancel()
    assert contributors(result) == {"d0", "d1"}
    assert sorted(readers) == [("d0", False), ("d1", False)]
    assert longest_s < 1.0


async def test_a_delta_that_is_none_is_refused_from_there_too(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    cloud = fleet.parent("cloud", objects=objects)
    fleet.device("d0", "cloud")

    async def lies(assignment: Any) -> Delta:
        return adds_one(assignment, "d9")

    fleet.doing("d1", "cloud", lies)
    await present(cloud, "d0", "d1")
    result = await hosted(cloud, plan(1, objects, quorum=0.5, deadline_s=1.5))
    assert contributors(result) == {"d0"}
    assert {(refused.node, refused.reason) for refused in result.refusals} == {("d1", "unauthorised")}


async def test_what_is_being_read_takes_its_room_and_who_finds_none_comes_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, most = parents.checked_tensors, 0

    def slowly(*about: Any) -> Any:
        nonlocal most
        time.sleep(0.5)
        most = max(most, len(cloud._reading))
        return read(*about)

    monkeypatch.setattr(parents, "checked_tensors", slowly)
    monkeypatch.setattr(parents, "MAX_ASSEMBLING_BYTES", 400)
    objects = ObjectStore(10**7)
    cloud = fleet.parent("cloud", objects=objects)
    for node in ("d0", "d1"):
        fleet.device(node, "cloud")
    await present(cloud, "d0", "d1")
    assert contributors(await hosted(cloud, plan(1, objects))) == {"d0", "d1"}
    assert most == 1
