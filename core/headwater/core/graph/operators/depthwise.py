"""Law: a depthwise convolution trains along one axis, for a channel alone gives two axes no work.

With the batch and the rows side by side in one long axis, and the columns as channels, a kernel's row is a banded
matrix from columns to columns, and the convolution one along the long axis, in a group for each channel:

    Y_c[:, q] = Σ_row T_c,row · X_c[:, q + row]      T_c,row [out columns, columns], X_c [columns, b · rows]

Zero rows between examples keep them apart: as many as the wider of the two paddings, for the rows below one example
are those above the next.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.graph.operators.row import Gradients
from headwater.core.graph.operators.shaping import END, padded, part
from headwater.core.graph.operators.window import Window, spatial
from headwater.core.graph.tape import Shape, Tape

MAX_COLUMNS: Final = 40
"""The work grows with the columns, that of a plain convolution does not: beyond this it is cheaper."""


@dataclass(frozen=True, slots=True)
class _Plane:
    """Sizes: channels, rows and columns of the input, of the output; `tall` is an example with its zero rows."""

    channels: int
    rows: int
    columns: int
    out_rows: int
    out_columns: int
    window: Window

    @property
    def tall(self) -> int:
        return self.rows + max(self.window.before[0], self.window.after[0])

    @property
    def taps(self) -> list[int]:
        """How far below the first each of the kernel's rows is."""
        return [row * self.window.dilations[0] for row in range(self.window.kernel[0])]

    @property
    def span(self) -> int:
        """How far the kernel's last row is below its first."""
        return (self.window.kernel[0] - 1) * self.window.dilations[0]


def serves(window: Window, group: int, x_shape: Shape, out_shape: Shape) -> bool:
    """Whether this way is open: one channel to one, two axes, steps of one, few columns, padding within the kernel."""
    return (
        len(window.kernel) == 2
        and max(window.before[0], window.after[0]) < window.extent(0)
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
    long, before = _long(tape, x, plane.channels, plane.columns, plane.tall - plane.rows), plane.window.before[0]
    bands = _bands(tape, weight, plane)
    kernel = _kernel(tape, bands, [0, 2, 3, 1], plane.channels * plane.out_columns, plane.columns)
    made = _along(tape, long, kernel, plane, [before, plane.span - before])
    return _short(tape, made, plane.out_columns, plane, plane.out_rows, name), (long,)


def backward(tape: Tape, grad: str, weight: str, saved: tuple[str, ...], plane: _Plane) -> Gradients:
    """To x, the kernel's rows turned around; and to the kernel."""
    long = _long(tape, grad, plane.channels, plane.out_columns, plane.tall - plane.out_rows)
    before, shape = plane.window.before[0], tape.axes([plane.channels, *plane.window.kernel])
    turned = tape.axes(range(plane.window.kernel[0])[::-1])
    flipped = tape.emit("Gather", tape.emit("Reshape", weight, shape), turned, axis=1)
    kernel = _kernel(
        tape, _bands(tape, flipped, plane), [0, 3, 2, 1], plane.channels * plane.columns, plane.out_columns
    )
    made = _along(tape, long, kernel, plane, [plane.span - before, before])
    return _short(tape, made, plane.columns, plane, plane.rows, None), _to_weight(tape, saved[0], long, weight, plane)


def _along(tape: Tape, long: str, kernel: str, plane: _Plane, pads: list[int]) -> str:
    row = tape.emit("Unsqueeze", long, tape.axes([0]))
    return tape.emit("Conv", row, kernel, group=plane.channels, pads=pads, dilations=[plane.window.dilations[0]])


def _long(tape: Tape, value: str, channels: int, columns: int, zero_rows: int) -> str:
    """`[b, c, rows, columns]` to `[c · columns, b · tall]`, in two turns of neighbours: one of all axes takes ten times
    as long. Channels and columns stay one axis while it is cut, or onnxruntime would cut first and turn the pieces."""
    turned = padded(tape, tape.emit("Transpose", value, perm=[1, 0, 2, 3]), 4, {2: (0, zero_rows)})
    flat = tape.emit("Reshape", turned, tape.axes([0, -1, columns]))
    return tape.emit("Reshape", tape.emit("Transpose", flat, perm=[0, 2, 1]), tape.axes([channels * columns, -1]))


def _short(tape: Tape, value: str, columns: int, plane: _Plane, rows: int, name: str | None) -> str:
    """Back again, without each example's zero rows."""
    apart = tape.emit("Reshape", value, tape.axes([plane.channels, columns, -1]))
    turned = tape.emit("Transpose", apart, perm=[0, 2, 1])
    split = tape.emit("Reshape", turned, tape.axes([0, -1, plane.tall, columns]))
    kept = split if rows == plane.tall else part(tape, split, 2, 0, rows)
    return tape.emit("Transpose", kept, perm=[1, 0, 2, 3], name=name)


def _shifted(tape: Tape, long: str, plane: _Plane, columns: int, shift: int) -> str:
    """`[c, columns, …]`: the long axis from `shift` on, or for a negative one without its last places."""
    kept = long
    if shift:
        kept = part(tape, long, 1, *((shift, END) if shift > 0 else (0, shift)))
    return tape.emit("Reshape", kept, tape.axes([plane.channels, columns, -1]))


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
    """T as `[c, kernel rows, out columns, columns]`."""
    rows = tape.emit("Reshape", weight, tape.axes([-1, plane.window.kernel[1]]))
    spread = tape.emit("MatMul", rows, tape.constant(_places(plane)))
    shape = [plane.channels, plane.window.kernel[0], plane.out_columns, plane.columns]
    return tape.emit("Reshape", spread, tape.axes(shape))


def _kernel(tape: Tape, bands: str, perm: list[int], outputs: int, inputs: int) -> str:
    """`[outputs, inputs, kernel rows]`, as a convolution along the long axis takes it."""
    return tape.emit("Reshape", tape.emit("Transpose", bands, perm=perm), tape.axes([outputs, inputs, -1]))


def _to_weight(tape: Tape, long_x: str, long_grad: str, weight: str, plane: _Plane) -> str:
    """For each of the kernel's rows one product a channel, and from its bands back to the row."""
    bands = []
    for tap in plane.taps:
        shift = tap - plane.window.before[0]
        view = _shifted(tape, long_x, plane, plane.columns, shift)
        grad = _shifted(tape, long_grad, plane, plane.out_columns, -shift)
        product = tape.emit("MatMul", grad, tape.emit("Transpose", view, perm=[0, 2, 1]))
        bands.append(tape.emit("Unsqueeze", product, tape.axes([1])))
    stacked = tape.emit("Concat", *bands, axis=1) if len(bands) > 1 else bands[0]
    rows = tape.emit("Reshape", stacked, tape.axes([-1, plane.out_columns * plane.columns]))
    return tape.reshaped(tape.emit("MatMul", rows, tape.constant(_places(plane).T)), weight)


def with_bias(tape: Tape, value: str, bias: str, name: str) -> str:
    return tape.emit("Add", value, tape.emit("Reshape", bias, tape.axes([-1, 1, 1])), name=name)
