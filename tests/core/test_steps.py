"""What the graphs of a bundle mean: steps may be cut anywhere, filler is nothing, weights repeat, sums add up."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES
from graphs import dense, dense_weights, forward, node, weight

from headwater.core.batches import minibatches
from headwater.core.graph import Compiled, UnsupportedModel, compile_bundle, export_inference
from headwater.core.graph.execution import Runnable
from headwater.core.graph.gate import verify
from headwater.core.models import NORMALISER, mlp
from headwater.core.sketch import BUCKETS, GAMMA, SMALLEST, bucket_of
from headwater.schemas.manifest import Objective, Variant
from headwater.schemas.run import LocalTraining, Loss

OPTIMISERS = {
    "sgd": LocalTraining(),
    "momentum, decay": LocalTraining(optimiser="momentum", weight_decay=0.1),
    "nesterov": LocalTraining(optimiser="nesterov"),
    "adam, clipped": LocalTraining(optimiser="adam", clip_norm=0.5),
    "adamw, decay": LocalTraining(optimiser="adamw", weight_decay=0.3),
}
MODELS = ("Gemm", "BatchNormalization of rows", "Dropout", "LayerNormalization")
W = dense_weights(6, 3)


def compiled(name: str, objective: Objective = "cross_entropy", **how: Any) -> Compiled:
    return compile_bundle(CASES[name].model(), objective=objective, name="m", **how)


def start(made: Compiled) -> dict[str, Any]:
    """Parameters, empty slots, hyperparameters as the run has them; references and noise where a variant takes them."""
    rng = np.random.default_rng(11)
    values: dict[str, Any] = {p.name: v for p, v in zip(made.manifest.parameters, made.initial, strict=True)}
    values |= {f"slot_{slot.name}": np.zeros(slot.shape, np.float32) for slot in made.manifest.slots}
    values |= {f"hyper_{name}": np.array(v, np.float32) for name, v in made.manifest.hyperparameters.items()}
    for parameter in made.manifest.trainable:
        for stem in ("anchor", "correction"):
            values[f"{stem}_{parameter.name}"] = rng.normal(0, 1, parameter.shape).astype(np.float32)
    return values


def run(made: Compiled, given: dict[str, Any], order: np.ndarray, mask: np.ndarray, first: int = 0) -> dict[str, Any]:
    """Steps `first` and on of a plan whose rates, seeds and noise follow from the step's number."""
    steps = range(first, first + len(order))
    rows: dict[str, Any] = {
        "order": order,
        "mask": mask.astype(np.float32),
        "learning_rate": np.array([0.1 / (1 + step) for step in steps], np.float32),
        "seeds": np.array([1000 + step for step in steps], np.int64),
    }
    for parameter in made.manifest.trainable:
        drawn = [np.random.default_rng(step).normal(0, 1, parameter.shape) for step in steps]
        rows[f"noise_{parameter.name}"] = np.array(drawn, np.float32).reshape(len(steps), *parameter.shape)
    return Runnable(made.bundle.graphs["train"]).run(given | rows)


def carried(new: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("new_"): value for name, value in new.items() if name.startswith("new_")}


def examples(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(0, 1, (n, 6)).astype(np.float32), "y": rng.integers(0, 3, n)}


# ── runs, segments, filler ──────────────────────────────────────────────────────────────────────────────────────


def same_in_segments(made: Compiled) -> None:
    given = start(made) | examples(10)
    order, mask = minibatches(10, 4, 2, np.random.default_rng(0))
    whole = run(made, given, order, mask)
    sums = dict.fromkeys(made.manifest.metrics, 0.0)
    for first, last in ((0, 1), (1, 4), (4, len(order))):
        new = run(made, given, order[first:last], mask[first:last], first)
        given |= carried(new)
        sums = {name: value + float(new[name]) for name, value in sums.items()}
    for name, value in carried(whole).items():
        np.testing.assert_array_equal(given[name], value, err_msg=name)
    for name, value in sums.items():
        assert value == pytest.approx(float(whole[name]), rel=1e-5)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_in_segments_is_one_run(model: str, optimiser: str) -> None:
    same_in_segments(compiled(model, local=OPTIMISERS[optimiser]))


@pytest.mark.parametrize("variant", ["proximal", "corrected", "clipped", "alternating"])
@pytest.mark.parametrize("model", ["Gemm", "Dropout"])
def test_a_run_of_a_variant_in_segments_is_one_run(model: str, variant: Variant) -> None:
    same_in_segments(compiled(model, variant=variant, local=OPTIMISERS["adam, clipped"]))


