"""Models built from a description: known shapes, He's variance, the same bytes for the same seed."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from headwater.core.graph import compile_bundle
from headwater.core.models import NORMALISER, NORMALISER_NAMES, mlp


def weights_of(model: bytes) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("hidden", "shapes"),
    [
        pytest.param((), {"layer1.weight": (5, 3), "layer1.bias": (3,)}, id="no hidden layer: a linear model"),
        pytest.param(
            (7, 4),
            {
                "layer1.weight": (5, 7),
                "layer1.bias": (7,),
                "layer2.weight": (7, 4),
                "layer2.bias": (4,),
                "layer3.weight": (4, 3),
                "layer3.bias": (3,),
            },
            id="two hidden layers",
        ),
    ],
)
def test_a_model_has_the_layers_that_were_asked_for(
    hidden: tuple[int, ...], shapes: dict[str, tuple[int, ...]]
) -> None:
    model = mlp(5, hidden, 3, rng=np.random.default_rng(0))
    assert {name: value.shape for name, value in weights_of(model).items()} == shapes
    manifest = compile_bundle(model, objective="cross_entropy", name="m").manifest
    assert {parameter.name: parameter.shape for parameter in manifest.parameters} == shapes


FUNCTIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_a_model_computes_what_its_layers_say(activation: str) -> None:
    rng = np.random.default_rng(1)
    model = mlp(5, (7,), 3, rng=rng, activation=activation)
    w, x = weights_of(model), rng.normal(size=(4, 5)).astype(np.float32)
    hidden = FUNCTIONS[activation](x @ w["layer1.weight"] + w["layer1.bias"])
    np.testing.assert_allclose(outputs(model, x), hidden @ w["layer2.weight"] + w["layer2.bias"], atol=1e-6)


def test_weights_have_the_variance_of_he_and_biases_are_zero() -> None:
    w = weights_of(mlp(400, (300,), 10, rng=np.random.default_rng(2)))
    assert w["layer1.weight"].var() == pytest.approx(2 / 400, rel=0.03)
    assert w["layer2.weight"].var() == pytest.approx(2 / 300, rel=0.1)
    assert not w["layer1.bias"].any()
    assert not w["layer2.bias"].any()


def test_the_generator_alone_decides() -> None:
    one, same, other = (mlp(5, (4,), 3, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_new_normaliser_changes_nothing_and_a_filled_one_shifts_and_scales() -> None:
    plain = mlp(5, (4,), 3, rng=np.random.default_rng(5))
    normalising = mlp(5, (4,), 3, rng=np.random.default_rng(5), normalise=True)
    x = np.random.default_rng(6).normal(3, 2, (8, 5)).astype(np.float32)
    np.testing.assert_array_equal(outputs(normalising, x), outputs(plain, x))
    model = onnx.load_from_string(normalising)
    filled = {"normaliser.mean": x.mean(axis=0), "normaliser.scale": 1 / x.std(axis=0)}
    for tensor in model.graph.initializer:
        if tensor.name in filled:
            tensor.CopyFrom(onnx.numpy_helper.from_array(filled[tensor.name], tensor.name))
    expected = outputs(plain, (x - filled["normaliser.mean"]) * filled["normaliser.scale"])
    np.testing.assert_allclose(outputs(model.SerializeToString(), x), expected, atol=1e-6)


def test_the_patterns_of_the_normaliser_freeze_it_and_nothing_else() -> None:
    model = mlp(5, (4,), 3, rng=np.random.default_rng(7), normalise=True)
    manifest = compile_bundle(model, objective="mse", name="m", frozen=NORMALISER).manifest
    assert tuple(p.name for p in manifest.parameters if not p.trainable) == NORMALISER_NAMES
    assert len(manifest.trainable) == 4
