"""Law: ways of aggregation are compared by the virtual time to the same accuracy, on the same shards and machines.

The digits task (MLP 64-32-10, batch 16, learning rate 0.1, one local epoch, Dirichlet 0.3), deployed shells on virtual
time, under settings of how long machines take:

    half-slow     1 s a plan, and 10 s for half of the devices, each times uniform(0.8, 1.2)
    half-normal   |N(0, 1)| s, drawn for each plan (the kind of delay in FedBuff's experiments, Nguyen et al. 2022)
    even          1 s for everyone, times uniform(0.8, 1.2)
    slow-apart    as half-slow, and only the slow devices have the classes 5 to 9

    python benchmarks/asynchrony.py --json
    python benchmarks/asynchrony.py --devices 50 --target 0.85 --settings half-slow
    python benchmarks/asynchrony.py --alpha 0.05 --target 0.85 --settings half-slow --seeds 1
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final

import numpy as np
from tables import aligned, spread
from virtual_fleet import DATA, ROUNDS, Scene, run

from headwater.device.sources.dataset import Dataset, dataset
from headwater.device.sources.digits import CLASSES, digits
from headwater.device.sources.digits import shards as dealt
from headwater.schemas.run import RunDescription

DEVICES: Final = 20
TARGET: Final = 0.90
LIMIT_S: Final = 1500.0
GIVE_UP_AFTER: Final = 2.0
"""Times what the synchronous run took."""

ALPHA: Final = 0.3
SLOWER: Final = 10.0
MAX_STALENESS: Final = 500
"""Beyond what is seen with these fleets: nothing is refused for its age."""

SYNCHRONOUS: Final = "synchronous"

Clusters = Mapping[str, tuple[str, ...]]


# ── machines and data ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Setting:
    """`draw_s` draws how long a plan takes a device, given whether it is one of the slow half."""

    draw_s: Callable[[Random, bool], float]
    slow_apart: bool = False


def _half_slow(rng: Random, slow: bool) -> float:
    return rng.uniform(0.8, 1.2) * (SLOWER if slow else 1.0)


SETTINGS: Final = {
    "half-slow": Setting(_half_slow),
    "half-normal": Setting(lambda rng, slow: abs(rng.gauss(0.0, 1.0))),
    "even": Setting(lambda rng, slow: rng.uniform(0.8, 1.2)),
    "slow-apart": Setting(_half_slow, slow_apart=True),
}
USUAL: Final = ("half-slow", "half-normal", "even")
"""Without the one in which asynchronous runs take a thousand versions."""


@dataclass(frozen=True)
class Fleet:
    """Devices by name, those of the slow half first, and their data."""

    slow: tuple[str, ...]
    fast: tuple[str, ...]
    shards: Mapping[str, Dataset]

    @property
    def devices(self) -> tuple[str, ...]:
        return self.slow + self.fast


def fleet_of(devices: int, seed: int, *, slow_apart: bool, alpha: float = ALPHA) -> Fleet:
    """Half of the devices are slow, whatever they have; with `slow_apart` theirs is one half of the classes."""
    names = tuple(f"d{i:03}" for i in range(devices))
    slow, fast = names[: devices // 2], names[devices // 2 :]
    x, y, test = digits(seed)
    parts = [(slow, range(CLASSES // 2, CLASSES)), (fast, range(CLASSES // 2))]
    shards: dict[str, Dataset] = {}
    for holders, classes in parts if slow_apart else [(names, range(CLASSES))]:
        rows = np.flatnonzero(~test & np.isin(y, classes))
        hands = dealt(y[rows], len(holders), alpha, seed)
        shards |= {
            name: dataset(x[rows[hand]], y[rows[hand]], x[test], y[test])
            for name, hand in zip(holders, hands, strict=True)
        }
    return Fleet(slow, fast, shards)


# ── ways of aggregation ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Way:
    """Who is below whom, and what of the run's description is its own."""

    clusters: Clusters
    changes: Mapping[str, Any]


