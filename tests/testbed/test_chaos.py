"""Law: faults follow from a seed; the judges find what is planted; and a fleet under a few of each keeps its promises."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headwater.schemas.messages import Announcement, Delta, Model, Receipt, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode, reference
from headwater.testbed.faults.chaos import TOLERANCE, Scene, chaos
from headwater.testbed.faults.clocks import Clocks
from headwater.testbed.faults.disk import can_mount, fill, free, small_disk
from headwater.testbed.faults.ledger import Sql, Witness, judged
from headwater.testbed.faults.replay import replayed
from headwater.testbed.faults.schedule import Targets, schedule
from support.brokers import required

TARGETS = Targets(
    clouds=("cloud-a", "cloud-b"),
    gateways=("gw0", "gw1"),
    devices=("d0", "d1", "d2"),
    brokers=("broker-cloud", "broker-gw0"),
    databases=("database",),
    links=("cloud-a-up", "gw0-up"),
    disks=("gw0",),
)
RUN = "r"
LOOK_EVERY_S = 0.2
"""How often a process looks at what its clock should say."""


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_is_a_schedule_and_another_seed_is_another() -> None:
    assert schedule(7, 200, TARGETS) == schedule(7, 200, TARGETS)
    assert schedule(7, 200, TARGETS) != schedule(8, 200, TARGETS)


@pytest.mark.parametrize("rounds", [5, 12, 200])
def test_everything_fails_at_least_once_in_order_and_not_at_the_very_end(rounds: int) -> None:
    faults = schedule(1, rounds, TARGETS)
    killed = {fault.target.rstrip("0123456789").split("-")[0] for fault in faults if fault.kind == "kill"}
    assert killed == {"cloud", "gw", "d", "broker", "database"}
    assert {fault.kind for fault in faults} == {"kill", "freeze", "cut", "silence", "weather", "fill", "clock"}
    assert [fault.round for fault in faults] == sorted(fault.round for fault in faults)
    assert all(0 <= fault.round <= rounds - 2 for fault in faults)
    assert len(faults) >= 0.4 * rounds


def test_what_is_not_there_is_not_hit() -> None:
    without = Targets(**{name: getattr(TARGETS, name) for name in Targets.__slots__} | {"disks": ()})
    assert "fill" not in {fault.kind for fault in schedule(1, 200, without)}


@pytest.mark.skipif(not can_mount(), reason="only root may mount a file system")
def test_a_full_disk_says_so_and_a_freed_one_takes_writes_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 256 * 1024) as disk:
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(bytes(8192))
        free(disk)
        (disk / "more").write_bytes(bytes(8192))
    assert list((tmp_path / "small").iterdir()) == []


CLOCKS = """
import sys, time
from datetime import UTC, datetime
for _ in range(2):
    print(time.time(), datetime.now(UTC).timestamp(), time.monotonic(), isinstance(datetime(2000, 1, 1), datetime), flush=True)
    sys.stdin.readline()
