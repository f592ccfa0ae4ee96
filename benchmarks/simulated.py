"""Law: a fleet in one process learns what it learns with a process each; here is how long a round of it takes.

Every device is asked in every round and runs its graphs in the one worker, one device after the other.

    up to 50 devices   the digits task of `round_trip.py`, beside plain numpy FedAvg on the same shards in the same run
    more               ten examples of eight features each, MLP 8-8-2, in clusters of at most 1,000

    python benchmarks/simulated.py
    python benchmarks/simulated.py --devices 50 --json
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import psutil
from fleets import EVERYONE, described, fleet_of
from plain_fedavg import accuracy, fedavg
from round_trip import peak_rss_bytes
from tables import aligned

from headwater.device.sources.dataset import Dataset, dataset
from headwater.testbed.laboratory import RUN, Laboratory

DEVICES: Final = (50, 1_000, 10_000)
SEED: Final = 4
DIRICHLET: Final = 0.3
MOST_OF_DIGITS: Final = 50
CLUSTER: Final = 1_000
ROUNDS: Final = 20
FEW_ROUNDS: Final = 3
"""Of the large fleets, whose rounds take a minute."""

SMALL: Final = {"kind": "mlp", "features": 8, "classes": 2, "hidden": (8,)}


@dataclass(frozen=True)
class Simulated:
    """`round_s` is a median, `plain_round_s` a mean; memory is the sum of both processes' peaks. What is beside plain
    FedAvg is None where the task is another."""

    devices: int
    round_s: float
    memory_bytes: int
    plain_round_s: float | None = None
    accuracy: float | None = None
    plain_accuracy: float | None = None


def measure(devices: int) -> Simulated:
    return digits(devices) if devices <= MOST_OF_DIGITS else points(devices)


def digits(devices: int) -> Simulated:
    fleet = fleet_of("digits", DIRICHLET, SEED, devices)
    description = described("digits", SEED, ROUNDS)
    with Laboratory(description, fleet.data) as laboratory:
        initial = laboratory.course.parameters
        round_s, memory_bytes = _run(laboratory)
        learned = laboratory.course.parameters
    began = time.perf_counter()
    plain = fedavg(initial, dict(fleet.data), run=RUN, rounds=ROUNDS, batch_size=16, learning_rate=0.1, seed=SEED)
    plain_round_s = (time.perf_counter() - began) / ROUNDS
    test = fleet.tests[EVERYONE]
    told, expected = (accuracy(model, test.test_x, test.test_y) for model in (learned, plain))
    return Simulated(devices, round_s, memory_bytes, plain_round_s, told, expected)


def points(devices: int) -> Simulated:
    clusters = -(-devices // CLUSTER)
    data = {f"d{number}": _drawn(number) for number in range(devices)}
    below = {f"gw{number}": tuple(data)[number::clusters] for number in range(clusters)}
    description = described("digits", SEED, FEW_ROUNDS, model=SMALL)
    with Laboratory(description, data, clusters=below) as laboratory:
        return Simulated(devices, *_run(laboratory))


def _run(laboratory: Laboratory) -> tuple[float, int]:
    """Seconds of the median round, and bytes."""
    ends = [time.perf_counter()]

    def look(_: int) -> bool:
        ends.append(time.perf_counter())
        return True

    laboratory.run(look)
    here = psutil.Process()
    memory_bytes = sum(peak_rss_bytes(process.pid) for process in (here, *here.children()))
    return statistics.median(after - before for before, after in itertools.pairwise(ends)), memory_bytes


def _drawn(number: int) -> Dataset:
    """Ten points of two classes, on both sides of a plane; two of them are the test part."""
    rng = np.random.default_rng([SEED, number])
    x = rng.normal(size=(10, 8)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int64)
    return dataset(x[:8], y[:8], x[8:], y[8:])


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(results: list[Simulated]) -> str:
    head = ("devices", "round s", "plain s", "×", "ms a device", "MB", "accuracy")
    return aligned((head, *map(_row, results)))


def _row(told: Simulated) -> tuple[str, ...]:
    plain, reached = told.plain_round_s, (told.accuracy, told.plain_accuracy)
    return (
        f"{told.devices:,}",
        f"{told.round_s:.3f}",
        "–" if plain is None else f"{plain:.3f}",
        "–" if plain is None else f"{told.round_s / plain:.1f}",
        f"{1000 * told.round_s / told.devices:.1f}",
        f"{told.memory_bytes / 1e6:.0f}",
        "–" if None in reached else "{:.4f} ({:.4f})".format(*reached),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES, help="50 1000 10000")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    options = parser.parse_args()
    logging.getLogger("headwater").setLevel(logging.ERROR)
    results = [measure(devices) for devices in options.devices]
    print(json.dumps([asdict(result) for result in results]) if options.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
