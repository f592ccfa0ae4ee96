"""Eight bits: a quarter of the size, within a point of the accuracy, on the integer kernels of stock onnxruntime."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from graphs import dense, dense_weights, forward, node, weight

from headwater.core import models
from headwater.core.graph.execution import Runnable, run_all
from headwater.core.models import NORMALISER_NAMES, mlp
from headwater.core.quantise import imagined_examples, observed_ranges, quantise
from headwater.device.sources.digits import digits

X, Y, TEST = digits(0)
TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = X[~TEST], Y[~TEST], X[TEST], Y[TEST]
RANDOM = np.random.default_rng(0)


def with_weights(model: bytes, values: dict[str, np.ndarray]) -> bytes:
    parsed = onnx.load_from_string(model)
    for tensor in parsed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return parsed.SerializeToString()


def with_fitted_head(model: bytes, features: str, head: str, bias: str) -> bytes:
    """The model with its last layer fitted to the digits by least squares on its random features: it classifies."""
    inputs = run_all(onnx.load_from_string(model), {"x": TRAIN_X})[features].reshape(len(TRAIN_X), -1)
    columns = np.c_[inputs, np.ones(len(inputs))].astype(np.float64)
    targets = np.eye(10)[TRAIN_Y]
    fitted = np.linalg.solve(columns.T @ columns + 0.1 * np.eye(columns.shape[1]), columns.T @ targets)
    return with_weights(model, {head: fitted[:-1], bias: fitted[-1]})


def perceptron(normalise: bool) -> bytes:
    model = mlp(64, (256, 256), 10, rng=np.random.default_rng(0), normalise=normalise)
    if normalise:
        spread = np.maximum(TRAIN_X.std(axis=0), 1e-6)
        model = with_weights(model, dict(zip(NORMALISER_NAMES, (TRAIN_X.mean(axis=0), 1 / spread), strict=True)))
    return with_fitted_head(model, "layer2.out", "layer3.weight", "layer3.bias")


def convolutional() -> bytes:
    model = forward(
        [
            node("Reshape", "x", "shape", out="image"),
            node("Conv", "image", "c1", "c1_bias", out="a1", pads=[1, 1, 1, 1]),
            node("Relu", "a1", out="r1"),
            node("MaxPool", "r1", out="p1", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p1", "c2", "c2_bias", out="a2", pads=[1, 1, 1, 1]),
            node("Relu", "a2", out="r2"),
            node("MaxPool", "r2", out="p2", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "p2", out="flat"),
            dense("flat", "y", "head"),
        ],
        {
            "shape": np.array([-1, 1, 8, 8]),
            "c1": weight(32, 1, 3, 3),
            "c1_bias": weight(32, scale=0.1),
            "c2": weight(128, 32, 3, 3, scale=0.1),
            "c2_bias": weight(128, scale=0.1),
            **dense_weights(512, 10, "head"),
        },
        features=(64,),
        outputs=(10,),
    )
    return with_fitted_head(model, "flat", "head", "head_bias")


def answers(model: bytes, x: np.ndarray) -> np.ndarray:
    runnable = Runnable(model)
    return runnable.run({"x": x})[runnable.outputs[0]]


def accuracy(model: bytes) -> float:
    return float(np.mean(answers(model, TEST_X).argmax(axis=1) == TEST_Y))


MODELS = {"mlp": lambda: perceptron(False), "mlp, normalised": lambda: perceptron(True), "cnn": convolutional}


@pytest.mark.parametrize("basis", ["weights only", "examples", "normaliser"])
@pytest.mark.parametrize("name", MODELS)
def test_a_quarter_of_the_size_within_a_point_of_the_accuracy(name: str, basis: str) -> None:
    model = MODELS[name]()
    ranges = None
    if basis == "examples":
        ranges = observed_ranges(model, TRAIN_X[:256])
    elif basis == "normaliser":
        imagined = imagined_examples(model, 256, RANDOM)
        if imagined is None:
            assert name != "mlp, normalised"
            return
        ranges = observed_ranges(model, imagined)
    small = quantise(model, ranges)
    assert accuracy(model) > 0.9
    assert accuracy(small) > accuracy(model) - 0.01
    assert len(small) < 0.3 * len(model)


def optimised_operators(model: bytes, path: str) -> list[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 4
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(path).graph.node]


@pytest.mark.parametrize(("name", "kernels"), [("mlp", {"QGemm": 3}), ("cnn", {"QLinearConv": 2, "QGemm": 1})])
def test_products_with_known_ranges_are_of_whole_numbers(name: str, kernels: dict[str, int], tmp_path: object) -> None:
    model = MODELS[name]()
    found = optimised_operators(quantise(model, observed_ranges(model, TRAIN_X[:64])), f"{tmp_path}/optimised.onnx")
    assert {kernel: found.count(kernel) for kernel in kernels} == kernels
    assert not {"Conv", "Gemm", "MatMul"} & set(found)


def test_a_channel_has_its_own_scale() -> None:
    """Columns a thousandfold apart keep their precision; one scale for all would round the small one away."""
    matrix = np.stack([RANDOM.normal(0, 1, 64), RANDOM.normal(0, 1e-3, 64)], axis=1).astype(np.float32)
    model = forward([node("MatMul", "x", "w", out="y")], {"w": matrix}, features=(64,), outputs=(2,))
    x = RANDOM.normal(size=(50, 64)).astype(np.float32)
    error = np.abs(answers(quantise(model), x) - x @ matrix).max(axis=0)
    assert (error < 0.02 * np.abs(x @ matrix).max(axis=0)).all()


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        pytest.param(
            [node("Gemm", "x", "w", "b", out="y", transB=1)], {"w": weight(3, 6), "b": weight(3)}, id="transB"
        ),
        pytest.param(
            [node("Gemm", "x", "w", "b", out="y", alpha=0.5)], {"w": weight(6, 3), "b": weight(3)}, id="alpha"
        ),
        pytest.param([node("Gemm", "x", "w", out="y")], {"w": weight(6, 3)}, id="no bias"),
        pytest.param(
            [node("Gemm", "x", "w", "b", out="y")], {"w": np.zeros((6, 3), np.float32), "b": weight(3)}, id="all zero"
        ),
        pytest.param(
            [node("MatMul", "x", "w", out="h"), node("MatMul", "h", "w", out="y")], {"w": weight(6, 6)}, id="shared"
        ),
        pytest.param(
            [node("MatMul", "x", "w", out="h"), node("Add", "h", "w", out="y")],
            {"w": weight(6, 6)},
            id="no mere weight",
        ),
    ],
)
def test_every_way_of_writing_a_product_stays_near(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> None:
    outputs = next(iter(weights.values())).shape[
        0 if nodes[0].attribute and nodes[0].attribute[0].name == "transB" else 1
    ]
    rows = 6 if nodes[-1].op_type == "Add" else 40
    model = forward(nodes, weights, outputs=(outputs,))
    x = RANDOM.normal(size=(rows, 6)).astype(np.float32)
    expected = answers(model, x)
    for small in (quantise(model), quantise(model, observed_ranges(model, x))):
        np.testing.assert_allclose(answers(small, x), expected, atol=0.03 * max(1.0, np.abs(expected).max()))


def test_recurrent_weights_shrink_too() -> None:
    nodes = [
        node("Unsqueeze", "x", "axis", out="sequence"),
        helper.make_node("GRU", ["sequence", "w", "r"], ["", "last"], hidden_size=64),
        node("Squeeze", "last", "axis", out="y"),
    ]
    weights = {"axis": np.array([0]), "w": weight(1, 192, 32), "r": weight(1, 192, 64)}
    model = forward(nodes, weights, features=(32,), outputs=(64,))
    small = quantise(model)
    x = RANDOM.normal(size=(20, 32)).astype(np.float32)
    np.testing.assert_allclose(answers(small, x), answers(model, x), atol=0.05)
    assert len(small) < 0.3 * len(model)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


ZOO = {
    "autoencoder": (lambda: models.autoencoder(64, (128,), 16, rng=rng()), (64,)),
    "autoencoder1d": (lambda: models.autoencoder1d(3, 64, (32, 64), rng=rng()), (3, 64)),
    "cnn1d": (
        lambda: models.cnn1d(6, 64, 6, filters=(32, 64), kernel=5, rng=rng(), batch_norm=True, normalise=True),
        (6, 64),
    ),
    "cnn2d": (
        lambda: models.cnn2d(1, 16, 16, 10, filters=(16, 32), hidden=64, rng=rng(), batch_norm=True),
        (1, 16, 16),
    ),
    "ds_cnn": (lambda: models.ds_cnn(49, 10, 12, filters=64, blocks=4, rng=rng()), (1, 49, 10)),
    "gru": (lambda: models.gru(6, 32, 6, hidden=64, layers=1, rng=rng()), (32, 6)),
    "transformer": (
        lambda: models.transformer(6, 32, 6, width=64, heads=4, blocks=2, hidden=128, rng=rng()),
        (32, 6),
    ),
}


def with_moved_statistics(model: bytes) -> bytes:
    """Batch normalisations as after training, so that they do something."""
    parsed, drawn = onnx.load_from_string(model), rng()
    norms = [n for n in parsed.graph.node if n.op_type == "BatchNormalization"]
    sizes = {t.name: t.dims[0] for t in parsed.graph.initializer if len(t.dims) == 1}
    values = {name: drawn.uniform(0.5, 2.0, sizes[name]) for n in norms for name in n.input[1:]}
    return with_weights(model, values)


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_model_stays_near_in_eight_bits(name: str) -> None:
    build, shape = ZOO[name]
    model = with_moved_statistics(build())
    x = rng().normal(size=(100, *shape)).astype(np.float32)
    expected = answers(model, x)
    for small in (quantise(model), quantise(model, observed_ranges(model, x[:50]))):
        error = np.abs(answers(small, x) - expected).mean()
        assert error < 0.06 * np.abs(expected - expected.mean()).mean()
        assert len(small) < 0.45 * len(model)
        assert "BatchNormalization" not in {n.op_type for n in onnx.load_from_string(small).graph.node}
