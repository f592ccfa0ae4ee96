"""Law: a recurrent layer is one `Scan` over time forward and one backward, so a graph does not grow with the sequence.

What does not depend on the state is computed for all times at once, outside: the products with W before the scan, and
the gradients to W, R and B behind it. Werbos 1990 (backpropagation through time); the cells are those of ONNX's
RNN, GRU (Cho et al. 2014) and LSTM (Hochreiter & Schmidhuber 1997, Gers et al. 2000).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from headwater.core.graph.operators.row import Attributes, Gradients, Operator, given, refuse
from headwater.core.graph.operators.shaping import part
from headwater.core.graph.tape import Tape, value_info

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


def _split(tape: Tape, value: str, *sizes: int) -> Names:
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


def _rnn(activation: str) -> Cell:
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
    rec_zr, rec_n = _split(tape, _product(tape, states[0], r[0], rb), 2 * hidden, hidden)
    zr = tape.emit("Sigmoid", tape.emit("Add", pre[0], rec_zr))
    z, reset = _split(tape, zr, hidden, hidden)
    n = tape.emit("Tanh", tape.emit("Add", pre[1], tape.emit("Mul", reset, rec_n)))
    return (_mixed(tape, z, states[0], n),), (zr, n, rec_n)


def _mixed(tape: Tape, z: str, state: str, n: str) -> str:
    return tape.emit("Add", n, tape.emit("Mul", z, tape.emit("Sub", state, n)))


def _gru_prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
    """z, r, the slopes of both and of n, h − n, and what stands beside r in n."""
    zr, n, beside = kept
    z, reset = _split(tape, zr, hidden, hidden)
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
    z, reset = _split(tape, zr, hidden, hidden)
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
    iof_pre, g_pre = _split(tape, tape.emit("Add", pre[0], _product(tape, states[0], r[0])), 3 * hidden, hidden)
    iof, g = tape.emit("Sigmoid", iof_pre), tape.emit("Tanh", g_pre)
    i, o, f = _split(tape, iof, hidden, hidden, hidden)
    cell = tape.emit("Add", tape.emit("Mul", f, states[1]), tape.emit("Mul", i, g))
    squashed = tape.emit("Tanh", cell)
    return (tape.emit("Mul", o, squashed), cell), (iof, g, squashed)


def _lstm_prepare(tape: Tape, before: Names, new: Names, kept: Names, hidden: int) -> Names:
    """The cell's slope seen from h, what i, o and f are multiplied with, their slopes, i times g's slope, and f."""
    iof, g, squashed = kept
    i, o, f = _split(tape, iof, hidden, hidden, hidden)
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


_GRU: Final = Cell(3, 1, (2, 1), _whole, _gru_forward, _gru_prepare, _gru_backward, bias_apart=True)
_GRU_RESET_FIRST: Final = Cell(
    3, 1, (2, 1), _gates_and_last, _reset_first_forward, _reset_first_prepare, _reset_first_backward, operand=2
)
_LSTM: Final = Cell(4, 2, (4,), _whole, _lstm_forward, _lstm_prepare, _lstm_backward)


# ── a layer: each direction forward and back ────────────────────────────────────────────────────────────────────


def cell_of(node: onnx.NodeProto, attributes: Attributes, direction: int) -> Cell:
    if node.op_type == "LSTM":
        return _LSTM
    if node.op_type == "GRU":
        return _GRU if attributes["linear_before_reset"] else _GRU_RESET_FIRST
    activations = [_text(name).capitalize() for name in attributes["activations"] or ["Tanh", "Tanh"]]
    return _rnn(activations[direction])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _reverse(attributes: Attributes, direction: int) -> bool:
    return _text(attributes["direction"]) == "reverse" or direction == 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One direction of a node: its own parts of W, R and B, and where it begins."""

    cell: Cell
    hidden: int
    w: str
    r: str
    b: str | None
    first: Names
    reverse: bool


