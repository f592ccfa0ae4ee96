"""Benchmarks in a laboratory: what they compare is dealt and counted as they say, and small runs show what they claim."""

from typing import get_args

import fleets
import numpy as np
import personalisation
import pytest
import selection
import strategies
from fleets import EVERYONE, UNSEEN

from headwater.schemas.learning import StrategyName
from headwater.testbed.laboratory import Laboratory
from headwater.testbed.spread import Compared, Spread

# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows(*parts: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for part in parts for row in part)


@pytest.mark.parametrize("task", strategies.TASKS)
def test_everyones_examples_are_dealt_and_their_test_part_is_shared_evenly(task: fleets.Task) -> None:
    fleet = fleets.fleet_of(task, 0.3, 1)
    devices = fleet.data.values()
    pool = fleet.tests[EVERYONE]
    assert rows(*(data.train_x for data in devices)) == rows(pool.train_x)
    assert rows(*(data.test_x for data in devices)) == rows(pool.test_x)
    assert {len(data.test_x) - len(pool.test_x) // 10 for data in devices} <= {0, 1}
    assert (UNSEEN in fleet.tests) is (task == "wearables")
    assert [len(below) for below in fleet.two_gateways.values()] == [5, 5]


@pytest.mark.parametrize("seed", [0, 2])
def test_own_test_parts_are_a_quarter_of_each_hand_and_nobody_is_without(seed: int) -> None:
    fleet = fleets.with_own_tests(0.1, seed)
    hands = [(len(data.train_x), len(data.test_x)) for data in fleet.data.values()]
    assert sum(train + test for train, test in hands) == 1797
    assert min(test for _, test in hands) >= 2
    assert all(abs(test - (train + test) / 4) <= 0.5 for train, test in hands)
    assert len(fleet.tests[EVERYONE].test_x) == sum(test for _, test in hands)


def test_a_device_of_a_turn_has_the_digits_turned_so_far() -> None:
    fleet = personalisation.rotated(0, devices_a_turn=1)
    originals = {row.tobytes() for row in fleets.digits(0)[0]}
    for turn in range(4):
        back = np.rot90(fleet.data[f"t{turn}-0"].train_x.reshape(-1, 8, 8), -turn, axes=(1, 2)).reshape(-1, 64)
        assert {row.tobytes() for row in np.ascontiguousarray(back)} <= originals


# ── strategies ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_chosen_is_a_point_of_its_grid_and_a_run() -> None:
    assert {*get_args(StrategyName)} - {*strategies.STRATEGIES} == {"signsgd"}
    for task, chosen in strategies.CHOSEN.items():
        assert set(chosen) == set(strategies.GRIDS)
        for name, tuning in chosen.items():
            assert tuning in strategies.GRIDS[name]
            fleets.described(task, 0, 1, strategy={"name": name, **tuning.own})


def test_a_strategy_learns_in_a_tree_and_the_same_seed_gives_the_same_run() -> None:
    case = strategies.Case("digits", 1.0, "scaffold", 0, strategies.CHOSEN["digits"]["scaffold"], rounds=3)
    run = strategies.measure(case)
    (accuracy,) = run.accuracy
    assert accuracy > 0.8
    assert strategies.measure(case) == run
    assert "scaffold" in strategies.table(strategies.rows_of([run]))


def test_a_tuning_that_diverges_is_the_worst() -> None:
    case = strategies.Case("digits", 1.0, "fedavg", 0, strategies.Tuning(1e20), rounds=2)
    with np.errstate(all="ignore"):
        assert strategies.tried(case).late == 0.0


async def test_unequal_devices_train_one_to_ten_epochs() -> None:
    fleet = fleets.fleet_of("digits", 1.0, 0)
    description = fleets.described("digits", 0, 1, strategy={"name": "fednova"})
    with Laboratory(description, fleet.data, clusters=fleet.two_gateways) as laboratory:
        strategies._hurry(laboratory, 0)
        await laboratory.round("train", 1)
        steps = [
            (metric.total / metric.weight) / np.ceil(len(fleet.data[node].train_x) / 16)
            for host in laboratory.hosts["cloud"].below.values()
            for node, delta in host.deltas.items()
            for metric in delta.metrics
            if metric.name == "local_steps"
        ]
    assert sorted(steps) == pytest.approx(range(1, 11))


# ── personalisation ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_personal_model_is_better_on_its_own_test_part_and_the_global_one_on_everyones() -> None:
    run = personalisation.measure(personalisation.Case("ditto", 0.1, 0, rounds=4))
    personal, everyones = run.models["personal"], run.models["global"]
    assert personal.own.mean > everyones.own.mean
    assert personal.everyone.mean < everyones.everyone.mean
    assert personal.own.worst_decile < personal.own.mean
    assert everyones.everyone.worst_decile == pytest.approx(everyones.everyone.mean)


def test_every_kind_of_model_is_told() -> None:
    run = personalisation.measure(personalisation.Case("fedavg", 0.5, 0, rounds=1))
    assert set(run.models) == {"alone", "global"}
    run = personalisation.measure(personalisation.Case("mocha", 0.5, 0, rounds=1))
    assert set(run.models) == {"personal"}


@pytest.mark.parametrize(
    ("clusters", "found"),
    [
        ({"t0-0": 1, "t0-1": 1, "t1-0": 0, "t1-1": 0}, True),
        ({"t0-0": 1, "t0-1": 2, "t1-0": 0, "t1-1": 0}, False),
        ({"t0-0": 1, "t0-1": 1, "t1-0": 1, "t1-1": 1}, False),
    ],
)
def test_groups_are_found_where_each_has_one_model_of_its_own(clusters: dict[str, int], found: bool) -> None:
    alike = Compared(Spread(1.0, 1.0), Spread(1.0, 1.0))
    run = personalisation.Run(personalisation.Case("ifca", None, 0), {"global": alike}, clusters)
    assert personalisation.groups_found(run) is found


# ── selection ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("accuracy", "steady"),
    [([0.9] * 5, 5), ([0.9] * 4, None), ([0.1, 0.9, 0.9, 0.9, 0.9, 0.9], 6), ([0.84] * 9, None)],
)
def test_steady_is_the_mean_of_the_last_five(accuracy: list[float], steady: int | None) -> None:
    assert selection._steady(accuracy, 0.85) == steady


def test_a_rule_is_measured_until_it_is_steady_and_slow_machines_take_longer() -> None:
    slow, even = (
        selection.measure(selection.Case("turns", machines, 0, target=0.3, devices=20))
        for machines in ("half-slow", "even")
    )
    assert slow.accuracy == even.accuracy
    assert even.steady == len(even.accuracy)
    # The statistics come first: of everyone, a round too.
    assert even.steady_s == even.steady + 1
    assert slow.steady_s is not None
    assert slow.steady_s > 4 * even.steady_s
    assert even.first is not None
    assert even.first <= even.steady
    assert "half-slow" in selection.table([slow])
