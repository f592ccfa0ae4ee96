"""What a device tells of itself: labels with noise that stays, a battery's level, and when either is told anew."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from headwater.device.sensors import Sensors
from headwater.device.sharing import Sharing, Told, classes_of, counted, is_new, with_noise
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset, dataset
from headwater.device.state import LocalState
from headwater.device.telling import READ_BATTERY_EVERY_S, Battery, Word, is_noticeable
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import SharingSettings
from headwater.schemas.sources import SourceSpec
from headwater.schemas.statuses import DataStatus

SPEC: TypeAdapter[SourceSpec] = TypeAdapter(SourceSpec)


def labelled(*labels: int) -> Dataset:
    return dataset(np.zeros((len(labels), 1)), np.array(labels, np.int64), np.zeros((0, 1)), [])


def spec(**fields: object) -> SourceSpec:
    return SPEC.validate_python(fields)


def sharing(folder: Path, epsilon: float = 1.0, seed: int = 1) -> Sharing:
    draws = np.random.default_rng(seed)
    return Sharing({"d": 3}, epsilon, LocalState(folder), lambda: draws)


def told(by: Sharing) -> tuple[float, ...]:
    return by.with_histogram("d", DataStatus(train_examples=1, test_examples=0)).histogram


# ── counting ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(labelled(0, 2, 2), [1, 0, 2], id="each label"),
        pytest.param(labelled(0, 3, 7), [1, 0, 0], id="labels beyond what was said"),
        pytest.param(dataset([[0.0]], [1.5], [[0.0]], [1.5]), [0, 0, 0], id="numbers are no labels"),
    ],
)
def test_examples_by_label(data: Dataset, expected: list[int]) -> None:
    assert counted(data, 3).tolist() == expected


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 5.0])
def test_noise_has_the_scale_that_epsilon_says(epsilon: float) -> None:
    """Of Laplace noise the mean distance from 0 is its scale; rounding adds up to a quarter at small scales."""
    noise = np.array(with_noise(np.zeros(40_000, np.int64), epsilon, np.random.default_rng(3)))
    assert np.array_equal(noise, np.rint(noise))
    assert abs(noise.mean()) < 0.05 / epsilon
    if epsilon <= 1:
        assert np.abs(noise).mean() == pytest.approx(1 / epsilon, rel=0.05)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 2))
def test_one_example_is_never_worth_another_telling_of_many(labels: list[int], more: int) -> None:
    before, after = counted(labelled(*labels), 3), counted(labelled(*labels, more), 3)
    known = Told(before, 1.0, (0.0, 0.0, 0.0))
    assert not is_new(known, before, 1.0)
    assert is_new(known, before, 2.0)
    assert is_new(known, after, 1.0) == (len(labels) < 10)


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_data_are_told_of_in_the_same_words_also_behind_a_restart(tmp_path: Path) -> None:
    source = Fixed(labelled(*[0] * 50, *[1] * 30))
    first = sharing(tmp_path, seed=1)
    assert told(first) == ()
    await first.look({"d": source})
    said = told(first)
    assert len(said) == 3
    assert np.abs(np.array(said) - [50, 30, 0]).max() < 12
    for again in (first, sharing(tmp_path, seed=2)):
        await again.look({"d": source})
        again.saw("d", labelled(*[0] * 52, *[1] * 30))
        assert told(again) == said
    noisier = sharing(tmp_path, epsilon=0.5, seed=2)
    await noisier.look({"d": source})
    assert told(noisier) != said


async def test_data_that_changed_are_told_of_anew_and_from_then_on_the_same(tmp_path: Path) -> None:
    by = sharing(tmp_path)
    await by.look({"d": Fixed(labelled(*[0] * 50, *[1] * 50))})
    said = told(by)
    by.saw("d", labelled(*[0] * 50, *[2] * 50))
    shifted = told(by)
    assert shifted[2] - said[2] > 25
    restarted = sharing(tmp_path, seed=9)
    restarted.saw("d", labelled(*[0] * 50, *[2] * 50))
    assert told(restarted) == shifted


async def test_what_was_kept_and_is_damaged_is_drawn_anew(tmp_path: Path) -> None:
    data = labelled(0, 1, 2)
    sharing(tmp_path).saw("d", data)
    (kept,) = (tmp_path / "told").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    again = sharing(tmp_path)
    again.saw("d", data)
    assert len(told(again)) == 3


def test_of_data_that_are_not_shared_nothing_is_kept(tmp_path: Path) -> None:
    by = Sharing({}, 1.0, LocalState(tmp_path / "state"))
    by.saw("d", labelled(0, 1))
    assert told(by) == ()
    assert not (tmp_path / "state").exists()


SOURCES = {
    "watch": (spec(kind="watch", persons=(1,)), 7),
    "digits": (spec(kind="digits", devices=2, index=0), 10),
    "named": (spec(kind="file", path=Path("x.csv"), features=("a",), target="t", labels=("p", "q", "r")), 3),
    "numbered": (spec(kind="file", path=Path("x.csv"), features=("a",), target="t", classes=4), 4),
    "a number": (spec(kind="file", path=Path("x.csv"), features=("a",), target="t"), None),
}


def test_how_many_labels_there_are_is_the_sources_word() -> None:
    found = classes_of(SharingSettings(), {key: source for key, (source, _) in SOURCES.items()})
    assert found == {key: classes for key, (_, classes) in SOURCES.items() if classes}


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ({}, r"sharing\.classes\.own: how many labels there are is not said; give their number, 0 for none"),
        ({"own": 257}, r"sharing\.histogram: own has 257 labels; at most 256"),
        ({"own": 2, "other": 2}, r"sharing\.classes\.other: this device has no such data"),
    ],
)
def test_what_would_be_shared_is_said_or_refused(classes: dict[str, int], problem: str) -> None:
    own = spec(kind="python", entry="m:f")
    with pytest.raises(ConfigError, match=problem):
        classes_of(SharingSettings(classes=classes), {"own": own})
    assert classes_of(SharingSettings(classes={"own": 3}), {"own": own}) == {"own": 3}
    assert classes_of(SharingSettings(classes={"own": 0}), {"own": own}) == {}


# ── when it is told ─────────────────────────────────────────────────────────────────────────────────────────────


def word(train: int | None = None, test: int = 0, battery: float | None = None, *histogram: float) -> Word:
    if train is None:
        return Word({}, battery)
    return Word({"k": DataStatus(train_examples=train, test_examples=test, histogram=histogram)}, battery)


@pytest.mark.parametrize(
    ("before", "now", "is_told"),
    [
        (word(), word(1), True),
        (word(1), word(), True),
        (word(100, 10), word(110, 11), False),
        (word(100, 10), word(111, 10), True),
        (word(100), word(100, 1), True),
        (word(), word(), False),
        (word(100, 0, None, 3.0), word(100, 0, None, 3.0), False),
        (word(100), word(100, 0, None, 3.0), True),
        (word(battery=50.0), word(battery=49.1), False),
        (word(battery=50.0), word(battery=49.0), True),
        (word(battery=50.0), word(battery=51.5), True),
        (word(), word(battery=51.5), True),
        (word(battery=51.5), word(), True),
    ],
)
def test_what_is_noticeable_is_told(before: Word, now: Word, is_told: bool) -> None:
    assert is_noticeable(before, now) is is_told


def test_a_battery_is_read_once_a_minute(tmp_path: Path) -> None:
    (tmp_path / "BAT0").mkdir()
    (tmp_path / "BAT0" / "type").write_text("Battery\n")
    level = tmp_path / "BAT0" / "capacity"
    times = iter((0.0, READ_BATTERY_EVERY_S - 1, READ_BATTERY_EVERY_S, 2 * READ_BATTERY_EVERY_S))
    battery = Battery(Sensors(tmp_path, tmp_path), lambda: next(times))
    seen = []
    for percent in ("80", "79", "78", "104"):
        level.write_text(percent + "\n")
        seen.append(battery.percent())
    assert seen == [80.0, 80.0, 78.0, 100.0]
    assert Battery(Sensors(tmp_path / "none", tmp_path), lambda: 0.0).percent() is None
