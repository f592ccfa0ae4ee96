"""Law: rules of selection are compared by how many rounds, and how much time, a fleet needs to the same accuracy.

Digits over 50 devices by Dirichlet 0.1, flat, a tenth of them in each round; MLP 64-32-10 behind a normaliser, batch
16, learning rate 0.1, one local epoch. The parent is the deployed one's own choice, learning what it knows from the
rounds; devices share their label histograms where a rule wants them, with the noise that is their default.

*half-slow*: 1 s a plan, 10 s for half of the devices, times uniform(0.8, 1.2); a round takes as long as its slowest.
Only `utility` looks at times, so it is measured on *even* machines too, where all take 1 s.

    python benchmarks/selection.py --jobs 2
    python benchmarks/selection.py --only uniform utility --json
"""

import argparse
import json
import logging
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final, Literal

from fleets import EVERYONE, MODELS, described, fleet_of, in_processes
from tables import aligned

from headwater.testbed.judging import Judge, Test
from headwater.testbed.laboratory import Laboratory

DEVICES: Final = 50
FRACTION: Final = 0.1
ALPHA: Final = 0.1
TARGET: Final = 0.85
ROUNDS: Final = 150
STEADY: Final = 5
"""Rounds whose mean accuracy counts as steady."""

SLOWER: Final = 10.0

Machines = Literal["half-slow", "even"]

RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "uniform": {},
    "turns": {"by": "turns"},
    "examples": {"by": "examples"},
    "loss": {"by": "loss"},
    "loss, floor 0.2": {"by": "loss", "floor": 0.2},
    "diversity": {"by": "diversity"},
    "diversity, floor 0.2": {"by": "diversity", "floor": 0.2},
    "utility": {"by": "utility"},
    "utility, floor 0.2": {"by": "utility", "floor": 0.2},
}


@dataclass(frozen=True)
class Case:
    """One run."""

    rule: str
    machines: Machines
    seed: int
    target: float = TARGET
    rounds: int = ROUNDS
    devices: int = DEVICES


@dataclass(frozen=True)
class Run:
    """Rounds and seconds until the target, for the first time and steadily; None: never. `least_asked` is how often
    whoever was asked least was asked in all the rounds until it was steady."""

    case: Case
    first: int | None
    steady: int | None
    first_s: float | None
    steady_s: float | None
    least_asked: int
    accuracy: tuple[float, ...]


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


def measure(case: Case) -> Run:
    """One run, until the target is steadily reached or the rounds are over."""
    logging.getLogger("headwater").setLevel(logging.ERROR)
    fleet = fleet_of("digits", ALPHA, case.seed, case.devices)
    asked: Counter[str] = Counter()
    speed = _speeds(tuple(fleet.data), case)

    def takes_s(device: str) -> float:
        asked[device] += 1
        return speed(device)

    description = described(
        "digits",
        case.seed,
        case.rounds,
        model={**MODELS["digits"], "normalise": True},
        cohort={"fraction": FRACTION, "quorum": 1.0, "deadline_s": 600.0, "selection": dict(RULES[case.rule])},
    )
    accuracy: list[float] = []
    clock_s: list[float] = []
    least: list[int] = []
    with Laboratory(description, fleet.data, takes_s=takes_s) as laboratory:
        judge, test = Judge(laboratory.trainer(), {}), Test(fleet.tests[EVERYONE])

        def look(number: int) -> bool:
            accuracy.append(judge.reached(laboratory.course.parameters, test)["accuracy"])
            clock_s.append(laboratory.clock_s)
            least.append(min(asked[device] for device in fleet.data))
            return _steady(accuracy, case.target) is None

        laboratory.run(look)
    first = next((place for place, value in enumerate(accuracy) if value >= case.target), None)
    steady = _steady(accuracy, case.target)
    return Run(
        case,
        None if first is None else first + 1,
        steady,
        None if first is None else clock_s[first],
        None if steady is None else clock_s[steady - 1],
        least[-1],
        tuple(accuracy),
    )


def _steady(accuracy: Sequence[float], target: float) -> int | None:
    """The first round at which the mean of the last `STEADY` is at the target."""
    ends = range(STEADY, len(accuracy) + 1)
    return next((end for end in ends if statistics.fmean(accuracy[end - STEADY : end]) >= target), None)


def _speeds(devices: Sequence[str], case: Case) -> Callable[[str], float]:
    if case.machines == "even":
        return lambda device: 1.0
    slow = set(Random(f"{case.seed}/slow").sample(list(devices), len(devices) // 2))
    draws = {device: Random(f"{case.seed}/{device}/work") for device in devices}
    return lambda device: draws[device].uniform(0.8, 1.2) * (SLOWER if device in slow else 1.0)


def cases_of(rules: Sequence[str], seeds: int, target: float) -> list[Case]:
    machines: dict[str, tuple[Machines, ...]] = {
        rule: ("half-slow", "even") if RULES[rule].get("by") == "utility" else ("half-slow",) for rule in rules
    }
    return [Case(rule, kind, seed, target) for rule in rules for kind in machines[rule] for seed in range(seeds)]


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(runs: Sequence[Run]) -> str:
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.case.rule, run.case.machines), []).append(run)
    head = ("rule", "machines", "rounds to the target", "steadily", "least asked", "seconds", "steadily")
    return aligned([head, *(_line(*names, seeds) for names, seeds in found.items())])


def _line(rule: str, machines: str, seeds: Sequence[Run]) -> tuple[str, ...]:
    return (
        rule,
        machines,
        _each([run.first for run in seeds]),
        _each([run.steady for run in seeds]),
        _each([run.least_asked for run in seeds]),
        _each([run.first_s for run in seeds]),
        _each([run.steady_s for run in seeds]),
    )


def _each(values: Sequence[float | None]) -> str:
    """The mean, and each seed's; a run that never came there has a dash, and there is no mean."""
    known = [value for value in values if value is not None]
    each = " ".join("–" if value is None else f"{value:.0f}" for value in values)
    return f"{statistics.fmean(known):.0f} ({each})" if len(known) == len(values) else f"– ({each})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--only", nargs="+", choices=RULES, default=tuple(RULES), metavar="RULE", help="(all)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--target", type=float, default=TARGET, help=f"test accuracy to reach ({TARGET})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (1)")
    parser.add_argument("--quick", action="store_true", help="one seed, to half of the target")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.target = 1, given.target / 2
    runs = in_processes(measure, cases_of(given.only, given.seeds, given.target), given.jobs)
    print(json.dumps([asdict(run) for run in runs]) if given.json else table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
