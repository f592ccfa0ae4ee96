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
from headwater.core.graph.tape import Shape, Tape, value_info

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Back:
    """One step back in time.

    `before`: gradients to the states that the step began with. `gates`: that to the products with W, `[n, g·h]`.
    `recurrent`: the gradient to the products with R where it differs, else None.
    """

    before: Names
    gates: str
    recurrent: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """`gates` and `states` are numbers; `kept` how many values a step leaves for its way back.

    forward: (tape, pre, states, r, rb, hidden) -> (new states, kept)
    backward: (tape, states before, kept, gradients of the new states, r, hidden) -> Back
    """

    gates: int
    states: int
    kept: int
    forward: Callable[[Tape, str, Names, str, str, int], tuple[Names, Names]]
    backward: Callable[[Tape, Names, Names, Names, str, int], Back]
    bias_apart: bool = False
    """Whether the recurrent bias belongs to the product with R and not to that with W."""
    operand: int | None = None
    """Which kept value the last gate's part of R is multiplied with, where it is not the state itself."""


# ── what a cell computes ────────────────────────────────────────────────────────────────────────────────────────


def _split(tape: Tape, value: str, *sizes: int) -> Names:
    return tape.emit_many("Split", value, tape.axes(sizes), outputs=len(sizes), axis=1)


def _product(tape: Tape, state: str, r: str, rb: str = "") -> str:
    return tape.emit("Gemm", state, r, rb, transB=1) if rb else tape.emit("Gemm", state, r, transB=1)


def _one_minus(tape: Tape, value: str) -> str:
    return tape.emit("Sub", tape.constant(1.0), value)


def _slope_of_sigmoid(tape: Tape, grad: str, y: str) -> str:
    return tape.emit("Mul", grad, tape.emit("Mul", y, _one_minus(tape, y)))


def _slope_of_tanh(tape: Tape, grad: str, y: str) -> str:
    return tape.emit("Mul", grad, _one_minus(tape, tape.emit("Mul", y, y)))


def _slope_of_relu(tape: Tape, grad: str, y: str) -> str:
    return tape.emit("Mul", grad, tape.as_float(tape.emit("Greater", y, tape.constant(0.0))))


_SLOPES: Final = {"Tanh": _slope_of_tanh, "Relu": _slope_of_relu, "Sigmoid": _slope_of_sigmoid}


def _rnn(activation: str) -> Cell:
    def forward(tape: Tape, pre: str, states: Names, r: str, rb: str, hidden: int) -> tuple[Names, Names]:
        new = tape.emit(activation, tape.emit("Add", pre, _product(tape, states[0], r)))
        return (new,), ()

    def backward(tape: Tape, before: Names, kept: Names, grads: Names, r: str, hidden: int) -> Back:
        gates = _SLOPES[activation](tape, grads[0], kept[-1])
        return Back((tape.emit("Gemm", gates, r),), gates)

    return Cell(1, 1, 0, forward, backward)


def _gru_forward(tape: Tape, pre: str, states: Names, r: str, rb: str, hidden: int) -> tuple[Names, Names]:
    """linear_before_reset: n = tanh(a_n + r·(R_n h + b_n)); h' = n + z·(h − n)."""
    products = _product(tape, states[0], r, rb)
    pre_zr, pre_n = _split(tape, pre, 2 * hidden, hidden)
    rec_zr, rec_n = _split(tape, products, 2 * hidden, hidden)
    zr = tape.emit("Sigmoid", tape.emit("Add", pre_zr, rec_zr))
    z, reset = _split(tape, zr, hidden, hidden)
    n = tape.emit("Tanh", tape.emit("Add", pre_n, tape.emit("Mul", reset, rec_n)))
    return (_mixed(tape, z, states[0], n),), (zr, n, rec_n)


def _mixed(tape: Tape, z: str, state: str, n: str) -> str:
    return tape.emit("Add", n, tape.emit("Mul", z, tape.emit("Sub", state, n)))


def _gru_backward(tape: Tape, before: Names, kept: Names, grads: Names, r: str, hidden: int) -> Back:
    zr, n, rec_n, _ = kept
    z, reset = _split(tape, zr, hidden, hidden)
    grad = grads[0]
    to_state = tape.emit("Mul", grad, z)
    to_n = _slope_of_tanh(tape, tape.emit("Sub", grad, to_state), n)
    to_z = tape.emit("Mul", grad, tape.emit("Sub", before[0], n))
    to_zr = _slope_of_sigmoid(tape, tape.emit("Concat", to_z, tape.emit("Mul", to_n, rec_n), axis=1), zr)
    recurrent = tape.emit("Concat", to_zr, tape.emit("Mul", to_n, reset), axis=1)
    state = tape.emit("Add", to_state, tape.emit("Gemm", recurrent, r))
    return Back((state,), tape.emit("Concat", to_zr, to_n, axis=1), recurrent)


