"""The order of examples, the cohort and the normaliser follow from their arguments alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.batches import minibatches, shuffling
from headwater.core.normalise import normaliser
from headwater.core.select import chosen
from headwater.schemas.messages import RoundKey

KEY = RoundKey(run="r", round=3)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 3), st.integers(0, 99))
def test_every_epoch_sees_every_example_once(examples: int, batch: int, epochs: int, seed: int) -> None:
    order, mask = minibatches(examples, batch, epochs, np.random.default_rng(seed))
    assert order.shape == mask.shape
    assert order.shape[1] == min(batch, examples)
    for rows, kept in zip(np.split(order, epochs), np.split(mask, epochs), strict=True):
        assert sorted(rows[kept > 0]) == list(range(examples))
        assert (rows[kept == 0] == 0).all()


def test_no_examples_make_no_batches() -> None:
    with pytest.raises(ValueError, match="there are none"):
        minibatches(0, 4, 1, np.random.default_rng(0))


def test_a_retried_attempt_sees_the_same_order_and_nobody_else_does() -> None:
    def draw(key: RoundKey, node: str) -> list[float]:
        return shuffling(1, key, node).random(4).tolist()

    assert draw(KEY, "d1") == draw(KEY.model_copy(update={"attempt": 2}), "d1")
    others = [draw(KEY, "d2"), draw(RoundKey(run="r", round=4), "d1"), draw(RoundKey(run="r", round=3, step=1), "d1")]
    assert draw(KEY, "d1") not in others


@given(st.sets(st.sampled_from("abcdefgh")), st.floats(0.01, 1.0), st.integers(0, 9))
def test_a_cohort_is_a_fraction_of_the_members(members: set[str], fraction: float, seed: int) -> None:
    cohort = chosen(members, fraction, 0.0, seed, KEY).cohort
    if fraction >= 1:
        assert cohort is None
        return
    assert cohort is not None
    assert cohort <= members
    assert len(cohort) == (max(1, int(np.ceil(fraction * len(members) - 1e-9))) if members else 0)
    assert cohort == chosen(sorted(members), fraction, 0.0, seed, KEY).cohort


def test_the_normaliser_from_sums_is_that_of_the_pooled_data() -> None:
    parts = [np.random.default_rng(i).normal(i, 1 + i, (50, 3)) for i in range(3)]
    sums = [sum(part.sum(0) for part in parts), sum((part**2).sum(0) for part in parts)]
    mean, scale = normaliser(sums, 150)
    pooled = np.concatenate(parts)
    np.testing.assert_allclose(mean, pooled.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale, 1 / pooled.std(0), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6, -1e-9])
def test_a_feature_that_never_varies_is_shifted_and_not_blown_up(value: float) -> None:
    """Elsewhere it may vary: scaled by a million it would drown all others."""
    x = np.full((10, 1), value)
    _, scale = normaliser([x.sum(0), (x**2).sum(0)], 10)
    assert scale == [1.0]


def test_a_feature_in_a_small_unit_is_scaled_like_any_other() -> None:
    x = np.array([[1e-9], [-1e-9]])
    _, scale = normaliser([x.sum(0), (x**2).sum(0)], 2)
    np.testing.assert_allclose(scale, 1e9, rtol=1e-6)
