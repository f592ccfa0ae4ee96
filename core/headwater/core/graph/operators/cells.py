"""Law: a cell is one step forward and one back; what a step can do for all times at once it leaves to the layer.

The cells are those of ONNX's RNN, GRU (Cho et al. 2014) and LSTM (Hochreiter & Schmidhuber 1997, Gers et al. 2000).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from headwater.core.graph.operators.shaping import part
from headwater.core.graph.tape import Tape

Names = tuple[str, ...]
Activation = Callable[[Tape, str], str]


@dataclass(frozen=True, slots=True)
class Back:
    """One step back in time: gradients to the states that it began with, to the products with R (`recurrent`), and
    to the last gate's product with W where that differs (`last`), else None."""

    before: Names
    recurrent: str
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """`gates` and `states` are numbers. What a step can do for all times at once is done outside the scan.

    weights: (tape, r, hidden) -> the parts of R that steps take
    parts: the sizes, in hidden widths, in which a step takes its products with W
    forward: (tape, products with W, states, weights, recurrent bias, hidden) -> (new states, kept)
    prepare: (tape, states before, new states, kept, hidden), all of them sequences -> the sequences that `backward`
        takes
    backward: (tape, prepared, gradients of the new states, weights, hidden) -> Back
    """

    gates: int
    states: int
    parts: tuple[int, ...]
    weights: Callable[[Tape, str, int], Names]
    forward: Callable[[Tape, Names, Names, Names, str, int], tuple[Names, Names]]
    prepare: Callable[[Tape, Names, Names, Names, int], Names]
    backward: Callable[[Tape, Names, Names, Names, int], Back]
    bias_apart: bool = False
    """Whether the recurrent bias belongs to the product with R and not to that with W."""
    operand: int | None = None
    """Which kept value the last gate's part of R is multiplied with, where it is not the state itself."""


# ── what a cell computes ────────────────────────────────────────────────────────────────────────────────────────


def split(tape: Tape, value: str, *sizes: int) -> Names:
    return tape.emit_many("Split", value, tape.axes(sizes), outputs=len(sizes), axis=-1)


def _product(tape: Tape, state: str, r: str, rb: str = "") -> str:
    return tape.emit("Gemm", state, r, rb, transB=1) if rb else tape.emit("Gemm", state, r, transB=1)


def _one_minus(tape: Tape, value: str) -> str:
    return tape.emit("Sub", tape.constant(1.0), value)


def _slope_of_sigmoid(tape: Tape, y: str) -> str:
    return tape.emit("Mul", y, _one_minus(tape, y))


def _slope_of_tanh(tape: Tape, y: str) -> str:
    return _one_minus(tape, tape.emit("Mul", y, y))


def _slope_of_relu(tape: Tape, y: str) -> str:
    return tape.as_float(tape.emit("Greater", y, tape.constant(0.0)))


_SLOPES: Final[Mapping[str, Activation]] = {
    "Tanh": _slope_of_tanh,
    "Relu": _slope_of_relu,
    "Sigmoid": _slope_of_sigmoid,
}


def _whole(tape: Tape, r: str, hidden: int) -> Names:
    return (r,)


def rnn(activation: str) -> Cell:
    def forward(tape: Tape, pre: Names, states: Names, r: Names, rb: str, hidden: int) -> tuple[Names, Names]:
        return (tape.emit(activation, tape.emit("Add", pre[0], _product(tape, states[0], r[0]))),), ()

    def prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
        return (_SLOPES[activation](tape, new[0]),)

    def backward(tape: Tape, ready: Names, grads: Names, r: Names, hidden: int) -> Back:
        recurrent = tape.emit("Mul", grads[0], ready[0])
        return Back((tape.emit("Gemm", recurrent, r[0]),), recurrent)

    return Cell(1, 1, (1,), _whole, forward, prepare, backward)


def _gru_forward(tape: Tape, pre: Names, states: Names, r: Names, rb: str, hidden: int) -> tuple[Names, Names]:
    """linear_before_reset: n = tanh(a_n + r·(R_n h + b_n)); h' = n + z·(h − n)."""
    rec_zr, rec_n = split(tape, _product(tape, states[0], r[0], rb), 2 * hidden, hidden)
    zr = tape.emit("Sigmoid", tape.emit("Add", pre[0], rec_zr))
    z, reset = split(tape, zr, hidden, hidden)
    n = tape.emit("Tanh", tape.emit("Add", pre[1], tape.emit("Mul", reset, rec_n)))
    return (_mixed(tape, z, states[0], n),), (zr, n, rec_n)


def _mixed(tape: Tape, z: str, state: str, n: str) -> str:
    return tape.emit("Add", n, tape.emit("Mul", z, tape.emit("Sub", state, n)))


def _gru_prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
    """z, r, the slopes of both and of n, h − n, and what stands beside r in n."""
    zr, n, beside = kept
    z, reset = split(tape, zr, hidden, hidden)
    return (
        z,
        reset,
        _slope_of_sigmoid(tape, zr),
        _slope_of_tanh(tape, n),
        tape.emit("Sub", before[0], n),
        beside,
    )


