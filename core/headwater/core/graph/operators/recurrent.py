"""Law: a recurrent layer is one `Scan` over time forward and one backward, so a graph does not grow with the sequence.

What does not depend on the state is computed for all times at once, outside: the products with W before the scan, and
the gradients to W, R and B behind it. Werbos 1990 (backpropagation through time).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from headwater.core.graph.operators.cells import GRU, GRU_RESET_FIRST, LSTM, Cell, Names, rnn, split
from headwater.core.graph.operators.row import Attributes, Gradients, Operator, given, refuse
from headwater.core.graph.operators.shaping import END, part
from headwater.core.graph.tape import Tape, value_info

# ── a layer: each direction forward and back ────────────────────────────────────────────────────────────────────


def cell_of(node: onnx.NodeProto, attributes: Attributes, direction: int) -> Cell:
    if node.op_type == "LSTM":
        return LSTM
    if node.op_type == "GRU":
        return GRU if attributes["linear_before_reset"] else GRU_RESET_FIRST
    activations = [_text(name).capitalize() for name in attributes["activations"] or ["Tanh", "Tanh"]]
    return rnn(activations[direction])


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
    inputs = split(tape, pre, *(size * hidden for size in cell.parts)) if len(cell.parts) > 1 else (pre,)
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
        return tape.emit("Concat", part(tape, sequence, 0, 1, END), one, axis=0)
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
