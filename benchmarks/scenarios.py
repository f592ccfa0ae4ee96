"""Law: a scenario's figures stand beside what the same trainer reaches without a tree: each alone, all in one place.

Each scenario is played as `headwater demo` plays it. Beside it, in this process: all training data in one place, each
device alone, the average of the devices after 10 rounds and at the end; then with nobody left out, and with each left
out in turn, so that the unseen one is nobody's choice.

    python benchmarks/scenarios.py driving                       # the references, as a table
    python benchmarks/scenarios.py --write docs/scenarios        # all scenarios, each a page and a figure
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from tables import aligned

from headwater.device.sources.dataset import Dataset
from headwater.schemas.errors import HeadwaterError
from headwater.testbed.baselines import Parameters, averaged, together, trainer_of
from headwater.testbed.demo import everyones, played, test_of
from headwater.testbed.judging import Judge, measure_of
from headwater.testbed.judging import Test as Judging
from headwater.testbed.page import markdown, write_page
from headwater.testbed.scenarios import UNSEEN, Scenario, names, scenario

EARLY: Final = 10
HEADS: Final = ("in this process", "own test part", "everyone's", "the unseen")
EVERYONE: Final = "everyone"


@dataclass(frozen=True)
class Row:
    """A way of training, and its figures on each test; None where there is none."""

    name: str
    own: float | None
    everyone: float | None
    unseen: float | None


class Bench:
    """One scenario's data and judge, all in this process."""

    def __init__(self, about: Scenario) -> None:
        self.about = about
        self.measure = measure_of(about.run.objective, about.unit, about.scale)
        self.tests: Mapping[str, Judging] = {name: test_of(about.sources[name]) for name in (*about.devices, UNSEEN)}
        self.trainer, self.initial = trainer_of(about.run)
        self.judge = Judge(self.trainer, {**self.tests, EVERYONE: everyones(self.tests)})

    def trained(self, devices: Mapping[str, Dataset]) -> tuple[Parameters, Parameters]:
        """The average of some devices after `EARLY` rounds and after all."""
        seen: dict[int, Parameters] = {}
        last = averaged(self.trainer, self.initial, self.about.run, devices, look=seen.__setitem__)
        return seen[min(EARLY, self.about.run.rounds)], last

    def figures(self, model: Parameters) -> dict[str, float]:
        """By test: each device's, the unseen one's, everyone's."""
        # The measure does not depend on the threshold, which must be some.
        told = self.judge.figures(model, 0.0)
        return {name: figures[self.measure.name] for name, figures in told.items()}

    def rows(self) -> list[Row]:
        data = {name: test.data for name, test in self.tests.items()}
        fleet = {name: data[name] for name in self.about.devices}
        alone = {name: self.figures(self.trained({name: data[name]})[1]) for name in data}
        early, last = map(self.figures, self.trained(fleet))
        whole = self.figures(self.trained({"all": together(list(fleet.values()))})[1])
        with_all = [self.figures(model) for model in self.trained(data)]
        all_whole = self.figures(self.trained({"all": together(list(data.values()))})[1])
        return [
            Row("each device alone, mean", *self._alone(alone)),
            _row(f"the average, {EARLY} rounds", early, fleet),
            _row(f"the average, {self.about.run.rounds} rounds", last, fleet),
            _row("all data in one place", whole, fleet),
            _row(f"nobody left out: the average, {EARLY} rounds", with_all[0], data, unseen=False),
            _row(f"nobody left out: the average, {self.about.run.rounds} rounds", with_all[1], data, unseen=False),
            _row("nobody left out: all data in one place", all_whole, data, unseen=False),
            Row("each left out in turn: one alone, mean", None, None, self._strangers_to_one(alone)),
            Row("each left out in turn: the average", None, None, self._left_out_in_turn(data)),
        ]

    def _alone(self, alone: Mapping[str, Mapping[str, float]]) -> tuple[float, float, float]:
        own = fmean(alone[name][name] for name in self.about.devices)
        others = (fmean(alone[name][test] for name in self.about.devices) for test in (EVERYONE, UNSEEN))
        everyone, unseen = others
        return own, everyone, unseen

    def _strangers_to_one(self, alone: Mapping[str, Mapping[str, float]]) -> float:
        return fmean(told[other] for name, told in alone.items() for other in alone if other != name)

    def _left_out_in_turn(self, data: Mapping[str, Dataset]) -> float:
        found = []
        for name in data:
            model = self.trained({other: part for other, part in data.items() if other != name})[1]
            found.append(self.figures(model)[name])
        return fmean(found)


def _row(name: str, told: Mapping[str, float], devices: Mapping[str, Dataset], *, unseen: bool = True) -> Row:
    return Row(name, fmean(told[device] for device in devices), told[EVERYONE], told[UNSEEN] if unseen else None)


def cells(bench: Bench, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    def cell(value: float | None) -> str:
        return "–" if value is None else bench.measure.told(value)

    return [(row.name, cell(row.own), cell(row.everyone), cell(row.unseen)) for row in rows]


def references(bench: Bench, rows: Sequence[Row]) -> str:
    """The page's paragraph."""
    return (
        "Beside it the same trainer in one process, without a tree, by the same measure\n"
        f"(`python benchmarks/scenarios.py {bench.about.name}`):\n\n{markdown(HEADS, cells(bench, rows))}"
    )


def written(about: Scenario, bench: Bench, rows: Sequence[Row], folder: Path) -> None:
    """Play the scenario and write its page."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as work:
        outcome = played(about, Path(work), Console(stderr=True, quiet=True))
    if not write_page(outcome, folder / f"{about.name}.md", references(bench, rows)):
        print("there is no figure; pip install 'headwater[plots]'", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="by default all")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="play them, and write a page and a figure each")
    parser.add_argument("--json", action="store_true", help="a line of JSON each")
    given = parser.parse_args()
    try:
        for name in given.scenarios or names():
            about = scenario(name)
            bench = Bench(about)
            rows = bench.rows()
            if given.json:
                line = {"scenario": name, "measure": bench.measure.name, "rows": [asdict(row) for row in rows]}
                print(json.dumps(line), flush=True)
            else:
                print(f"{name}: {bench.measure.title}\n{aligned([HEADS, *cells(bench, rows)])}\n", flush=True)
            if given.write:
                written(about, bench, rows, given.write)
    except HeadwaterError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