def _gru_backward(tape: Tape, ready: Names, grads: Names, r: Names, hidden: int) -> Back:
    z, reset, slope_zr, slope_n, lead, rec_n = ready
    to_state = tape.emit("Mul", grads[0], z)
    to_n = tape.emit("Mul", tape.emit("Sub", grads[0], to_state), slope_n)
    to_z, to_reset = tape.emit("Mul", grads[0], lead), tape.emit("Mul", to_n, rec_n)
    to_zr = tape.emit("Mul", tape.emit("Concat", to_z, to_reset, axis=1), slope_zr)
    recurrent = tape.emit("Concat", to_zr, tape.emit("Mul", to_n, reset), axis=1)
    return Back((tape.emit("Add", to_state, tape.emit("Gemm", recurrent, r[0])),), recurrent, to_n)


def _gates_and_last(tape: Tape, r: str, hidden: int) -> Names:
    """R of z and r, and R of n."""
    return part(tape, r, 0, 0, 2 * hidden), part(tape, r, 0, 2 * hidden, 3 * hidden)


def _reset_first_forward(tape: Tape, pre: Names, states: Names, r: Names, rb: str, hidden: int) -> tuple[Names, Names]:
    """n = tanh(a_n + R_n (r·h) + b_n)."""
    zr = tape.emit("Sigmoid", tape.emit("Add", pre[0], _product(tape, states[0], r[0])))
    z, reset = split(tape, zr, hidden, hidden)
    operand = tape.emit("Mul", reset, states[0])
    n = tape.emit("Tanh", tape.emit("Add", pre[1], _product(tape, operand, r[1])))
    return (_mixed(tape, z, states[0], n),), (zr, n, operand)


def _reset_first_prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
    return _gru_prepare(tape, before, new, (*kept[:2], before[0]), hidden)


def _reset_first_backward(tape: Tape, ready: Names, grads: Names, r: Names, hidden: int) -> Back:
    z, reset, slope_zr, slope_n, lead, state = ready
    to_state = tape.emit("Mul", grads[0], z)
    to_n = tape.emit("Mul", tape.emit("Sub", grads[0], to_state), slope_n)
    to_operand = tape.emit("Gemm", to_n, r[1])
    to_z, to_reset = tape.emit("Mul", grads[0], lead), tape.emit("Mul", to_operand, state)
    to_zr = tape.emit("Mul", tape.emit("Concat", to_z, to_reset, axis=1), slope_zr)
    to_state = tape.emit("Add", to_state, tape.emit("Mul", to_operand, reset))
    before = tape.emit("Add", to_state, tape.emit("Gemm", to_zr, r[0]))
    return Back((before,), tape.emit("Concat", to_zr, to_n, axis=1))


def _lstm_forward(tape: Tape, pre: Names, states: Names, r: Names, rb: str, hidden: int) -> tuple[Names, Names]:
    """Gates in ONNX's order: input, output, forget, cell."""
    iof_pre, g_pre = split(tape, tape.emit("Add", pre[0], _product(tape, states[0], r[0])), 3 * hidden, hidden)
    iof, g = tape.emit("Sigmoid", iof_pre), tape.emit("Tanh", g_pre)
    i, o, f = split(tape, iof, hidden, hidden, hidden)
    cell = tape.emit("Add", tape.emit("Mul", f, states[1]), tape.emit("Mul", i, g))
    squashed = tape.emit("Tanh", cell)
    return (tape.emit("Mul", o, squashed), cell), (iof, g, squashed)


def _lstm_prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
    """The cell's slope seen from h, what i, o and f are multiplied with, their slopes, i times g's slope, and f."""
    iof, g, squashed = kept
    i, o, f = split(tape, iof, hidden, hidden, hidden)
    return (
        tape.emit("Mul", o, _slope_of_tanh(tape, squashed)),
        g,
        squashed,
        before[1],
        _slope_of_sigmoid(tape, iof),
        tape.emit("Mul", i, _slope_of_tanh(tape, g)),
        f,
    )


def _lstm_backward(tape: Tape, ready: Names, grads: Names, r: Names, hidden: int) -> Back:
    slope_cell, g, squashed, cell, slope_iof, slope_g, f = ready
    to_cell = tape.emit("Add", grads[1], tape.emit("Mul", grads[0], slope_cell))
    to_i, to_f = tape.emit("Mul", to_cell, g), tape.emit("Mul", to_cell, cell)
    to_iof = tape.emit("Concat", to_i, tape.emit("Mul", grads[0], squashed), to_f, axis=1)
    recurrent = tape.emit("Concat", tape.emit("Mul", to_iof, slope_iof), tape.emit("Mul", to_cell, slope_g), axis=1)
    return Back((tape.emit("Gemm", recurrent, r[0]), tape.emit("Mul", to_cell, f)), recurrent)


GRU: Final = Cell(3, 1, (2, 1), _whole, _gru_forward, _gru_prepare, _gru_backward, bias_apart=True)
GRU_RESET_FIRST: Final = Cell(
    3, 1, (2, 1), _gates_and_last, _reset_first_forward, _reset_first_prepare, _reset_first_backward, operand=2
)
LSTM: Final = Cell(4, 2, (4,), _whole, _lstm_forward, _lstm_prepare, _lstm_backward)