def _gru_reset_first_forward(tape: Tape, pre: str, states: Names, r: str, rb: str, hidden: int) -> tuple[Names, Names]:
    """n = tanh(a_n + R_n (r·h) + b_n)."""
    r_zr, r_n = part(tape, r, 0, 0, 2 * hidden), part(tape, r, 0, 2 * hidden, 3 * hidden)
    pre_zr, pre_n = _split(tape, pre, 2 * hidden, hidden)
    zr = tape.emit("Sigmoid", tape.emit("Add", pre_zr, _product(tape, states[0], r_zr)))
    z, reset = _split(tape, zr, hidden, hidden)
    operand = tape.emit("Mul", reset, states[0])
    n = tape.emit("Tanh", tape.emit("Add", pre_n, _product(tape, operand, r_n)))
    return (_mixed(tape, z, states[0], n),), (zr, n, operand)


def _gru_reset_first_backward(tape: Tape, before: Names, kept: Names, grads: Names, r: str, hidden: int) -> Back:
    zr, n, _, _ = kept
    z, reset = _split(tape, zr, hidden, hidden)
    r_zr, r_n = part(tape, r, 0, 0, 2 * hidden), part(tape, r, 0, 2 * hidden, 3 * hidden)
    to_state = tape.emit("Mul", grads[0], z)
    to_n = _slope_of_tanh(tape, tape.emit("Sub", grads[0], to_state), n)
    to_operand = tape.emit("Gemm", to_n, r_n)
    to_z = tape.emit("Mul", grads[0], tape.emit("Sub", before[0], n))
    to_reset = tape.emit("Mul", to_operand, before[0])
    to_zr = _slope_of_sigmoid(tape, tape.emit("Concat", to_z, to_reset, axis=1), zr)
    to_state = tape.emit("Add", to_state, tape.emit("Mul", to_operand, reset))
    state = tape.emit("Add", to_state, tape.emit("Gemm", to_zr, r_zr))
    return Back((state,), tape.emit("Concat", to_zr, to_n, axis=1))


def _lstm_forward(tape: Tape, pre: str, states: Names, r: str, rb: str, hidden: int) -> tuple[Names, Names]:
    """Gates in ONNX's order: input, output, forget, cell."""
    iof_pre, g_pre = _split(tape, tape.emit("Add", pre, _product(tape, states[0], r)), 3 * hidden, hidden)
    iof, g = tape.emit("Sigmoid", iof_pre), tape.emit("Tanh", g_pre)
    i, o, f = _split(tape, iof, hidden, hidden, hidden)
    cell = tape.emit("Add", tape.emit("Mul", f, states[1]), tape.emit("Mul", i, g))
    squashed = tape.emit("Tanh", cell)
    return (tape.emit("Mul", o, squashed), cell), (iof, g, squashed)


def _lstm_backward(tape: Tape, before: Names, kept: Names, grads: Names, r: str, hidden: int) -> Back:
    iof, g, squashed, *_ = kept
    i, o, f = _split(tape, iof, hidden, hidden, hidden)
    to_cell = tape.emit("Add", grads[1], _slope_of_tanh(tape, tape.emit("Mul", grads[0], o), squashed))
    to_iof = tape.emit(
        "Concat",
        tape.emit("Mul", to_cell, g),
        tape.emit("Mul", grads[0], squashed),
        tape.emit("Mul", to_cell, before[1]),
        axis=1,
    )
    to_g = _slope_of_tanh(tape, tape.emit("Mul", to_cell, i), g)
    gates = tape.emit("Concat", _slope_of_sigmoid(tape, to_iof, iof), to_g, axis=1)
    return Back((tape.emit("Gemm", gates, r), tape.emit("Mul", to_cell, f)), gates)


_GRU: Final = Cell(3, 1, 3, _gru_forward, _gru_backward, bias_apart=True)
_GRU_RESET_FIRST: Final = Cell(3, 1, 3, _gru_reset_first_forward, _gru_reset_first_backward, operand=2)
_LSTM: Final = Cell(4, 2, 3, _lstm_forward, _lstm_backward)


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
    states = len(found[0][-1:]) and cell_of(node, attributes, 0).states
    # Y [time, directions, n, hidden], then the last state(s) [directions, n, hidden].
    sequences = [names[2 + states] for names in found]
    outputs = [(sequences, 1), *(([names[2 + index] for names in found], 0) for index in range(states))]
    for name, (parts, axis) in zip(node.output, outputs, strict=False):
        if name:
            lifted = [tape.emit("Unsqueeze", value, tape.axes([axis])) for value in parts]
            tape.emit("Concat", *lifted, name=name, axis=axis)


