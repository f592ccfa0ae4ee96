"""Law: what acts on each element alone has a gradient of the same shape, summed where an operand was repeated."""

import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx

from headwater.core.graph.operators.row import Attributes, Gradients, Operator, given, refuse
from headwater.core.graph.tape import FLOAT, Shape, Tape


def _to_inputs(tape: Tape, node: onnx.NodeProto, left: str, right: str) -> Gradients:
    out = tape.shapes[node.output[0]]
    return (
        tape.unbroadcast(left, out, tape.shapes[node.input[0]]),
        tape.unbroadcast(right, out, tape.shapes[node.input[1]]),
    )


def _add(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return _to_inputs(tape, node, grad, grad)


def _sub(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return _to_inputs(tape, node, grad, tape.emit("Neg", grad))


def _mul(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    a, b = node.input
    return _to_inputs(tape, node, tape.emit("Mul", grad, b), tape.emit("Mul", grad, a))


def _div(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """d(a/b) = da/b − (a/b)·db/b."""
    over = tape.emit("Div", grad, node.input[1])
    return _to_inputs(tape, node, over, tape.emit("Neg", tape.emit("Mul", over, node.output[0])))


def _pow(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """p·x^(p−1)."""
    x, p = node.input
    slope = tape.emit("Mul", tape.emit("Pow", x, tape.emit("Sub", p, tape.constant(1.0))), p)
    return (tape.unbroadcast(tape.emit("Mul", grad, slope), tape.shapes[node.output[0]], tape.shapes[x]), None)


def _extreme(comparison: str) -> Any:
    """Max and Min of several: the gradient goes to the one that was taken, in shares where several were."""

    def backward(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
        if len(node.input) == 1:
            return (grad,)
        a, b = node.input
        equal = tape.emit("Mul", tape.as_float(tape.emit("Equal", a, b)), tape.constant(0.5))
        first = tape.emit("Add", tape.as_float(tape.emit(comparison, a, b)), equal)
        second = tape.emit("Sub", tape.constant(1.0), first)
        return _to_inputs(tape, node, tape.emit("Mul", grad, first), tape.emit("Mul", grad, second))

    return backward


def _at_most_two(node: onnx.NodeProto, _: Attributes, __: Mapping[str, Shape]) -> None:
    if len(node.input) > 2:
        raise refuse(node, f"of {len(node.input)} values; nest it two by two")


def _neg(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Neg", grad),)


def _abs(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Mul", grad, tape.emit("Sign", node.input[0])),)


def _sqrt(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Div", tape.emit("Mul", grad, tape.constant(0.5)), node.output[0]),)


def _exp(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Mul", grad, node.output[0]),)


def _log(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Div", grad, node.input[0]),)


def _reciprocal(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    y = node.output[0]
    return (tape.emit("Neg", tape.emit("Mul", grad, tape.emit("Mul", y, y))),)


def _sin(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Mul", grad, tape.emit("Cos", node.input[0])),)


def _cos(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Neg", tape.emit("Mul", grad, tape.emit("Sin", node.input[0]))),)


def _erf(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """2/√π·exp(−x²)."""
    x = node.input[0]
    bell = tape.emit("Exp", tape.emit("Neg", tape.emit("Mul", x, x)))
    return (tape.emit("Mul", grad, tape.emit("Mul", bell, tape.constant(2 / math.sqrt(math.pi)))),)


def above(tape: Tape, value: str, bound: float = 0.0) -> str:
    """1 where value > bound, else 0. Mul(Cast(Greater)) runs faster than Where."""
    return tape.as_float(tape.emit("Greater", value, tape.constant(bound)))


def _relu(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    # What it gives is 0 or above, so that a truth value says which; cheaper than a comparison.
    alive = tape.emit("Cast", node.output[0], to=onnx.TensorProto.BOOL)
    return (tape.emit("Mul", grad, tape.as_float(alive)),)


def _leaky_relu(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    alpha = attributes["alpha"]
    slope = tape.emit(
        "Add", tape.emit("Mul", above(tape, node.input[0]), tape.constant(1.0 - alpha)), tape.constant(alpha)
    )
    return (tape.emit("Mul", grad, slope),)


def _prelu(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    x, slope = node.input
    positive = above(tape, x)
    negative = tape.emit("Sub", tape.constant(1.0), positive)
    to_x = tape.emit("Mul", grad, tape.emit("Add", positive, tape.emit("Mul", negative, slope)))
    return _to_inputs(tape, node, to_x, tape.emit("Mul", grad, tape.emit("Mul", negative, x)))


def _elu(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """1 above 0, α·exp(x) = y + α below."""
    below = tape.emit("Min", node.output[0], tape.constant(0.0))
    inner = tape.emit("Add", below, tape.constant(attributes["alpha"]))
    positive = tape.emit("Greater", node.input[0], tape.constant(0.0))
    return (tape.emit("Mul", grad, tape.emit("Where", positive, tape.constant(1.0), inner)),)


def _tanh(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    y = node.output[0]
    return (tape.emit("Mul", grad, tape.emit("Sub", tape.constant(1.0), tape.emit("Mul", y, y))),)


def _sigmoid(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    y = node.output[0]
    return (tape.emit("Mul", grad, tape.emit("Mul", y, tape.emit("Sub", tape.constant(1.0), y))),)


def _softplus(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (tape.emit("Mul", grad, tape.emit("Sigmoid", node.input[0])),)


def _inside(tape: Tape, value: str, low: float, high: float) -> str:
    """1 where low < value < high."""
    return tape.emit("Mul", above(tape, value, low), tape.as_float(tape.emit("Less", value, tape.constant(high))))


def _hard_sigmoid(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    slope = tape.emit("Mul", _inside(tape, node.output[0], 0.0, 1.0), tape.constant(attributes["alpha"]))
    return (tape.emit("Mul", grad, slope),)


def _hard_swish(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """x·clip(x/6 + 1/2, 0, 1): (2x + 3)/6 within (−3, 3), 1 above."""
    x = node.input[0]
    third = tape.constant(1 / 3)
    line = tape.emit("Add", tape.emit("Mul", x, third), tape.constant(0.5))
    slope = tape.emit("Add", tape.emit("Mul", line, _inside(tape, x, -3.0, 3.0)), _at_least(tape, x, 3.0))
    return (tape.emit("Mul", grad, slope),)


def _at_least(tape: Tape, value: str, bound: float) -> str:
    return tape.as_float(tape.emit("GreaterOrEqual", value, tape.constant(bound)))


def _clip(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    x = node.input[0]
    for position, comparison in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        bound = given(node, position)
        if bound is not None:
            grad = tape.emit("Mul", grad, tape.as_float(tape.emit(comparison, x, bound)))
    return (grad,)


def _identity(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (grad,)


def _cast(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    return (grad if attributes["to"] == FLOAT else None,)


def _single(node: onnx.NodeProto, attributes: Attributes, _: Mapping[str, Shape]) -> None:
    if attributes["to"] in _OTHER_FLOATS:
        name = onnx.TensorProto.DataType.Name(attributes["to"])
        raise refuse(node, f"to {name}; everything is computed in float32, cast to FLOAT or leave it out")


_OTHER_FLOATS: Final = (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _where(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    condition, a, b = node.input
    out, zero = tape.shapes[node.output[0]], tape.constant(0.0)
    left, right = tape.emit("Where", condition, grad, zero), tape.emit("Where", condition, zero, grad)
    return (None, tape.unbroadcast(left, out, tape.shapes[a]), tape.unbroadcast(right, out, tape.shapes[b]))


def _random(tape: Tape, salt: int, count: str) -> str:
    """uint32 `[count]`, uniform: lowbias32 (Wellons 2018) of position, seed and salt. `count` is an int64 scalar.

    It serves dropout; it is no source of privacy noise.
    """
    if tape.training is None or tape.training.seed is None:
        raise ValueError("seed: this graph may draw nothing")

    def number(value: int) -> str:
        return tape.constant(value, np.uint32)

    def mixed(value: str) -> str:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
            value = tape.emit("BitwiseXor", value, tape.emit("BitShift", value, number(shift), direction="RIGHT"))
            if factor is not None:
                value = tape.emit("Mul", value, number(factor))
        return value

    seed = mixed(tape.emit("Add", tape.emit("Cast", tape.training.seed, to=onnx.TensorProto.UINT32), number(salt)))
    places = tape.emit("Range", tape.constant(0, np.int64), count, tape.constant(1, np.int64))
    places = tape.emit("Mul", tape.emit("Cast", places, to=onnx.TensorProto.UINT32), number(0x9E3779B9))
    return mixed(tape.emit("Add", places, seed))


def _dropout_forward(tape: Tape, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Inverted dropout (Srivastava et al. 2014, section 10) in training; the identity elsewhere."""
    x, out, rate = node.input[0], node.output[0], given(node, 1)
    ratio = 0.5 if rate is None else float(np.ravel(tape.value_of(rate))[0])
    if tape.training is None or ratio == 0:
        tape.emit("Identity", x, name=out)
        return
    # By the whole name, for exporters' names differ in the middle.
    drawn = _random(tape, zlib.crc32(out.encode()), tape.emit("Size", x))
    threshold = tape.constant(round(ratio * 2**32), np.int64)
    kept = tape.emit("GreaterOrEqual", tape.emit("Cast", drawn, to=onnx.TensorProto.INT64), threshold)
    scaled = tape.emit("Mul", tape.as_float(kept), tape.constant(1.0 / (1.0 - ratio)))
    mask = tape.emit("Reshape", scaled, tape.shape_of(x))
    tape.saved[out] = (mask,)
    tape.emit("Mul", x, mask, name=out)


def _dropout(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    saved = tape.saved.get(node.output[0])
    return (tape.emit("Mul", grad, saved[0]) if saved else grad,)


def no_gradient(tape: Tape, node: onnx.NodeProto, _: Attributes, *grads: str | None) -> Gradients:
    return ()


ELEMENTWISE: Final[Mapping[str, Operator]] = {
    "Abs": Operator(_abs, {}),
    "Add": Operator(_add, {}),
    "Cast": Operator(_cast, {"to": FLOAT}, check=_single),
    "Clip": Operator(_clip, {}, fixed=(1, 2)),
    "Cos": Operator(_cos, {}),
    "Div": Operator(_div, {}),
    "Dropout": Operator(_dropout, {"seed": 0}, fixed=(1, 2), forward=_dropout_forward),
    "Elu": Operator(_elu, {"alpha": 1.0}),
    "Erf": Operator(_erf, {}),
    "Exp": Operator(_exp, {}),
    "HardSigmoid": Operator(_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": Operator(_hard_swish, {}),
    "Identity": Operator(_identity, {}),
    "LeakyRelu": Operator(_leaky_relu, {"alpha": 0.01}),
    "Log": Operator(_log, {}),
    "Max": Operator(_extreme("Greater"), {}, check=_at_most_two),
    "Min": Operator(_extreme("Less"), {}, check=_at_most_two),
    "Mul": Operator(_mul, {}),
    "Neg": Operator(_neg, {}),
    "PRelu": Operator(_prelu, {}),
    "Pow": Operator(_pow, {}, fixed=(1,)),
    "Reciprocal": Operator(_reciprocal, {}),
    "Relu": Operator(_relu, {}),
    "Sigmoid": Operator(_sigmoid, {}),
    "Sin": Operator(_sin, {}),
    "Softplus": Operator(_softplus, {}),
    "Sqrt": Operator(_sqrt, {}),
    "Sub": Operator(_sub, {}),
    "Tanh": Operator(_tanh, {}),
    "Where": Operator(_where, {}),
}
