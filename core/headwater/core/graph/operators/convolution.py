"""Law: a convolution's gradients are convolutions: to its input transposed, to its kernel with the gradient as kernel.

Dumoulin & Visin 2016, chapter 4.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx

from headwater.core.graph.operators import depthwise
from headwater.core.graph.operators.row import Attributes, Gradients, Operator, given, refuse
from headwater.core.graph.operators.shaping import END, padded, part
from headwater.core.graph.operators.window import (
    Window,
    pool_counts,
    pool_window,
    spatial,
    transposed_window,
    window_of,
)
from headwater.core.graph.tape import Shape, Tape

_FEW_CHANNELS: Final = 4
"""Below it a product is too thin, and the gradient as a kernel is cheaper."""


def _conv_window(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> Window:
    """As the kernel really moves: what a stride leaves over at the end is padding below zero."""
    x, weight = node.input[:2]
    return window_of(
        attributes, spatial(tape.shapes[weight]), spatial(tape.shapes[x]), spatial(tape.shapes[node.output[0]])
    )


def _conv_forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """The node itself; a depthwise one in training as matrix products."""
    x, weight = node.input[:2]
    x_shape, out = tape.shapes[x], tape.shapes[node.output[0]]
    window = _conv_window(tape, node, attributes)
    walked = tape.training is not None and tape.training.walked
    if not walked or not depthwise.serves(window, attributes["group"], x_shape, out):
        tape.nodes.append(node)
        return
    bias, name = given(node, 2), node.output[0]
    plane = depthwise.plane_of(window, x_shape, out)
    value, tape.saved[name] = depthwise.forward(tape, x, weight, plane, None if bias else name)
    if bias:
        depthwise.with_bias(tape, value, bias, name)


def _conv(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    x, weight = node.input[:2]
    window, group = _conv_window(tape, node, attributes), attributes["group"]
    saved = tape.saved.get(node.output[0])
    if saved:
        plane = depthwise.plane_of(window, tape.shapes[x], tape.shapes[node.output[0]])
        return (*depthwise.backward(tape, grad, weight, saved, plane), _to_bias(tape, node, grad))
    if group == 1 and window.is_a_point:
        return (*_pointwise(tape, x, weight, grad), _to_bias(tape, node, grad))
    to_x = spread(tape, grad, weight, window, group)
    to_weight = _kernel_gradient(
        tape, x, grad, window, group, tape.shapes[x], tape.shapes[node.output[0]], tape.shapes[weight]
    )
    return (to_x, to_weight, _to_bias(tape, node, grad))


def _pointwise(tape: Tape, x: str, weight: str, grad: str) -> tuple[str, str]:
    """A kernel of one element is a matrix, and its gradients are products."""
    outputs, inputs = (size or 0 for size in tape.shapes[weight][:2])
    flat_grad = tape.emit("Reshape", grad, tape.axes([0, outputs, -1]))
    flat_x = tape.emit("Reshape", x, tape.axes([0, inputs, -1]))
    matrix = tape.emit("Reshape", weight, tape.axes([outputs, inputs]))
    to_x = tape.emit("MatMul", tape.emit("Transpose", matrix, perm=[1, 0]), flat_grad)
    each = tape.emit("MatMul", flat_grad, tape.emit("Transpose", flat_x, perm=[0, 2, 1]))
    to_weight = tape.emit("ReduceSum", each, tape.axes([0]), keepdims=0)
    return tape.reshaped(to_x, x), tape.reshaped(to_weight, weight)


def _to_bias(tape: Tape, node: onnx.NodeProto, grad: str) -> str | None:
    if given(node, 2) is None:
        return None
    axes = [i for i in range(len(tape.shapes[node.output[0]])) if i != 1]
    return tape.emit("ReduceSum", grad, tape.axes(axes), keepdims=0)


def spread(tape: Tape, grad: str, weight: str, window: Window, group: int) -> str:
    """The transposed convolution that undoes a window's shrinking; padding below zero becomes rows of zeros."""
    cut = [max(0, pad) for pad in window.after]
    extra = {axis + 2: (0, max(0, -pad)) for axis, pad in enumerate(window.after)}
    result = tape.emit(
        "ConvTranspose",
        grad,
        weight,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.before, *cut],
        group=group,
    )
    return padded(tape, result, len(window.kernel) + 2, extra)


