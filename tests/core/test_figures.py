"""Tallies as figures: a sketch of the union is the sum of sketches, and a quantile stays within its bound."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.figures import (
    ACCURACIES,
    balanced_accuracy,
    by_device,
    error_quantiles,
    figures,
    figures_by_split,
    in_words,
    per_class,
    place_of_device,
)
from headwater.core.sketch import (
    BUCKETS,
    GAMMA,
    LARGEST,
    SMALLEST,
    bucket_of,
    fleet_errors,
    level,
    quantile,
    sketch,
    told_errors,
)
from headwater.schemas.base import Split
from headwater.schemas.messages import Counts
from headwater.schemas.statuses import DeviceFigures
from headwater.schemas.tensors import encode_tensor

errors = st.floats(SMALLEST, LARGEST, exclude_min=True)
samples = st.lists(errors, min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("error", "bucket"),
    [
        (0.0, 0),
        (SMALLEST, 0),
        (SMALLEST * GAMMA * 0.999, 0),
        (SMALLEST * GAMMA * 1.001, 1),
        (SMALLEST * GAMMA**64.5, 64),
        (LARGEST * 1.001, BUCKETS - 1),
        (1e300, BUCKETS - 1),
    ],
)
def test_a_bucket_covers_from_a_power_of_gamma_to_the_next(error: float, bucket: int) -> None:
    assert bucket_of(error) == bucket


def test_the_last_bucket_begins_at_the_largest() -> None:
    assert math.isclose(SMALLEST * GAMMA ** (BUCKETS - 1), 1e6)
    assert math.sqrt(GAMMA) < 1.12


@given(samples, samples)
def test_the_sum_of_two_sketches_is_the_sketch_of_the_union(first: list[float], second: list[float]) -> None:
    np.testing.assert_array_equal(sketch(first) + sketch(second), sketch(first + second))


@given(samples, st.floats(0, 1))
def test_a_quantile_is_within_its_buckets_relative_error(sample: list[float], share: float) -> None:
    exact = sorted(sample)[max(1, math.ceil(share * len(sample))) - 1]
    assert (
        exact / math.sqrt(GAMMA) * (1 - 1e-9)
        <= quantile(sketch(sample), share)
        <= exact * math.sqrt(GAMMA) * (1 + 1e-9)
    )


@given(samples)
def test_quantiles_grow_with_their_share(sample: list[float]) -> None:
    told = list(error_quantiles(sketch(sample)).values())
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("counts", "share", "says"),
    [
        (np.zeros(BUCKETS), 0.5, "nothing was counted"),
        (np.ones(BUCKETS - 1), 0.5, r"shape \[127\] where \[128\]"),
        (np.ones(BUCKETS), 1.5, "use 0 to 1"),
    ],
)
def test_a_quantile_of_nothing_is_refused(counts: np.ndarray, share: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quantile(counts, share)


def test_three_classes_worked_by_hand() -> None:
    """4 examples of class 0, 3 found; 1 of class 1, found, and guessed twice; class 2 has none."""
    zero, one, two = per_class(np.array([4.0, 1.0, 0.0]), np.array([3.0, 1.0, 0.0]), np.array([3.0, 2.0, 0.0]))
    assert (zero.examples, zero.recall, zero.precision, zero.f1) == (4.0, 0.75, 1.0, 6 / 7)
    assert (one.recall, one.precision, one.f1) == (1.0, 0.5, 2 / 3)
    assert (two.examples, two.recall, two.precision, two.f1) == (0.0, None, None, None)
    assert balanced_accuracy([zero, one, two]) == 0.875
    assert balanced_accuracy([two]) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_the_figures_are_those_of_the_answers_themselves(pairs: list[tuple[int, int]]) -> None:
    labels, answers = np.array(pairs).T
    hits = labels[labels == answers]
    counts = [np.bincount(of, minlength=4).astype(float) for of in (labels, hits, answers)]
    for label, of_class in enumerate(per_class(*counts)):
        asked, answered = answers[labels == label], labels[answers == label]
        assert of_class.recall == (np.mean(asked == label) if len(asked) else None)
        assert of_class.precision == (np.mean(answered == label) if len(answered) else None)


def test_counts_that_cannot_be_stop_nobody() -> None:
    (figures,) = per_class(np.array([5e-324]), np.array([2.0**40]), np.array([0.0]))
    assert figures.recall == 1.0


def test_each_split_has_its_figures() -> None:
    def counts(split: str, name: str, *values: float) -> Counts:
        return Counts(split=split, name=name, values=encode_tensor(np.array(values, np.float64)))

    told = figures_by_split(
        [
            counts("test", "class_examples", 2, 2),
            counts("train", "error_sketch", *sketch([1.0])),
            counts("test", "class_correct", 2, 1),
            counts("test", "class_predicted", 3, 1),
            counts("test", "of_the_owners_own", 7),
        ]
    )
    assert told["test"].balanced_accuracy == 0.75
    assert [c.recall for c in told["test"].classes] == [1.0, 0.5]
    assert told["train"].error_quantiles["p50"] == pytest.approx(1.0, rel=0.12)
    assert told["train"].classes == ()


# ── what a fleet is told of its errors ──────────────────────────────────────────────────────────────────────────────


def errors_of(split: Split, sample: list[float]) -> Counts:
    return Counts(split=split, name="error_sketch", values=encode_tensor(sketch(sample)))


def test_a_round_that_hears_all_replaces_what_was_known_and_a_part_of_it_a_part() -> None:
    before = {"test": 4 * sketch([1.0]), "personal": sketch([3.0])}
    everyone = fleet_errors(before, [errors_of("test", [2.0, 2.0])], 1.0)
    np.testing.assert_array_equal(everyone["test"], sketch([2.0, 2.0]))
    # A quarter was heard: three quarters of what was known still hold.
    quarter = fleet_errors(before, [errors_of("test", [2.0, 2.0])], 0.25)
    np.testing.assert_array_equal(quarter["test"], sketch([2.0, 2.0]) + 3 * sketch([1.0]))
    assert quarter["personal"] is before["personal"]


@pytest.mark.parametrize(
    "tally",
    [
        errors_of("test", []),
        errors_of("train", [1.0]),
        Counts(split="test", name="class_examples", values=encode_tensor(np.ones(BUCKETS))),
    ],
    ids=["nothing counted", "another split", "another tally"],
)
def test_what_says_nothing_of_a_models_errors_changes_nothing(tally: Counts) -> None:
    before = {"test": sketch([1.0])}
    assert fleet_errors(before, [tally], 1.0) == before
    assert told_errors(fleet_errors({}, [tally], 1.0)) == ()


@given(samples, st.floats(0, 1))
def test_a_level_is_the_quantile_of_what_was_told(sample: list[float], share: float) -> None:
    (told,) = told_errors({"test": sketch(sample)})
    assert told.counts[0] > 0 < told.counts[-1]
    assert level(told, share) == quantile(sketch(sample), share)


# ── over devices ────────────────────────────────────────────────────────────────────────────────────────────────


def spread(*means: dict[str, float]) -> DeviceFigures:
    """What the sums of some devices' places say."""
    placed = [place_of_device(one) for one in means]
    assert all(placed)
    name = placed[0][0]  # type: ignore[index]
    told = by_device({name: sum(counts for _, counts in placed)})  # type: ignore[misc]
    assert told is not None
    return told


