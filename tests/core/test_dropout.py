"""Dropout's draws: inverted, at their rate, by seed and step, alike for none; and no draw tells another."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from graphs import dense, dense_weights, forward, node

from headwater.core.graph import Compiled, compile_bundle
from headwater.core.graph.execution import Runnable

WIDTH = 512


def dropping(ratio: float, name: str = "y") -> Compiled:
    """x [batch, width] times w, dropped."""
    nodes = [node("Mul", "x", "w", out="h"), node("Dropout", "h", "ratio", out=name)]
    nodes += [] if name == "y" else [node("Identity", name, out="y")]
    weights = {"w": np.ones(WIDTH, np.float32), "ratio": np.float32(ratio)}
    return compile_bundle(forward(nodes, weights, features=(WIDTH,), outputs=(WIDTH,)), objective="mse", name="m")


def mask_of(made: Compiled, seed: int, rows: int = 32) -> np.ndarray:
    """What was drawn, from outside: with x = w = 1 and y = 0 an example's gradient is 2·mask²/width."""
    gradient, ones = Runnable(made.proofs["gradient"]), np.ones((rows, WIDTH), np.float32)
    given = {"w": ones[0], "x": ones, "y": np.zeros_like(ones), "seeds": np.array(seed)}
    alone = np.eye(rows, dtype=np.float32)
    return np.stack([np.sqrt(gradient.run(given | {"mask": keep})["gradient_w"] * WIDTH / 2) for keep in alone])


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75])
def test_what_stays_is_scaled_so_that_the_mean_stays(ratio: float) -> None:
    mask = mask_of(dropping(ratio), seed=7)
    np.testing.assert_allclose(mask[mask > 0], 1 / (1 - ratio), rtol=1e-5)
    # Five standard deviations of a mean of so many draws.
    assert abs((mask > 0).mean() - (1 - ratio)) < 5 * np.sqrt(ratio * (1 - ratio) / mask.size)


def test_a_seed_draws_the_same_again_and_another_seed_something_else() -> None:
    made = dropping(0.5)
    one, again, other = (mask_of(made, seed, 4) > 0 for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    assert 0.45 < (one == other).mean() < 0.55


@pytest.mark.parametrize("names", [("y", "middle"), ("/block1/Dropout_output_0", "/block2/Dropout_output_0")])
def test_two_layers_with_one_seed_draw_apart(names: tuple[str, str]) -> None:
    one, other = (mask_of(dropping(0.5, name), 7, 4) > 0 for name in names)
    assert 0.45 < (one == other).mean() < 0.55


def test_the_draws_are_uniform_and_tell_nothing_of_each_other() -> None:
    """Neighbours in a row, in a column and from seed to seed; every row and every column at its rate."""
    made = dropping(0.5)
    drawn = np.stack([mask_of(made, seed, 24) > 0 for seed in range(16)]) * 2.0 - 1.0
    bound = 5 / np.sqrt(drawn.size)
    assert abs(drawn.mean()) < bound
    for axis in range(3):
        for lag in (1, 2, 3, 8):
            shifted = np.roll(drawn, lag, axis)
            assert abs((drawn * shifted).mean()) < bound, (axis, lag)
        others = tuple(other for other in range(3) if other != axis)
        sums = drawn.mean(axis=others)
        assert abs(sums).max() < 5 * np.sqrt(sums.size / drawn.size)


def test_each_step_of_a_run_draws_by_its_own_seed() -> None:
    """Two steps with one seed move alike from the same place; with two seeds they do not."""
    made = dropping(0.5)
    train = Runnable(made.bundle.graphs["train"])
    ones = np.ones((1, WIDTH), np.float32)
    rows = {"order": np.zeros((1, 1), np.int64), "mask": np.ones((1, 1), np.float32)}
    given = {"w": ones[0], "x": ones, "y": np.zeros_like(ones), "learning_rate": np.ones(1, np.float32), **rows}
    moved = [train.run(given | {"seeds": np.array([seed], np.int64)})["new_w"] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(moved[0], moved[1])
    assert (moved[0] != moved[2]).any()
    assert made.manifest.random


def test_examples_that_are_clipped_one_by_one_draw_apart() -> None:
    """Otherwise a batch of equal examples would drop the same everywhere."""
    nodes = [node("Mul", "x", "w", out="h"), node("Dropout", "h", out="y")]
    model = forward(nodes, {"w": np.ones(WIDTH, np.float32)}, features=(WIDTH,), outputs=(WIDTH,))
    made = compile_bundle(model, objective="mse", name="m", variant="clipped")
    ones = np.ones((2, WIDTH), np.float32)
    given = {"w": ones[0], "x": ones, "y": np.zeros_like(ones), "noise_w": np.zeros((1, WIDTH), np.float32)}
    given |= {"order": np.array([[0, 1]]), "mask": np.ones((1, 2), np.float32), "seeds": np.array([5])}
    hyper = {"hyper_example_norm": np.float32(1e6), "hyper_noise_multiplier": np.float32(0)}
    new = Runnable(made.bundle.graphs["train"]).run(
        given | {name: np.array(value) for name, value in hyper.items()} | {"learning_rate": np.ones(1, np.float32)}
    )["new_w"]
    # Neither, one or both of two examples moved a weight.
    assert len(np.unique(np.round(1 - new, 6))) == 3


def test_no_draw_in_evaluation_and_inference() -> None:
    made, x = dropping(0.5), np.random.default_rng(0).normal(0, 1, (4, WIDTH)).astype(np.float32)
    infer, evaluate = (Runnable(made.bundle.graphs[name]) for name in ("infer", "evaluate"))
    assert "seeds" not in {*infer.inputs, *evaluate.inputs}
    np.testing.assert_array_equal(infer.run({"w": np.ones(WIDTH, np.float32), "x": x})["prediction"], x)


def test_a_model_without_dropout_takes_no_seeds() -> None:
    made = compile_bundle(forward([dense("x", "y")], dense_weights(6, 3)), objective="mse", name="m")
    assert not made.manifest.random
    assert "seeds" not in Runnable(made.bundle.graphs["train"]).inputs
