"""Coordinators as processes: killed, paused, stopped, and without their database, while a fleet learns."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from headwater.cloud.history import History, open_history
from headwater.cloud.history.opening import BUSY_TIMEOUT_S
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode_status
from headwater.testbed.postgres import Postgres, database
from headwater.testbed.processes import Processes, Started
from support.brokers import broker
from support.postgres import missing
from support.waiting import eventually, wait_online

DEVICES = ("d0", "d1", "d2")
ROUNDS = 60
LEASE_S = 1.5
DESCRIPTION = RunDescription.model_validate(
    {
        "name": "digits",
        "data": "digits",
        "rounds": ROUNDS,
        "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (16,)},
        "local": {"batch_size": 64},
        "evaluate_every": 0,
        "cohort": {"deadline_s": 20.0, "quorum": 1.0, "min_children": 3},
    }
)


class Fleet:
    """Devices right below the cloud, and coordinators of one name, each in a folder of its own."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, url: str) -> None:
        self._stack, self._folder, self._url = stack, folder, url
        self.port = stack.enter_context(broker("embedded"))
        self._devices = stack.enter_context(Processes(folder / "devices"))
        self.history = open_history(url)
        stack.callback(self.history.close)

    def coordinator(self, name: str, **settings: Any) -> Started:
        processes = self._stack.enter_context(Processes(self._folder / name))
        place = {"fleet": "plant", "node": "cloud", "database": self._url, "broker": {"port": self.port}}
        return processes.start("cloud", place | {"lease_s": LEASE_S} | settings)

    def devices(self) -> None:
        for index, name in enumerate(DEVICES):
            data = {"digits": {"kind": "digits", "devices": len(DEVICES), "index": index, "alpha": 1.0}}
            place = {"fleet": "plant", "node": name, "parent": "cloud", "broker": {"port": self.port}}
            self._devices.start("device", place | {"data": data})
        wait_online(self._folder / "devices", DEVICES)

    def learn(self, reached: int = 3) -> None:
        """A run that has come so far."""
        self.history.enqueue_run("r", "plant", DESCRIPTION, None, datetime.now(UTC))
        self.past(reached)

    def past(self, round_: int) -> None:
        eventually(lambda: self.history.show_run("r").round >= round_, 60)


@contextlib.contextmanager
def fleet(folder: Path, url: str) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        yield Fleet(stack, folder, url)


def says(coordinator: Started, what: str) -> None:
    # PostgreSQL gives up a stopped leader's transaction after BUSY_TIMEOUT_S, and who waits for it may just have, too.
    eventually(lambda: what in coordinator.log.read_text(), 4 * BUSY_TIMEOUT_S)


def pause(leader: Started, url: str) -> None:
    """Stopped in the midst of a transaction of SQLite it would hold everybody; then it is stopped at another moment."""
    for _ in range(200):
        leader.process.send_signal(signal.SIGSTOP)
        if not url.startswith("sqlite") or writable(Path(url.removeprefix("sqlite:///"))):
            return
        leader.process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("every look found the leader within a transaction")


def writable(file: Path) -> bool:
    with contextlib.closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def each_round_once(history: History) -> None:
    eventually(lambda: history.show_run("r").state not in ("queued", "running"), 90)
    assert history.show_run("r").state == "finished", history.show_run("r").failure
    trained = [(r.round, r.attempt, r.state) for r in history.rounds_of("r") if r.task == "train"]
    assert trained == [(number, 0, "closed") for number in range(1, ROUNDS + 1)]