def _kernel_gradient(
    tape: Tape,
    large: str,
    small: str,
    window: Window,
    group: int,
    large_shape: Shape,
    small_shape: Shape,
    weight_shape: Shape,
) -> str:
    """Σ over examples and places of small·large shifted by the kernel's offset, in the kernel's shape.

    `large` `[n, g·c, …]` is what the kernel moves over, `small` `[n, o, …]` what it makes.
    """
    rank, channels = len(window.kernel), (large_shape[1] or 0) // group
    if group == large_shape[1] == small_shape[1]:
        return _depthwise_kernel_gradient(tape, large, small, window, large_shape, small_shape, weight_shape)
    if group == 1 and set(window.strides) == {1} and channels >= _FEW_CHANNELS:
        return _kernel_gradient_by_products(tape, large, small, window, large_shape, small_shape, weight_shape)
    if group == 1:
        moved = tape.emit("Transpose", large, perm=[1, 0, *range(2, rank + 2)])
    else:
        # The batch of each group side by side, so that one grouped convolution serves.
        grouped = tape.emit("Reshape", large, tape.axes([-1, group, channels, *spatial(large_shape)]))
        turned = tape.emit("Transpose", grouped, perm=[2, 1, 0, *range(3, rank + 3)])
        moved = tape.emit("Reshape", turned, tape.axes([channels, -1, *spatial(large_shape)]))
    kernel = tape.emit("Transpose", small, perm=[1, 0, *range(2, rank + 2)])
    # What a stride leaves over is cut off: its window is exact.
    cut = {axis + 2: (0, min(0, pad)) for axis, pad in enumerate(window.after)}
    product = tape.emit(
        "Conv",
        padded(tape, moved, rank + 2, cut),
        kernel,
        strides=window.dilations,
        dilations=window.strides,
        pads=[*window.before, *(max(0, pad) for pad in window.after)],
        group=group,
    )
    return tape.emit("Transpose", product, perm=[1, 0, *range(2, rank + 2)])


def _kernel_gradient_by_products(
    tape: Tape, large: str, small: str, window: Window, large_shape: Shape, small_shape: Shape, weight_shape: Shape
) -> str:
    """One large product for each element of the kernel.

    With the batch and all places in one long axis, zeros between examples and rows, an offset of the kernel is a shift
    along it.
    """
    rank = len(window.kernel)
    around = list(zip(window.before, window.after, strict=True))
    sizes = [size + sum(pads) for size, pads in zip(spatial(large_shape), around, strict=True)]
    steps = [math.prod(sizes[axis + 1 :]) * window.dilations[axis] for axis in range(rank)]
    furthest = sum(step * (size - 1) for step, size in zip(steps, window.kernel, strict=True))
    behind = [(0, size - own) for size, own in zip(sizes, spatial(small_shape), strict=True)]
    long_large = _in_a_row(tape, large, large_shape, around)
    long_small = part(tape, _in_a_row(tape, small, small_shape, behind), 1, 0, -furthest or END)
    columns = []
    for offset in np.ndindex(*window.kernel):
        shift = sum(step * place for step, place in zip(steps, offset, strict=True))
        view = part(tape, long_large, 1, shift, shift - furthest or END)
        product = tape.emit("MatMul", long_small, tape.emit("Transpose", view, perm=[1, 0]))
        columns.append(tape.emit("Unsqueeze", product, tape.axes([2])))
    return tape.emit("Reshape", tape.emit("Concat", *columns, axis=2), tape.axes(size or 0 for size in weight_shape))


def _in_a_row(tape: Tape, value: str, shape: Shape, pads: Sequence[tuple[int, int]]) -> str:
    """`[b, c, …]` with zeros around its places, as `[c, b · places]`."""
    wide = padded(tape, value, len(shape), {axis + 2: pad for axis, pad in enumerate(pads)})
    turned = tape.emit("Transpose", wide, perm=[1, 0, *range(2, len(shape))])
    return tape.emit("Reshape", turned, tape.axes([shape[1] or 0, -1]))


def _depthwise_kernel_gradient(
    tape: Tape, large: str, small: str, window: Window, large_shape: Shape, small_shape: Shape, weight_shape: Shape
) -> str:
    """One channel to one: a product and a sum for each element of the kernel, cheaper than a grouped convolution."""
    rank = len(window.kernel)
    pads = {axis + 2: (window.before[axis], window.after[axis]) for axis in range(rank)}
    wide = padded(tape, large, rank + 2, pads)
    axes = [0, *range(2, rank + 2)]
    sums = []
    for offset in np.ndindex(*window.kernel):
        starts = [place * window.dilations[axis] for axis, place in enumerate(offset)]
        sizes = spatial(small_shape)
        ends = [start + (sizes[axis] - 1) * window.strides[axis] + 1 for axis, start in enumerate(starts)]
        view = tape.emit(
            "Slice", wide, tape.axes(starts), tape.axes(ends), tape.axes(range(2, rank + 2)), tape.axes(window.strides)
        )
        product = tape.emit("Mul", view, small)
        sums.append(tape.emit("ReduceSum", product, tape.axes(axes), keepdims=0))
    columns = [tape.emit("Unsqueeze", value, tape.axes([1])) for value in sums]
    joined = tape.emit("Concat", *columns, axis=1) if len(columns) > 1 else columns[0]
    return tape.emit("Reshape", joined, tape.axes(size or 0 for size in weight_shape))


