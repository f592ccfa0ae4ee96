"""Law: a device's own model is worth what it adds to training alone and to the fleet's, on its own data and on others'.

Digits, all 1,797 dealt to ten devices, a quarter of each hand its own test part; MLP 64-32-10, batch 16, forty rounds,
flat (for MOCHA tasks are devices). Every model is judged on the device's own test part and on everyone's, the mean over
devices and the worst decile, which of ten devices is the worst one:

    alone       trained on the device's own data, as many epochs as the others
    global      FedAvg's model, or where there are several the one that the device chose (IFCA)
    personal    each method's model of the device's own

*rotated*: four groups of devices whose images are turned by 0, 90, 180 and 270 degrees, as in Ghosh et al. 2020.

    python benchmarks/personalisation.py --jobs 2
    python benchmarks/personalisation.py --only ditto apfl --alphas 0.1 --json
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from fleets import EVERYONE, MODELS, Fleet, described, in_processes, split, with_own_tests
from tables import aligned

from headwater.core.aggregate import Parameters
from headwater.device.sources.dataset import Dataset
from headwater.device.sources.digits import digits
from headwater.testbed.baselines import together
from headwater.testbed.judging import Judge, Test, measure_of
from headwater.testbed.laboratory import Laboratory
from headwater.testbed.spread import Compared, compared

ALPHAS: Final = (0.1, 0.5)
ROUNDS: Final = 40
EPOCHS: Final = 2
LEARNING_RATE: Final = 0.1
TURNS: Final = 4
"""By 90 degrees each."""

ALONE: Final = "alone"
GLOBAL: Final = "global"

HEAD: Final = ("layer2.*",)

METHODS: Final[Mapping[str, Mapping[str, Any]]] = {
    "fedavg": {"personal": {"baseline": True}},
    "fine_tune": {"personal": {"method": "fine_tune", "epochs": 10}},
    "fedper": {"personal": {"method": "fedper"}, "model": {**MODELS["digits"], "personal": HEAD}},
    "fedrep": {"personal": {"method": "fedrep", "epochs": 2}, "model": {**MODELS["digits"], "personal": HEAD}},
    "ditto": {"personal": {"method": "ditto", "epochs": EPOCHS, "strength": 1.0}},
    "pfedme": {"personal": {"method": "pfedme", "strength": 5.0, "steps": 5}},
    "apfl": {"personal": {"method": "apfl", "mixing": 0.25}},
    "mocha": {"personal": {"method": "mocha", "strength": 0.1}},
    "ifca": {"clusters": {"by": "likeness", "count": 2}},
}
"""What of a run's description is each one's own."""


@dataclass(frozen=True)
class Case:
    """One run. `alpha` None: rotated digits, in as many clusters as there are turns where the method has clusters."""

    method: str
    alpha: float | None
    seed: int
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Run:
    """What each kind of model reached; `clusters` are the models that the devices chose, by device."""

    case: Case
    models: Mapping[str, Compared]
    clusters: Mapping[str, int]


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


def rotated(seed: int, devices_a_turn: int = 5) -> Fleet:
    """Every group has all of the digits, evenly dealt; the device's name says the turn: `t2-0`."""
    x, y, _ = digits(seed)
    hands = np.array_split(np.random.default_rng(seed).permutation(len(y)), TURNS * devices_a_turn)
    data: dict[str, Dataset] = {}
    for number, hand in enumerate(hands):
        turn, device = divmod(number, devices_a_turn)
        images = np.rot90(x[hand].reshape(-1, 8, 8), turn, axes=(1, 2)).reshape(-1, 64)
        data[f"t{turn}-{device}"] = split(images, y[hand], [seed, number])
    return Fleet("digits", data, {EVERYONE: together(list(data.values()))})


def measure(case: Case) -> Run:
    logging.getLogger("headwater").setLevel(logging.ERROR)
    fleet = rotated(case.seed) if case.alpha is None else with_own_tests(case.alpha, case.seed)
    sections = {**METHODS[case.method]}
    if case.alpha is None and "clusters" in sections:
        sections["clusters"] = {**sections["clusters"], "count": TURNS}
    local = {"batch_size": 16, "learning_rate": LEARNING_RATE, "epochs": EPOCHS}
    description = described("digits", case.seed, case.rounds, local=local, **sections)
    with Laboratory(description, fleet.data) as laboratory:
        laboratory.run()
        return Run(case, _judged(laboratory, fleet), _clusters(laboratory))


