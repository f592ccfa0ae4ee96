"""Law: batch normalisation trains on the statistics of the examples that count, and carries running ones as state.

Ioffe & Szegedy 2015, algorithms 1 and 2. Filler has no part in a statistic; a step of filler alone moves none.
"""

from collections.abc import Mapping
from typing import Final

import onnx

from headwater.core.graph.operators.row import Attributes, Gradients, Operator
from headwater.core.graph.tape import Tape


def _forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    x, scale, bias, mean, variance = node.input
    if tape.training is None:
        tape.emit(
            "BatchNormalization", x, scale, bias, mean, variance, name=node.output[0], epsilon=attributes["epsilon"]
        )
        return
    if mean in tape.training.still and variance in tape.training.still:
        _forward_standing_still(tape, node, attributes)
    else:
        _forward_in_training(tape, node, attributes)


def _forward_standing_still(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Frozen statistics are those of inference, in training too: no example sees another."""
    x, scale, bias, mean, variance = node.input
    centred = tape.emit("Sub", x, _by_channel(tape, mean, x))
    floor = tape.constant(attributes["epsilon"])
    inverse = tape.emit("Reciprocal", tape.emit("Sqrt", tape.emit("Add", variance, floor)))
    gain = tape.emit("Mul", scale, inverse)
    scaled = tape.emit("Mul", centred, _by_channel(tape, gain, x))
    tape.emit("Add", scaled, _by_channel(tape, bias, x), name=node.output[0])
    tape.saved[node.output[0]] = (centred, inverse, gain)


def _forward_in_training(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Mean and variance of each channel over the present examples; y = (x − mean)·scale/σ + bias."""
    x, scale, bias, *running = node.input
    present, share, elements = _presence(tape, x)
    mean = _mean_over_examples(tape, share, _sum_over_places(tape, x, x))
    centred = tape.emit("Sub", x, _by_channel(tape, mean, x))
    variance = _mean_over_examples(tape, share, _sum_over_places(tape, tape.emit("Mul", centred, centred), x))
    floor = tape.emit("Add", _nothing_to_see(tape), tape.constant(attributes["epsilon"]))
    inverse = tape.emit("Reciprocal", tape.emit("Sqrt", tape.emit("Add", variance, floor)))
    gain = tape.emit("Mul", scale, inverse)
    scaled = tape.emit("Mul", centred, _by_channel(tape, gain, x))
    tape.emit("Add", scaled, _by_channel(tape, bias, x), name=node.output[0])
    tape.saved[node.output[0]] = (share, centred, inverse, gain)
    # The unbiased variance is what inference needs (algorithm 2).
    count = tape.emit("Mul", tape.emit("ReduceSum", present, keepdims=0), tape.constant(float(elements)))
    fewer = tape.emit("Max", tape.emit("Sub", count, tape.constant(1.0)), tape.constant(1.0))
    unbiased = tape.emit("Mul", variance, tape.emit("Div", count, fewer))
    for old, new in zip(running, (mean, unbiased), strict=True):
        _move(tape, old, new, 1.0 - attributes["momentum"])


def _presence(tape: Tape, x: str) -> tuple[str, str, int]:
    """1 for each example that counts; its share of a channel's mean; the elements of a channel in one example."""
    training = tape.training
    assert training is not None
    present = tape.as_float(tape.emit("Greater", training.keep, tape.constant(0.0)))
    count = tape.emit("Max", tape.emit("ReduceSum", present, keepdims=0), tape.constant(1.0))
    elements = 1
    for size in tape.shapes[x][2:]:
        elements *= size or 1
    return present, tape.emit("Div", present, tape.emit("Mul", count, tape.constant(float(elements)))), elements


def _nothing_to_see(tape: Tape) -> str:
    """1 where all is filler, else 0: a variance of nothing is 0, and layer by layer its inverse would grow beyond
    float32."""
    training = tape.training
    assert training is not None
    return tape.emit("Sub", tape.constant(1.0), training.active)


def _sum_over_places(tape: Tape, value: str, x: str) -> str:
    """`[b, channels]`: each example's sum over its spatial axes; the value has x's shape."""
    rank = len(tape.shapes[x])
    return value if rank == 2 else tape.emit("ReduceSum", value, tape.axes(range(2, rank)), keepdims=0)


def _mean_over_examples(tape: Tape, share: str, sums: str) -> str:
    """`[channels]`: the weighted sum over examples, as a product of a row and a matrix."""
    row = tape.emit("MatMul", tape.emit("Unsqueeze", share, tape.axes([0])), sums)
    return tape.emit("Squeeze", row, tape.axes([0]))


def _by_channel(tape: Tape, value: str, x: str) -> str:
    """`[channels]` as `[channels, 1, …]`, to meet x."""
    rank = len(tape.shapes[x])
    return tape.emit("Reshape", value, tape.axes([-1, *[1] * (rank - 2)])) if rank > 2 else value


def _by_example(tape: Tape, value: str, x: str) -> str:
    """`[b, channels]` as `[b, channels, 1, …]`."""
    rank = len(tape.shapes[x])
    return tape.emit("Unsqueeze", value, tape.axes(range(2, rank))) if rank > 2 else value


def _move(tape: Tape, running: str, found: str, rate: float) -> None:
    training = tape.training
    assert training is not None
    if running in training.still:
        return
    step = tape.emit("Mul", training.active, tape.constant(rate))
    tape.moved[running] = tape.emit("Add", running, tape.emit("Mul", step, tape.emit("Sub", found, running)))


def _backward(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """dx = gain·(g − s·Σ g − s·x̂·Σ g·x̂) with x̂ = (x − mean)/σ and s an example's share, or gain·g alone where the
    statistics stand still."""
    x = node.input[0]
    *shared, centred, inverse, gain = tape.saved[node.output[0]]
    sums = _sum_over_places(tape, grad, x)
    products = _sum_over_places(tape, tape.emit("Mul", grad, centred), x)
    everyone = tape.axes([0])
    to_bias = tape.emit("ReduceSum", sums, everyone, keepdims=0)
    slope = tape.emit("ReduceSum", products, everyone, keepdims=0)
    to_scale = tape.emit("Mul", slope, inverse)
    direct = tape.emit("Mul", grad, _by_channel(tape, gain, x))
    if not shared:
        return (direct, to_scale, to_bias)
    shares = tape.emit("Unsqueeze", shared[0], tape.axes([1]))
    level = tape.emit("Mul", shares, tape.emit("Mul", gain, to_bias))
    lean = tape.emit("Mul", shares, tape.emit("Mul", gain, tape.emit("Mul", to_scale, inverse)))
    rest = tape.emit("Sub", direct, _by_example(tape, level, x))
    return (tape.emit("Sub", rest, tape.emit("Mul", centred, _by_example(tape, lean, x))), to_scale, to_bias)


BATCH_NORM: Final[Mapping[str, Operator]] = {
    "BatchNormalization": Operator(
        _backward,
        {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0, "spatial": 1},
        state=(3, 4),
        forward=_forward,
        outputs=1,
    ),
}
