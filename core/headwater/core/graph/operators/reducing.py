"""Law: a sum's gradient is repeated along what was summed; a normaliser never looks across the batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import onnx

from headwater.core.graph.operators.row import Attributes, Gradients, Operator, axis_of, given, not_the_batch
from headwater.core.graph.tape import Shape, Tape


def _axes(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> list[int]:
    """The reduced axes; none given means all, or none where noop_with_empty_axes says so."""
    shape = tape.shapes[node.input[0]]
    axes = tape.value_of(node.input[1]) if given(node, 1) else []
    if not len(axes):
        return [] if attributes["noop_with_empty_axes"] else list(range(len(shape)))
    return sorted(axis_of(int(axis), shape) for axis in axes)


def _restored(tape: Tape, node: onnx.NodeProto, attributes: Attributes, value: str, axes: Sequence[int]) -> str:
    """The reduced axes as axes of size 1 again."""
    return value if attributes["keepdims"] or not axes else tape.emit("Unsqueeze", value, tape.axes(axes))


def _reduce_sum(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    x, axes = node.input[0], _axes(tape, node, attributes)
    return (tape.emit("Expand", _restored(tape, node, attributes, grad, axes), tape.full_shape(x)),)


def _reduce_mean(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    axes = _axes(tape, node, attributes)
    count = math.prod(tape.shapes[node.input[0]][axis] or 1 for axis in axes)
    return _reduce_sum(tape, node, attributes, tape.emit("Mul", grad, tape.constant(1.0 / max(count, 1))))


def _reduce_max(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """To the largest element; in equal shares where several are."""
    x, axes = node.input[0], _axes(tape, node, attributes)
    best = _restored(tape, node, attributes, node.output[0], axes)
    hits = tape.as_float(tape.emit("Equal", x, best))
    count = tape.emit("ReduceSum", hits, tape.axes(axes), keepdims=1)
    share = tape.emit("Div", _restored(tape, node, attributes, grad, axes), count)
    return (tape.emit("Mul", hits, share),)


def _global_average(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    x = node.input[0]
    size = math.prod(size or 1 for size in tape.shapes[x][2:])
    return (tape.emit("Expand", tape.emit("Mul", grad, tape.constant(1.0 / size)), tape.full_shape(x)),)


def _global_max(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    x = node.input[0]
    hits = tape.as_float(tape.emit("Equal", x, node.output[0]))
    count = tape.emit("ReduceSum", hits, tape.axes(range(2, len(tape.shapes[x]))), keepdims=1)
    return (tape.emit("Mul", hits, tape.emit("Div", grad, count)),)


def _softmax(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """y·(g − Σ g·y) along the axis."""
    y = node.output[0]
    weighted = tape.emit("Mul", grad, y)
    total = tape.emit("ReduceSum", weighted, tape.axes([attributes["axis"]]), keepdims=1)
    return (tape.emit("Sub", weighted, tape.emit("Mul", y, total)),)


def _log_softmax(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """g − softmax·Σ g along the axis."""
    total = tape.emit("ReduceSum", grad, tape.axes([attributes["axis"]]), keepdims=1)
    return (tape.emit("Sub", grad, tape.emit("Mul", tape.emit("Exp", node.output[0]), total)),)


def _within_an_example(node: onnx.NodeProto, attributes: Attributes, shapes: Mapping[str, Shape]) -> None:
    not_the_batch(node, attributes["axis"], shapes[node.input[0]])


def _behind_the_batch(node: onnx.NodeProto, attributes: Attributes, shapes: Mapping[str, Shape]) -> None:
    shape = shapes[node.input[0]]
    for axis in range(axis_of(attributes["axis"], shape), len(shape)):
        not_the_batch(node, axis, shape)


def _layer_norm_forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """The node itself, asked for its mean and inverse deviation besides."""
    mean, inverse = tape.fresh("mean"), tape.fresh("inverse_deviation")
    copy = onnx.helper.make_node(
        "LayerNormalization",
        list(node.input),
        [node.output[0], mean, inverse],
        name=node.name,
        axis=attributes["axis"],
        epsilon=attributes["epsilon"],
    )
    tape.nodes.append(copy)
    tape.saved[node.output[0]] = (mean, inverse)


def _layer_norm(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """Ba, Kiros & Hinton 2016: dx = (ĝ − mean ĝ − x̂·mean(ĝ·x̂))/σ with ĝ = g·scale."""
    x, scale = node.input[:2]
    shape = tape.shapes[x]
    mean, inverse = tape.saved[node.output[0]]
    axes = tape.axes(range(axis_of(attributes["axis"], shape), len(shape)))
    unit = tape.emit("Mul", tape.emit("Sub", x, mean), inverse)
    scaled = tape.emit("Mul", grad, scale)
    level = tape.emit("ReduceMean", scaled, axes, keepdims=1)
    slope = tape.emit("ReduceMean", tape.emit("Mul", scaled, unit), axes, keepdims=1)
    rest = tape.emit("Sub", tape.emit("Sub", scaled, level), tape.emit("Mul", unit, slope))
    to_scale = tape.unbroadcast(tape.emit("Mul", grad, unit), shape, tape.shapes[scale])
    bias = given(node, 2)
    to_bias = tape.unbroadcast(grad, shape, tape.shapes[bias]) if bias else None
    return (tape.emit("Mul", rest, inverse), to_scale, to_bias)


_REDUCTION: Final = {"keepdims": 1, "noop_with_empty_axes": 0}

REDUCING: Final[Mapping[str, Operator]] = {
    "GlobalAveragePool": Operator(_global_average, {}),
    "GlobalMaxPool": Operator(_global_max, {}),
    "LayerNormalization": Operator(
        _layer_norm,
        {"axis": -1, "epsilon": 1e-5, "stash_type": 1},
        forward=_layer_norm_forward,
        check=_behind_the_batch,
    ),
    "LogSoftmax": Operator(_log_softmax, {"axis": -1}, check=_within_an_example),
    "ReduceMax": Operator(_reduce_max, _REDUCTION, fixed=(1,)),
    "ReduceMean": Operator(_reduce_mean, _REDUCTION, fixed=(1,)),
    "ReduceSum": Operator(_reduce_sum, _REDUCTION, fixed=(1,)),
    "Softmax": Operator(_softmax, {"axis": -1}, check=_within_an_example),
}