def _run(tape: Tape, node: onnx.NodeProto, layer: Layer) -> list[str]:
    """The scan over time. Returns r, rb (or ''), the last states, the sequences of the states and of what is kept."""
    cell, hidden = layer.cell, layer.hidden
    pre = tape.emit("MatMul", node.input[0], tape.emit("Transpose", layer.w, perm=[1, 0]))
    rb = ""
    if layer.b is not None:
        size = cell.gates * hidden
        wb, rb = part(tape, layer.b, 0, 0, size), part(tape, layer.b, 0, size, 2 * size)
        pre = tape.emit("Add", pre, wb if cell.bias_apart else tape.emit("Add", wb, rb))
        rb = rb if cell.bias_apart else ""
    body = tape.branch("time")
    states = tuple(body.fresh("state") for _ in range(cell.states))
    gates = body.fresh("gates")
    new, kept = cell.forward(body, gates, states, layer.r, rb, hidden)
    ends = [body.emit("Identity", name) for name in new]
    outs = [body.emit("Identity", name) for name in (*new, *kept)]
    graph = helper.make_graph(
        body.nodes,
        "time",
        [value_info(name, 2) for name in (*states, gates)],
        [value_info(name, 2) for name in (*ends, *outs)],
    )
    tape.absorb(body)
    results = tape.emit_many(
        "Scan",
        *layer.first,
        pre,
        outputs=len(ends) + len(outs),
        body=graph,
        num_scan_inputs=1,
        scan_input_directions=[int(layer.reverse)],
        scan_output_directions=[int(layer.reverse)] * len(outs),
    )
    return [layer.r, rb, *results]


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
    sequences, kept = saved[2 + states : 2 + 2 * states], saved[2 + 2 * states :]
    before = [_shifted(tape, s, first, layer.reverse) for s, first in zip(sequences, layer.first, strict=True)]
    sequence, last = _grads_of(tape, layer, grads, direction)
    body = tape.branch("back")
    carried = tuple(body.fresh("carried") for _ in range(states))
    scanned = [body.fresh("scanned") for _ in range(len(before) + len(kept) + 1 + (sequence is not None))]
    arriving = list(carried)
    if sequence is not None:
        arriving[0] = body.emit("Add", carried[0], scanned[-1])
    own_kept = (*scanned[states : states + len(kept)], scanned[states + len(kept)])
    back = cell.backward(body, tuple(scanned[:states]), own_kept, tuple(arriving), saved[0], hidden)
    outs = [back.gates, *([back.recurrent] if back.recurrent else [])]
    ends = [body.emit("Identity", name) for name in (*back.before, *outs)]
    graph = helper.make_graph(
        body.nodes,
        "back",
        [value_info(name, 2) for name in (*carried, *scanned)],
        [value_info(name, 2) for name in ends],
    )
    tape.absorb(body)
    inputs = [*before, *kept, sequences[0], *([sequence] if sequence else [])]
    towards = int(not layer.reverse)
    results = tape.emit_many(
        "Scan",
        *last,
        *inputs,
        outputs=len(ends),
        body=graph,
        num_scan_inputs=len(inputs),
        scan_input_directions=[towards] * len(inputs),
        scan_output_directions=[towards] * len(outs),
    )
    gates = results[states]
    recurrent = results[states + 1] if back.recurrent else gates
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


def _check(node: onnx.NodeProto, attributes: Attributes, shapes: Mapping[str, Shape]) -> None:
    if given(node, 4) is not None:
        raise refuse(node, "with sequence_lens; cut the sequences to one length and leave it out")
    if node.op_type == "LSTM" and given(node, 7) is not None:
        raise refuse(node, "with peepholes (input P); leave it out")
    for name, plain in (("layout", 0), ("clip", None), ("input_forget", 0)):
        if attributes.get(name, plain) != plain:
            mend = "transpose the input to [time, batch, features]" if name == "layout" else "leave it out"
            raise refuse(node, f"with {name}={attributes[name]}; {mend}")
    _check_activations(node, attributes, shapes[node.input[1]][0] or 1)


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
        _backward, {**_RECURRENT, "linear_before_reset": 0}, outputs=2, forward=_forward, check=_check, fixed=(4,)
    ),
    "LSTM": Operator(
        _backward, {**_RECURRENT, "input_forget": 0}, outputs=3, forward=_forward, check=_check, fixed=(4,)
    ),
    "RNN": Operator(_backward, _RECURRENT, outputs=2, forward=_forward, check=_check, fixed=(4,)),
}