def _layer(tape: Tape, node: onnx.NodeProto, attributes: Attributes, direction: int) -> Layer:
    x, w, r = node.input[:3]
    hidden, cell = tape.shapes[r][2] or 0, cell_of(node, attributes, direction)
    row = tape.constant(direction, np.int64)

    def own(name: str | None) -> str | None:
        return tape.emit("Gather", name, row, axis=0) if name else None

    zeros = None
    first = []
    for position in (5, 6)[: cell.states]:
        name = own(given(node, position))
        if name is None:
            zeros = zeros or _zero_state(tape, x, hidden)
        first.append(name or zeros or "")
    return Layer(
        cell, hidden, own(w) or "", own(r) or "", own(given(node, 3)), tuple(first), _reverse(attributes, direction)
    )


def _zero_state(tape: Tape, x: str, hidden: int) -> str:
    examples = tape.emit("Shape", x, start=1, end=2)
    return tape.emit("ConstantOfShape", tape.emit("Concat", examples, tape.axes([hidden]), axis=0))


def _forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    directions = tape.shapes[node.input[1]][0] or 1
    found = [_run(tape, node, _layer(tape, node, attributes, d)) for d in range(directions)]
    saved: list[str] = []
    for names in found:
        saved += names
    tape.saved[node.output[0] or node.output[1]] = tuple(saved)
    states = cell_of(node, attributes, 0).states
    # Y [time, directions, n, hidden], then the last state(s) [directions, n, hidden].
    sequences = [names[states] for names in found]
    outputs = [(sequences, 1), *(([names[index] for names in found], 0) for index in range(states))]
    for name, (parts, axis) in zip(node.output, outputs, strict=False):
        if name:
            lifted = [tape.emit("Unsqueeze", value, tape.axes([axis])) for value in parts]
            tape.emit("Concat", *lifted, name=name, axis=axis)


def _run(tape: Tape, node: onnx.NodeProto, layer: Layer) -> list[str]:
    """The scan over time. Returns the last states, the sequences of the states, and of what is kept."""
    cell, hidden = layer.cell, layer.hidden
    pre = tape.emit("MatMul", node.input[0], tape.emit("Transpose", layer.w, perm=[1, 0]))
    rb = ""
    if layer.b is not None:
        size = cell.gates * hidden
        wb, rb = part(tape, layer.b, 0, 0, size), part(tape, layer.b, 0, size, 2 * size)
        pre = tape.emit("Add", pre, wb if cell.bias_apart else tape.emit("Add", wb, rb))
        rb = rb if cell.bias_apart else ""
    weights = cell.weights(tape, layer.r, hidden)
    inputs = _split(tape, pre, *(size * hidden for size in cell.parts)) if len(cell.parts) > 1 else (pre,)
    body = tape.branch("time")
    states = tuple(body.fresh("state") for _ in range(cell.states))
    gates = tuple(body.fresh("gates") for _ in inputs)
    new, kept = cell.forward(body, gates, states, weights, rb, hidden)
    # A state goes two ways, to the next step and into the sequence, and a body names an output once.
    ends = [*new, *(body.emit("Identity", name) for name in new), *kept]
    graph = helper.make_graph(
        body.nodes,
        "time",
        [value_info(name, 2) for name in (*states, *gates)],
        [value_info(name, 2) for name in ends],
    )
    tape.absorb(body)
    results = tape.emit_many(
        "Scan",
        *layer.first,
        *inputs,
        outputs=len(ends),
        body=graph,
        num_scan_inputs=len(inputs),
        scan_input_directions=[int(layer.reverse)] * len(inputs),
        scan_output_directions=[int(layer.reverse)] * (len(ends) - len(states)),
    )
    return list(results)


