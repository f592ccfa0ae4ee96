"""A run's course, from what was heard and from the history, and the charts that are drawn of it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headwater.dashboard.pages.compare import along_of
from headwater.dashboard.view import charts
from headwater.dashboard.view.course import Point, heard_course, merged, thinned, trained
from headwater.dashboard.view.runs import RunRow, all_runs
from headwater.dashboard.view.state import Closed, Fleet
from headwater.dashboard.view.summary import run_figures
from headwater.schemas.statuses import DeviceFigures, Figures, RoundStatus, Times
from support.told import heard, round_status, run

STYLE = charts.theme(dark=False)


def point(number: int, **changes: Any) -> Point:
    common: dict[str, Any] = {
        "round": number,
        "attempt": 0,
        "task": "train",
        "state": "closed",
        "at": float(number),
        "elapsed_s": 2.0,
        "cohort": 2,
        "received": 2,
        "refused": 0,
        "devices": 2,
        "examples": 60,
        "bytes_down": 1_000_000,
        "bytes_up": 500_000,
    }
    return Point(**common | changes)


def closed(number: int, **changes: object) -> RoundStatus:
    return round_status("cloud", number, "closed", **changes)


def test_a_test_figure_belongs_to_the_model_that_was_measured() -> None:
    """Round 2 measures what round 1 made; the last model is measured in a round of its own."""
    spread = {"test": Figures(by_device=DeviceFigures(devices=2, mean=0.7, worst_decile=0.4))}
    told = (
        closed(1, metrics={"train/loss": 1.0, "test/correct": 0.1}),
        closed(2, metrics={"train/loss": 0.5, "test/correct": 0.7, "test/loss": 0.9}, figures=spread),
        closed(3, metrics={"test/correct": 0.8}, task="evaluate"),
    )
    course = heard_course(Closed(status, float(status.round)) for status in told)
    assert [(p.round, p.loss, p.accuracy) for p in trained(course)] == [(1, 1.0, 0.7), (2, 0.5, 0.8)]
    assert (course[0].mean, course[0].worst, course[0].test_loss) == (0.7, 0.4, 0.9)
    assert course[2].accuracy is None


def test_the_history_and_what_was_heard_make_one_course() -> None:
    times = Times(train_s=1, transfer_s=0.5, wait_s=0.5)
    heard_points = (point(2, loss=0.5, times=times), point(3, loss=0.4))
    course = merged((point(1, loss=1.0), point(2, loss=0.5, accuracy=0.8)), heard_points)
    assert [p.round for p in course] == [1, 2, 3]
    assert (course[1].accuracy, course[1].times) == (0.8, times)


def test_an_attempt_that_failed_stands_beside_the_one_that_did_not() -> None:
    course = merged((), (point(1, attempt=0, state="failed"), point(1, attempt=1)))
    assert [(p.attempt, p.state) for p in course] == [(0, "failed"), (1, "closed")]
    assert [p.attempt for p in trained(course)] == [1]


def test_a_long_course_is_thinned_out_and_keeps_its_ends() -> None:
    shown = thinned(tuple(point(number) for number in range(1, 5001)), 400)
    assert (len(shown), shown[0].round, shown[-1].round) == (400, 1, 5000)
    assert len({p.round for p in shown}) == 400


def test_runs_are_each_there_once_newest_first_and_as_they_were_heard_last() -> None:
    recorded = (RunRow("r1", "wear", "running", 1, 9, 5.0), RunRow("r0", "wear", "finished", 9, 9, 1.0))
    fleet = heard(
        (1.0, run("finished", 9, name="r0")), (2.0, run("paused", 4, name="r1")), (3.0, run("running", 1, name="r2"))
    )
    assert [(row.id, row.state, row.round) for row in all_runs(recorded, fleet)] == [
        ("r2", "running", 1),
        ("r1", "paused", 4),
        ("r0", "finished", 9),
    ]
    assert all_runs((), Fleet()) == ()


# ── charts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(options: charts.Options) -> dict[str, Any]:
    return {series["name"]: series["data"] for series in options["series"]}


def test_losses_have_a_place_for_each_round_that_made_a_model() -> None:
    course = (point(1, loss=1.0, test_loss=1.2), point(2, loss=0.5), point(2, attempt=1, state="failed"))
    assert lines(charts.losses(course, STYLE)) == {"training loss": [[1, 1.0], [2, 0.5]], "test loss": [[1, 1.2]]}


def test_the_band_goes_from_the_worst_tenth_up_to_the_mean() -> None:
    options = charts.accuracies((point(1, accuracy=0.9, mean=0.85, worst=0.6),), STYLE)
    floor, area = [series for series in options["series"] if series.get("stack") == "band"]
    assert (floor["data"], area["data"]) == ([[1, 0.6]], [[1, 0.25]])
    assert "" not in options["legend"]["data"]
    assert options["yAxis"]["max"] == 1.0


def test_a_rounds_seconds_are_stacked_in_parts_that_make_it() -> None:
    told = Times(train_s=1.0, transfer_s=0.5, wait_s=0.25, aggregate_s=0.25)
    options = charts.round_times((point(1, elapsed_s=1.75, times=told), point(2, attempt=1, state="failed")), STYLE)
    assert lines(options) == {
        "train": [1.0, None],
        "transfer": [0.5, None],
        "wait": [0.25, None],
        "aggregate": [0.25, None],
        "in all": [None, 2.0],
    }
    assert options["xAxis"]["data"] == ["1", "2 try 2 failed"]


@pytest.mark.parametrize(
    ("axis", "places"),
    [("round", [1, 2]), ("seconds", [2.0, 4.0]), ("bytes", [1.5, 3.0])],
)
def test_runs_are_compared_along(axis: charts.Axis, places: list[float]) -> None:
    courses = {"a": (point(1, loss=1.0), point(2, loss=0.5))}
    (line,) = charts.compared(courses, STYLE, axis=axis, value="loss")["series"]
    assert line["data"] == [[places[0], 1.0], [places[1], 0.5]]


def test_what_runs_cost_begins_with_nothing_and_ends_at_a_number_that_can_be_read() -> None:
    courses = {"a": (point(1, loss=1.0), point(2, loss=0.5))}
    for axis in ("seconds", "bytes"):
        along = charts.compared(courses, STYLE, axis=axis, value="loss")["xAxis"]
        assert (along["min"], along["max"]) == (0, None)
    assert charts.compared(courses, STYLE, axis="round", value="loss")["xAxis"]["min"] == "dataMin"


@pytest.mark.parametrize(
    ("asked", "along"), [("bytes", "bytes"), ("seconds", "seconds"), ("miles", "round"), (None, "round")]
)
def test_an_address_says_along_what(asked: str | None, along: charts.Axis) -> None:
    assert along_of(asked) == along


def test_bars_beside_each_other_can_be_told_apart() -> None:
    course = tuple(point(number) for number in range(1, 500))
    bars = sum(len(series["data"]) for series in charts.transfers(course, STYLE)["series"])
    assert bars == charts.MAX_BARS


def test_lines_beside_each_other_differ_in_more_than_colour() -> None:
    courses = {name: (point(1, loss=1.0),) for name in "abcdef"}
    told = charts.compared(courses, STYLE, axis="round", value="loss")["series"]
    assert len({series["color"] for series in told}) == len({series["symbol"] for series in told}) == 6


@pytest.mark.parametrize("dark", [False, True])
def test_text_on_a_chart_can_be_read(dark: bool) -> None:
    """WCAG 2: 4.5 for text, 3 for the lines themselves."""
    style = charts.theme(dark)
    assert contrast(style.ink, style.page) > 7
    assert contrast(style.faint, style.page) > 4.5
    assert all(contrast(colour, style.page) > 3 for colour in style.series)


def test_a_privacy_budget_is_shown_as_rounds_tell_it() -> None:
    """Heard and recorded alike; where a run spends none there is no word of it."""
    told = (closed(1, epsilon_spent=0.5), closed(2, epsilon_spent=0.75), closed(3))
    course = merged((point(3, epsilon=0.875),), heard_course(Closed(status, float(status.round)) for status in told))
    assert lines(charts.budget(course, STYLE))["ε spent"] == [[1, 0.5], [2, 0.75], [3, 0.875]]
    assert run_figures(None, course)["ε spent"] == "0.88"
    assert "ε spent" not in run_figures(None, (point(1, loss=1.0),))


def test_nothing_to_show_is_known_to_be_nothing() -> None:
    for draw in (charts.losses, charts.accuracies, charts.round_times, charts.transfers, charts.budget):
        assert charts.is_empty(draw((), STYLE)), draw
    assert not charts.is_empty(charts.losses((point(1, loss=1.0),), STYLE))


def test_a_chart_goes_over_the_wire_as_it_is() -> None:
    course = tuple(replace(point(number), loss=1 / number, accuracy=1 - 1 / number) for number in range(1, 900))
    options = charts.accuracies(course, STYLE)
    assert json.loads(json.dumps(options, allow_nan=False)) == options
    assert len(json.dumps(options)) < 20_000


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