def _conv_transpose(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """The roles of input and output are those of a convolution the other way."""
    x, weight = node.input[:2]
    x_shape, out_shape, weight_shape = tape.shapes[x], tape.shapes[node.output[0]], tape.shapes[weight]
    window, group = transposed_window(attributes, x_shape, out_shape, weight_shape), attributes["group"]
    cut = {axis + 2: (0, min(0, pad)) for axis, pad in enumerate(window.after)}
    to_x = tape.emit(
        "Conv",
        padded(tape, grad, len(x_shape), cut),
        weight,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.before, *(max(0, pad) for pad in window.after)],
        group=group,
    )
    to_weight = _kernel_gradient(tape, grad, x, window, group, out_shape, x_shape, weight_shape)
    return (to_x, to_weight, _to_bias(tape, node, grad))


def _max_pool_forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """The node itself; in training it is asked for the places of its maxima, where windows share elements."""
    if tape.training is None or _tiles(tape, node, attributes):
        tape.nodes.append(node)
        return
    places = tape.fresh("places")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [node.output[0], places]
    tape.nodes.append(copy)
    tape.saved[node.output[0]] = (places,)


def _max_pool(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """Each gradient goes to the place of its maximum; where windows overlap they add up."""
    x = node.input[0]
    if _tiles(tape, node, attributes):
        return (_tiled(tape, node, attributes, grad),)
    flat = tape.axes([-1])
    (places,) = tape.saved[node.output[0]]
    zeros = tape.emit("ConstantOfShape", tape.emit("Reshape", tape.emit("Size", x), flat))
    back = tape.emit(
        "ScatterElements",
        zeros,
        tape.emit("Reshape", places, flat),
        tape.emit("Reshape", grad, flat),
        axis=0,
        reduction="add",
    )
    return (tape.reshaped(back, x),)


def _tiles(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> bool:
    """Whether each element is in exactly one window."""
    window = pool_window(tape, node, attributes)
    return window.strides == window.kernel and not any(window.pads) and set(window.dilations) == {1}


def _tiled(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> str:
    """The maximum's place is found by comparing; equal ones share. Asking for places would be ten times slower."""
    x, kernel = node.input[0], tuple(attributes["kernel_shape"])
    hits = tape.as_float(tape.emit("Equal", x, _enlarged(tape, node.output[0], x)))
    # The mean of a window's hits is their number over the window's size.
    mean = tape.emit("AveragePool", hits, kernel_shape=kernel, strides=kernel)
    share = tape.emit("Div", tape.emit("Mul", grad, tape.constant(1.0 / math.prod(kernel))), mean)
    return tape.emit("Mul", hits, _enlarged(tape, share, x))


def _enlarged(tape: Tape, value: str, x: str) -> str:
    """Each element repeated over its window, in x's shape."""
    return tape.emit(
        "Resize",
        value,
        "",
        "",
        tape.emit("Shape", x),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _average_pool(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """Each gradient in equal shares to the elements of its window."""
    shape, out = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    window, channels = pool_window(tape, node, attributes), shape[1] or 0
    counts = pool_counts(window, attributes, spatial(shape), spatial(out))
    share = tape.emit("Mul", grad, tape.constant(1.0 / counts[None, None]))
    ones = tape.constant(np.ones((channels, 1, *window.kernel)))
    return (spread(tape, share, ones, window, channels),)


def _one_or_two_axes(node: onnx.NodeProto, _: Attributes, shapes: Mapping[str, Shape]) -> None:
    rank = len(shapes[node.input[0]])
    if rank not in (3, 4):
        raise refuse(node, f"with an input of rank {rank}; supported are 3 (one spatial axis) and 4 (two)")
    if math.prod(spatial(shapes[node.output[0]])) == 0:
        raise refuse(node, "with an empty output; make the input larger or the kernel smaller")


def _without_holes(node: onnx.NodeProto, attributes: Attributes) -> None:
    if attributes["dilations"] and set(attributes["dilations"]) != {1}:
        raise refuse(node, f"with dilations {list(attributes['dilations'])}; leave them out")


def _row_by_row(node: onnx.NodeProto, attributes: Attributes) -> None:
    if attributes["storage_order"]:
        raise refuse(node, "with storage_order=1; leave it out, nothing but its unused output of places follows it")


_MOVING: Final = {"auto_pad": "NOTSET", "dilations": None, "kernel_shape": None, "pads": None, "strides": None}

CONVOLUTION: Final[Mapping[str, Operator]] = {
    "AveragePool": Operator(
        _average_pool,
        {**_MOVING, "ceil_mode": 0, "count_include_pad": 0},
        at_sight=_without_holes,
        check=_one_or_two_axes,
    ),
    "Conv": Operator(_conv, {**_MOVING, "group": 1}, forward=_conv_forward, check=_one_or_two_axes),
    "ConvTranspose": Operator(
        _conv_transpose, {**_MOVING, "group": 1, "output_padding": None, "output_shape": None}, check=_one_or_two_axes
    ),
    "MaxPool": Operator(
        _max_pool,
        {**_MOVING, "ceil_mode": 0, "storage_order": 0},
        forward=_max_pool_forward,
        at_sight=_row_by_row,
        check=_one_or_two_axes,
    ),
}
