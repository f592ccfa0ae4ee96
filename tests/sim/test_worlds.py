"""Hundreds of fleets, each with the faults of its seed: killed nodes, cut links, full disks, brokers that forget."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from headwater.schemas.learning import Strategy
from headwater.schemas.run import Aggregation, Cohort
from sim import run
from sim.checkers import judged
from sim.scenario import Crash, scenario, weight_of
from sim.world import run_world

WORLDS: Final = 200
ROOT: Final = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_every_world_keeps_every_promise() -> None:
    failed = [run.told(verdict) for verdict in run.judge_all(range(WORLDS)) if verdict[1]]
    assert failed == [], "\n".join(failed)


def test_a_world_is_the_same_again_in_another_process_with_other_hashes() -> None:
    seed = next(seed for seed in range(100) if sum(isinstance(fault, Crash) for fault in scenario(seed).faults) > 3)
    here = run_world(scenario(seed)).trace
    assert here.digest() == run_world(scenario(seed)).trace.digest()
    code = f"from sim import run; print(run.run_world(run.scenario({seed})).trace.digest())"
    for hashes in ("1", "2"):
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == here.digest(), done.stderr


def test_seeds_differ() -> None:
    assert len({run_world(scenario(seed)).trace.digest() for seed in range(3)}) == 3


def test_worlds_are_of_every_kind() -> None:
    """What the first seeds draw: all tiers, all faults, all ways of running."""
    drawn = [scenario(seed) for seed in range(WORLDS)]
    kinds = {type(fault).__name__ for one in drawn for fault in one.faults}
    assert kinds == {"Crash", "BrokerRestart", "Cut", "Reset", "FullDisk", "Replay"}
    assert {one.description.edge_rounds for one in drawn} == {1, 2, 3}
    assert {one.description.cohort.fraction < 1 for one in drawn} == {True, False}
    assert {one.description.aggregation.mode for one in drawn} == {"synchronous", "buffered", "asynchronous"}
    assert {one.standby for one in drawn} == {bool(one.second_parents) for one in drawn} == {True, False}
    about = [one.description for one in drawn]
    assert {one.strategy.name for one in about} == {"fedavg", "fedavgm", "fedadam", "scaffold"}
    assert {one.signed for one in drawn} == {True, False}
    links = {(one.uplink.is_on, one.downlink.is_on, one.edge_rounds > 1) for one in about}
    assert len(links) == 8
    assert any("region" in one.parents for one in drawn)
    assert any(parent == "cloud" and node.startswith("d") for one in drawn for node, parent in one.parents.items())


def test_one_command_shows_a_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--seed", "3", "--trace"]) == 0
    shown = capsys.readouterr().out
    assert "node/cloud/down/announcement: open 1.0.0 train" in shown
    assert shown.endswith("seed 3: all is well\n")


def test_a_calm_world_ends_soon_and_its_model_is_the_mean_worked_by_hand() -> None:
    """Everyone answers: element 0 moves by 1 a round, element 1 by the devices' numbers weighted by 2**i."""
    drawn = next(one for seed in range(100) if (one := scenario(seed)).description.edge_rounds == 1)
    everyone = Cohort(quorum=1.0, min_children=list(drawn.parents.values()).count("cloud"), deadline_s=60.0)
    plain = {"cohort": everyone, "aggregation": Aggregation(), "strategy": Strategy()}
    described = drawn.description.model_copy(update=plain)
    calm = replace(drawn, faults=(), slowness={}, second_parents={}, description=described)
    world = run_world(calm)
    assert judged(world) == {}
    weights = {device: weight_of(device) for device in calm.devices}
    mean = sum(weight * (int(device[1:]) + 1) for device, weight in weights.items()) / sum(weights.values())
    for version, (_, parameters) in world.models.items():
        assert parameters[:2] == pytest.approx((version, version * mean), rel=1e-6)
