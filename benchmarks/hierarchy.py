"""Law: what averaging at the edge saves is told in a device's seconds and joules, by the paper's own model of both.

HierFAVG (Liu, Zhang, Song & Letaief 2020): 50 devices below 5 gateways, kappa1 local steps before each average at a
gateway, kappa2 of those before each average at the cloud, kappa1 * kappa2 = 60; beside it FedAvg right below the cloud.
The fleet is Headwater's, on virtual time.

    python benchmarks/hierarchy.py --json
    python benchmarks/hierarchy.py --plot docs/images/hierarchy.svg
"""

import argparse
import json
import logging
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from tables import aligned, plain_svg, spread
from virtual_fleet import DATA, ROUNDS, Scene, Version, run

from headwater.device.sources.dataset import Dataset, dataset
from headwater.device.sources.digits import CLASSES, digits
from headwater.schemas.messages import Plan
from headwater.schemas.run import RunDescription
from headwater.testbed.virtual.links import Links

DEVICES: Final = 50
GATEWAYS: Final = 5
TARGET: Final = 0.85
LIMIT_S: Final = 200.0
LEARNING_RATE: Final = 0.1
WHOLE_SHARD: Final = 65_536
"""As a batch: an epoch is one step then, as in the paper's algorithm."""

# The paper's, from memory: its text was not at hand.
CYCLES_A_BIT: Final = 20.0
FREQUENCY_HZ: Final = 1e9
CAPACITANCE: Final = 2e-28
BANDWIDTH_HZ: Final = 1e6
POWER_W: Final = 0.5
CHANNEL_GAIN: Final = 1e-8
NOISE_W: Final = 1e-10
CLOUD_LATENCY: Final = 10.0
"""An upload to the cloud takes so many times as long as one to the edge."""

# The task's.
EXAMPLE_BITS: Final = 64 * 32
MODEL_BITS: Final = (64 * 32 + 32 + 32 * 10 + 10) * 32
RATE_BITS_S: Final = BANDWIDTH_HZ * math.log2(1 + CHANNEL_GAIN * POWER_W / NOISE_W)

Assignment = Literal["edge-IID", "edge-non-IID"]


@dataclass(frozen=True)
class Case:
    """`kappa2` 0: no gateways, FedAvg right below the cloud."""

    kappa1: int
    kappa2: int
    assignment: Assignment = "edge-IID"

    @property
    def depends_on_assignment(self) -> bool:
        """With one edge round, or none, the tree sums as a flat fleet does, whoever is in which cluster."""
        return self.kappa2 > 1

    @property
    def name(self) -> str:
        return f"κ1 = {self.kappa1}, κ2 = {self.kappa2}" if self.kappa2 else f"flat, κ1 = {self.kappa1}"


CASES: Final = (
    Case(60, 1),
    Case(30, 2),
    Case(15, 4),
    Case(6, 10),
    Case(30, 2, "edge-non-IID"),
    Case(15, 4, "edge-non-IID"),
    Case(6, 10, "edge-non-IID"),
    Case(60, 0),
    Case(6, 0),
)


@dataclass(frozen=True)
class Run:
    """One seed's way to the target. Energies are a device's, in joules, the mean of all devices."""

    reached_s: float | None
    cloud_rounds: int
    compute_j: float
    upload_j: float
    versions: tuple[Version, ...]

    @property
    def seconds(self) -> float:
        return math.inf if self.reached_s is None else self.reached_s


@dataclass(frozen=True)
class Row:
    """One case over the seeds."""

    case: Case
    runs: tuple[Run, ...]

    def told(self) -> dict[str, Any]:
        runs = [{key: value for key, value in asdict(run).items() if key != "versions"} for run in self.runs]
        return asdict(self.case) | {"runs": runs}


# ── the paper's model of time and energy ────────────────────────────────────────────────────────────────────────


def step_s(examples: int) -> float:
    """T_comp = c·D/f of one local step."""
    return CYCLES_A_BIT * EXAMPLE_BITS * examples / FREQUENCY_HZ


def step_j(examples: int) -> float:
    """E_comp = α/2·c·D·f² of one local step."""
    return CAPACITANCE / 2 * CYCLES_A_BIT * EXAMPLE_BITS * examples * FREQUENCY_HZ**2


def upload_j() -> float:
    """E_comm = p·M/(B·log2(1 + h·p/σ)): a device's radio is on until its own base station has the update."""
    return POWER_W * MODEL_BITS / RATE_BITS_S


def uplink(times_slower: float) -> Links:
    """The bytes that really travel take their time; downlinks are free, as in the paper."""
    return Links(latency_s=0.0, jitter_s=0.0, up_bytes_s=RATE_BITS_S / 8 / times_slower)


# ── the paper's division of the data ────────────────────────────────────────────────────────────────────────────


