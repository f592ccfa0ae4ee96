"""Law: what the gate differentiates by differences is computed in float64, with nothing that float64 has no kernel for.

onnxruntime's convolutions, pools and erf exist in float32 alone. Here they are said with slices and products, so that
they are a second opinion too.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwater.core.graph.operators import attributes_of
from headwater.core.graph.operators.row import given
from headwater.core.graph.operators.shaping import padded, part
from headwater.core.graph.operators.window import (
    Window,
    pool_counts,
    pool_window,
    spatial,
    transposed_window,
    window_of,
)
from headwater.core.graph.tape import Shape, Tape

_SINGLE: Final = onnx.TensorProto.FLOAT
_DOUBLE: Final = onnx.TensorProto.DOUBLE


def in_float64(payload: bytes, shapes: Mapping[str, Shape]) -> bytes:
    """A graph with every float32 a float64.

    Args:
        shapes: of the forward values, by their names in the graph.
    """
    model = onnx.load_from_string(payload)
    tape = Tape("exact_", shapes)
    for node in model.graph.node:
        said = _SAID_OTHERWISE.get(node.op_type)
        if said is None:
            tape.nodes.append(node)
        else:
            said(tape, node)
    del model.graph.node[:]
    model.graph.node.extend(tape.nodes)
    model.graph.initializer.extend(tape.constants.values())
    _widen(model.graph)
    return bytes(model.SerializeToString())


def _widen(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == _SINGLE:
            value.type.tensor_type.elem_type = _DOUBLE
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _SINGLE:
                attribute.i = _DOUBLE
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _SINGLE:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


# ── the operators without a float64 kernel ──────────────────────────────────────────────────────────────────────


def _views(tape: Tape, x: str, out_shape: Shape, window: Window) -> list[str]:
    """What each element of the kernel sees: x shifted, in the output's spatial shape."""
    rank = len(window.kernel)
    pads = {axis + 2: (window.before[axis], window.after[axis]) for axis in range(rank)}
    wide, sizes, views = padded(tape, x, rank + 2, pads), spatial(out_shape), []
    for offset in np.ndindex(*window.kernel):
        starts = [place * window.dilations[axis] for axis, place in enumerate(offset)]
        ends = [start + (sizes[axis] - 1) * window.strides[axis] + 1 for axis, start in enumerate(starts)]
        axes = tape.axes(range(2, rank + 2))
        views.append(tape.emit("Slice", wide, tape.axes(starts), tape.axes(ends), axes, tape.axes(window.strides)))
    return views


def _convolved(tape: Tape, views: list[str], kernels: list[str], group: int, channels: int, sizes: list[int]) -> str:
    """Σ over the kernel's elements of `[o, c]` times the view's channels, group by group."""
    each = channels // group
    terms = []
    for view, kernel in zip(views, kernels, strict=True):
        parts = []
        flat = tape.emit("Reshape", view, tape.axes([0, channels, -1]))
        for index, rows in enumerate(tape.emit_many("Split", kernel, outputs=group, axis=0, num_outputs=group)):
            own = part(tape, flat, 1, index * each, (index + 1) * each)
            parts.append(tape.emit("MatMul", rows, own))
        terms.append(tape.emit("Concat", *parts, axis=1) if group > 1 else parts[0])
    return tape.emit("Reshape", tape.total(terms), tape.axes([0, -1, *sizes]))


def _kernel_matrices(tape: Tape, weight: str, kernel: tuple[int, ...]) -> list[str]:
    """`[o, c]` for each element of a kernel `[o, c, …]`."""
    flat = tape.emit("Reshape", weight, tape.axes([0, 0, -1]))
    return [
        tape.emit("Squeeze", part(tape, flat, 2, place, place + 1), tape.axes([2]))
        for place in range(math.prod(kernel))
    ]


def _plus_bias(tape: Tape, node: onnx.NodeProto, value: str, rank: int) -> None:
    bias = given(node, 2)
    if bias is None:
        tape.emit("Identity", value, name=node.output[0])
    else:
        tape.emit("Add", value, tape.emit("Reshape", bias, tape.axes([-1, *[1] * rank])), name=node.output[0])


def _conv(tape: Tape, node: onnx.NodeProto) -> None:
    x, weight = node.input[:2]
    x_shape, out, attributes = tape.shapes[x], tape.shapes[node.output[0]], attributes_of(node)
    window = window_of(attributes, spatial(tape.shapes[weight]), spatial(x_shape), spatial(out))
    views = _views(tape, x, out, window)
    kernels = _kernel_matrices(tape, weight, window.kernel)
    value = _convolved(tape, views, kernels, attributes["group"], x_shape[1] or 0, list(spatial(out)))
    _plus_bias(tape, node, value, len(window.kernel))


