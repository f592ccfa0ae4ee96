"""What a round makes of the model, worked by hand: FedAvg, FedBuff and FedAsync; and the plan that asks for it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cloud import memory
from headwater.cloud.course import Behind, Course, after, based_on, begun, parameters_of, with_places
from headwater.cloud.history import RunRecord
from headwater.cloud.plans import plan
from headwater.core import optimise
from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.core.sketch import NAME, sketch, told_errors
from headwater.core.staleness import discount
from headwater.node.hosting import Contribution, RoundResult
from headwater.schemas.base import Task
from headwater.schemas.errors import HistoryError, RunFailed
from headwater.schemas.manifest import Example, Manifest, Parameter
from headwater.schemas.messages import Counts, Metric, RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import delta_specs, encode_tensor
from headwater.schemas.wire import reference
from headwater.transport.session import Traffic
from support.histories import NOW

REF = reference(b"of no interest here")
MANIFEST = Manifest(
    model="m",
    objective="mse",
    parameters=(Parameter(name="w", shape=(2,)), Parameter(name="own", shape=(1,), personal=True)),
    x=Example(shape=(1,), dtype="float32"),
    y=Example(shape=(), dtype="float32"),
    metrics=("loss", "correct"),
)


def description(**changes: Any) -> RunDescription:
    base = {"name": "n", "data": "d", "rounds": 9, "model": {"kind": "mlp", "features": 2, "classes": 2}}
    return RunDescription.model_validate(base | changes)


def about_run(about: RunDescription) -> RunRecord:
    return RunRecord("r1", "plant", "n", "running", about, 0, False, False, "", NOW, NOW, None)


def course(about: RunDescription, *parameters: list[float], version: int = 4) -> Course:
    values = tuple(np.array(value, np.float32) for value in parameters)
    models = optimise.begin(about.learning, MANIFEST, [values], ())
    return Course(about_run(about), MANIFEST, REF, REF, models, version)


def closed(
    about: RunDescription, *given: tuple[float, float, int], round_: int = 5, task: Task = "train", spread: float = 1.0
) -> RoundResult:
    """A round of updates (Δ in both places, weight, staleness), folded as a parent folds them."""
    ask = plan("r1", about, task, round_, 0, model=REF, bundle=REF)
    terms = len(delta_specs(task, MANIFEST, about.learning))
    total, contributions = WeightedSum(terms * [(2,)]), []
    for number, (delta, weight, staleness) in enumerate(given):
        factor = discount(staleness, about.aggregation.staleness_exponent)
        metrics = [Metric(split="test", name="correct", total=weight / 2, weight=weight)]
        # Of two elements that differ, so that one may be sent and the other left out.
        total.add(terms * [weight * delta * np.array([1.0, spread], np.float32)], weight, metrics, factor=factor)
        key = RoundKey(run="r1", round=round_ - staleness)
        contributions.append(Contribution(f"d{number}", weight, int(weight), 1, 0.1, key, factor, REF))
    opened = rounds.open_round(ask.key, ["d0"], quorum=1.0, deadline_s=1.0, now=0.0)
    return RoundResult(ask, opened, total, tuple(contributions), (), 0, 1.0, Traffic())


def moved_to(behind: Behind) -> list[list[float]]:
    reached, model = behind.course, behind.model
    assert model is not None
    assert reached.model == reference(model)
    for kept, sent in zip(reached.parameters, parameters_of(MANIFEST, model)[0], strict=True):
        np.testing.assert_array_equal(kept, sent)
    return [value.tolist() for value in reached.parameters]


def test_fedavg_takes_the_weighted_mean_and_leaves_what_is_personal() -> None:
    about = description()
    behind = after(course(about, [1.0, 2.0], [7.0]), closed(about, (1.0, 1.0, 0), (4.0, 2.0, 0)))
    # (1·1 + 2·4) / 3 = 3
    assert moved_to(behind) == [[4.0, 5.0], [7.0]]
    assert (behind.course.round, behind.course.accuracy) == (5, 0.5)


def test_fedbuff_discounts_a_late_update_and_divides_by_its_whole_weight() -> None:
    about = description(aggregation={"mode": "buffered", "buffer": 2})
    result = closed(about, (4.0, 1.0, 0), (8.0, 1.0, 3))
    # (4 + 8/√(1+3)) / 2 = 4; a discounted update makes a smaller step, and is not made up for.
    assert moved_to(after(course(about, [1.0, 1.0], [0.0]), result)) == [[5.0, 5.0], [0.0]]
    assert based_on(course(about, [1.0, 1.0], [0.0]), result) is None


def test_fedasync_mixes_in_the_model_that_the_late_device_reached() -> None:
    about = description(aggregation={"mode": "asynchronous", "mixing": 0.6})
    now, base = course(about, [3.0, 3.0], [0.0]), (np.array([1.0, 5.0], np.float32), np.zeros(1, np.float32))
    result = closed(about, (2.0, 10.0, 3))
    assert based_on(now, result) == 1
    # α = 0.6/√4 = 0.3; x' = x + 0.3·(b + 2 − x) = 3 + 0.3·(3 − 3), 3 + 0.3·(7 − 3)
    assert moved_to(after(now, result, base))[0] == pytest.approx([3.0, 4.2])


def test_fedasync_of_the_current_model_moves_by_the_share() -> None:
    about = description(aggregation={"mode": "asynchronous", "mixing": 0.5})
    now = course(about, [1.0, 1.0], [0.0])
    result = closed(about, (2.0, 10.0, 0))
    assert based_on(now, result) == now.round
    assert moved_to(after(now, result, now.parameters))[0] == [2.0, 2.0]


def measured(about: RunDescription, errors: list[float], examples: int) -> RoundResult:
    """A round whose devices, of so many training examples, had these errors on their test parts."""
    result = closed(about, (1.0, float(examples), 0))
    result.sum.add((), 0.0, (), [Counts(split="test", name=NAME, values=encode_tensor(sketch(errors)))])
    return replace(result, round=replace(result.round, examples=examples))


def test_the_fleets_errors_outlive_the_coordinator_and_those_not_heard_still_count() -> None:
    about = description()
    first = after(course(about, [1.0, 2.0], [7.0]), measured(about, [1.0, 4.0], examples=8), fleet={"d0": 8.0})
    assert told_errors(first.course.errors) == told_errors({"test": sketch([1.0, 4.0])})
    second = after(first.course, measured(about, [9.0], examples=2), fleet={"d0": 8.0})
    # A quarter of the fleet was heard.
    assert told_errors(second.course.errors) == told_errors({"test": sketch([9.0]) + 0.75 * sketch([1.0, 4.0])})
    unmeasured = after(second.course, closed(about, (1.0, 1.0, 0)), fleet={"d0": 8.0})
    assert unmeasured.course.errors == second.course.errors
    assert unmeasured.model is not None
    again = begun(about_run(about), MANIFEST, REF, unmeasured.model, 5, unmeasured.memory)
    assert told_errors(again.errors) == told_errors(second.course.errors)


REMEMBERING: dict[str, dict[str, Any]] = {
    "momentum": {"strategy": {"name": "fedavgm"}},
    "adaptive": {"strategy": {"name": "fedadam"}},
    "control variates": {"strategy": {"name": "scaffold"}},
    "drift": {"strategy": {"name": "feddyn", "alpha": 0.5}},
    "what a patch left out": {"downlink": {"codec": "topk", "fraction": 0.5, "values": "fp32"}},
    "a mask": {"pruning": {"sparsity": 0.5, "at_round": 2}, "downlink": {"codec": "int8"}},
    "all at once": {
        "strategy": {"name": "fedyogi"},
        "downlink": {"codec": "stc", "fraction": 0.5},
        "pruning": {"sparsity": 0.5, "at_round": 3},
    },
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_coordinator_that_begins_anew_behind_any_round_makes_the_same_models(name: str) -> None:
    """Bit by bit: whoever holds the version before it is sent the same patch, and whoever does not the same model."""
    about = description(**REMEMBERING[name])
    straight = resumed = course(about, [1.0, 2.0], [7.0], version=0)
    told = set()
    for round_ in range(1, 6):
        result = closed(about, (0.3 * round_, 2.0, 0), (-1.0, 1.0, 0), round_=round_, spread=0.4)
        one, other = after(straight, result, None, {"all": 6.0}), after(resumed, result, None, {"all": 6.0})
        assert (one.model, one.memory, one.patch) == (other.model, other.memory, other.patch)
        assert one.model is not None
        assert one.course.encoded_mask == other.course.encoded_mask
        told.add((one.memory is not None, one.course.encoded_mask is not None))
        straight = one.course
        resumed = begun(about_run(about), MANIFEST, REF, one.model, round_, one.memory)
    assert (True, "pruning" in REMEMBERING[name]) in told


@pytest.mark.parametrize("damage", [b"", b"torn", b"PK\x03\x04 and no more"])
def test_a_memory_that_is_damaged_ends_the_coordinator_with_the_mend(damage: bytes) -> None:
    with pytest.raises(HistoryError, match="restore the database from a backup"):
        memory.read(damage, 1)


def test_a_new_place_costs_the_others_nothing_of_what_their_patches_left_out() -> None:
    about = description(clusters={"by": "place"}, downlink={"codec": "topk"})
    one, _ = with_places(course(about, [0.0, 0.0], [0.0]), frozenset({"a"}))
    left = replace(one, residual=(np.array([1.0, 2.0], np.float32),))
    both, _ = with_places(left, frozenset({"a", "b"}))
    assert [value.tolist() for value in both.residual] == [[1.0, 2.0], [0.0, 0.0]]


def test_an_evaluation_measures_and_moves_nothing() -> None:
    about = description(aggregation={"mode": "asynchronous"})
    now = course(about, [1.0, 1.0], [0.0])
    result = closed(about, (2.0, 10.0, 0), task="evaluate")
    reached, model = after(now, result).course, after(now, result).model
    assert based_on(now, result) is None
    assert (model, reached.round, reached.accuracy) == (None, now.round, 0.5)
    assert reached.parameters is now.parameters


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_model_that_is_no_longer_finite_ends_the_run() -> None:
    about = description()
    with pytest.raises(RunFailed, match="round 5: the model is no longer finite"):
        after(course(about, [3e38, 0.0], [0.0]), closed(about, (3e38, 1.0, 0)))


@pytest.mark.parametrize(
    ("changes", "task", "expected"),
    [
        ({}, "train", (0, 0, 0.0, False)),
        ({"aggregation": {"max_staleness": 3}}, "train", (3, 0, 0.0, False)),
        ({"aggregation": {"mode": "buffered", "buffer": 7}}, "train", (20, 7, 0.0, False)),
        ({"aggregation": {"mode": "asynchronous", "max_staleness": 4}}, "train", (4, 1, 0.0, False)),
        (
            {"cohort": {"fraction": 0.5, "over_selection": 0.3, "adaptive_deadline": True}},
            "train",
            (0, 0, 0.3, True),
        ),
        ({"aggregation": {"mode": "buffered"}}, "statistics", (0, 0, 0.0, False)),
        ({"aggregation": {"mode": "asynchronous"}}, "evaluate", (0, 0, 0.0, False)),
        ({"cohort": {"fraction": 0.5, "over_selection": 0.3}}, "evaluate", (0, 0, 0.0, False)),
    ],
)
def test_a_plan_says_how_late_and_how_many(changes: dict[str, Any], task: Task, expected: tuple[Any, ...]) -> None:
    asked = plan("r1", description(**changes), task, 2, 0, model=REF, bundle=REF)
    assert (asked.max_staleness, asked.buffer, asked.over_selection, asked.adaptive_deadline) == expected


def test_features_are_learned_from_everyone_though_a_part_trains() -> None:
    about = description(cohort={"fraction": 0.5})
    tasks: tuple[Task, ...] = ("statistics", "train", "evaluate")
    assert [plan("r1", about, task, 2, 0, model=REF, bundle=REF).cohort for task in tasks] == [1.0, 0.5, 0.5]


@given(
    st.integers(1, 9), st.integers(0, 4), st.sampled_from(["train", "evaluate", "statistics"]), st.binary(min_size=1)
)
def test_a_coordinator_that_begins_anew_asks_what_the_one_before_asked(
    round_: int, attempt: int, task: Task, model: bytes
) -> None:
    """Its description comes back from the database, and the model by its bytes; nothing else is in a plan."""
    about = description(local={"schedule": "cosine"}, aggregation={"mode": "buffered"})
    again = RunDescription.model_validate_json(about.model_dump_json())
    first, second = (
        plan("r1", told, task, round_, attempt, model=reference(model), bundle=REF) for told in (about, again)
    )
    assert first == second