VARIANTS: tuple[Variant, ...] = ("plain", "proximal", "corrected", "clipped", "alternating")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    ("model", "variant"),
    # Batch normalisation in the variant clipped is refused, for an example would see its neighbours.
    [(model, variant) for model in MODELS for variant in VARIANTS if variant != "clipped" or "Batch" not in model],
)
def test_a_step_of_nothing_but_filler_changes_nothing(model: str, optimiser: str, variant: Variant) -> None:
    made = compiled(model, local=OPTIMISERS[optimiser], variant=variant)
    given = start(made) | examples(6)
    if variant == "clipped":
        given["hyper_noise_multiplier"] = np.array(1.0, np.float32)
    order, mask = minibatches(6, 4, 1, np.random.default_rng(0))
    under_way = given | carried(run(made, given, order, mask))
    new = run(made, under_way, np.zeros((2, 4), np.int64), np.zeros((2, 4)), first=2)
    for name, value in carried(new).items():
        np.testing.assert_array_equal(value, under_way[name], err_msg=name)
    assert [float(new[metric]) for metric in made.manifest.metrics] == [0.0, 0.0]


@pytest.mark.parametrize("model", ["Gemm", "BatchNormalization of rows", "LayerNormalization"])
def test_filler_rows_count_for_nothing(model: str) -> None:
    """Whatever is in them."""
    made = compiled(model)
    given = start(made) | examples(8)
    rows = np.array([[0, 1, 2, 7, 7]])
    full = run(made, given, rows, np.array([[1, 1, 1, 0, 0]]))
    alone = run(made, given, rows[:, :3], np.ones((1, 3)))
    for name, value in alone.items():
        np.testing.assert_allclose(full[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("objective", ["cross_entropy", "mse", "mae", "huber"])
def test_an_examples_weight_is_how_often_it_is_there(objective: Objective) -> None:
    loss = Loss(class_weights=(0.5, 1.0, 2.0)) if objective == "cross_entropy" else None
    made = compiled("Gemm", objective, loss=loss)
    given = start(made) | examples(4)
    if objective != "cross_entropy":
        given["y"] = np.random.default_rng(1).normal(0, 1, (4, 3)).astype(np.float32)
    weighted = run(made, given, np.array([[0, 1, 2]]), np.array([[1, 3, 2]]))
    repeated = run(made, given, np.array([[0, 1, 1, 1, 2, 2]]), np.ones((1, 6)))
    for name, value in repeated.items():
        np.testing.assert_allclose(weighted[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    evaluate = Runnable(made.bundle.graphs["evaluate"])
    pick = np.array([0, 1, 1, 1, 2, 2])
    some = {"x": given["x"][:3], "y": given["y"][:3], "mask": np.array([1, 3, 2], np.float32)}
    one = evaluate.run(given | some)
    other = evaluate.run(given | {"x": given["x"][pick], "y": given["y"][pick], "mask": np.ones(6, np.float32)})
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


# ── measures ────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluated(made: Compiled, x: np.ndarray, y: np.ndarray | None, mask: np.ndarray | None = None) -> dict[str, Any]:
    keep = np.ones(len(x)) if mask is None else mask
    given = start(made) | {"x": x, "mask": keep.astype(np.float32)} | ({} if y is None else {"y": y})
    return Runnable(made.bundle.graphs["evaluate"]).run(given)


@pytest.mark.parametrize("objective", ["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"])
def test_what_is_measured_adds_up_over_batches(objective: Objective) -> None:
    made = compiled("Gemm", objective)
    x, y = examples(20).values()
    if objective != "cross_entropy":
        y = np.random.default_rng(2).uniform(0, 1, (20, 3)).astype(np.float32)
    whole, parts = evaluated(made, x, y), [evaluated(made, x[i : i + 7], y[i : i + 7]) for i in (0, 7, 14)]
    assert [*whole] == [*made.manifest.metrics, *(tally.name for tally in made.manifest.tallies)]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), value, rtol=1e-5, err_msg=name)


def test_tallies_of_classes_are_counts() -> None:
    made, (x, y) = compiled("Gemm"), examples(50).values()
    mask = np.random.default_rng(3).integers(0, 2, 50)
    found = evaluated(made, x, y, mask)
    kept = mask > 0
    w, b = made.initial
    said = (x @ w + b).argmax(axis=1)
    assert [tally.length for tally in made.manifest.tallies] == [3, 3, 3]
    expected = {
        "class_examples": np.bincount(y[kept], minlength=3),
        "class_correct": np.bincount(y[kept & (said == y)], minlength=3),
        "class_predicted": np.bincount(said[kept], minlength=3),
    }
    for name, counts in expected.items():
        np.testing.assert_array_equal(found[name], counts, err_msg=name)
    assert found["correct"] == found["class_correct"].sum()


@pytest.mark.parametrize("objective", ["mse", "mae", "huber", "reconstruction"])
def test_the_sketch_of_errors_is_counts_in_buckets(objective: Objective) -> None:
    weights = {"w": np.eye(6, dtype=np.float32), "b": np.zeros(6, np.float32)}
    made = compile_bundle(
        forward([node("Gemm", "x", "w", "b", out="y")], weights, outputs=(6,)), objective=objective, name="m"
    )
    signs = np.sign(np.random.default_rng(4).normal(0, 1, (300, 6)))
    # An error in the middle of a bucket, over all of them and beyond both ends.
    middles = SMALLEST * GAMMA ** (np.arange(-2, BUCKETS + 2)[np.arange(300) % (BUCKETS + 4)] + 0.5)
    errors = np.sqrt(middles)[:, None].astype(np.float32) * signs.astype(np.float32)
    # A model that gives nothing but 0 misses a target by all of it.
    given = start(made) | {"w": np.zeros((6, 6), np.float32), "mask": np.ones(300, np.float32)}
    given |= {"x": errors} if objective == "reconstruction" else {"x": np.ones_like(errors), "y": errors}
    found = Runnable(made.bundle.graphs["evaluate"]).run(given)["error_sketch"]
    np.testing.assert_array_equal(
        found, np.bincount(bucket_of((errors.astype(np.float64) ** 2).mean(axis=1)), minlength=BUCKETS)
    )
    assert (found > 0).all()


# ── the manifest ────────────────────────────────────────────────────────────────────────────────────────────────


def test_flags_say_what_moves_and_what_stays_at_home() -> None:
    made = compile_bundle(
        CASES["BatchNormalization of rows"].model(), objective="mse", name="m", frozen=("b",), personal=("u", "m")
    )
    flags = {p.name: (p.trainable, p.state, p.personal) for p in made.manifest.parameters}
    assert flags == {
        "w": (True, False, False),
        "w_bias": (True, False, False),
        "s": (True, False, False),
        "b": (False, False, False),
        "m": (False, True, True),
        "v": (False, True, False),
        "u": (True, False, True),
    }
    assert [p.name for p in made.manifest.moving] == ["w", "w_bias", "s", "m", "v", "u"]
    assert [p.name for p in made.manifest.shared] == ["w", "w_bias", "s", "v"]
    new = run(
        made, start(made) | examples(4) | {"y": np.zeros((4, 3), np.float32)}, np.array([[0, 1]]), np.ones((1, 2))
    )
    assert [name for name in new if name.startswith("new_")] == [f"new_{p.name}" for p in made.manifest.moving]


def test_frozen_statistics_stay() -> None:
    made = compile_bundle(CASES["BatchNormalization of rows"].model(), objective="mse", name="m", frozen=("[mv]",))
    assert [p.name for p in made.manifest.parameters if p.state] == []
    assert {"new_m", "new_v"}.isdisjoint(Runnable(made.bundle.graphs["train"]).outputs)


@pytest.mark.parametrize("name", ["BatchNormalization of rows", "BatchNormalization"])
def test_frozen_statistics_are_those_of_inference_in_training_too(name: str) -> None:
    """So no example sees another, and even single examples may be clipped."""
    made = compiled(name, "mse", frozen=("m", "v"))
    verify(made, rng=np.random.default_rng(3))
    verify(compiled(name, "mse", frozen=("m", "v"), variant="clipped"), rng=np.random.default_rng(3))
    case, rng = CASES[name], np.random.default_rng(0)
    x = rng.normal(0, 1, (6, *case.features)).astype(np.float32)
    y = rng.normal(0, 1, (6, *case.outputs)).astype(np.float32)
    one_step = np.arange(6)[None], np.ones((1, 6))
    new = run(made, start(made) | {"x": x, "y": y}, *one_step)
    assert float(new["loss"]) == pytest.approx(float(evaluated(made, x, y)["loss"]), rel=1e-5)
    moving = run(compiled(name, "mse"), start(compiled(name, "mse")) | {"x": x, "y": y}, *one_step)
    assert float(moving["loss"]) != pytest.approx(float(new["loss"]), rel=1e-2)


def test_frozen_parameters_stay_and_are_not_returned() -> None:
    rng = np.random.default_rng(7)
    made = compile_bundle(
        mlp(6, (4,), 3, rng=rng, normalise=True), objective="cross_entropy", name="m", frozen=NORMALISER
    )
    assert [p.name for p in made.manifest.parameters if not p.trainable] == ["normaliser.mean", "normaliser.scale"]
    assert set(Runnable(made.bundle.graphs["train"]).outputs) == {
        *(f"new_{p.name}" for p in made.manifest.trainable),
        *made.manifest.metrics,
    }


def test_the_manifest_orders_by_use_whatever_the_file_says() -> None:
    case = CASES["Softmax"]
    shuffled = dict(reversed(case.weights.items()))
    one = compile_bundle(forward(case.nodes, case.weights), objective="mse", name="m")
    other = compile_bundle(forward(case.nodes, shuffled), objective="mse", name="m")
    assert one.manifest == other.manifest
    assert [p.name for p in one.manifest.parameters] == ["w", "w_bias", "v"]


@pytest.mark.parametrize(
    ("optimiser", "slots"),
    [
        ("sgd", []),
        ("momentum", ["velocity_w", "velocity_w_bias"]),
        ("adam", ["first_w", "first_w_bias", "second_w", "second_w_bias", "steps"]),
    ],
)
def test_an_optimisers_slots_are_in_the_manifest(optimiser: Any, slots: list[str]) -> None:
    made = compiled("Gemm", local=LocalTraining(optimiser=optimiser))
    assert [slot.name for slot in made.manifest.slots] == slots
    taken = Runnable(made.bundle.graphs["train"]).inputs
    assert {f"slot_{name}" for name in slots} == {name for name in taken if name.startswith("slot_")}


# ── predictions ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("activation", "objective", "outputs"),
    [("Softmax", "cross_entropy", 3), ("Sigmoid", "binary_cross_entropy", 1), ("Sigmoid", "binary_cross_entropy", 3)],
)
def test_a_final_activation_is_stepped_over_for_the_loss_and_kept_for_inference(
    activation: str, objective: Objective, outputs: int
) -> None:
    weights = dense_weights(6, outputs)
    model = forward([dense("x", "z"), node(activation, "z", out="y")], weights, outputs=(outputs,))
    bounded = compile_bundle(model, objective=objective, name="m")
    plain = compile_bundle(forward([dense("x", "y")], weights, outputs=(outputs,)), objective=objective, name="m")
    given = start(bounded) | examples(8)
    if objective == "binary_cross_entropy":
        y = np.random.default_rng(5).integers(0, 2, (8, outputs))
        given["y"] = y[:, 0] if outputs == 1 else y.astype(np.float32)
    rows = minibatches(8, 4, 1, np.random.default_rng(0))
    for name, value in run(plain, given, *rows).items():
        np.testing.assert_array_equal(run(bounded, given, *rows)[name], value, err_msg=name)
    said = Runnable(export_inference(model, bounded.initial)).run({"x": given["x"]})["y"]
    assert ((said > 0) & (said < 1)).all()
    np.testing.assert_allclose(said, Runnable(bounded.bundle.graphs["infer"]).run(given)["prediction"], rtol=1e-5)


@pytest.mark.parametrize("name", ["Gemm", "BatchNormalization", "Dropout", "GRU", "attention", "GroupNormalization"])
def test_an_exported_model_predicts_what_was_trained(name: str) -> None:
    """The infer graph with some parameters, stock onnxruntime on the owner's model with them, and the export."""
    case, rng = CASES[name], np.random.default_rng(6)
    made = compile_bundle(case.model(), objective="mse", name="m")
    values = [np.abs(v + rng.normal(0, 0.1, v.shape)).astype(np.float32) for v in made.initial]
    x = rng.normal(0, 1, (5, *case.features)).astype(np.float32)
    parameters = {p.name: v for p, v in zip(made.manifest.parameters, values, strict=True)}
    inferred = Runnable(made.bundle.graphs["infer"]).run(parameters | {"x": x})["prediction"]
    exported = Runnable(export_inference(case.model(), values)).run({"x": x})["y"]
    owner = forward(
        case.nodes, case.weights | parameters, features=case.features, outputs=case.outputs, opset=case.opset
    )
    np.testing.assert_allclose(inferred, Runnable(owner, as_written=True).run({"x": x})["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inferred, exported, rtol=1e-4, atol=1e-5)


def test_an_export_with_other_shapes_is_refused() -> None:
    model = forward([dense("x", "y")], W)
    new = [weight(6, 3, seed=9), weight(3, seed=9)]
    x = examples(5)["x"]
    exported = Runnable(export_inference(model, new)).run({"x": x})["y"]
    np.testing.assert_allclose(exported, x @ new[0] + new[1], rtol=1e-5)
    with pytest.raises(UnsupportedModel, match="other shapes"):
        export_inference(model, new[:1])