def test_mean_and_worst_decile_of_twenty_devices() -> None:
    told = spread(*({"correct": 0.5 + 0.02 * i, "loss": 9.0} for i in range(20)))
    assert told.devices == 20
    assert told.mean == pytest.approx(0.69)
    assert told.worst_decile == pytest.approx(0.51)


def test_a_tenth_of_a_few_devices_is_a_part_of_the_worst() -> None:
    assert spread({"correct": 0.9}, {"correct": 0.4}, {"correct": 1.0}).worst_decile == pytest.approx(0.4)
    # 1.5 devices: the worst, and half of the next.
    told = spread(*({"correct": value} for value in (0.2, 0.8, *[1.0] * 13)))
    assert told.worst_decile == pytest.approx((0.2 + 0.8 / 2) / 1.5)


def test_without_classes_the_worst_have_the_largest_loss() -> None:
    told = spread(*({"loss": value} for value in (0.1, 0.2, 8.0)))
    assert told.worst_decile == pytest.approx(8.0, rel=0.12)
    assert told.mean == pytest.approx(8.3 / 3, rel=0.12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=40)
def test_the_spread_is_that_of_the_hundredths(accuracies: list[float]) -> None:
    told, worst = (
        spread(*({"correct": value} for value in accuracies)),
        sorted(round(100 * a) / 100 for a in accuracies),
    )
    weights = [max(0.0, min(1.0, 0.1 * len(worst) - place)) for place in range(len(worst))]
    expected = sum(w * value for w, value in zip(weights, worst, strict=True)) / sum(weights)
    assert told.mean == pytest.approx(sum(worst) / len(worst), abs=1e-9)
    assert told.worst_decile == pytest.approx(expected, abs=1e-9)
    assert told.worst_decile <= told.mean + 1e-9


def test_nobody_measured_has_no_place() -> None:
    assert place_of_device({}) is None
    assert by_device({}) is None
    assert in_words({"test": None}) == ""


def test_people_read_whose_figures_they_are() -> None:
    _, counts = place_of_device({"correct": 0.25})  # type: ignore[misc]
    told = {split: figures({ACCURACIES: counts}) for split in ("test", "personal", "local")}
    assert in_words(told) == (  # type: ignore[arg-type]
        "by device: global 0.2500 (worst tenth 0.2500), personal 0.2500 (worst tenth 0.2500), "
        "alone 0.2500 (worst tenth 0.2500)"
    )