"""


def test_a_clock_jumps_while_its_process_runs_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    clocks.shift("d0", -86_400.0)
    environment = {**os.environ, **clocks.environment("d0", os.environ.get("PYTHONPATH", ""))}
    command = [sys.executable, "-c", CLOCKS]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for shift_s in (-86_400.0, 3600.0):
            clocks.shift("d0", shift_s)
            time.sleep(2 * LOOK_EVERY_S)
            process.stdin.write("\n" * (shift_s > 0))
            process.stdin.flush()
            wall, dated, monotonic, same = process.stdout.readline().split()
            assert float(wall) - time.time() == pytest.approx(shift_s, abs=5)
            assert float(dated) - time.time() == pytest.approx(shift_s, abs=5)
            assert float(monotonic) == pytest.approx(time.monotonic(), abs=5)
            assert same == "True"
        process.stdin.close()


# ── the judges, on a history by hand ────────────────────────────────────────────────────────────────────────────


class Written:
    """A history of two rounds of two children in the columns that the judges read, to be spoilt."""

    def __init__(self, file: Path) -> None:
        self.connection = sqlite3.connect(file)
        self.sql = Sql(f"sqlite:///{file}")
        self.connection.executescript(
            "CREATE TABLE objects (sha256 BLOB, payload BLOB);"
            "CREATE TABLE models (run TEXT, version INTEGER, sha256 BLOB);"
            "CREATE TABLE rounds (run TEXT, round INTEGER, attempt INTEGER, task TEXT, state TEXT);"
            "CREATE TABLE contributions (run TEXT, round INTEGER, attempt INTEGER, task TEXT, node TEXT,"
            " based_on INTEGER, based_attempt INTEGER, factor REAL, sha256 BLOB, weight REAL, devices INTEGER);"
        )
        self.model(0, 0.0)
        self.round(1, (("gw0", 1, 1.0, 2.0, 1.0), ("gw1", 1, 1.0, 4.0, 3.0)))
        self.model(1, 1.5)
        # The second child's is one round late and counts half: (1·3 + 0.5·4) / (1 + 1) = 2.5.
        self.round(2, (("gw0", 2, 1.0, 3.0, 1.0), ("gw1", 1, 0.5, 4.0, 1.0)))
        self.model(2, 4.0)
        self.execute("UPDATE contributions SET based_attempt = 1 WHERE round = 2 AND node = 'gw1'")

    def execute(self, statement: str, *arguments: object) -> None:
        self.connection.execute(statement, arguments)
        self.connection.commit()

    def put(self, payload: bytes) -> bytes:
        sha256 = reference(payload).sha256
        self.execute("INSERT INTO objects VALUES (?, ?)", sha256, payload)
        return sha256

    def model(self, version: int, value: float) -> None:
        tensors = encode_tensors([np.array([value], np.float32)])
        sha256 = self.put(encode(Model(run=RUN, version=version, tensors=tensors)))
        self.execute("INSERT INTO models VALUES (?, ?, ?)", RUN, version, sha256)

    def round(self, number: int, given: tuple[tuple[str, int, float, float, float], ...]) -> None:
        self.execute("INSERT INTO rounds VALUES (?, ?, 0, 'train', 'closed')", RUN, number)
        for node, based_on, factor, total, weight in given:
            delta = Delta(
                key=RoundKey(run=RUN, round=based_on),
                sender=node,
                task="train",
                weight=weight,
                examples=int(weight),
                devices=1,
                tensors=encode_tensors([np.array([total], np.float32)]),
            )
            row = (RUN, number, node, based_on, factor, self.put(encode(delta)), weight)
            self.execute("INSERT INTO contributions VALUES (?, ?, 0, 'train', ?, ?, 0, ?, ?, ?, 1)", *row)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "history.db")


def heard(*receipts: tuple[str, int], closed: int = 2) -> Witness:
    """A witness that heard these (child, round) receipts of the cloud, and its word on a closed round, by topic."""
    witness, topics = Witness("plant"), Topics("plant")
    for child, number in receipts:
        payload = encode(Receipt(key=RoundKey(run=RUN, round=number), sender="cloud"))
        witness.on_message(topics.inbox(child, "receipt"), payload, False)
    word = encode(Announcement(parent="cloud", closed=RoundKey(run=RUN, round=closed)))
    witness.on_message(topics.down("cloud", "announcement"), word, True)
    witness.on_message(topics.down("cloud", "announcement"), b"garbage", True)
    return witness


def test_a_true_history_is_found_true(written: Written) -> None:
    witness = heard(("gw0", 1), ("gw1", 1), ("gw0", 2), ("gw0", 2))
    verdict = judged(witness, written.sql, RUN, "cloud")
    assert (verdict.rounds, verdict.acknowledged, verdict.by_cloud) == (2, 3, 3)
    assert (verdict.lost, verdict.twice) == ((), ())
    again = replayed(written.sql, RUN)
    assert (again.versions, again.final_error, again.worst_error) == (2, 0.0, 0.0)


def an_acknowledged_update_is_gone(written: Written) -> None:
    written.execute("DELETE FROM contributions WHERE node = 'gw0' AND round = 2")


def an_announced_round_is_gone(written: Written) -> None:
    written.execute("DELETE FROM rounds WHERE round = 2")
    written.execute("DELETE FROM contributions WHERE round = 2")


def a_late_update_counts_in_both_rounds(written: Written) -> None:
    written.execute("UPDATE contributions SET based_attempt = 0 WHERE round = 2 AND node = 'gw1'")


@pytest.mark.parametrize(
    ("plant", "lost", "twice"),
    [
        (an_acknowledged_update_is_gone, ("gw0: round 2.0, attempt 0",), ()),
        (an_announced_round_is_gone, ("announced: round 2.0, attempt 0", "gw0: round 2.0, attempt 0"), ()),
        (a_late_update_counts_in_both_rounds, (), ("gw1: round 1.0, 2 times",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_breach_is_found(
    written: Written, plant: Callable[[Written], None], lost: tuple[str, ...], twice: tuple[str, ...]
) -> None:
    plant(written)
    verdict = judged(heard(("gw0", 1), ("gw1", 1), ("gw0", 2)), written.sql, RUN, "cloud")
    assert (verdict.lost, verdict.twice) == (lost, twice)


BELOW = {"gw0": {"d0": 16, "d1": 32}, "gw1": {"d2": 16}}


@pytest.mark.parametrize(
    ("weight", "devices", "lost", "twice"),
    [
        (48, 2, (), ()),
        (16, 1, ("d1 below gw0: round 1.0, attempt 0",), ()),
        (32, 2, ("d0 below gw0: round 1.0, attempt 0",), ("below gw0: round 1.0, 2 devices weigh 32",)),
    ],
    ids=["both", "one is not in the sum", "one is in it twice"],
)
def test_what_a_gateway_acknowledged_is_in_its_sum_once(
    written: Written, weight: float, devices: int, lost: tuple[str, ...], twice: tuple[str, ...]
) -> None:
    written.execute("UPDATE contributions SET weight = 16, devices = 1")
    written.execute(
        "UPDATE contributions SET weight = ?, devices = ? WHERE round = 1 AND node = 'gw0'", weight, devices
    )
    witness = heard(("gw0", 1))
    for device in ("d0", "d1"):
        receipt = Receipt(key=RoundKey(run=RUN, round=1), sender="gw0")
        witness.on_message(Topics("plant").inbox(device, "receipt"), encode(receipt), False)
    verdict = judged(witness, written.sql, RUN, "cloud", BELOW)
    assert (verdict.lost, verdict.twice) == (lost, twice)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE contributions SET factor = 1.0 WHERE round = 2",
        "DELETE FROM contributions WHERE round = 1 AND node = 'gw1'",
        "UPDATE models SET sha256 = (SELECT sha256 FROM models WHERE version = 1) WHERE version = 2",
    ],
)
def test_a_model_that_does_not_follow_from_its_contributions_is_found(written: Written, spoil: str) -> None:
    written.execute(spoil)
    assert replayed(written.sql, RUN).final_error > 100 * TOLERANCE


def test_a_contribution_that_was_not_kept_is_said(written: Written) -> None:
    written.execute("UPDATE contributions SET sha256 = NULL WHERE round = 1 AND node = 'gw0'")
    with pytest.raises(ValueError, match="round 1: its 2 contributions were not all kept; set keep_deltas = true"):
        replayed(written.sql, RUN)


# ── all of it, live ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.live
def test_a_fleet_keeps_its_promises_while_everything_fails(tmp_path: Path) -> None:
    required("mosquitto", "mosquitto")
    url = f"sqlite:///{tmp_path / 'history.db'}"
    scene = Scene(rounds=12, seed=3, gateways=2, devices=4, max_staleness=0)
    outcome = asyncio.run(chaos(tmp_path, url, scene))
    assert outcome.verdict.rounds == 12
    assert outcome.verdict.by_cloud >= 1
    assert (outcome.verdict.lost, outcome.verdict.twice, outcome.ended) == ((), (), ())
    assert outcome.replayed.versions == 12
    assert outcome.replayed.worst_error <= TOLERANCE
    assert len(outcome.faults) >= 10
    assert {"cloud", "gw", "d", "broker"} <= outcome.memory.samples.keys()