def ways(fleet: Fleet) -> dict[str, Way]:
    """Synchronous first, which the others are compared with. Clusters are a quarter of the devices each."""
    everyone, few = fleet.devices, max(1, len(fleet.devices) // 4)
    flat = {"": everyone}
    alike = {f"gw{g}": everyone[g * few : (g + 1) * few] for g in range(4)}
    mixed = {f"gw{g}": everyone[g::4] for g in range(4)}
    return {
        SYNCHRONOUS: Way(flat, {}),
        f"synchronous, {few} of all": Way(flat, {"cohort": {"fraction": 0.25}}),
        f"over-selection, {few} of 30 % more": Way(flat, {"cohort": {"fraction": 0.25, "over_selection": 0.3}}),
        f"FedBuff, K = {few}": Way(flat, {"aggregation": _buffered(few)}),
        "FedAsync, α = 0.6": Way(flat, {"aggregation": _stale("asynchronous") | {"mixing": 0.6}}),
        "clusters alike, K = 1": Way(alike, {"aggregation": _buffered(1)}),
        "clusters mixed, K = 1": Way(mixed, {"aggregation": _buffered(1)}),
    }


def _buffered(updates: int) -> dict[str, Any]:
    return _stale("buffered") | {"buffer": updates}


def _stale(mode: str) -> dict[str, Any]:
    return {"mode": mode, "max_staleness": MAX_STALENESS, "staleness_exponent": 0.5}


def description_of(way: Way, seed: int) -> RunDescription:
    children = sum(len(devices) if not gateway else 1 for gateway, devices in way.clusters.items())
    cohort = {"quorum": 1.0, "deadline_s": 2 * LIMIT_S, "min_children": children}
    return RunDescription.model_validate(
        {
            "name": DATA,
            "data": DATA,
            "rounds": ROUNDS,
            "evaluate_every": 0,
            "seed": seed,
            "model": {"kind": "mlp", "features": 64, "classes": CLASSES, "hidden": (32,)},
            "local": {"batch_size": 16, "learning_rate": 0.1},
            "cohort": cohort | way.changes.get("cohort", {}),
            "aggregation": way.changes.get("aggregation", {}),
        }
    )


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Run:
    """One seed's way to the target. `updates` counts what devices sent, to whomever; `staleness` is the cloud's."""

    reached_s: float | None
    updates: int
    versions: int
    mean_staleness: float
    max_staleness: int
    best_accuracy: float


@dataclass(frozen=True)
class Row:
    """One way under one setting, over the seeds."""

    setting: str
    way: str
    runs: tuple[Run, ...]


def measure(setting: Setting, fleet: Fleet, way: Way, seed: int, target: float, limit_s: float) -> Run:
    """One run until the cloud's model is as good as `target`, or `limit_s` is over."""
    times = {device: Random(f"{seed}/{device}/work") for device in fleet.devices}
    slow = frozenset(fleet.slow)
    course = run(
        Scene(
            description=description_of(way, seed),
            clusters=way.clusters,
            shards=fleet.shards,
            # The same machine takes as long for its n-th plan, whatever the way of aggregation.
            work_s=lambda device, plan: setting.draw_s(times[device], device in slow),
            target=target,
            limit_s=limit_s,
            seed=seed,
        )
    )
    return Run(
        course.reached_s,
        sum(course.finished.values()),
        len(course.versions),
        statistics.fmean(course.staleness),
        max(course.staleness),
        max(version.accuracy for version in course.versions),
    )


def measure_all(settings: Sequence[str], devices: int, seeds: Sequence[int], target: float, alpha: float) -> list[Row]:
    """Every way under every setting; a way that takes `GIVE_UP_AFTER` times as long as synchronous is given up."""
    found: dict[tuple[str, str], list[Run]] = {}
    for name, seed in itertools.product(settings, seeds):
        setting, limit_s = SETTINGS[name], LIMIT_S
        fleet = fleet_of(devices, seed, slow_apart=setting.slow_apart, alpha=alpha)
        for label, way in ways(fleet).items():
            given = measure(setting, fleet, way, seed, target, limit_s)
            found.setdefault((name, label), []).append(given)
            if label == SYNCHRONOUS and given.reached_s is not None:
                limit_s = GIVE_UP_AFTER * given.reached_s
    return [Row(*names, tuple(runs)) for names, runs in found.items()]


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: Sequence[Row]) -> str:
    head = ("machines", "aggregation", "time s", "times faster", "updates", "versions", "staleness: mean, max")
    first = {row.setting: row for row in rows if row.way == SYNCHRONOUS}
    return aligned([head, *(_line(row, first[row.setting]) for row in rows)])


def _line(row: Row, synchronous: Row) -> tuple[str, ...]:
    reached = [run for run in row.runs if run.reached_s is not None]
    faster = [
        before.reached_s / run.reached_s
        for before, run in zip(synchronous.runs, row.runs, strict=True)
        if before.reached_s and run.reached_s
    ]
    if len(faster) < len(row.runs):
        best = min(run.best_accuracy for run in row.runs)
        return (row.setting, row.way, "given up", f"{len(faster)} of {len(row.runs)}", "–", "–", f"best {best:.3f}")
    return (
        row.setting,
        row.way,
        f"{statistics.median(run.reached_s for run in reached if run.reached_s):.1f}",
        spread(faster, 1),
        f"{statistics.median(run.updates for run in reached):.0f}",
        f"{statistics.median(run.versions for run in reached):.0f}",
        f"{statistics.fmean(run.mean_staleness for run in reached):.1f}, {max(run.max_staleness for run in reached)}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--devices", type=int, default=DEVICES, help=f"at least 8 ({DEVICES})")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--target", type=float, default=TARGET, help=f"test accuracy to reach ({TARGET})")
    parser.add_argument("--alpha", type=float, default=ALPHA, help=f"of the Dirichlet that deals labels ({ALPHA})")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=USUAL, help=f"({', '.join(USUAL)})")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    logging.getLogger("headwater").setLevel(logging.ERROR)
    rows = measure_all(given.settings, given.devices, range(given.seeds), given.target, given.alpha)
    print(json.dumps([asdict(row) for row in rows]) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
