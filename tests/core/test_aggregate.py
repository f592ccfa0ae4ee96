"""The weighted fold: a tree of any shape over the same devices is flat FedAvg; a broken sum changes nothing."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.aggregate import WeightedSum, difference, means, moved, shared, stepped, weighted
from headwater.schemas.manifest import Example, Manifest, Parameter
from headwater.schemas.messages import Counts, Metric
from headwater.schemas.tensors import decode_tensor, delta_specs, encode_tensor

SHAPES = ((3, 2), (4,), ())


def terms(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def metric(total: float, weight: float) -> Metric:
    return Metric(split="train", name="loss", total=total, weight=weight)


def test_two_devices_worked_by_hand() -> None:
    """Weights 1 and 3 on steps +4 and 0 of one parameter: the mean step is (1·4 + 3·0) / 4 = 1."""
    total = WeightedSum([(1,)])
    total.add(weighted([np.array([4.0], np.float32)], 1.0), 1.0, [metric(2.0, 1.0)])
    total.add(weighted([np.array([0.0], np.float32)], 3.0), 3.0, [metric(6.0, 3.0)])
    assert total.mean()[0].tolist() == [1.0]
    assert [(mean.name, mean.value, mean.weight) for mean in means(total.metrics)] == [("loss", 2.0, 4.0)]


trees = st.recursive(st.integers(0, 11), lambda branches: st.lists(branches, min_size=1, max_size=4), max_leaves=16)


def leaves(tree: object) -> list[int]:
    return [tree] if isinstance(tree, int) else [leaf for branch in tree for leaf in leaves(branch)]


def summed(tree: object, deltas: list[list[np.ndarray]], weights: list[float]) -> tuple[list[np.ndarray], float]:
    """What a node of the tree sends up, as it travels: float32 sums."""
    if isinstance(tree, int):
        return list(weighted(deltas[tree], weights[tree])), weights[tree]
    total = WeightedSum(SHAPES)
    for branch in tree:
        total.add(*summed(branch, deltas, weights))
    return list(weighted(total.totals, 1.0)), total.weight


@settings(max_examples=60)
@given(trees, st.integers(0, 2**32 - 1))
def test_any_tree_over_the_same_devices_equals_flat_fedavg(tree: object, seed: int) -> None:
    rng = np.random.default_rng(seed)
    deltas = [terms(rng) for _ in range(12)]
    weights = [float(w) for w in rng.integers(1, 500, size=12)]
    sums, weight = summed(tree, deltas, weights)
    chosen = leaves(tree)
    expected_weight = sum(weights[i] for i in chosen)
    assert weight == expected_weight
    for position in range(len(SHAPES)):
        flat = sum(weights[i] * deltas[i][position].astype(np.float64) for i in chosen) / expected_weight
        np.testing.assert_allclose(sums[position] / weight, flat, atol=1e-6)


def test_a_sum_that_forgets_to_weigh_is_caught_by_the_tree_property() -> None:
    """A planted bug: plain means of means differ from FedAvg, so the property above can fail."""
    deltas = [[np.array([1.0])], [np.array([3.0])], [np.array([8.0])]]
    mean_of_means = ((deltas[0][0] + deltas[1][0]) / 2 + deltas[2][0]) / 2
    flat = sum(delta[0] for delta in deltas) / 3
    assert abs(mean_of_means - flat) > 0.1


@pytest.mark.parametrize(
    ("shapes", "weight", "field"),
    [
        pytest.param([(2, 3), (4,), ()], 1.0, "terms", id="a transposed tensor"),
        pytest.param([(3, 2), (4,)], 1.0, "terms", id="one tensor short"),
        pytest.param(SHAPES, -1.0, "weight", id="a negative weight"),
        pytest.param(SHAPES, float("nan"), "weight", id="a weight that is no number"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_added(
    shapes: list[tuple[int, ...]], weight: float, field: str
) -> None:
    total = WeightedSum(SHAPES)
    total.add([np.ones(shape) for shape in SHAPES], 2.0)
    with pytest.raises(ValueError, match=field):
        total.add([np.ones(shape) for shape in shapes], weight)
    assert total.weight == 2.0
    assert all((tensor == 1.0).all() for tensor in total.totals)


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was added"):
        WeightedSum(SHAPES).mean()


def test_memory_is_one_model_whatever_the_number_of_devices() -> None:
    total = WeightedSum([(100,)])
    total.add([np.ones(100, np.float32)], 1.0)
    buffers = [tensor.__array_interface__["data"][0] for tensor in total.totals]
    for _ in range(100):
        total.add([np.ones(100, np.float32)], 1.0)
    assert [tensor.__array_interface__["data"][0] for tensor in total.totals] == buffers


def test_parameters_that_do_not_train_stay() -> None:
    manifest = Manifest(
        model="m",
        objective="mse",
        parameters=(Parameter(name="scale", shape=(1,), trainable=False), Parameter(name="w", shape=(1,))),
        x=Example(shape=(1,), dtype="float32"),
        y=Example(shape=(1,), dtype="float32"),
        metrics=("loss",),
    )
    old = (np.array([5.0], np.float32), np.array([1.0], np.float32))
    assert shared(manifest, old) == (old[1],)
    new = stepped(manifest, old, [np.array([0.5])])
    assert [value.tolist() for value in new] == [[5.0], [1.5]]
    assert [value.dtype for value in new] == [np.float32, np.float32]


def test_a_step_and_its_difference_undo_each_other() -> None:
    rng = np.random.default_rng(1)
    old, change = terms(rng), terms(rng)
    for got, expected in zip(difference(moved(old, change), old), change, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def tally(*counts: float, name: str = "class_examples") -> Counts:
    return Counts(split="test", name=name, values=encode_tensor(np.array(counts, np.float64)))


@given(st.lists(st.lists(st.integers(0, 2**40), min_size=3, max_size=3), min_size=1, max_size=8), st.randoms())
def test_tallies_add_up_exactly_in_any_order_and_by_any_gateway(counts: list[list[int]], order: Random) -> None:
    gateway, cloud = WeightedSum(()), WeightedSum(())
    shuffled = order.sample(counts, len(counts))
    half = len(counts) // 2
    for given_ in shuffled[:half]:
        gateway.add((), 1.0, (), [tally(*given_)])
    cloud.add((), gateway.weight, (), gateway.tallies)
    for given_ in shuffled[half:]:
        cloud.add((), 1.0, (), [tally(*given_)])
    (summed_,) = cloud.tallies
    assert decode_tensor(summed_.values).tolist() == [float(sum(column)) for column in zip(*counts, strict=True)]


def test_tallies_are_kept_apart_by_split_and_name_and_a_strange_length_adds_nothing() -> None:
    total = WeightedSum(())
    total.add((), 1.0, [metric(1.0, 1.0)], [tally(1, 0), tally(5, name="class_correct")])
    with pytest.raises(ValueError, match="class_examples: 3 counts where 2 belong"):
        total.add((), 1.0, [metric(1.0, 1.0)], [tally(1, 0, 0)])
    assert total.weight == 1.0
    assert [(found.name, decode_tensor(found.values).tolist()) for found in total.tallies] == [
        ("class_correct", [5.0]),
        ("class_examples", [1.0, 0.0]),
    ]


def test_a_delta_is_about_what_moves_and_is_shared() -> None:
    """A running statistic is averaged like a weight; a personal parameter keeps its initial value above the device."""
    manifest = Manifest(
        model="m",
        objective="mse",
        parameters=(
            Parameter(name="w", shape=(1,)),
            Parameter(name="mean", shape=(1,), trainable=False, state=True),
            Parameter(name="head", shape=(1,), personal=True),
            Parameter(name="scale", shape=(1,), trainable=False),
        ),
        x=Example(shape=(1,), dtype="float32"),
        y=Example(shape=(1,), dtype="float32"),
        metrics=("loss",),
    )
    old = tuple(np.array([value], np.float32) for value in (1.0, 2.0, 3.0, 4.0))
    assert [name for name, _, _ in delta_specs("train", manifest)] == ["w", "mean"]
    assert shared(manifest, old) == old[:2]
    assert [value.item() for value in stepped(manifest, old, [np.array([1.0]), np.array([1.0])])] == [
        2.0,
        3.0,
        3.0,
        4.0,
    ]