def _conv_transpose(tape: Tape, node: onnx.NodeProto) -> None:
    """A convolution with the kernel turned around, over x with zeros between its elements."""
    x, weight = node.input[:2]
    x_shape, out, weight_shape = tape.shapes[x], tape.shapes[node.output[0]], tape.shapes[weight]
    attributes = attributes_of(node)
    window, group, rank = transposed_window(attributes, x_shape, out, weight_shape), attributes["group"], len(out) - 2
    value, sizes = x, list(spatial(x_shape))
    for axis in range(rank):
        # [… s …] → [… s, 1 …] → [… s, stride …] → [… s·stride …], the zeros behind the last one cut off.
        column = tape.emit("Unsqueeze", value, tape.axes([axis + 3]))
        filled = padded(tape, column, len(out) + 1, {axis + 3: (0, window.strides[axis] - 1)})
        sizes[axis] *= window.strides[axis]
        value = tape.emit("Reshape", filled, tape.axes([0, 0, *sizes]))
        sizes[axis] -= window.strides[axis] - 1
        value = part(tape, value, axis + 2, 0, sizes[axis])
    spans = [(window.kernel[axis] - 1) * window.dilations[axis] for axis in range(rank)]
    turned = Window(
        window.kernel,
        (1,) * rank,
        window.dilations,
        tuple(span - pad for span, pad in zip(spans, window.before, strict=True)),
        tuple(span - pad for span, pad in zip(spans, window.after, strict=True)),
    )
    views = _views(tape, value, out, turned)
    kernels = []
    for matrix in _kernel_matrices(tape, weight, window.kernel)[::-1]:
        # [g·c, o] to [g·o, c]: group by group turned over.
        rows = tape.emit_many("Split", matrix, outputs=group, axis=0, num_outputs=group)
        turned_rows = [tape.emit("Transpose", row, perm=[1, 0]) for row in rows]
        kernels.append(tape.emit("Concat", *turned_rows, axis=0))
    result = _convolved(tape, views, kernels, group, x_shape[1] or 0, list(spatial(out)))
    _plus_bias(tape, node, result, rank)


def _average_pool(tape: Tape, node: onnx.NodeProto) -> None:
    shape, out, attributes = tape.shapes[node.input[0]], tape.shapes[node.output[0]], attributes_of(node)
    window = pool_window(tape, node, attributes)
    counts: NDArray[Any] = pool_counts(window, attributes, spatial(shape), spatial(out))
    total = tape.total(_views(tape, node.input[0], out, window))
    tape.emit("Div", total, tape.constant(counts[None, None], np.float64), name=node.output[0])


def _global_pool(operator: str) -> Callable[[Tape, onnx.NodeProto], None]:
    def said(tape: Tape, node: onnx.NodeProto) -> None:
        axes = tape.axes(range(2, len(tape.shapes[node.input[0]])))
        tape.emit(operator, node.input[0], axes, name=node.output[0], keepdims=1)

    return said


def _one_hot(tape: Tape, node: onnx.NodeProto) -> None:
    labels, depth, _ = node.input
    places = tape.emit("Range", tape.constant(0, np.int64), depth, tape.constant(1, np.int64))
    column = tape.emit("Unsqueeze", labels, tape.axes([1]))
    tape.emit("Cast", tape.emit("Equal", column, places), name=node.output[0], to=_DOUBLE)


_ERF: Final = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _erf(tape: Tape, node: onnx.NodeProto) -> None:
    """Abramowitz & Stegun 1964, 7.1.26: within 1.5e-7."""

    def number(value: float) -> str:
        return tape.constant(value, np.float64)

    x = node.input[0]
    size = tape.emit("Abs", x)
    t = tape.emit("Reciprocal", tape.emit("Add", tape.emit("Mul", size, number(0.3275911)), number(1.0)))
    series = number(0.0)
    for coefficient in _ERF[::-1]:
        series = tape.emit("Mul", tape.emit("Add", series, number(coefficient)), t)
    tail = tape.emit("Mul", series, tape.emit("Exp", tape.emit("Neg", tape.emit("Mul", size, size))))
    tape.emit("Mul", tape.emit("Sign", x), tape.emit("Sub", number(1.0), tail), name=node.output[0])


_SAID_OTHERWISE: Final[Mapping[str, Callable[[Tape, onnx.NodeProto], None]]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Erf": _erf,
    "GlobalAveragePool": _global_pool("ReduceMean"),
    "GlobalMaxPool": _global_pool("ReduceMax"),
    "OneHot": _one_hot,
}