def test_a_killed_leader_is_succeeded_within_its_lease_and_no_round_is_lost_or_made_twice(
    tmp_path: Path, url: str
) -> None:
    with fleet(tmp_path, url) as of:
        leader = of.coordinator("one")
        says(leader, "leading fleet 'plant', in term ")
        other = of.coordinator("two")
        says(other, "standing by: cloud on ")
        of.devices()
        of.learn()
        leader.process.kill()
        leader.process.wait()
        died_at, reached = time.monotonic(), of.history.show_run("r").round
        assert reached < ROUNDS
        of.past(reached + 1)
        # A lease, a look at it, and the time for taking up a run; far from the next sign of a human being.
        assert time.monotonic() - died_at < LEASE_S + 6
        says(other, f"; nothing more was heard of cloud on {os.uname().nodename}")
        says(other, f"run r goes on behind round {reached}")
        each_round_once(of.history)


def test_a_leader_that_ends_in_order_is_succeeded_at_once(tmp_path: Path) -> None:
    with fleet(tmp_path, f"sqlite:///{tmp_path / 'history.db'}") as of:
        leader = of.coordinator("one", lease_s=600.0)
        says(leader, "leading")
        other = of.coordinator("two", lease_s=600.0)
        says(other, "standing by")
        of.devices()
        of.learn()
        leader.process.terminate()
        assert leader.process.wait(10) == 0
        says(other, "leading fleet 'plant', in term ")
        each_round_once(of.history)


def test_a_leader_that_was_paused_finds_itself_deposed_and_says_nothing_to_the_fleet(tmp_path: Path, url: str) -> None:
    with fleet(tmp_path, url) as of:
        leader = of.coordinator("one")
        says(leader, "leading")
        first = of.history.leases.read_lease("plant").term
        other = of.coordinator("two")
        says(other, "standing by")
        of.devices()
        of.learn()
        pause(leader, url)
        says(other, "leading fleet 'plant', in term ")
        reached = of.history.show_run("r").round
        of.past(reached + 1)
        leader.process.send_signal(signal.SIGCONT)
        says(leader, "standing by: cloud on ")
        assert re.search(
            rf"term {first} of fleet 'plant' is over|stepping aside|not term {first}", leader.log.read_text()
        )
        assert asyncio.run(status_of_cloud(of.port)).state == "online"
        assert of.history.leases.read_lease("plant").term > first
        each_round_once(of.history)


async def status_of_cloud(port: int) -> NodeStatus:
    topic = Topics("plant").status("cloud")
    async with aiomqtt.Client("127.0.0.1", port, identifier="watcher") as client:
        await client.subscribe(topic)
        async with asyncio.timeout(5):
            async for message in client.messages:
                return decode_status(bytes(message.payload), NodeStatus)  # type: ignore[arg-type]
    raise AssertionError("no status")


def test_without_standby_the_second_coordinator_ends_and_names_the_first(tmp_path: Path) -> None:
    with fleet(tmp_path, f"sqlite:///{tmp_path / 'history.db'}") as of:
        first = of.coordinator("one")
        says(first, "leading")
        second = of.coordinator("two", standby=False)
        assert second.process.wait(20) == 2
        text = second.log.read_text()
        assert f"process {first.process.pid} leads fleet 'plant'; end that one, or let this one stand by" in text
        assert "connected" not in text


@pytest.mark.live
@pytest.mark.parametrize("away_s", [0.0, 3 * LEASE_S], ids=["for a moment", "for longer than a lease"])
def test_a_database_that_is_restarted_ends_nothing(tmp_path: Path, away_s: float) -> None:
    with server_of_its_own() as server, database(server, "fleet") as url, fleet(tmp_path, url) as of:
        coordinator = of.coordinator("one")
        says(coordinator, "leading")
        of.devices()
        of.learn()
        server.kill()
        time.sleep(away_s)
        server.start()
        says(coordinator, "the database")
        if away_s:
            says(coordinator, "stepping aside")
        each_round_once(of.history)
        assert coordinator.process.poll() is None


@contextlib.contextmanager
def server_of_its_own() -> Iterator[Postgres]:
    from headwater.testbed.machine import ToolMissing

    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Postgres())
        except ToolMissing:
            missing("PostgreSQL", "apt-get install postgresql")
