"""Gradients and steps are PyTorch's, ragged batches included: on its record always, live where it is installed."""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "oracle"))

import points

from headwater.core.graph import operators, update
from headwater.schemas.manifest import Objective

CLOSE = 1e-5
"""Float32 graphs against double precision, relative to a gradient's norm."""

PAIRS = points.pairs()


@pytest.fixture(scope="session")
def reference():  # type: ignore[no-untyped-def]
    """PyTorch's side, or a skip; where nothing may be skipped, a failure."""
    if importlib.util.find_spec("torch") is None:
        message = "PyTorch is not installed (pip install -e '.[oracle]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return importlib.import_module("reference")


@pytest.mark.parametrize(("name", "objective"), PAIRS)
def test_a_gradient_is_the_one_that_pytorch_made(name: str, objective: Objective) -> None:
    expected = points.recorded("gradient", objective, name)
    assert points.worst_error(points.graph_gradients(name, objective), expected) < CLOSE


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "objective"), PAIRS)
def test_a_gradient_is_the_one_that_pytorch_makes(name: str, objective: Objective, reference) -> None:  # type: ignore[no-untyped-def]
    expected = reference.gradients(name, objective)
    assert points.worst_error(points.graph_gradients(name, objective), expected) < CLOSE


@pytest.mark.parametrize("scenario", points.SCENARIOS)
def test_steps_are_those_that_pytorch_made(scenario: str) -> None:
    expected = points.recorded("steps", scenario)
    assert points.worst_error(points.graph_steps(scenario), expected) < CLOSE


@pytest.mark.oracle
@pytest.mark.parametrize("scenario", points.SCENARIOS)
def test_steps_are_those_that_pytorch_makes(scenario: str, reference) -> None:  # type: ignore[no-untyped-def]
    assert points.worst_error(points.graph_steps(scenario), reference.steps(scenario)) < CLOSE


def test_the_record_is_of_these_cases_and_small() -> None:
    expected = {points.key("errors", objective, name) for name, objective in PAIRS}
    expected |= {points.key("errors", "steps", scenario) for scenario in points.SCENARIOS}
    assert {name for name in points.load() if name.startswith("errors")} == expected
    assert points.RECORD.stat().st_size < 200_000


def test_the_scenarios_clip_some_examples_and_leave_others() -> None:
    """Otherwise a clipped scenario would say nothing of one branch."""
    inputs = points.step_inputs("clipped examples")
    made = points.compiled_steps("sgd")
    gradient = points.Runnable(made.proofs["gradient"])
    norms = []
    for row in range(points.EXAMPLES):
        feed = {name: inputs[name] for name in points.NAMES}
        feed |= {"x": inputs["x"][row : row + 1], "y": inputs["y"][row : row + 1], "mask": np.ones(1, np.float32)}
        norms.append(sum(float((g**2).sum()) for g in gradient.run(feed).values()) ** 0.5)
    bound = points.SCENARIOS["clipped examples"].hyper["example_norm"]
    assert min(norms) < bound < max(norms), norms


# ── planted bugs that the comparison must catch ─────────────────────────────────────────────────────────────────


def test_an_error_of_a_thousandth_in_a_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    row = operators.OPERATORS["GRU"]

    def wrong(tape, node_, attributes, *grads):  # type: ignore[no-untyped-def]
        x, w, r, *rest = row.backward(tape, node_, attributes, *grads)
        return x, w, tape.emit("Mul", r, tape.constant(1.001)), *rest

    monkeypatch.setitem(operators.OPERATORS, "GRU", replace(row, backward=wrong))
    made = points.compile_bundle(points.CASES["GRU"].model(), objective="mse", name="m")
    found = points.Runnable(made.proofs["gradient"]).run(points.feed_of(points.point("GRU", "mse")))
    got = {name.removeprefix("gradient_"): value for name, value in found.items()}
    assert points.worst_error(got, points.recorded("gradient", "mse", "GRU")) > 10 * CLOSE


def test_an_optimiser_without_bias_correction_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_correction", lambda tape, beta, steps: tape.constant(1.0))
    expected = points.recorded("steps", "adam")
    assert points.worst_error(points.graph_steps("adam"), expected) > 10 * CLOSE


def test_decay_that_passes_through_the_moments_is_not_that_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    coupled = update.decayed

    def wrong(tape, local, weight, gradient, rate):  # type: ignore[no-untyped-def]
        return coupled(tape, local.model_copy(update={"optimiser": "adam"}), weight, gradient, rate)

    monkeypatch.setattr("headwater.core.graph.step.decayed", wrong)
    expected = points.recorded("steps", "adamw, decay")
    assert points.worst_error(points.graph_steps("adamw, decay"), expected) > 10 * CLOSE
