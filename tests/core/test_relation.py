"""Tasks that are related, worked by hand; and what holds of any relation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headwater.core.optimise.relation import RIDGE, anchors, relation

TWO = np.array([[1.0, 0.0], [-1.0, 0.0]])


def test_two_tasks_apart_are_related_by_their_difference() -> None:
    """V = ±(1, 0), V·Vᵀ = [[1, −1], [−1, 1]] with the one root √2, so Σ = [[1, −1], [−1, 1]]/2."""
    np.testing.assert_allclose(relation(TWO), [[0.5, -0.5], [-0.5, 0.5]], atol=1e-12)


def test_the_anchor_of_one_of_two_opposite_tasks_is_on_its_own_side() -> None:
    """Σ + ε·I = [[.5 + e, −.5], [−.5, .5 + e]] with e = RIDGE/2; P₁₂/P₁₁ = .5/(.5 + e), so a₁ = −v₂·that = v₁·that."""
    share = 0.5 / (0.5 + RIDGE / 2)
    np.testing.assert_allclose(anchors(TWO, relation(TWO)), TWO * share, atol=1e-12)


def test_tasks_that_are_all_alike_pull_to_their_mean() -> None:
    alike = np.array([[2.0, 3.0]] * 3)
    np.testing.assert_allclose(relation(alike), np.eye(3) / 3)
    np.testing.assert_allclose(anchors(alike, relation(alike)), alike)


def test_a_task_is_pulled_to_its_like_and_not_to_a_stranger() -> None:
    models = np.array([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, -3.0]])
    pulled = anchors(models, relation(models))
    assert np.linalg.norm(pulled[0] - models[1]) < np.linalg.norm(pulled[0] - models[3])
    assert np.linalg.norm(pulled[0] - models[0]) < np.linalg.norm(models.mean(axis=0) - models[0])


@given(arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)))
def test_a_relation_is_symmetric_of_trace_1_with_no_negative_direction(models: np.ndarray) -> None:
    related = relation(models)
    np.testing.assert_allclose(related, related.T, atol=1e-9)
    assert np.trace(related) == pytest.approx(1.0)
    assert np.linalg.eigvalsh(related).min() > -1e-9
    assert np.isfinite(anchors(models, related)).all()