def _judged(laboratory: Laboratory, fleet: Fleet) -> dict[str, Compared]:
    judge = Judge(laboratory.trainer(), {})
    own = {device: Test(data) for device, data in fleet.data.items()}
    everyone, by = Test(fleet.tests[EVERYONE]), measure_of("cross_entropy")
    return {kind: compared(judge, models, own, everyone, by) for kind, models in _models(laboratory, fleet).items()}


def _models(laboratory: Laboratory, fleet: Fleet) -> dict[str, dict[str, Parameters]]:
    """By kind and device."""
    personal, learning = laboratory.description.personal, laboratory.description.learning
    used = {device: laboratory.personal(device) for device in fleet.data}
    found: dict[str, dict[str, Parameters]] = {}
    if personal.baseline:
        found[ALONE] = {device: _alone(laboratory, device) for device in fleet.data}
    if personal.method == "none":
        found[GLOBAL] = used
        return found
    if not (learning.has_places or laboratory.description.model.personal):
        found[GLOBAL] = dict.fromkeys(fleet.data, laboratory.course.parameters)
    found["personal"] = used
    return found


def _alone(laboratory: Laboratory, device: str) -> Parameters:
    kept, manifest = laboratory.memory(device).kept, laboratory.course.manifest
    pairs = zip(manifest.parameters, laboratory.course.parameters, strict=True)
    return tuple(kept.get(f"alone {parameter.name}", value) for parameter, value in pairs)


def _clusters(laboratory: Laboratory) -> dict[str, int]:
    if laboratory.description.clusters.by != "likeness":
        return {}
    return {device: int(laboratory.memory(device).kept["chosen"]) for device in laboratory.data}


def groups_found(run: Run) -> bool:
    """Whether the devices of each turn, and no others, chose the same model."""
    pairs = {(device.partition("-")[0], chosen) for device, chosen in run.clusters.items()}
    return len(pairs) == len({turn for turn, _ in pairs}) == len({chosen for _, chosen in pairs})


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(runs: Sequence[Run]) -> str:
    """A line for each method's kind of model; means over seeds."""
    found: dict[tuple[float | None, str, str], list[Compared]] = {}
    for run in runs:
        for kind, reached in run.models.items():
            found.setdefault((run.case.alpha, run.case.method, kind), []).append(reached)
    head = ("data", "method", "model", "own test part", "worst decile", "everyone's", "worst decile")
    return aligned([head, *(_line(*names, seeds) for names, seeds in found.items())])


def _line(alpha: float | None, method: str, kind: str, seeds: Sequence[Compared]) -> tuple[str, ...]:
    columns = (
        [reached.own.mean for reached in seeds],
        [reached.own.worst_decile for reached in seeds],
        [reached.everyone.mean for reached in seeds],
        [reached.everyone.worst_decile for reached in seeds],
    )
    data = "rotated" if alpha is None else f"Dirichlet {alpha:g}"
    return (data, method, kind, *(f"{statistics.fmean(values):.3f}" for values in columns))


def told(run: Run) -> dict[str, Any]:
    return {**asdict(run.case), "models": {kind: asdict(reached) for kind, reached in run.models.items()}} | (
        {"clusters": run.clusters, "groups_found": groups_found(run)} if run.clusters else {}
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=tuple(METHODS), metavar="NAME", help="(all)")
    parser.add_argument("--alphas", nargs="*", type=float, default=ALPHAS, help="of the Dirichlet (0.1 0.5)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"({ROUNDS})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (1)")
    parser.add_argument("--quick", action="store_true", help="one seed, Dirichlet 0.5, four rounds")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.alphas, given.rounds = 1, (0.5,), 4
    cases = [
        Case(method, alpha, seed, given.rounds)
        for alpha in given.alphas
        for method in given.only
        for seed in range(given.seeds)
    ] + [
        Case(method, None, seed, given.rounds)
        for method in ("fedavg", "ifca")
        if method in given.only
        for seed in range(given.seeds)
    ]
    runs = in_processes(measure, cases, given.jobs)
    print(json.dumps([told(run) for run in runs]) if given.json else table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
