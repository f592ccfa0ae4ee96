"""Law: what only moves elements has a gradient that moves them back, and adds them where one was used twice."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx

from headwater.core.graph.operators.elementwise import no_gradient
from headwater.core.graph.operators.row import Attributes, Gradients, Operator, axis_of, not_the_batch, refuse
from headwater.core.graph.tape import Shape, Tape


def _as_before(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """Flatten, Reshape, Squeeze and Unsqueeze: the gradient takes the input's shape back."""
    return (tape.reshaped(grad, node.input[0]),)


def _transpose(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    rank = len(tape.shapes[node.input[0]])
    perm = attributes["perm"] or range(rank)[::-1]
    return (tape.emit("Transpose", grad, perm=[int(i) for i in np.argsort(perm)]),)


END: Final = 2**31 - 1
"""An end behind every axis's last row."""


def part(tape: Tape, value: str, axis: int, start: int, end: int) -> str:
    return tape.emit("Slice", value, tape.axes([start]), tape.axes([end]), tape.axes([axis]))


def _concat(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    axis = axis_of(attributes["axis"], tape.shapes[node.output[0]])
    parts, start = [], 0
    for name in node.input:
        size = tape.shapes[name][axis] or 0
        parts.append(part(tape, grad, axis, start, start + size))
        start += size
    return tuple(parts)


def _axis_is_not_the_batch(node: onnx.NodeProto, attributes: Attributes, shapes: Mapping[str, Shape]) -> None:
    not_the_batch(node, attributes["axis"], shapes[node.input[0]])


def _split(tape: Tape, node: onnx.NodeProto, attributes: Attributes, *grads: str | None) -> Gradients:
    parts = [
        grad or tape.emit("ConstantOfShape", tape.full_shape(name))
        for name, grad in zip(node.output, grads, strict=True)
    ]
    return (tape.emit("Concat", *parts, axis=attributes["axis"]),)


def _slice(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """Each sliced axis in turn: the rows that were taken go back to their places, zeros to the others."""
    shape, chosen = tape.shapes[node.input[0]], _chosen(tape, node)
    for axis, rows in chosen.items():
        size = shape[axis] or 0
        before, after = (rows[0], size - rows[-1] - 1) if rows else (0, size)
        if rows == list(range(before, size - after)):
            grad = padded(tape, grad, len(shape), {axis: (before, after)})
            continue
        places = np.full(size, len(rows))
        places[rows] = np.arange(len(rows))
        grad = tape.emit(
            "Gather", padded(tape, grad, len(shape), {axis: (0, 1)}), tape.axes(places.tolist()), axis=axis
        )
    return (grad,)


def _chosen(tape: Tape, node: onnx.NodeProto) -> dict[int, list[int]]:
    """The rows that a Slice takes, by axis."""
    shape = tape.shapes[node.input[0]]
    values = [tape.value_of(name) for name in node.input[1:] if name]
    starts, ends = values[0], values[1]
    axes = values[2] if len(node.input) > 3 and node.input[3] else list(range(len(starts)))
    steps = values[-1] if len(node.input) > 4 else [1] * len(starts)
    rows = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_of(axis, shape)
        if step != 1:
            not_the_batch(node, place, shape)
        if shape[place] is not None:
            rows[place] = _rows(shape[place] or 0, start, end, step)
    return rows


def _rows(size: int, start: int, end: int, step: int) -> list[int]:
    """As ONNX counts: numpy's rules, but for an end far below zero, which is before the first row."""
    return list(range(size))[start : (None if step < 0 and end < -size else end) : step]


def padded(tape: Tape, value: str, rank: int, by: Mapping[int, tuple[int, int]]) -> str:
    """With zeros before and after, by axis."""
    if all(amount == (0, 0) for amount in by.values()):
        return value
    pads = [by.get(axis, (0, 0))[side] for side in (0, 1) for axis in range(rank)]
    return tape.emit("Pad", value, tape.axes(pads))


def _pad(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    shape = tape.shapes[node.input[0]]
    pads = tape.value_of(node.input[1])
    axes = tape.value_of(node.input[3]) if len(node.input) > 3 and node.input[3] else list(range(len(shape)))
    for place, axis in enumerate(axes):
        before, size = pads[place], shape[axis]
        if size is not None and (before or pads[place + len(axes)]):
            grad = part(tape, grad, axis_of(axis, shape), before, before + size)
    return (grad,)


def _zeros_only(node: onnx.NodeProto, attributes: Attributes, _: Mapping[str, Shape]) -> None:
    if attributes["mode"] not in ("constant", b"constant"):
        raise refuse(node, f"with mode {attributes['mode']!r}; supported is constant")


def _gather(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """Each gathered row goes back to its place; rows that were taken twice add up."""
    data, indices = node.input
    shape = tape.shapes[data]
    axis, rank = axis_of(attributes["axis"], shape), len(tape.shapes[indices])
    if rank == 0 and tape.is_known(indices):
        row = tape.value_of(indices)
        place, size = (row + (shape[axis] or 0) if row < 0 else row), shape[axis] or 0
        one = tape.emit("Unsqueeze", grad, tape.axes([axis]))
        return (padded(tape, one, len(shape), {axis: (place, size - place - 1)}), None)
    # The gathered axes to the front of the gradient, and the axis to the front of the data.
    front = list(range(axis, axis + rank))
    order = front + [i for i in range(len(shape) - 1 + rank) if i not in front]
    moved = [axis, *(i for i in range(len(shape)) if i != axis)]
    updates = tape.emit("Transpose", grad, perm=order) if axis else grad
    length = tape.constant(shape[axis] or 0, np.int64)
    negative = tape.emit("Less", indices, tape.constant(0, np.int64))
    places = tape.emit("Where", negative, tape.emit("Add", indices, length), indices)
    rows = tape.emit("Unsqueeze", places, tape.axes([-1]))
    like = tape.emit("Gather", tape.emit("Shape", data), tape.axes(moved)) if axis else tape.emit("Shape", data)
    back = tape.emit("ScatterND", tape.emit("ConstantOfShape", like), rows, updates, reduction="add")
    if axis:
        back = tape.emit("Transpose", back, perm=[int(i) for i in np.argsort(moved)])
    return (back, None)


def _expand(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.unbroadcast(grad, tape.shapes[node.output[0]], tape.shapes[node.input[0]]),)


WITHOUT_GRADIENT: Final[dict[str, dict[str, Any]]] = {
    "And": {},
    "ArgMax": {"axis": 0, "keepdims": 1, "select_last_index": 0},
    "ConstantOfShape": {"value": None},
    "Equal": {},
    "Floor": {},
    "Greater": {},
    "GreaterOrEqual": {},
    "Less": {},
    "LessOrEqual": {},
    "Mod": {"fmod": 0},
    "Not": {},
    "Or": {},
    "Range": {},
    "Shape": {"start": 0, "end": None},
    "Sign": {},
    "Size": {},
    "Trilu": {"upper": 1},
}
"""Operators of masks, positions and shapes: their results are used, and no gradient goes through them."""

SHAPING: Final[Mapping[str, Operator]] = {
    "Concat": Operator(_concat, {"axis": 0}, check=_axis_is_not_the_batch),
    "Constant": Operator(
        no_gradient, dict.fromkeys(("value", "value_float", "value_floats", "value_int", "value_ints"))
    ),
    "Expand": Operator(_expand, {}),
    "Flatten": Operator(_as_before, {"axis": 1}),
    "Gather": Operator(_gather, {"axis": 0}, check=_axis_is_not_the_batch),
    "Pad": Operator(_pad, {"mode": "constant"}, fixed=(1, 2, 3), check=_zeros_only),
    "Reshape": Operator(_as_before, {"allowzero": 0}),
    "Slice": Operator(_slice, {}, fixed=(1, 2, 3, 4)),
    "Split": Operator(_split, {"axis": 0, "num_outputs": None}, outputs=256, check=_axis_is_not_the_batch, fixed=(1,)),
    "Squeeze": Operator(_as_before, {}, fixed=(1,)),
    "Transpose": Operator(_transpose, {"perm": None}),
    "Unsqueeze": Operator(_as_before, {}, fixed=(1,)),
} | {name: Operator(no_gradient, attributes) for name, attributes in WITHOUT_GRADIENT.items()}
