"""Law: a depthwise convolution trains as one matrix product a channel, for one channel alone gives a kernel no work.

With the batch and the rows side by side in one long axis, a shift by a row is a shift along it, and a kernel's row is
a banded matrix from columns to columns:

    Y_c = T_c · [X_c shifted by each kernel row]     T_c [out columns, kernel rows · columns], X_c [columns, b · rows]

so that forward, both gradients, and the gradient to T are large products. Zero rows between examples keep them apart.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.graph.operators.row import Gradients
from headwater.core.graph.operators.shaping import padded, part
from headwater.core.graph.operators.window import Window, spatial
from headwater.core.graph.tape import Shape, Tape

MAX_COLUMNS: Final = 40
"""The work grows with the columns, that of a plain convolution does not: beyond this it is cheaper."""

_END: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Plane:
    """Sizes: channels, rows and columns of the input, of the output, and of an example with its zero rows."""

    channels: int
    rows: int
    columns: int
    out_rows: int
    out_columns: int
    window: Window

    @property
    def tall(self) -> int:
        return self.rows + self.window.before[0] + self.window.after[0]

    @property
    def span(self) -> int:
        """How far the kernel's last row is below its first."""
        return (self.window.kernel[0] - 1) * self.window.dilations[0]


def serves(window: Window, group: int, x_shape: Shape, out_shape: Shape) -> bool:
    """Whether this way is open: one channel to one, two axes, steps of one, few columns."""
    return (
        len(window.kernel) == 2
        and group == x_shape[1] == out_shape[1]
        and window.strides == (1, 1)
        and min(window.before + window.after) >= 0
        and max(x_shape[3] or 0, out_shape[3] or 0) <= MAX_COLUMNS
    )


def plane_of(window: Window, x_shape: Shape, out_shape: Shape) -> _Plane:
    (rows, columns), (out_rows, out_columns) = spatial(x_shape), spatial(out_shape)
    return _Plane(x_shape[1] or 0, rows, columns, out_rows, out_columns, window)


def forward(tape: Tape, x: str, weight: str, plane: _Plane, name: str | None) -> tuple[str, tuple[str, ...]]:
    """The convolution, and what its way back needs. `name`: the output's, or None for a fresh one."""
    long = _long(tape, x, plane.columns, (plane.window.before[0], plane.window.after[0]))
    taps = [row * plane.window.dilations[0] for row in range(plane.window.kernel[0])]
    stack = _stacked(tape, [_shifted(tape, long, tap, tap - plane.span) for tap in taps])
    bands = _bands(tape, weight, plane)
    flat = tape.emit("Reshape", bands, tape.axes([plane.channels, plane.out_columns, -1]))
    product = padded(tape, tape.emit("MatMul", flat, stack), 3, {2: (0, plane.span)})
    return _short(tape, product, plane.out_columns, plane.tall, 0, plane.out_rows, name), (stack, bands)


def backward(tape: Tape, grad: str, weight: str, saved: tuple[str, ...], plane: _Plane) -> Gradients:
    """To x and to the kernel."""
    stack, bands = saved
    long = _long(tape, grad, plane.out_columns, (0, plane.tall - plane.out_rows))
    cut = _shifted(tape, long, 0, -plane.span)
    to_flat = tape.emit("MatMul", cut, tape.emit("Transpose", stack, perm=[0, 2, 1]))
    return _to_input(tape, long, bands, plane), _to_weight(tape, to_flat, weight, plane)


def _long(tape: Tape, value: str, columns: int, pads: tuple[int, int]) -> str:
    """`[b, c, rows, columns]` to `[c, columns, b · tall]`, in two turns of neighbours: one of all axes takes ten times
    as long."""
    turned = padded(tape, tape.emit("Transpose", value, perm=[1, 0, 2, 3]), 4, {2: pads})
    flat = tape.emit("Reshape", turned, tape.axes([0, -1, columns]))
    return tape.emit("Transpose", flat, perm=[0, 2, 1])


def _short(tape: Tape, value: str, columns: int, tall: int, start: int, rows: int, name: str | None) -> str:
    """Back again: `rows` rows from `start` of each example."""
    turned = tape.emit("Transpose", value, perm=[0, 2, 1])
    split = tape.emit("Reshape", turned, tape.axes([0, -1, tall, columns]))
    kept = split if rows == tall else part(tape, split, 2, start, start + rows)
    return tape.emit("Transpose", kept, perm=[1, 0, 2, 3], name=name)


def _shifted(tape: Tape, long: str, start: int, end: int) -> str:
    return long if start == end == 0 else part(tape, long, 2, start, end or _END)


def _stacked(tape: Tape, views: list[str]) -> str:
    return tape.emit("Concat", *views, axis=1) if len(views) > 1 else views[0]


def _places(plane: _Plane) -> NDArray[np.float32]:
    """`[kernel columns, out columns · columns]`: 1 where a kernel's column meets an input's for an output's."""
    kernel, dilation, before = plane.window.kernel[1], plane.window.dilations[1], plane.window.before[1]
    places = np.zeros((kernel, plane.out_columns, plane.columns), np.float32)
    for tap in range(kernel):
        for out in range(plane.out_columns):
            column = out + tap * dilation - before
            if 0 <= column < plane.columns:
                places[tap, out, column] = 1.0
    return places.reshape(kernel, -1)


def _bands(tape: Tape, weight: str, plane: _Plane) -> str:
    """T as `[c, out columns, kernel rows, columns]`."""
    rows = tape.emit("Reshape", weight, tape.axes([-1, plane.window.kernel[1]]))
    spread = tape.emit("MatMul", rows, tape.constant(_places(plane)))
    shape = [plane.channels, plane.window.kernel[0], plane.out_columns, plane.columns]
    return tape.emit("Transpose", tape.emit("Reshape", spread, tape.axes(shape)), perm=[0, 2, 1, 3])


def _to_weight(tape: Tape, to_flat: str, weight: str, plane: _Plane) -> str:
    shape = [plane.channels, plane.out_columns, plane.window.kernel[0], plane.columns]
    turned = tape.emit("Transpose", tape.emit("Reshape", to_flat, tape.axes(shape)), perm=[0, 2, 1, 3])
    rows = tape.emit("Reshape", turned, tape.axes([-1, plane.out_columns * plane.columns]))
    return tape.reshaped(tape.emit("MatMul", rows, tape.constant(_places(plane).T)), weight)


def _to_input(tape: Tape, long: str, bands: str, plane: _Plane) -> str:
    """Every kernel row's share of the gradient, shifted down instead of up."""
    wide = padded(tape, long, 3, {2: (plane.span, 0)})
    taps = [row * plane.window.dilations[0] for row in range(plane.window.kernel[0])]
    stack = _stacked(tape, [_shifted(tape, wide, plane.span - tap, -tap) for tap in taps])
    turned = tape.emit("Transpose", bands, perm=[0, 3, 2, 1])
    flat = tape.emit("Reshape", turned, tape.axes([plane.channels, plane.columns, -1]))
    product = tape.emit("MatMul", flat, stack)
    return _short(tape, product, plane.columns, plane.tall, plane.window.before[0], plane.rows, None)


def with_bias(tape: Tape, value: str, bias: str, name: str) -> str:
    return tape.emit("Add", value, tape.emit("Reshape", bias, tape.axes([-1, 1, 1])), name=name)
