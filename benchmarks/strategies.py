"""Law: strategies are compared by accuracy in each round, on the same shards, each as its own tuning found it best.

Ten devices below two gateways, five local epochs of batches of 16, everyone in every round, κ2 = 1; real devices,
relays and the cloud's step in one process (`headwater.testbed.laboratory`). What each is tuned with was chosen by
`--tune`: from GRIDS, on Dirichlet 0.1 and a seed that is not reported, by the mean accuracy over the second half of the
rounds. *unequal work*: the devices train one to ten epochs, each always as many.

    python benchmarks/strategies.py --plot docs/images/strategies.svg
    python benchmarks/strategies.py --only scaffold --json
    python benchmarks/strategies.py --tune
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from fleets import DEVICES, EVERYONE, UNSEEN, Task, described, fleet_of, in_processes
from tables import aligned, plain_svg

from headwater.node.child import Assignment, Decline
from headwater.schemas.errors import RunFailed
from headwater.schemas.learning import StrategyName
from headwater.schemas.messages import Delta
from headwater.testbed.judging import Judge, Test
from headwater.testbed.laboratory import Child, Laboratory

ALPHAS: Final = (0.1, 0.3, 1.0)
ROUNDS: Final = 40
EVERY: Final = 2
"""Rounds from one measurement to the next."""

EPOCHS: Final = 5
SHOWN: Final = 0.2
"""How far below the best accuracy a figure goes."""

LEARNING_RATES: Final = (0.1, 0.3, 0.6)
"""Of devices, that are tried."""

TUNED_ON: Final = (0.1, 9)
"""Alpha and seed."""

TASKS: Final[tuple[Task, ...]] = get_args(Task)

Work = Literal["even", "unequal"]
UNEQUAL: Final[tuple[StrategyName, ...]] = ("fedavg", "fedprox", "fednova")
"""Who is measured where devices do unequal work too, on digits."""


@dataclass(frozen=True)
class Tuning:
    """A device's learning rate, and what the strategy's section has besides its name."""

    learning_rate: float
    own: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join([f"η_l {self.learning_rate:g}", *(f"{name} {value:g}" for name, value in self.own.items())])


def _grid(**own: Sequence[float]) -> tuple[Tuning, ...]:
    values = [dict(zip(own, chosen, strict=True)) for chosen in itertools.product(*own.values())]
    return tuple(Tuning(rate, chosen) for rate in LEARNING_RATES for chosen in values)


GRIDS: Final[Mapping[StrategyName, tuple[Tuning, ...]]] = {
    "fedavg": _grid(),
    "fedavgm": _grid(momentum=(0.5, 0.9)),
    "fedadagrad": _grid(learning_rate=(0.03, 0.1)),
    "fedadam": _grid(learning_rate=(0.01, 0.03)),
    "fedyogi": _grid(learning_rate=(0.01, 0.03)),
    "fedprox": _grid(mu=(0.01, 0.1, 1.0)),
    "scaffold": _grid(),
    "fednova": _grid(),
    "feddyn": _grid(alpha=(0.01, 0.1, 1.0)),
}

STRATEGIES: Final[tuple[StrategyName, ...]] = tuple(GRIDS)
"""All but signsgd, whose updates are votes and no means."""

CHOSEN: Final[Mapping[Task, Mapping[StrategyName, Tuning]]] = {
    "digits": {
        "fedavg": Tuning(0.6),
        "fedavgm": Tuning(0.1, {"momentum": 0.5}),
        "fedadagrad": Tuning(0.1, {"learning_rate": 0.1}),
        "fedadam": Tuning(0.6, {"learning_rate": 0.03}),
        "fedyogi": Tuning(0.6, {"learning_rate": 0.03}),
        "fedprox": Tuning(0.6, {"mu": 0.01}),
        "scaffold": Tuning(0.3),
        "fednova": Tuning(0.6),
        "feddyn": Tuning(0.3, {"alpha": 0.1}),
    },
    "wearables": {
        "fedavg": Tuning(0.6),
        "fedavgm": Tuning(0.3, {"momentum": 0.9}),
        "fedadagrad": Tuning(0.1, {"learning_rate": 0.1}),
        "fedadam": Tuning(0.1, {"learning_rate": 0.03}),
        "fedyogi": Tuning(0.3, {"learning_rate": 0.03}),
        "fedprox": Tuning(0.3, {"mu": 0.01}),
        "scaffold": Tuning(0.1),
        "fednova": Tuning(0.6),
        "feddyn": Tuning(0.3, {"alpha": 0.01}),
    },
}


@dataclass(frozen=True)
class Case:
    """One run."""

    task: Task
    alpha: float
    strategy: StrategyName
    seed: int
    tuning: Tuning
    work: Work = "even"
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Run:
    """Accuracy on everyone's test part by measured round, and of the last model on the unseen, where there is one."""

    case: Case
    accuracy: tuple[float, ...]
    unseen: float | None = None

    @property
    def late(self) -> float:
        """The mean over the second half of the rounds; 0 if nothing came of it."""
        return statistics.fmean(self.accuracy[len(self.accuracy) // 2 :]) if self.accuracy else 0.0


@dataclass(frozen=True)
class Row:
    """One strategy's runs, a seed each."""

    task: Task
    work: Work
    alpha: float
    strategy: StrategyName
    runs: tuple[Run, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """By measured round."""
        return tuple(float(value) for value in np.mean([run.accuracy for run in self.runs], axis=0))


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Hurried:
    """A device that always trains so many epochs, whatever the plan says."""

    device: Child
    epochs: int

    async def work(self, assignment: Assignment) -> Delta | Decline:
        plan = assignment.plan.model_copy(update={"local_epochs": self.epochs})
        return await self.device.work(replace(assignment, plan=plan))


def measure(case: Case) -> Run:
    """Raises RunFailed where the model is no longer finite."""
    logging.getLogger("headwater").setLevel(logging.ERROR)
    fleet = fleet_of(case.task, case.alpha, case.seed)
    local = {"batch_size": 16, "epochs": EPOCHS, "learning_rate": case.tuning.learning_rate}
    strategy = {"name": case.strategy, **case.tuning.own}
    description = described(case.task, case.seed, case.rounds, local=local, strategy=strategy)
    with Laboratory(description, fleet.data, clusters=fleet.two_gateways) as laboratory:
        if case.work == "unequal":
            _hurry(laboratory, case.seed)
        judge, accuracy = Judge(laboratory.trainer(), {}), []

        def judged(test: str) -> float:
            return judge.reached(laboratory.course.parameters, Test(fleet.tests[test]))["accuracy"]

        def look(number: int) -> bool:
            if number % EVERY == 0:
                accuracy.append(judged(EVERYONE))
            return True

        laboratory.run(look)
        return Run(case, tuple(accuracy), judged(UNSEEN) if UNSEEN in fleet.tests else None)


def _hurry(laboratory: Laboratory, seed: int) -> None:
    epochs = iter(np.random.default_rng(seed).permutation(DEVICES) + 1)
    for host in laboratory.hosts["cloud"].below.values():
        host.children = {name: Hurried(child, int(next(epochs))) for name, child in host.children.items()}


def tried(case: Case) -> Run:
    """As `measure`; a model that is no longer finite has no accuracy."""
    try:
        return measure(case)
    except RunFailed:
        return Run(case, ())


def cases_of(
    tasks: Sequence[Task], alphas: Sequence[float], strategies: Sequence[StrategyName], seeds: int, rounds: int
) -> list[Case]:
    """All that are reported, seeds together."""
    even = [
        Case(task, alpha, name, seed, CHOSEN[task][name], "even", rounds)
        for task in tasks
        for alpha in alphas
        for name in strategies
        for seed in range(seeds)
    ]
    return even + [replace(case, work="unequal") for case in even if case.task == "digits" and case.strategy in UNEQUAL]


def rows_of(runs: Sequence[Run]) -> list[Row]:
    found: dict[tuple[Task, Work, float, StrategyName], list[Run]] = {}
    for run in runs:
        case = run.case
        found.setdefault((case.task, case.work, case.alpha, case.strategy), []).append(run)
    return [Row(*names, tuple(of_row)) for names, of_row in found.items()]


def tuned(
    tasks: Sequence[Task], strategies: Sequence[StrategyName], rounds: int, jobs: int
) -> dict[tuple[Task, StrategyName], list[Run]]:
    """Of each strategy a run for each point of its grid, the best first."""
    alpha, seed = TUNED_ON
    cases = [
        Case(task, alpha, name, seed, tuning, rounds=rounds)
        for task in tasks
        for name in strategies
        for tuning in GRIDS[name]
    ]
    found: dict[tuple[Task, StrategyName], list[Run]] = {}
    for run in in_processes(tried, cases, jobs):
        found.setdefault((run.case.task, run.case.strategy), []).append(run)
    return {names: sorted(runs, key=lambda run: -run.late) for names, runs in found.items()}


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: Sequence[Row]) -> str:
    """Accuracy after a tenth, a quarter, half and all of the rounds."""
    measured = len(rows[0].mean)
    places = sorted({max(1, measured * part // 20) for part in (2, 5, 10, 20)})
    head = ("data", "work", "Dirichlet", "strategy", *(f"round {EVERY * place}" for place in places), "unseen")
    return aligned([head, *(_line(row, places) for row in rows)])


def _line(row: Row, places: Sequence[int]) -> tuple[str, ...]:
    unseen = [run.unseen for run in row.runs if run.unseen is not None]
    early = [f"{row.mean[place - 1]:.3f}" for place in places[:-1]]
    last = [run.accuracy[-1] for run in row.runs]
    return (row.task, row.work, f"{row.alpha:g}", row.strategy, *early, _spread(last), _spread(unseen))


def _spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`."""
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f} ± {statistics.pstdev(values):.3f}"


def tuning_table(found: Mapping[tuple[Task, StrategyName], Sequence[Run]]) -> str:
    head = ("data", "strategy", "best", "late accuracy", "the others")
    return aligned([head, *(_tuning_line(*names, runs) for names, runs in found.items())])


def _tuning_line(task: Task, strategy: StrategyName, runs: Sequence[Run]) -> tuple[str, ...]:
    best, *others = runs
    rest = "; ".join(f"{run.case.tuning}: {run.late:.3f}" for run in others)
    return (task, strategy, str(best.case.tuning), f"{best.late:.3f}", rest)


def told(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For a program."""
    return [
        {
            **{name: getattr(row, name) for name in ("task", "work", "alpha", "strategy")},
            "tuning": asdict(row.runs[0].case.tuning),
            "rounds": [EVERY * (place + 1) for place in range(len(row.mean))],
            "runs": [{"seed": r.case.seed, "accuracy": r.accuracy, "unseen": r.unseen} for r in row.runs],
        }
        for row in rows
    ]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Mean accuracy by round: a row of panels for each task, a column for each alpha."""
    even = [row for row in rows if row.work == "even"]
    tasks = list(dict.fromkeys(row.task for row in even))
    alphas = list(dict.fromkeys(row.alpha for row in even))
    with plain_svg() as pyplot:
        figure, panels = pyplot.subplots(
            len(tasks), len(alphas), figsize=(9, 2.8 * len(tasks)), sharey="row", squeeze=False, layout="constrained"
        )
        for row in even:
            panel = panels[tasks.index(row.task)][alphas.index(row.alpha)]
            rounds = [EVERY * (place + 1) for place in range(len(row.mean))]
            panel.plot(rounds, row.mean, linewidth=1, label=row.strategy, **_line_of(row.strategy))
            panel.set(title=f"{row.task}, Dirichlet {row.alpha:g}")
        for line, task in zip(panels, tasks, strict=True):
            # Where most of them are; who begins slowly comes in from below.
            line[0].set_ylim(bottom=max(max(row.mean) for row in even if row.task == task) - SHOWN)
        for panel in panels[-1]:
            panel.set_xlabel("rounds")
        for panel in panels[:, 0]:
            panel.set_ylabel("accuracy")
        panels[0][-1].legend(fontsize="x-small", frameon=False, ncols=2, loc="lower right")
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _line_of(strategy: StrategyName) -> dict[str, str]:
    """FedAvg, which the others are compared with, is black."""
    place = STRATEGIES.index(strategy)
    return {"color": "black" if not place else f"C{place - 1}", "linestyle": ("-", "--")[place % 2]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=STRATEGIES, metavar="NAME", help="(all)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="(both)")
    parser.add_argument("--alphas", nargs="+", type=float, default=ALPHAS, help="of the Dirichlet (0.1 0.3 1)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (3)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"({ROUNDS})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (1)")
    parser.add_argument("--quick", action="store_true", help="one seed, Dirichlet 0.3, four rounds")
    parser.add_argument("--tune", action="store_true", help="what each strategy's grid gives, and nothing else")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy by round; needs the extra plots")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.alphas, given.rounds = 1, (0.3,), 4
    if given.tune:
        print(tuning_table(tuned(given.tasks, given.only, given.rounds, given.jobs)))
        return 0
    cases = cases_of(given.tasks, given.alphas, given.only, given.seeds, given.rounds)
    rows = rows_of(in_processes(measure, cases, given.jobs))
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps(told(rows)) if given.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
