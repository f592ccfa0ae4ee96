"""Operators in any order: random small graphs pass the gate, and their gradients are PyTorch's where it is installed."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "oracle"))

import points
from cases import ints, positive
from graphs import forward, node, weight

from headwater.core.graph import compile_bundle
from headwater.core.graph.gate import verify
from headwater.schemas.run import LocalTraining

Draw = Callable[[st.SearchStrategy[Any]], Any]

CLOSE = 1e-4
"""Of a whole graph, relative to a gradient's norm."""


class Graph:
    """A model under construction; `told` is what a person reads of it."""

    def __init__(self, *features: int) -> None:
        self.features = self.shape = features
        self.value = "x"
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.told: list[str] = []

    def __repr__(self) -> str:
        return " → ".join([f"x {self.features}", *self.told])

    def fresh(self) -> str:
        return f"v{len(self.nodes)}"

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(node(operator, *inputs, out=self.fresh(), **attributes))
        return self.nodes[-1].output[0]

    def put(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def some(self, *shape: int) -> str:
        return self.put(weight(*shape, seed=len(self.weights)))

    def step(self, told: str, value: str, *shape: int) -> None:
        self.value, self.shape = value, shape
        self.told.append(f"{told} {shape}")

    def model(self) -> bytes:
        nodes = [*self.nodes, node("Identity", self.value, out="y")]
        return forward(nodes, self.weights, features=self.features, outputs=self.shape)


def dense(g: Graph, draw: Draw) -> None:
    size = draw(st.integers(2, 6))
    product = g.emit("MatMul", g.value, g.some(g.shape[-1], size))
    g.step("dense", g.emit("Add", product, g.some(size)), *g.shape[:-1], size)


def activation(g: Graph, draw: Draw) -> None:
    operators = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Elu", "Softplus", "HardSwish", "HardSigmoid", "Sin", "Erf")
    operator = draw(st.sampled_from(operators))
    g.step(operator, g.emit(operator, g.value), *g.shape)


def scale(g: Graph, draw: Draw) -> None:
    operator = draw(st.sampled_from(["Mul", "Sub", "Max"]))
    g.step(operator, g.emit(operator, g.value, g.some(*g.shape)), *g.shape)


def residual(g: Graph, draw: Draw) -> None:
    inner = g.emit("Tanh", g.emit("Mul", g.value, g.some(*g.shape)))
    g.step("residual", g.emit("Add", g.value, inner), *g.shape)


def beside(g: Graph, draw: Draw) -> None:
    axis = draw(st.integers(1, len(g.shape)))
    shape = [size * (2 if place == axis else 1) for place, size in enumerate(g.shape, 1)]
    g.step(f"concat {axis}", g.emit("Concat", g.value, g.emit("Sigmoid", g.value), axis=axis), *shape)


def halves(g: Graph, draw: Draw) -> None:
    axis = draw(st.sampled_from([place for place, size in enumerate(g.shape, 1) if size % 2 == 0]))
    first, second = g.fresh() + "a", g.fresh() + "b"
    g.nodes.append(onnx.helper.make_node("Split", [g.value], [first, second], name=first, axis=axis, num_outputs=2))
    shape = [size // (2 if place == axis else 1) for place, size in enumerate(g.shape, 1)]
    g.step(f"gate by halves {axis}", g.emit("Mul", first, g.emit("Sigmoid", second)), *shape)


def reshape(g: Graph, draw: Draw) -> None:
    size = int(np.prod(g.shape))
    rows = draw(st.sampled_from([rows for rows in range(1, size + 1) if size % rows == 0]))
    shape = (rows, size // rows) if draw(st.booleans()) else (size,)
    g.step("reshape", g.emit("Reshape", g.value, g.put(ints(0, *shape))), *shape)


def transpose(g: Graph, draw: Draw) -> None:
    perm = draw(st.permutations(range(1, len(g.shape) + 1)))
    shape = [g.shape[place - 1] for place in perm]
    g.step(f"transpose {perm}", g.emit("Transpose", g.value, perm=[0, *perm]), *shape)


def reduce(g: Graph, draw: Draw) -> None:
    operator = draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax"]))
    axis, keep = draw(st.integers(1, len(g.shape))), draw(st.booleans())
    shape = [1 if place == axis else size for place, size in enumerate(g.shape, 1) if keep or place != axis]
    value = g.emit(operator, g.value, g.put(ints(axis)), keepdims=int(keep))
    g.step(f"{operator} {axis}", value, *shape)


def softmax(g: Graph, draw: Draw) -> None:
    axis = draw(st.integers(1, len(g.shape)))
    g.step(f"softmax {axis}", g.emit("Softmax", g.value, axis=axis), *g.shape)


def cut(g: Graph, draw: Draw) -> None:
    axis = draw(st.sampled_from([place for place, size in enumerate(g.shape, 1) if size > 1]))
    size, by = g.shape[axis - 1], draw(st.sampled_from([1, 2, -1]))
    first, last = (0, size - 1) if by > 0 else (-1, -size)
    value = g.emit("Slice", g.value, *(g.put(ints(number)) for number in (first, last, axis, by)))
    length = len(range(size)[first:last:by])
    g.step(f"slice {axis} by {by}", value, *[length if place == axis else s for place, s in enumerate(g.shape, 1)])


def pad(g: Graph, draw: Draw) -> None:
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    rest = [0] * len(g.shape)
    value = g.emit("Pad", g.value, g.put(ints(*rest, before, *rest, after)))
    g.step(f"pad {before} {after}", value, *g.shape[:-1], g.shape[-1] + before + after)


def gather(g: Graph, draw: Draw) -> None:
    size = g.shape[-1]
    places = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=4))
    value = g.emit("Gather", g.value, g.put(ints(*places)), axis=len(g.shape))
    g.step(f"gather {places}", value, *g.shape[:-1], len(places))


def layer_norm(g: Graph, draw: Draw) -> None:
    value = g.emit(
        "LayerNormalization", g.value, g.put(positive(g.shape[-1])), g.some(g.shape[-1]), axis=-1, epsilon=0.01
    )
    g.step("layer norm", value, *g.shape)


def instance_norm(g: Graph, draw: Draw) -> None:
    channels = g.shape[0]
    value = g.emit("InstanceNormalization", g.value, g.put(positive(channels)), g.some(channels), epsilon=0.01)
    g.step("instance norm", value, *g.shape)


def batch_norm(g: Graph, draw: Draw) -> None:
    channels = g.shape[0]
    running = (g.some(channels), g.put(positive(channels)))
    scale_bias = (g.put(positive(channels)), g.some(channels))
    g.step("batch norm", g.emit("BatchNormalization", g.value, *scale_bias, *running, epsilon=0.01), *g.shape)


def dropout(g: Graph, draw: Draw) -> None:
    ratio = draw(st.sampled_from([0.1, 0.5]))
    g.step(f"dropout {ratio}", g.emit("Dropout", g.value, g.put(np.float32(ratio))), *g.shape)  # type: ignore[arg-type]


def convolve(g: Graph, draw: Draw) -> None:
    channels, *sizes = g.shape
    group = draw(st.sampled_from([1, channels]))
    kernel = [draw(st.integers(1, min(3, size))) for size in sizes]
    strides, pads = [draw(st.integers(1, 2)) for _ in sizes], [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    outputs = group * draw(st.integers(1, 2 if group > 1 else 4))
    value = g.emit(
        "Conv",
        g.value,
        g.some(outputs, channels // group, *kernel),
        g.some(outputs),
        group=group,
        strides=strides,
        pads=pads,
    )
    ends = pads[len(sizes) :]
    out = [(n + a + b - k) // s + 1 for n, a, b, k, s in zip(sizes, pads, ends, kernel, strides, strict=False)]
    g.step(f"conv {kernel} by {strides}, pads {pads}, groups {group}", value, outputs, *out)


def pool(g: Graph, draw: Draw) -> None:
    operator = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    channels, *sizes = g.shape
    kernel = [draw(st.integers(1, min(3, size))) for size in sizes]
    strides = [draw(st.integers(1, 2)) for _ in sizes]
    out = [(n - k) // s + 1 for n, k, s in zip(sizes, kernel, strides, strict=True)]
    value = g.emit(operator, g.value, kernel_shape=kernel, strides=strides)
    g.step(f"{operator} {kernel} by {strides}", value, channels, *out)


def all_places(g: Graph, draw: Draw) -> None:
    operator = draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
    g.step(operator, g.emit(operator, g.value), g.shape[0], *[1] * (len(g.shape) - 1))


def with_itself(g: Graph, draw: Draw) -> None:
    turned = g.emit("Transpose", g.value, perm=[0, 2, 1])
    scores = g.emit("Softmax", g.emit("MatMul", g.value, turned), axis=-1)
    g.step("attention", g.emit("MatMul", scores, g.value), *g.shape)


def recurrent(g: Graph, draw: Draw) -> None:
    kind, hidden = draw(st.sampled_from(["RNN", "GRU", "LSTM"])), draw(st.integers(1, 3))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions, gates = 2 if direction == "bidirectional" else 1, {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    time, inputs = g.shape
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    states = g.emit(
        kind,
        g.emit("Transpose", g.value, perm=[1, 0, 2]),
        g.some(directions, gates * hidden, inputs),
        g.some(directions, gates * hidden, hidden),
        g.some(directions, 2 * gates * hidden),
        hidden_size=hidden,
        direction=direction,
        **extra,
    )
    turned = g.emit("Transpose", states, perm=[2, 0, 1, 3])
    value = g.emit("Reshape", turned, g.put(ints(0, time, directions * hidden)))
    g.step(f"{kind} {direction}", value, time, directions * hidden)


SIZE = 48
"""No value has more elements than this."""

OPERATIONS: dict[Callable[[Graph, Draw], None], Callable[[tuple[int, ...]], bool]] = {
    dense: lambda shape: True,
    activation: lambda shape: True,
    scale: lambda shape: True,
    residual: lambda shape: True,
    beside: lambda shape: 2 * np.prod(shape) <= SIZE,
    halves: lambda shape: any(size % 2 == 0 for size in shape),
    reshape: lambda shape: True,
    transpose: lambda shape: len(shape) > 1,
    reduce: lambda shape: len(shape) > 1,
    softmax: lambda shape: True,
    cut: lambda shape: max(shape) > 1,
    pad: lambda shape: np.prod(shape[:-1]) * (shape[-1] + 4) <= SIZE,
    gather: lambda shape: True,
    layer_norm: lambda shape: shape[-1] > 2,
    instance_norm: lambda shape: len(shape) == 2 and shape[1] > 2,
    batch_norm: lambda shape: True,
    dropout: lambda shape: True,
    convolve: lambda shape: len(shape) > 1,
    pool: lambda shape: len(shape) > 1,
    all_places: lambda shape: len(shape) > 1,
    with_itself: lambda shape: len(shape) == 2,
    recurrent: lambda shape: len(shape) == 2,
}


@st.composite
def graphs(draw: Draw) -> Graph:
    features = draw(st.sampled_from([(6,), (4, 5), (2, 4, 4)]))
    g = Graph(*features)
    scale(g, draw)
    for _ in range(draw(st.integers(1, 6))):
        fitting = [apply for apply, fits in OPERATIONS.items() if fits(g.shape)]
        draw(st.sampled_from(fitting))(g, draw)
    flat = g.emit("Flatten", g.value)
    g.step("flatten", flat, int(np.prod(g.shape)))
    product = g.emit("Gemm", g.value, g.some(g.shape[0], 3), g.some(3))
    g.step("dense", product, 3)
    return g


@settings(max_examples=60, derandomize=True)
@given(
    graphs(),
    st.sampled_from(["mse", "cross_entropy"]),
    st.sampled_from(["plain", "proximal", "corrected", "clipped", "alternating"]),
    st.sampled_from(["sgd", "nesterov", "adamw"]),
)
def test_any_graph_of_operators_passes_the_gate_and_is_pytorchs(
    g: Graph, objective: Any, variant: Any, optimiser: Any
) -> None:
    if any("batch norm" in told for told in g.told) and variant == "clipped":
        variant = "plain"
    model, local = g.model(), LocalTraining(optimiser=optimiser, weight_decay=0.1)
    made = compile_bundle(model, objective=objective, name="m", variant=variant, local=local)
    verify(made, rng=np.random.default_rng(1), points=1)
    if importlib.util.find_spec("torch") is not None:
        at = point_of(g, made, objective)
        found = points.Runnable(made.proofs["gradient"]).run(points.feed_of(at))
        got = {name.removeprefix("gradient_"): value for name, value in found.items()}
        expected = importlib.import_module("reference").gradients_of(model, made, at, objective)
        assert points.worst_error(got, expected) < CLOSE


def point_of(g: Graph, made: points.Compiled, objective: str) -> points.Point:
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (points.ROWS, *g.features)).astype(np.float32)
    y = rng.normal(0, 1, (points.ROWS, 3)).astype(np.float32) if objective == "mse" else rng.integers(0, 3, points.ROWS)
    values = {p.name: value for p, value in zip(made.manifest.parameters, made.initial, strict=True)}
    return points.Point(values, x, y, (np.arange(points.ROWS) < points.KEPT).astype(np.float32), 77)