def one_class_shards(seed: int) -> dict[str, Dataset]:
    """`c<class>-<number>`: a device has examples of one class alone, a fifth of that class."""
    x, y, test = digits(seed)
    known_x, known_y, unseen_x, unseen_y = x[~test], y[~test], x[test], y[test]
    shards = {}
    for label in range(CLASSES):
        rows = np.random.default_rng([seed, label]).permutation(np.flatnonzero(known_y == label))
        for number, part in enumerate(np.array_split(rows, DEVICES // CLASSES)):
            shards[f"c{label}-{number}"] = dataset(known_x[part], known_y[part], unseen_x, unseen_y)
    return shards


def clusters(assignment: Assignment) -> dict[str, tuple[str, ...]]:
    """Ten devices a gateway: one of each class, or several of each of five classes."""
    if assignment == "edge-IID":
        return {f"gw{g}": tuple(f"c{label}-{g}" for label in range(CLASSES)) for g in range(GATEWAYS)}
    free = {label: iter(range(DEVICES // CLASSES)) for label in range(CLASSES)}
    return {
        f"gw{g}": tuple(
            f"c{label}-{next(free[label])}"
            for offset, count in enumerate((2, 3, 2, 2, 1))
            for label in [(2 * g + offset) % CLASSES] * count
        )
        for g in range(GATEWAYS)
    }


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


def measure(case: Case, seed: int, target: float) -> Run:
    """One run until the cloud's model is as good as `target`."""
    shards, below = one_class_shards(seed), clusters(case.assignment)
    if not case.kappa2:
        below = {"": tuple(device for devices in below.values() for device in devices)}

    def work_s(device: str, plan: Plan) -> float:
        return plan.local_epochs * step_s(len(shards[device].train_x))

    course = run(
        Scene(
            description=_description(case, seed),
            clusters=below,
            shards=shards,
            work_s=work_s,
            target=target,
            limit_s=LIMIT_S,
            device_links=uplink(1.0 if case.kappa2 else 1.0 + CLOUD_LATENCY),
            gateway_links=uplink(CLOUD_LATENCY),
            seed=seed,
        )
    )
    steps_j = [done * case.kappa1 * step_j(len(shards[device].train_x)) for device, done in course.finished.items()]
    uploads_j = [done * upload_j() for done in course.finished.values()]
    return Run(
        course.reached_s,
        len(course.versions),
        statistics.fmean(steps_j),
        statistics.fmean(uploads_j),
        course.versions,
    )


def _description(case: Case, seed: int) -> RunDescription:
    return RunDescription.model_validate(
        {
            "name": DATA,
            "data": DATA,
            "rounds": ROUNDS,
            "evaluate_every": 0,
            "edge_rounds": case.kappa2 or 1,
            "seed": seed,
            "model": {"kind": "mlp", "features": 64, "classes": CLASSES, "hidden": (32,)},
            "local": {"batch_size": WHOLE_SHARD, "learning_rate": LEARNING_RATE, "epochs": case.kappa1},
            "cohort": {"quorum": 1.0, "deadline_s": 600.0, "min_children": GATEWAYS if case.kappa2 else DEVICES},
        }
    )


def measure_all(seeds: Sequence[int], target: float) -> list[Row]:
    return [Row(case, tuple(measure(case, seed, target) for seed in seeds)) for case in CASES]


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: Sequence[Row]) -> str:
    head = ("data of a gateway", "κ1", "κ2", "time s", "×", "cloud rounds", "device J", "computing", "sending")
    return aligned([head, *(_line(row, rows[0]) for row in rows)])


def _line(row: Row, first: Row) -> tuple[str, ...]:
    case, runs = row.case, row.runs
    names = (case.assignment, str(case.kappa1), str(case.kappa2)) if case.kappa2 else ("none", str(case.kappa1), "–")
    if any(given.reached_s is None for given in runs):
        return (*names, f"over {LIMIT_S:g}", "–", "–", "–", "–", "–")
    times_faster = [before.seconds / given.seconds for before, given in zip(first.runs, runs, strict=True)]
    return (
        *names,
        spread([given.seconds for given in runs], 2),
        f"{statistics.median(times_faster):.1f}",
        spread([given.cloud_rounds for given in runs], 0),
        spread([given.compute_j + given.upload_j for given in runs], 3),
        f"{statistics.median(given.compute_j for given in runs):.3f}",
        f"{statistics.median(given.upload_j for given in runs):.3f}",
    )


def plot(rows: Sequence[Row], file: Path) -> None:
    """Accuracy over virtual time, the first seed's, a panel for each way of dealing the data to gateways."""
    with plain_svg() as pyplot:
        figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        for panel, assignment in zip(panels, get_args(Assignment), strict=True):
            for row in rows:
                if row.case.assignment == assignment or not row.case.depends_on_assignment:
                    versions = row.runs[0].versions
                    panel.plot(
                        [version.at_s for version in versions],
                        [version.accuracy for version in versions],
                        label=row.case.name,
                        linestyle="-" if row.case.kappa2 else ":",
                    )
            panel.set(title=f"gateways' data {assignment}", xlabel="virtual seconds")
        panels[0].set_ylabel("test accuracy")
        panels[0].legend(fontsize="small", frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0 (2)")
    parser.add_argument("--target", type=float, default=TARGET, help=f"test accuracy to reach ({TARGET})")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy over time; needs the extra plots")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    logging.getLogger("headwater").setLevel(logging.ERROR)
    rows = measure_all(range(given.seeds), given.target)
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps([row.told() for row in rows]) if given.json else table(rows))
    return 0 if all(run.reached_s is not None for row in rows for run in row.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
