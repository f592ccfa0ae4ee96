"""Pruning: the smallest go, a mask travels in a few bytes, and what is left of an update comes back in its place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.compress import prune
from headwater.schemas.tensors import TensorError

PARAMETERS = [np.array([[4.0, -0.1, 2.0], [0.2, -3.0, 0.3]], np.float32), np.array([0.0, 1.0, 0.5], np.float32)]
SPECS = (("w", (2, 3), "float32"), ("b", (3,), "float32"))


def test_half_of_the_weights_by_magnitude() -> None:
    weights, bias = prune.by_magnitude(PARAMETERS, 0.5)
    assert weights.tolist() == [[True, False, True], [False, True, False]]
    assert bias.all()
    pruned = prune.pruned(PARAMETERS, (weights, bias))
    assert pruned[0].tolist() == [[4.0, 0.0, 2.0], [0.0, -3.0, 0.0]]


def test_a_third_of_the_outputs_by_norm() -> None:
    """Norms of the columns: √(16 + 0.04), √(0.01 + 9), √(4 + 0.09); the last is least."""
    weights, bias = prune.by_outputs(PARAMETERS, 0.34, [1, None])
    assert weights.tolist() == [[True, True, False]] * 2
    assert bias.all()


def test_one_output_is_always_left() -> None:
    (mask,) = prune.by_outputs(PARAMETERS[:1], 0.99, [0])
    assert mask.any(axis=1).tolist() == [True, False]


def test_what_is_left_of_whole_outputs_is_a_smaller_matrix() -> None:
    masks = prune.by_outputs(PARAMETERS, 0.34, [1, None])
    assert [shape for _, shape, _ in prune.narrowed_specs(SPECS, masks)] == [(2, 2), (3,)]
    masks = prune.by_magnitude(PARAMETERS, 0.5)
    assert [shape for _, shape, _ in prune.narrowed_specs(SPECS, masks)] == [(3,), (3,)]


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=60)
@given(st.lists(shapes, min_size=1, max_size=4), st.floats(0, 0.99), st.integers(0, 99))
def test_what_is_left_comes_back_in_its_place(some: list[tuple[int, ...]], sparsity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    specs = tuple((str(place), shape, "float32") for place, shape in enumerate(some))
    values = [np.asarray(rng.standard_normal(shape), dtype=np.float32) for shape in some]
    masks = prune.read_masks(prune.write_masks(prune.by_magnitude(values, sparsity)), specs)
    narrow = prune.narrowed(values, masks)
    assert [value.shape for value in narrow] == [shape for _, shape, _ in prune.narrowed_specs(specs, masks)]
    for back, expected in zip(prune.widened(narrow, masks), prune.pruned(values, masks), strict=True):
        np.testing.assert_array_equal(back, expected)


def test_a_mask_takes_an_eighth_of_a_byte_a_weight() -> None:
    weights = [np.random.default_rng(0).standard_normal((280, 280))]
    assert len(prune.write_masks(prune.by_magnitude(weights, 0.5))) < 280 * 280 / 8 + 40
    assert len(prune.write_masks(prune.by_outputs(weights, 0.5, [1]))) < 1200


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "frame", id="nothing"),
        pytest.param(prune.write_masks([np.ones((2, 2), dtype=bool)]), "mask: 1 bytes for 9", id="too few"),
        pytest.param(prune.write_masks([np.ones(9000, dtype=bool)]), "at most 2", id="too many"),
    ],
)
def test_bytes_that_are_no_mask_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(TensorError, match=says):
        prune.read_masks(data, SPECS)
