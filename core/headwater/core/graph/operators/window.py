"""Law: how a kernel moves over an input is a value of plain numbers, worked out once from attributes and shapes.

Dumoulin & Visin 2016, chapters 2 to 4: all sizes but the batch are known, so every padding is a number before a graph
runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from headwater.core.graph.operators.row import Attributes
from headwater.core.graph.tape import Shape, Tape


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel moves over an input, by spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        return [*self.before, *self.after]

    def extent(self, axis: int) -> int:
        """From the kernel's first to its last element along an axis."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    @property
    def is_a_point(self) -> bool:
        """Whether each place of the input makes one of the output, alone."""
        return set(self.kernel) == set(self.strides) == {1} and not any(self.pads)


def window_of(attributes: Attributes, kernel: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]) -> Window:
    """The window of a convolution or pool, its automatic padding worked out; `ceil_mode` shows as padding after."""
    rank = len(kernel)
    strides = tuple(attributes["strides"] or [1] * rank)
    dilations = tuple(attributes.get("dilations") or [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = _text(attributes["auto_pad"])
    if mode.startswith("SAME"):
        totals = [max(0, (o - 1) * s + e - i) for o, s, e, i in zip(outputs, strides, spans, inputs, strict=True)]
        before = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    else:
        before = [0] * rank if mode == "VALID" else list(attributes["pads"] or [0] * 2 * rank)[:rank]
    needed = [(o - 1) * s + e for o, s, e in zip(outputs, strides, spans, strict=True)]
    after = [n - i - b for n, i, b in zip(needed, inputs, before, strict=True)]
    return Window(tuple(kernel), strides, dilations, tuple(before), tuple(after))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def spatial(shape: Shape) -> tuple[int, ...]:
    return tuple(size or 0 for size in shape[2:])


def transposed_window(attributes: Attributes, x_shape: Shape, out_shape: Shape, weight_shape: Shape) -> Window:
    """The window of the convolution that a ConvTranspose turns around."""
    inner, outer, kernel = spatial(x_shape), spatial(out_shape), spatial(weight_shape)
    strides = tuple(attributes["strides"] or [1] * len(kernel))
    dilations = tuple(attributes["dilations"] or [1] * len(kernel))
    full = [(i - 1) * s + (k - 1) * d + 1 for i, s, k, d in zip(inner, strides, kernel, dilations, strict=True)]
    mode = _text(attributes["auto_pad"])
    if mode.startswith("SAME") or attributes["output_shape"]:
        totals = [max(0, f + (e or 0) - o) for f, e, o in zip(full, _extra(attributes, kernel), outer, strict=True)]
        before = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    else:
        before = [0] * len(kernel) if mode == "VALID" else list(attributes["pads"] or [0] * 2 * len(kernel))
    after = [f - o - b for f, o, b in zip(full, outer, before, strict=False)]
    return Window(kernel, strides, dilations, tuple(before[: len(kernel)]), tuple(after))


def _extra(attributes: Attributes, kernel: Sequence[int]) -> list[int]:
    return list(attributes["output_padding"] or [0] * len(kernel))


def pool_window(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> Window:
    shape, out = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    return window_of(attributes, attributes["kernel_shape"], spatial(shape), spatial(out))


def pool_counts(
    window: Window, attributes: Attributes, inputs: Sequence[int], outputs: Sequence[int]
) -> NDArray[np.float64]:
    """What each place of an average pool divides by, float64 of the output's spatial shape."""
    counts = np.ones(tuple(outputs))
    pads = list(attributes["pads"] or [0] * 2 * len(inputs))
    for axis, size in enumerate(inputs):
        starts = np.arange(outputs[axis]) * window.strides[axis] - window.before[axis]
        rows = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        high = size + (max(pads[len(inputs) + axis], 0) if attributes["count_include_pad"] else 0)
        low = -window.before[axis] if attributes["count_include_pad"] else 0
        inside = ((rows >= low) & (rows < high)).sum(axis=1)
        counts = counts * inside.reshape([-1 if i == axis else 1 for i in range(len(inputs))])
    return np.maximum(counts, 1.0)
