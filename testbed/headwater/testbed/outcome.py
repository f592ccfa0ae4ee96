"""Law: what a scenario found is one value, told as a table, a line of JSON or a page; each device alone beside all.

The averages over devices alone are of figures, not of models.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.table import Table

from headwater.testbed.judging import ALARMS, AUC, LOSS, Figures, Measure, measure_of
from headwater.testbed.scenarios import Scenario
from headwater.testbed.spread import Compared

EVERYONE: Final = "everyone's test part"
ALONE: Final = "one device alone, mean"
FLEET: Final = "the fleet"
EACH_ALONE: Final = "each alone"
EACH_OWN: Final = "each its personal one"

Told = Mapping[str, Figures]
"""Figures by test."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`alone` is by device. `by_device` compares what the devices have, by `EACH_ALONE`, `FLEET`, and where the run is
    personal `EACH_OWN`. `curve` is what the devices' test parts said of each round's model: accuracy or loss."""

    scenario: Scenario
    run: str
    fleet: Told
    alone: Mapping[str, Told]
    curve: tuple[float, ...]
    bytes: Mapping[str, Mapping[str, int]]
    wall_s: float
    database: str
    by_device: Mapping[str, Compared] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return self.scenario.run.rounds

    @property
    def tests(self) -> tuple[str, str]:
        return EVERYONE, self.scenario.stranger

    @property
    def measure(self) -> Measure:
        return _measure_of(self.scenario)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """All that were measured, the first first."""
        others = (AUC, *ALARMS) if AUC.name in self.fleet[EVERYONE] else ()
        return (self.measure, *(other for other in others if other != self.measure))

    def alone_mean(self, test: str, measure: Measure) -> float:
        return sum(told[test][measure.name] for told in self.alone.values()) / len(self.alone)


def _measure_of(scenario: Scenario) -> Measure:
    return measure_of(scenario.run.objective, scenario.unit, scenario.scale)


def spread_measure_of(scenario: Scenario) -> Measure:
    """What devices are compared by: a figure that their own test parts have."""
    measure = _measure_of(scenario)
    return LOSS if measure == AUC else measure


def rows(outcome: Outcome, measure: Measure) -> list[tuple[str, ...]]:
    """By model: each device alone, their mean, and the fleet; a cell a test."""
    each = [
        (f"{name} alone", *(measure.told(told[test][measure.name]) for test in outcome.tests))
        for name, told in outcome.alone.items()
    ]
    mean = (ALONE, *(measure.told(outcome.alone_mean(test, measure)) for test in outcome.tests))
    fleet = (FLEET, *(measure.told(outcome.fleet[test][measure.name]) for test in outcome.tests))
    return [*each, mean, fleet]


def alarm_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """How alarms fare, a row each test and model: the alone by their own thresholds, the fleet by the federated one."""
    measures, told = (AUC, *ALARMS), []
    for test in outcome.tests:
        told.append((ALONE, _short(test), *(m.told(outcome.alone_mean(test, m)) for m in measures)))
        told.append((FLEET, _short(test), *(m.told(outcome.fleet[test][m.name]) for m in measures)))
    return told


def spread_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """How models spread over devices: a row each, on one's own test part and on everyone's, mean and worst tenth."""
    told = spread_measure_of(outcome.scenario).told
    return [
        (name, *(told(value) for part in (of.own, of.everyone) for value in (part.mean, part.worst_decile)))
        for name, of in outcome.by_device.items()
    ]


def _short(test: str) -> str:
    return "everyone" if test == EVERYONE else test


SPREAD_HEADS: Final = ("model", "own part", "worst tenth", "everyone's part", "worst tenth")
ALARM_HEADS: Final = ("model", "on", "AUC", *(measure.title for measure in ALARMS))


def tables(outcome: Outcome) -> list[Table]:
    """For a terminal."""
    table = Table(title=f"{outcome.measure.title} after {outcome.rounds} rounds", title_justify="left")
    table.add_column("model")
    for test in outcome.tests:
        table.add_column(f"on {test}", justify="right")
    for row in rows(outcome, outcome.measure):
        table.add_row(*row, style={ALONE: None, FLEET: "bold green"}.get(row[0], "dim"))
    spread = Table(
        title=f"{spread_measure_of(outcome.scenario).title} over the devices, mean and worst tenth",
        title_justify="left",
    )
    for place, head in enumerate(SPREAD_HEADS):
        spread.add_column(head, justify="right" if place else "left")
    for row in spread_rows(outcome):
        spread.add_row(*row)
    first = [table, spread] if outcome.by_device else [table]
    if AUC not in outcome.measures:
        return first
    alarms = Table(title="Alarms: alone by one's own threshold, the fleet by the federated one", title_justify="left")
    for head in ALARM_HEADS:
        alarms.add_column(head, justify="left" if head in ("model", "on") else "right", no_wrap=True)
    for row in alarm_rows(outcome):
        alarms.add_row(*row, style="bold green" if row[0] == FLEET else None)
    return [*first, alarms]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For a program; figures are unscaled."""
    unseen = f"unseen_{outcome.scenario.member}"
    return {
        "scenario": outcome.scenario.name,
        "rounds": outcome.rounds,
        "devices": len(outcome.scenario.devices),
        "gateways": len(outcome.scenario.tree().gateways),
        **{measure.name: _compared(outcome, measure, unseen) for measure in outcome.measures},
        "by_device": {name: asdict(told) for name, told in outcome.by_device.items()},
        "wall_s": round(outcome.wall_s, 2),
        "bytes": outcome.bytes,
        "history": outcome.database,
        "run_id": outcome.run,
        "seed": outcome.scenario.run.seed,
    }


def _compared(outcome: Outcome, measure: Measure, unseen: str) -> dict[str, float]:
    everyone, stranger = outcome.tests
    return {
        "local_mean": round(outcome.alone_mean(everyone, measure), 4),
        "global": round(outcome.fleet[everyone][measure.name], 4),
        unseen: round(outcome.fleet[stranger][measure.name], 4),
        f"local_mean_{unseen}": round(outcome.alone_mean(stranger, measure), 4),
    }