def _backward(tape: Tape, node: onnx.NodeProto, attributes: Attributes, *grads: str | None) -> Gradients:
    directions = tape.shapes[node.input[1]][0] or 1
    saved = tape.saved[node.output[0] or node.output[1]]
    each = len(saved) // directions
    found = []
    for direction in range(directions):
        layer = _layer(tape, node, attributes, direction)
        names = saved[direction * each : (direction + 1) * each]
        found.append(_back(tape, node, layer, names, grads, direction))
    to_x = tape.total([back[0] or "" for back in found])
    stacked: list[str | None] = [to_x]
    for position in range(1, 7):
        parts = [back[position] for back in found]
        lifted = [tape.emit("Unsqueeze", value, tape.axes([0])) for value in parts if value]
        stacked.append(tape.emit("Concat", *lifted, axis=0) if len(lifted) == directions else None)
    return tuple(stacked)


def _grads_of(tape: Tape, layer: Layer, grads: Sequence[str | None], direction: int) -> tuple[str | None, Names]:
    """The gradient to each time's h (or None), and those to the last states."""
    row = tape.constant(direction, np.int64)
    sequence = tape.emit("Gather", grads[0], row, axis=1) if grads[0] else None
    last = []
    for index in range(layer.cell.states):
        grad = grads[1 + index] if len(grads) > 1 + index else None
        last.append(
            tape.emit("Gather", grad, row, axis=0) if grad else tape.emit("Mul", layer.first[index], tape.constant(0.0))
        )
    return sequence, tuple(last)


def _back(
    tape: Tape,
    node: onnx.NodeProto,
    layer: Layer,
    saved: Names,
    grads: Sequence[str | None],
    direction: int,
) -> list[str | None]:
    """Gradients to x, w, r, b, lengths (none) and the first states, for one direction."""
    cell, hidden, states = layer.cell, layer.hidden, layer.cell.states
    sequences, kept = saved[states : 2 * states], saved[2 * states :]
    before = tuple(_shifted(tape, s, first, layer.reverse) for s, first in zip(sequences, layer.first, strict=True))
    ready = cell.prepare(tape, before, sequences, kept, hidden)
    weights = cell.weights(tape, layer.r, hidden)
    sequence, last = _grads_of(tape, layer, grads, direction)
    inputs = [*ready, *([sequence] if sequence else [])]
    body = tape.branch("back")
    carried = tuple(body.fresh("carried") for _ in range(states))
    scanned = tuple(body.fresh("scanned") for _ in inputs)
    arriving = (body.emit("Add", carried[0], scanned[-1]), *carried[1:]) if sequence else carried
    back = cell.backward(body, scanned[: len(ready)], arriving, weights, hidden)
    ends = [*back.before, back.recurrent, *([back.last] if back.last else [])]
    graph = helper.make_graph(
        body.nodes,
        "back",
        [value_info(name, 2) for name in (*carried, *scanned)],
        [value_info(name, 2) for name in ends],
    )
    tape.absorb(body)
    towards = int(not layer.reverse)
    results = tape.emit_many(
        "Scan",
        *last,
        *inputs,
        outputs=len(ends),
        body=graph,
        num_scan_inputs=len(inputs),
        scan_input_directions=[towards] * len(inputs),
        scan_output_directions=[towards] * (len(ends) - states),
    )
    recurrent = gates = results[states]
    if back.last:
        head = part(tape, recurrent, 2, 0, (cell.gates - 1) * hidden)
        gates = tape.emit("Concat", head, results[states + 1], axis=2)
    return _outside(tape, node, layer, gates, recurrent, before[0], kept, results[:states])


