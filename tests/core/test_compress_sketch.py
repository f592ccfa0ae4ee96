"""FetchSGD: sketches add up, heavy values are found, and what is not taken yet stays in the error."""

import numpy as np
import pytest

from headwater.core.compress import sketch
from headwater.schemas.tensors import Spec

HASHES = sketch.Hashes(rows=5, columns=200, seed=3)
SPECS: tuple[Spec, ...] = (("w", (20, 30), "float32"), ("b", (30,), "float32"))
RNG = np.random.default_rng(0)


def update() -> list[np.ndarray]:
    return [RNG.standard_normal(shape).astype(np.float32) for _, shape, _ in SPECS]


def test_a_table_worked_by_hand() -> None:
    """Every value is in one cell of each row, with its sign."""
    hashes = sketch.Hashes(rows=2, columns=4, seed=1)
    values = np.array([4.0, -1.0, 0.5])
    expected = np.zeros((2, 4))
    for row in range(2):
        columns, signs = hashes.of(row, 3)
        for value, column, sign in zip(values, columns, signs, strict=True):
            expected[row, column] += sign * value
    np.testing.assert_array_equal(sketch.sketch([values[:2], values[2:]], hashes), expected)


def test_hashes_are_the_same_everywhere() -> None:
    """Frozen: a device and the cloud must agree, whatever machines they are."""
    columns, signs = HASHES.of(1, 4)
    assert columns.tolist() == FROZEN[0]
    assert signs.tolist() == FROZEN[1]


FROZEN: tuple[list[int], list[float]] = ([51, 61, 172, 100], [-1.0, -1.0, 1.0, 1.0])


def test_hashes_are_even_and_each_seed_and_row_has_its_own() -> None:
    columns, signs = HASHES.of(0, 100_000)
    assert abs(signs.mean()) < 0.02
    np.testing.assert_allclose(np.bincount(columns, minlength=200), 500, atol=120)
    assert (columns != HASHES.of(1, 100_000)[0]).mean() > 0.98
    assert (columns != sketch.Hashes(5, 200, 4).of(0, 100_000)[0]).mean() > 0.98


def test_sketches_add_up() -> None:
    one, other = update(), update()
    together = [a.astype(np.float64) + b for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(
        sketch.sketch(one, HASHES) + sketch.sketch(other, HASHES), sketch.sketch(together, HASHES), atol=1e-9
    )


def test_heavy_values_are_found() -> None:
    values = 0.01 * RNG.standard_normal(2000)
    values[[7, 700, 1999]] = 5.0, -4.0, 3.0
    estimated = sketch.unsketch(sketch.sketch([values], HASHES), 2000, HASHES)
    assert set(np.argsort(-np.abs(estimated))[:3]) == {7, 700, 1999}
    np.testing.assert_allclose(estimated[[7, 700, 1999]], [5.0, -4.0, 3.0], atol=0.2)


def test_one_round_worked_by_hand() -> None:
    """One heavy value, k = 1: it is the step; error and momentum are empty in its cells, and nothing else was there."""
    hashes, specs = sketch.Hashes(3, 50, 0), (("x", (4,), "float32"),)
    mean = sketch.sketch([np.array([0.0, 2.0, 0.0, 0.0])], hashes)
    state, (step,) = sketch.apply(sketch.init(hashes), mean, specs, hashes, fraction=0.25, momentum=0.9)
    assert step.tolist() == [0.0, 2.0, 0.0, 0.0]
    assert not state.error.any()
    assert not state.momentum.any()


def test_what_is_not_taken_is_taken_later() -> None:
    hashes, specs = sketch.Hashes(3, 50, 0), (("x", (4,), "float32"),)
    mean = sketch.sketch([np.array([0.0, 2.0, 0.0, -1.0])], hashes)
    state, _ = sketch.apply(sketch.init(hashes), mean, specs, hashes, fraction=0.25, momentum=0.0)
    _, (step,) = sketch.apply(state, np.zeros((3, 50)), specs, hashes, fraction=0.25, momentum=0.0)
    np.testing.assert_allclose(step, [0.0, 0.0, 0.0, -1.0])


def test_what_only_looked_heavy_does_not_grow() -> None:
    """A table far too narrow for its update: the error stays bounded, where subtraction would have it explode."""
    hashes, specs = sketch.Hashes(5, 20, 1), (("x", (400,), "float32"),)
    mean, state, subtracted = (
        sketch.sketch([RNG.standard_normal(400)], hashes),
        sketch.init(hashes),
        sketch.init(hashes),
    )
    for _ in range(60):
        state, _ = sketch.apply(state, mean, specs, hashes, fraction=0.02, momentum=0.0)
        owed = subtracted.error + mean
        _, (step,) = sketch.apply(subtracted, mean, specs, hashes, fraction=0.02, momentum=0.0)
        subtracted = sketch.State(subtracted.momentum, owed - sketch.sketch([step], hashes))
    assert np.abs(state.error).max() < 60 * np.abs(mean).max()
    assert np.abs(subtracted.error).max() > 10 * np.abs(state.error).max()


def test_planted_bug_without_its_error_a_sketch_forgets() -> None:
    """Had the cloud only kept the momentum, the second value would never come."""
    hashes, specs = sketch.Hashes(3, 50, 0), (("x", (4,), "float32"),)
    mean = sketch.sketch([np.array([0.0, 2.0, 0.0, -1.0])], hashes)
    state, _ = sketch.apply(sketch.init(hashes), mean, specs, hashes, fraction=0.25, momentum=0.0)
    broken = sketch.State(state.momentum, np.zeros_like(state.error))
    _, (step,) = sketch.apply(broken, np.zeros((3, 50)), specs, hashes, fraction=0.25, momentum=0.0)
    assert not step.any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_by_sketches_arrives(momentum: float) -> None:
    """Two devices pull x to a and b; the fleet's minimum is their mean."""
    hashes, specs = sketch.Hashes(5, 60, 2), (("x", (100,), "float32"),)
    a, b, x, state = RNG.standard_normal(100), RNG.standard_normal(100), np.zeros(100), sketch.init(hashes)
    rate = 0.1 * (1 - momentum)
    for _ in range(400):
        tables = [sketch.sketch([rate * (goal - x)], hashes) for goal in (a, b)]
        state, (step,) = sketch.apply(state, sum(tables) / 2, specs, hashes, fraction=0.1, momentum=momentum)
        x = x + step
    assert np.square(x - (a + b) / 2).mean() < 0.02
