"""One small model for each operator and each way of using it: the gate, PyTorch and the documents go through them all.

A model goes from x `[batch, *features]` to y; `operator` is what its case is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from graphs import dense, dense_weights, forward, node, weight
from onnx import numpy_helper


@dataclass(frozen=True)
class Case:
    operator: str
    nodes: Sequence[onnx.NodeProto]
    weights: dict[str, np.ndarray]
    features: tuple[int, ...] = (6,)
    outputs: tuple[int, ...] = (3,)
    opset: int = 18
    frozen: tuple[str, ...] = ()

    def model(self) -> bytes:
        return forward(self.nodes, self.weights, features=self.features, outputs=self.outputs, opset=self.opset)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(weight(*shape)) + 0.5).astype(np.float32)


def constant(name: str, value: object) -> onnx.NodeProto:
    return node("Constant", out=name, value=numpy_helper.from_array(np.asarray(value), name))


W = dense_weights(6, 3)


def unary(operator: str, **attributes: object) -> Case:
    """x → dense → operator."""
    return Case(operator, [dense("x", "h"), node(operator, "h", out="y", **attributes)], W)


def of_positive(operator: str) -> Case:
    nodes = [dense("x", "h"), node("Sigmoid", "h", out="s"), node(operator, "s", out="y")]
    return Case(operator, nodes, W)


def image(
    operator: str,
    *inputs: str,
    weights: dict[str, np.ndarray],
    features: tuple[int, ...] = (2, 6, 5),
    channels: int = 2,
    **attributes: object,
) -> Case:
    """x → 1×1 convolution (so that the operator's input has a gradient) → operator → mean over places."""
    rank = len(features) - 1
    first = {"k": weight(channels, features[0], *[1] * rank, seed=5)}
    places = list(range(2, rank + 2))
    nodes = [
        node("Conv", "x", "k", out="h"),
        node(operator, "h", *inputs, out="o", **attributes),
        node("Mul", "o", "o", out="q"),
        node("ReduceMean", "q", "axes", out="y", keepdims=0),
    ]
    out = weights.pop("channels_out", None)
    return Case(
        operator,
        nodes,
        first | weights | {"axes": ints(*places)},
        features,
        (int(out) if out is not None else channels,),
    )


def conv(kernel: tuple[int, ...], features: tuple[int, ...], **attributes: object) -> Case:
    """x → 1×1 convolution → the convolution itself, 4 channels to 6 (or as many as groups ask)."""
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {"w": weight(6 if group != 4 else 8, 4 // group, *kernel), "b": weight(6 if group != 4 else 8)}
    case = image("Conv", "w", "b", weights=dict(weights), features=features, channels=4, **attributes)
    return Case(case.operator, case.nodes, case.weights, features, (len(weights["b"]),))


def conv_transpose(kernel: tuple[int, ...], features: tuple[int, ...], **attributes: object) -> Case:
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {"w": weight(4, 6 // group, *kernel), "b": weight(6)}
    case = image("ConvTranspose", "w", "b", weights=weights, features=features, channels=4, **attributes)
    return Case(case.operator, case.nodes, case.weights, features, (6,))


def pool(operator: str, features: tuple[int, ...] = (2, 6, 5), **attributes: object) -> Case:
    return image(operator, weights={}, features=features, **attributes)


def normed(
    operator: str, features: tuple[int, ...] = (2, 4, 3), extra: tuple[str, ...] = (), **attributes: object
) -> Case:
    weights = {"s": positive(4), "b": weight(4)}
    weights |= {"m": weight(4, seed=3), "v": positive(4)} if extra else {}
    return image(operator, "s", "b", *extra, weights=weights, features=features, channels=4, **attributes)


def reduced(operator: str, axes: Sequence[int] | None = (1, 2), keepdims: int = 0) -> Case:
    """x [batch, 3, 4] → scaled → reduced → flattened."""
    nodes = [
        node("Mul", "x", "w", out="m"),
        node("Tanh", "m", out="t"),
        node(operator, "t", *(["axes"] if axes else []), out="r", keepdims=keepdims),
        node("Reshape", "r", "flat", out="f"),
        node("Mul", "f", "f", out="y"),
    ]
    weights = {"w": weight(3, 4), "flat": ints(0, -1)} | ({"axes": ints(*axes)} if axes else {})
    kept = int(np.prod([size for axis, size in ((1, 3), (2, 4)) if axis not in {a % 3 for a in axes or ()}], dtype=int))
    return Case(operator, nodes, weights, (3, 4), (kept,))


def moved(
    operator: str, *inputs: str, size: int, weights: dict[str, np.ndarray] | None = None, **attributes: object
) -> Case:
    """x [batch, 4, 5] → scaled by its place → moved → flattened → scaled again, so that a wrong place shows."""
    nodes = [
        node("Mul", "x", "w", out="m"),
        node(operator, "m", *inputs, out="r", **attributes),
        node("Reshape", "r", "flat", out="f"),
        node("Mul", "f", "v", out="y"),
    ]
    extra = {"w": weight(4, 5), "v": weight(size, seed=2), "flat": ints(0, -1)}
    return Case(operator, nodes, extra | (weights or {}), (4, 5), (size,))


def recurrent(
    operator: str,
    direction: str = "forward",
    *,
    bias: bool = True,
    first: bool = False,
    last: bool = False,
    features: tuple[int, ...] = (5, 4),
    **attributes: object,
) -> Case:
    """x [batch, time, 4] → time first → the layer of 3 → all its states, or its last one."""
    hidden, gates = 3, {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    directions = 2 if direction == "bidirectional" else 1
    weights = {
        "w": weight(directions, gates * hidden, 4) * 0.5,
        "r": weight(directions, gates * hidden, hidden, seed=1) * 0.5,
        "scale": weight(4, seed=4),
    }
    names = ["t", "w", "r"]
    if bias:
        weights["b"] = weight(directions, 2 * gates * hidden, seed=2) * 0.5
    if first:
        weights["h0"] = weight(directions, 1, hidden, seed=6)
    names += ["b" if bias else "", "", "h" if first else ""]
    nodes = [node("Mul", "x", "scale", out="z"), node("Transpose", "z", out="t", perm=[1, 0, 2])]
    if first:
        # A learned first state, the same for every example.
        nodes += [
            node("Shape", "x", out="n", start=0, end=1),
            constant("d", ints(directions)),
            constant("hs", ints(hidden)),
            node("Concat", "d", "n", "hs", out="size", axis=0),
            node("Expand", "h0", "size", out="h"),
        ]
        if operator == "LSTM":
            names += ["h"]
    outputs = {"RNN": ["ys", "yh"], "GRU": ["ys", "yh"], "LSTM": ["ys", "yh", "yc"]}[operator]
    layer = onnx.helper.make_node(
        operator,
        [name for name in names if name or any(names[names.index(name) :])],
        outputs,
        name="layer",
        hidden_size=hidden,
        direction=direction,
        **attributes,
    )
    nodes.append(layer)
    if last:
        nodes += [node("Transpose", outputs[-1], out="o", perm=[1, 0, 2])]
        size = directions * hidden
    else:
        nodes += [node("Transpose", "ys", out="o", perm=[2, 0, 1, 3])]
        size = features[0] * directions * hidden
    nodes += [node("Reshape", "o", "flat", out="f"), node("Mul", "f", "v", out="y")]
    return Case(operator, nodes, weights | {"flat": ints(0, -1), "v": weight(size, seed=7)}, features, (size,))


def attention(heads: int = 2, size: int = 4, time: int = 3) -> Case:
    """As exporters write it: reshapes from Shape chains, scaled scores, a causal mask by Where."""
    each = size // heads
    nodes = [
        node("MatMul", "x", "w_qkv", out="p"),
        node("Add", "p", "b_qkv", out="qkv"),
        onnx.helper.make_node("Split", ["qkv"], ["q", "k", "v"], name="split", axis=-1, num_outputs=3),
        node("Shape", "x", out="s"),
        node("Gather", "s", "zero", out="n", axis=0),
        node("Unsqueeze", "n", "axis0", out="n1"),
        node("Concat", "n1", "thd", out="size", axis=0),
    ]
    for name in "qkv":
        nodes += [
            node("Reshape", name, "size", out=f"{name}4"),
            node("Transpose", f"{name}4", out=f"{name}h", perm=[0, 2, 1, 3]),
        ]
    nodes += [
        node("Transpose", "kh", out="kt", perm=[0, 1, 3, 2]),
        node("MatMul", "qh", "kt", out="raw"),
        constant("root", np.float32(each**0.5)),
        node("Div", "raw", "root", out="scores"),
        constant("causal", np.tril(np.ones((time, time), bool))),
        constant("never", np.float32(-1e9)),
        node("Where", "causal", "scores", "never", out="masked"),
        node("Softmax", "masked", out="a", axis=-1),
        node("MatMul", "a", "vh", out="o"),
        node("Transpose", "o", out="ot", perm=[0, 2, 1, 3]),
        constant("td", ints(time, size)),
        node("Concat", "n1", "td", out="back", axis=0),
        node("Reshape", "ot", "back", out="joined"),
        node("MatMul", "joined", "w_out", out="z"),
        node("ReduceMean", "z", "axis1", out="y", keepdims=0),
    ]
    weights = {
        "w_qkv": weight(size, 3 * size),
        "b_qkv": weight(3 * size, seed=1),
        "w_out": weight(size, 3, seed=2),
        "zero": np.array(0, np.int64),
        "axis0": ints(0),
        "axis1": ints(1),
        "thd": ints(time, heads, each),
    }
    return Case("MatMul", nodes, weights, (time, size), (3,))


ELEMENTWISE = (
    *("Abs", "Cos", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg", "Relu"),
    *("Sigmoid", "Sin", "Softplus", "Tanh"),
)

CASES: dict[str, Case] = {
    # ── products ──
    "MatMul": Case("MatMul", [node("MatMul", "x", "w", out="y")], {"w": weight(6, 3)}),
    "MatMul of rank 3 by a matrix": Case(
        "MatMul",
        [node("Tanh", "x", out="h"), node("MatMul", "h", "w", out="g"), node("MatMul", "g", "v", out="y")],
        {"w": weight(4, 5), "v": weight(5, 3)},
        (3, 4),
        (3, 3),
    ),
    "MatMul of a matrix by rank 3": Case(
        "MatMul",
        [node("Mul", "x", "s", out="h"), node("MatMul", "w", "h", out="y")],
        {"w": weight(3, 4), "s": weight(5)},
        (4, 5),
        (3, 5),
    ),
    "MatMul of two that hang on x": Case(
        "MatMul",
        [
            node("MatMul", "x", "w", out="a"),
            node("Transpose", "x", out="t", perm=[0, 2, 1]),
            node("MatMul", "t", "a", out="y"),
        ],
        {"w": weight(4, 3)},
        (5, 4),
        (4, 3),
    ),
    "MatMul with repeated matrices": Case(
        "MatMul",
        [node("MatMul", "x", "w", out="y")],
        {"w": weight(2, 4, 3)},
        (2, 5, 4),
        (2, 5, 3),
    ),
    "attention": attention(),
    "Gemm": Case("Gemm", [dense("x", "y")], W),
    "Gemm without bias": Case("Gemm", [node("Gemm", "x", "w", out="y")], {"w": weight(6, 3)}),
    "Gemm transB alpha beta": Case(
        "Gemm",
        [node("Gemm", "x", "w", "b", out="y", transB=1, alpha=0.5, beta=2.0)],
        {"w": weight(3, 6), "b": weight(3)},
    ),
    "Gemm of two parameters, both transposed": Case(
        "Gemm",
        [node("Gemm", "a", "b", out="w", transA=1, transB=1), node("MatMul", "x", "w", out="y")],
        {"a": weight(4, 6), "b": weight(3, 4)},
    ),
    "Gemm of two parameters, transA": Case(
        "Gemm",
        [node("Gemm", "a", "b", out="w", transA=1), node("MatMul", "x", "w", out="y")],
        {"a": weight(4, 6), "b": weight(4, 3)},
    ),
    "Gemm scalar bias": Case("Gemm", [node("Gemm", "x", "w", "b", out="y")], {"w": weight(6, 3), "b": weight(1)}),
    "Gemm with an empty bias": Case("Gemm", [node("Gemm", "x", "w", "", out="y")], {"w": weight(6, 3)}),
    # ── element by element ──
    "Add of a row": Case("Add", [dense("x", "h"), node("Add", "h", "r", out="y")], W | {"r": weight(3)}),
    "Add of a scalar": Case("Add", [dense("x", "h"), node("Add", "r", "h", out="y")], W | {"r": weight()}),
    "Add of a value to itself": Case("Add", [dense("x", "h"), node("Add", "h", "h", out="y")], W),
    "Sum": Case(
        "Sum", [dense("x", "h"), node("Tanh", "h", out="t"), node("Sum", "h", "t", "r", out="y")], W | {"r": weight(3)}
    ),
    "Sub": Case("Sub", [dense("x", "h"), node("Sub", "r", "h", out="y")], W | {"r": weight(1, 3)}),
    "Mul": Case("Mul", [dense("x", "h"), node("Mul", "h", "r", out="y")], W | {"r": weight(1, 3)}),
    "Mul of a value with itself": Case("Mul", [dense("x", "h"), node("Mul", "h", "h", out="y")], W),
    "Div": Case(
        "Div", [dense("x", "h"), node("Div", "h", "r", out="y")], W | {"r": np.array([1.5, -2.0, 3.0], np.float32)}
    ),
    "Div by a value": Case(
        "Div", [dense("x", "h"), node("Sigmoid", "h", out="s"), node("Div", "r", "s", out="y")], W | {"r": weight(3)}
    ),
    "Pow": Case("Pow", [dense("x", "h"), constant("p", np.float32(3)), node("Pow", "h", "p", out="y")], W),
    "Pow of a half": Case(
        "Pow",
        [
            dense("x", "h"),
            node("Sigmoid", "h", out="s"),
            constant("p", np.float32(0.5)),
            node("Pow", "s", "p", out="y"),
        ],
        W,
    ),
    "Max": Case("Max", [dense("x", "h"), node("Max", "h", "r", out="y")], W | {"r": weight(3)}),
    "Min": Case("Min", [dense("x", "h"), node("Min", "h", "r", out="y")], W | {"r": weight(3)}),
    "PRelu": Case("PRelu", [dense("x", "h"), node("PRelu", "h", "r", out="y")], W | {"r": weight(3)}),
    **{operator: unary(operator) for operator in ELEMENTWISE},
    **{operator: of_positive(operator) for operator in ("Log", "Sqrt", "Reciprocal")},
    "Elu alpha": unary("Elu", alpha=0.3),
    "LeakyRelu alpha": unary("LeakyRelu", alpha=0.3),
    "HardSigmoid alpha beta": unary("HardSigmoid", alpha=0.4, beta=0.3),
    "Gelu": Case("Gelu", [dense("x", "h"), node("Gelu", "h", out="y")], W, opset=20),
    "Gelu by tanh": Case("Gelu", [dense("x", "h"), node("Gelu", "h", out="y", approximate="tanh")], W, opset=20),
    "Clip": Case(
        "Clip",
        [dense("x", "h"), node("Clip", "h", "lo", "hi", out="y")],
        W | {"lo": np.float32(-0.4), "hi": np.float32(0.6)},
    ),
    "Clip from below": Case("Clip", [dense("x", "h"), node("Clip", "h", "lo", out="y")], W | {"lo": np.float32(0.1)}),
    "Cast there and back": Case(
        "Cast",
        [
            dense("x", "h"),
            node("Cast", "h", out="d", to=1),
            node("Greater", "d", "zero", out="g"),
            node("Cast", "g", out="f", to=1),
            node("Mul", "f", "d", out="y"),
        ],
        W | {"zero": np.float32(0)},
        frozen=("zero",),
    ),
    "Where": Case(
        "Where",
        [dense("x", "h"), constant("c", np.array([True, False, True])), node("Where", "c", "h", "r", out="y")],
        W | {"r": weight(3)},
    ),
    "Sign": Case("Sign", [dense("x", "h"), node("Sign", "h", out="s"), node("Mul", "s", "h", out="y")], W),
    **{
        operator: Case(
            operator,
            [
                dense("x", "h"),
                constant("edge", np.float32(0.1)),
                node(operator, "h", "edge", out="c"),
                node("Where", "c", "h", "r", out="y"),
            ],
            W | {"r": weight(3)},
        )
        for operator in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    },
    **{
        operator: Case(
            operator,
            [
                dense("x", "h"),
                constant("low", np.float32(-0.3)),
                constant("high", np.float32(0.3)),
                node("Greater", "h", "low", out="a"),
                node("Less", "h", "high", out="b"),
                node("Not", "b", out="n"),
                node(operator, "a", "n", out="c"),
                node("Where", "c", "h", "r", out="y"),
            ],
            W | {"r": weight(3)},
        )
        for operator in ("And", "Or")
    },
    "Not": Case(
        "Not",
        [
            dense("x", "h"),
            constant("edge", np.float32(0.1)),
            node("Greater", "h", "edge", out="g"),
            node("Not", "g", out="c"),
            node("Where", "c", "h", "r", out="y"),
        ],
        W | {"r": weight(3)},
    ),
    "ArgMax": Case(
        "ArgMax",
        [
            node("ArgMax", "x", out="i", axis=1, keepdims=0),
            node("Gather", "table", "i", out="e", axis=0),
            node("Tanh", "e", out="y"),
        ],
        {"table": weight(6, 3)},
    ),
    "a triangle made in the graph": Case(
        "Trilu",
        [
            node("Mul", "x", "w", out="m"),
            constant("size", ints(4, 4)),
            node("ConstantOfShape", "size", out="ones", value=numpy_helper.from_array(np.ones(1, np.float32))),
            node("Trilu", "ones", out="low", upper=0),
            node("MatMul", "low", "m", out="s"),
            node("Tanh", "s", out="y"),
        ],
        {"w": weight(4, 5)},
        (4, 5),
        (4, 5),
    ),
    "odd places by Range and Mod": Case(
        "Range",
        [
            dense("x", "h"),
            constant("none", np.int64(0)),
            constant("one", np.int64(1)),
            constant("two", np.int64(2)),
            node("Size", "r", out="n"),
            node("Range", "none", "n", "one", out="places"),
            node("Mod", "places", "two", out="odd"),
            node("Cast", "odd", out="f", to=1),
            node("Mul", "f", "r", out="scale"),
            node("Mul", "h", "scale", out="y"),
        ],
        W | {"r": weight(3)},
    ),
    "Dropout": Case(
        "Dropout",
        [dense("x", "h"), node("Dropout", "h", "ratio", out="d"), node("MatMul", "d", "v", out="y")],
        W | {"v": weight(3, 3), "ratio": np.float32(0.4)},
    ),
    # ── sums, means, maxima ──
    "ReduceSum": reduced("ReduceSum", (2,)),
    "ReduceSum of two axes": reduced("ReduceSum", (1, 2)),
    "ReduceSum keeping": reduced("ReduceSum", (-1,), 1),
    "ReduceMean": reduced("ReduceMean", (1,)),
    "ReduceMean keeping": reduced("ReduceMean", (1, 2), 1),
    "ReduceMax": reduced("ReduceMax", (2,)),
    "ReduceMin": reduced("ReduceMin", (2,)),
    "ReduceL1": reduced("ReduceL1", (1, 2)),
    "ReduceL2": reduced("ReduceL2", (2,), 1),
    "ReduceSumSquare": reduced("ReduceSumSquare", (1,)),
    "ReduceMax keeping": reduced("ReduceMax", (1,), 1),
    "Softmax": Case(
        "Softmax",
        [dense("x", "h"), node("Softmax", "h", out="s"), node("MatMul", "s", "v", out="y")],
        dense_weights(6, 4) | {"v": weight(4, 3)},
    ),
    "LogSoftmax": Case(
        "LogSoftmax",
        [dense("x", "h"), node("LogSoftmax", "h", out="s"), node("Mul", "s", "r", out="y")],
        W | {"r": weight(3)},
    ),
    # ── normalisers ──
    "BatchNormalization": normed("BatchNormalization", extra=("m", "v")),
    "BatchNormalization of sequences": normed("BatchNormalization", (2, 7), ("m", "v"), momentum=0.8, epsilon=1e-3),
    "BatchNormalization of rows": Case(
        "BatchNormalization",
        [
            dense("x", "h"),
            node("BatchNormalization", "h", "s", "b", "m", "v", out="n"),
            node("MatMul", "n", "u", out="y"),
        ],
        W | {"s": positive(3), "b": weight(3), "m": weight(3, seed=3), "v": positive(3), "u": weight(3, 3, seed=4)},
    ),
    "BatchNormalization with frozen statistics": replace(
        normed("BatchNormalization", extra=("m", "v")), frozen=("m", "v")
    ),
    "LayerNormalization": Case(
        "LayerNormalization",
        [dense("x", "h", "w"), node("LayerNormalization", "h", "s", "b", out="y", axis=-1)],
        W | {"s": positive(3), "b": weight(3)},
    ),
    "LayerNormalization over two axes": Case(
        "LayerNormalization",
        [node("Mul", "x", "w", out="h"), node("LayerNormalization", "h", "s", out="y", axis=1)],
        {"w": weight(3, 4), "s": positive(3, 4)},
        (3, 4),
        (3, 4),
    ),
    "GroupNormalization": Case(
        "GroupNormalization",
        [node("Conv", "x", "k", out="h"), node("GroupNormalization", "h", "s", "b", out="y", num_groups=2)],
        {"k": weight(4, 2, 1, 1), "s": positive(4), "b": weight(4)},
        (2, 4, 3),
        (4, 4, 3),
        opset=21,
    ),
    "InstanceNormalization": Case(
        "InstanceNormalization",
        [node("Conv", "x", "k", out="h"), node("InstanceNormalization", "h", "s", "b", out="y")],
        {"k": weight(4, 2, 1, 1), "s": positive(4), "b": weight(4)},
        (2, 4, 3),
        (4, 4, 3),
    ),
    # ── convolutions and pools ──
    "Conv": conv((3, 3), (2, 6, 5)),
    "Conv of sequences": conv((3,), (2, 9)),
    "Conv stride": conv((3, 2), (2, 8, 7), strides=[2, 3]),
    "Conv stride of sequences": conv((4,), (2, 11), strides=[3], pads=[1, 2]),
    "Conv padding": conv((3, 3), (2, 5, 5), pads=[1, 2, 1, 0]),
    "Conv dilation": conv((3, 2), (2, 8, 7), dilations=[2, 3], pads=[1, 1, 1, 1]),
    "Conv groups": conv((3, 3), (2, 6, 5), group=2, strides=[2, 1], pads=[1, 1, 1, 1]),
    "Conv depthwise": Case(
        "Conv",
        [
            node("Conv", "x", "k", out="h"),
            node("Conv", "h", "w", "b", out="o", group=4, pads=[1, 1, 1, 1], strides=[2, 1]),
            node("Mul", "o", "o", out="q"),
            node("ReduceMean", "q", "axes", out="y", keepdims=0),
        ],
        {"k": weight(4, 2, 1, 1), "w": weight(4, 1, 3, 3), "b": weight(4), "axes": ints(2, 3)},
        (2, 6, 5),
        (4,),
    ),
    **{
        f"Conv depthwise, {name}": Case(
            "Conv",
            [
                node("Conv", "x", "k", out="h"),
                node("Conv", "h", "w", out="o", group=4, **attributes),
                node("Mul", "o", "o", out="q"),
                node("ReduceMean", "q", "axes", out="y", keepdims=0),
            ],
            {"k": weight(4, 2, 1, 1), "w": weight(4, 1, *kernel), "axes": ints(2, 3)},
            (2, 6, 5),
            (4,),
        )
        for name, kernel, attributes in (
            ("without padding", (3, 2), {}),
            ("padded above and right", (3, 3), {"pads": [2, 0, 0, 2]}),
            ("padded below", (4, 3), {"pads": [0, 1, 3, 1]}),
            ("dilated", (3, 2), {"dilations": [2, 3], "pads": [2, 1, 1, 2]}),
            ("one row", (1, 3), {"pads": [0, 1, 0, 1]}),
            ("padded beyond its kernel", (2, 2), {"pads": [2, 2, 3, 0]}),
        )
    },
    "Conv depthwise, two for one": conv((3, 3), (2, 6, 5), group=4, pads=[1, 1, 1, 1]),
    "Conv depthwise of sequences": Case(
        "Conv",
        [
            node("Conv", "x", "k", out="h"),
            node("Conv", "h", "w", out="o", group=4, dilations=[2]),
            node("Mul", "o", "o", out="q"),
            node("ReduceMean", "q", "axes", out="y", keepdims=0),
        ],
        {"k": weight(4, 2, 1), "w": weight(4, 1, 3), "axes": ints(2)},
        (2, 9),
        (4,),
    ),
    "Conv auto_pad SAME_UPPER": conv((3, 2), (2, 6, 5), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv auto_pad SAME_LOWER": conv((2, 3), (2, 6, 5), auto_pad="SAME_LOWER"),
    "Conv auto_pad VALID": conv((3, 3), (2, 6, 5), auto_pad="VALID"),
    "ConvTranspose": conv_transpose((3, 3), (2, 4, 3)),
    "ConvTranspose of sequences": conv_transpose((3,), (2, 5), strides=[2], pads=[1, 0]),
    "ConvTranspose stride and padding": conv_transpose(
        (3, 2), (2, 4, 3), strides=[2, 3], pads=[1, 0, 1, 1], output_padding=[1, 0]
    ),
    "ConvTranspose dilation": conv_transpose((2, 3), (2, 4, 3), dilations=[2, 2]),
    "ConvTranspose auto_pad SAME_UPPER": conv_transpose((3, 4), (2, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    "ConvTranspose auto_pad SAME_LOWER": conv_transpose((3, 4), (2, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    "ConvTranspose output_shape": conv_transpose((3, 3), (2, 4, 3), output_shape=[8, 6], strides=[2, 2]),
    "ConvTranspose groups": conv_transpose((3, 3), (2, 4, 3), group=2, strides=[2, 2]),
    "MaxPool": pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool that tiles": pool("MaxPool", (2, 6, 8), kernel_shape=[3, 2], strides=[3, 2]),
    "MaxPool that tiles sequences": pool("MaxPool", (2, 9), kernel_shape=[3], strides=[3]),
    "MaxPool overlapping and padded": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
    "MaxPool dilated": pool("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    "MaxPool ceil_mode": pool("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "MaxPool of sequences": pool("MaxPool", (2, 9), kernel_shape=[3], strides=[2]),
    "AveragePool": pool("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool overlapping and padded": pool("AveragePool", kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
    "AveragePool counting padding": pool("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "AveragePool ceil_mode": pool("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "AveragePool of sequences": pool("AveragePool", (2, 9), kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"),
    "GlobalAveragePool": pool("GlobalAveragePool"),
    "GlobalMaxPool": pool("GlobalMaxPool"),
    # ── moving elements ──
    "Flatten": moved("Flatten", size=20),
    "Reshape": moved("Reshape", "s", size=20, weights={"s": ints(-1, 2, 10)}),
    "Transpose": moved("Transpose", size=20, perm=[0, 2, 1]),
    "Unsqueeze and Squeeze": Case(
        "Squeeze",
        [
            dense("x", "h"),
            node("Unsqueeze", "h", "one", out="u"),
            node("Mul", "u", "r", out="m"),
            node("Squeeze", "m", "one", out="y"),
        ],
        W | {"one": ints(1), "r": weight(1, 1, 3)},
    ),
    "Unsqueeze": Case(
        "Unsqueeze",
        [dense("x", "h"), node("Unsqueeze", "h", "two", out="u"), node("Mul", "u", "r", out="y")],
        W | {"two": ints(2), "r": weight(2)},
        outputs=(3, 2),
    ),
    "Concat": Case(
        "Concat",
        [
            dense("x", "h"),
            node("Tanh", "h", out="t"),
            node("Concat", "h", "x", "t", out="c", axis=1),
            node("MatMul", "c", "v", out="y"),
        ],
        W | {"v": weight(12, 3)},
    ),
    "Split": Case(
        "Split",
        [
            dense("x", "h"),
            onnx.helper.make_node("Split", ["h", "parts"], ["a", "b", "c"], name="split", axis=1),
            node("Concat", "c", "a", out="y", axis=1),
        ],
        dense_weights(6, 6) | {"parts": ints(2, 3, 1)},
    ),
    "Slice": moved("Slice", "a", "b", "c", size=6, weights={"a": ints(1, 2), "b": ints(3, 5), "c": ints(1, 2)}),
    "Slice with steps": moved(
        "Slice",
        "a",
        "b",
        "c",
        "d",
        size=6,
        weights={"a": ints(0, -1), "b": ints(4, -100), "c": ints(1, 2), "d": ints(2, -2)},
    ),
    "Pad": moved("Pad", "p", size=48, weights={"p": ints(0, 1, 2, 0, 1, 1)}),
    "Pad on an axis": moved("Pad", "p", "", "q", size=32, weights={"p": ints(1, 2), "q": ints(2)}),
    "Gather of one": moved("Gather", "i", size=4, axis=2, weights={"i": np.array(-1, np.int64)}),
    "Gather of one, which takes the axis away": Case(
        "Gather",
        [node("Tanh", "x", out="t"), node("Gather", "t", "last", out="g", axis=1), dense("g", "y")],
        W | {"last": np.array(-1, np.int64)},
        (4, 6),
    ),
    "Gather of several, one twice": moved("Gather", "i", size=16, axis=2, weights={"i": ints(0, 3, 3, -2)}),
    "Gather of a table": Case(
        "Gather",
        [
            node("Abs", "x", out="a"),
            node("Floor", "a", out="f"),
            node("Clip", "f", "lo", "hi", out="k"),
            node("Cast", "k", out="i", to=7),
            node("Gather", "table", "i", out="e", axis=0),
            node("ReduceMean", "e", "one", out="y", keepdims=0),
        ],
        {"table": weight(3, 3), "lo": np.float32(0), "hi": np.float32(2), "one": ints(1)},
    ),
    "Expand": Case(
        "Expand",
        [
            dense("x", "h"),
            node("Shape", "x", out="s"),
            node("Slice", "s", "zero", "one", out="n"),
            constant("k", ints(3)),
            node("Concat", "n", "k", out="size", axis=0),
            node("Expand", "r", "size", out="e"),
            node("Mul", "h", "e", out="y"),
        ],
        W | {"r": weight(1, 3), "zero": ints(0), "one": ints(1)},
    ),
    "Constant": Case(
        "Constant", [constant("c", weight(3, seed=3)), dense("x", "h"), node("Mul", "h", "c", out="y")], W
    ),
    "Constant by value_floats": Case(
        "Constant",
        [node("Constant", out="c", value_floats=[1.0, -2.0, 0.5]), dense("x", "h"), node("Mul", "h", "c", out="y")],
        W,
    ),
    "Constant by value_float": Case(
        "Constant", [node("Constant", out="c", value_float=2.0), dense("x", "h"), node("Mul", "h", "c", out="y")], W
    ),
    # ── recurrence ──
    "RNN": recurrent("RNN"),
    "RNN reverse": recurrent("RNN", "reverse", last=True),
    "RNN bidirectional with relu": recurrent("RNN", "bidirectional", activations=["Relu", "Relu"], first=True),
    "GRU": recurrent("GRU", linear_before_reset=1),
    "GRU reverse": recurrent("GRU", "reverse", linear_before_reset=1, last=True),
    "GRU bidirectional": recurrent("GRU", "bidirectional", linear_before_reset=1, first=True),
    "GRU bidirectional, last states": recurrent("GRU", "bidirectional", linear_before_reset=1, last=True),
    "GRU without bias": recurrent("GRU", bias=False, linear_before_reset=1),
    "GRU, reset before": recurrent("GRU", linear_before_reset=0),
    "GRU, reset before, reverse": recurrent("GRU", "reverse", linear_before_reset=0, first=True),
    "LSTM": recurrent("LSTM"),
    "LSTM reverse, last cell": recurrent("LSTM", "reverse", last=True),
    "LSTM bidirectional": recurrent("LSTM", "bidirectional", first=True),
    "LSTM without bias": recurrent("LSTM", bias=False),
    # ── the walk itself ──
    "a constant by the name of a metric": Case(
        "Reshape", [node("Reshape", "x", "loss", out="r"), dense("r", "y")], W | {"loss": ints(0, 6)}
    ),
    "fan-out and back": Case(
        "Mul",
        [
            dense("x", "h"),
            node("Tanh", "h", out="t"),
            node("Sigmoid", "h", out="s"),
            node("Mul", "t", "s", out="m"),
            node("Add", "m", "h", out="y"),
        ],
        W,
    ),
    "a weight used twice": Case(
        "MatMul",
        [node("MatMul", "x", "w", out="h"), node("Tanh", "h", out="t"), node("MatMul", "t", "w", out="y")],
        {"w": weight(6, 6)},
        outputs=(6,),
    ),
}