def _outside(
    tape: Tape, node: onnx.NodeProto, layer: Layer, gates: str, recurrent: str, before: str, kept: Names, first: Names
) -> list[str | None]:
    """What is summed over all times at once."""
    cell, hidden = layer.cell, layer.hidden
    width, inputs = cell.gates * hidden, tape.shapes[node.input[0]][2] or 0

    def flat(value: str, last: int) -> str:
        return tape.emit("Reshape", value, tape.axes([-1, last]))

    flat_gates, flat_recurrent = flat(gates, width), flat(recurrent, width)
    to_w = tape.emit("Gemm", flat_gates, flat(node.input[0], inputs), transA=1)
    if cell.operand is None:
        to_r = tape.emit("Gemm", flat_recurrent, flat(before, hidden), transA=1)
    else:
        head = part(tape, flat_recurrent, 1, 0, width - hidden)
        tail = part(tape, flat_recurrent, 1, width - hidden, width)
        rows = [
            tape.emit("Gemm", head, flat(before, hidden), transA=1),
            tape.emit("Gemm", tail, flat(kept[cell.operand], hidden), transA=1),
        ]
        to_r = tape.emit("Concat", *rows, axis=0)
    to_b = None
    if layer.b is not None:
        everything = tape.axes([0])
        sums = [tape.emit("ReduceSum", value, everything, keepdims=0) for value in (flat_gates, flat_recurrent)]
        to_b = tape.emit("Concat", *sums, axis=0)
    states: list[str | None] = [*first, *[None] * (2 - len(first))]
    return [tape.emit("MatMul", gates, layer.w), to_w, to_r, to_b, None, *states]


def _shifted(tape: Tape, sequence: str, first: str, reverse: bool) -> str:
    """The state before each time: the sequence one step late, the first state in front."""
    one = tape.emit("Unsqueeze", first, tape.axes([0]))
    if reverse:
        return tape.emit("Concat", part(tape, sequence, 0, 1, 2**31 - 1), one, axis=0)
    return tape.emit("Concat", one, part(tape, sequence, 0, 0, -1), axis=0)


# ── what is accepted ────────────────────────────────────────────────────────────────────────────────────────────


def _check(node: onnx.NodeProto, attributes: Attributes) -> None:
    if given(node, 4) is not None:
        raise refuse(node, "with sequence_lens; cut the sequences to one length and leave it out")
    if node.op_type == "LSTM" and given(node, 7) is not None:
        raise refuse(node, "with peepholes (input P); leave it out")
    for name, plain in (("layout", 0), ("clip", None), ("input_forget", 0)):
        if attributes.get(name, plain) != plain:
            mend = "transpose the input to [time, batch, features]" if name == "layout" else "leave it out"
            raise refuse(node, f"with {name}={attributes[name]}; {mend}")
    _check_activations(node, attributes, 2 if _text(attributes["direction"]) == "bidirectional" else 1)


def _check_activations(node: onnx.NodeProto, attributes: Attributes, directions: int) -> None:
    activations = [_text(name).lower() for name in attributes["activations"] or ()]
    default = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "RNN": ["tanh"]}[node.op_type]
    if not activations or activations == default * directions:
        return
    if node.op_type == "RNN" and len(activations) == directions and {*activations} <= {"tanh", "relu", "sigmoid"}:
        return
    raise refuse(
        node,
        f"with activations {activations}; supported are {default * directions}"
        + (", relu and sigmoid" if node.op_type == "RNN" else ""),
    )


_RECURRENT: Final = {
    "activations": None,
    "activation_alpha": None,
    "activation_beta": None,
    "clip": None,
    "direction": "forward",
    "hidden_size": None,
    "layout": 0,
}

RECURRENT: Final[Mapping[str, Operator]] = {
    "GRU": Operator(
        _backward, {**_RECURRENT, "linear_before_reset": 0}, outputs=2, forward=_forward, at_sight=_check, fixed=(4,)
    ),
    "LSTM": Operator(
        _backward, {**_RECURRENT, "input_forget": 0}, outputs=3, forward=_forward, at_sight=_check, fixed=(4,)
    ),
    "RNN": Operator(_backward, _RECURRENT, outputs=2, forward=_forward, at_sight=_check, fixed=(4,)),
}
