"""Law: an operator is one row: what of it is accepted, and its backward rule beside it.

A backward rule takes the gradient of the node's output and gives that of each input by position (None: not
differentiable or not needed). Rules are those of reverse-mode differentiation, Griewank & Walther 2008, chapter 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx

from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape, Tape

Gradients = tuple[str | None, ...]
Attributes = Mapping[str, Any]
Backward = Callable[[Tape, onnx.NodeProto, Attributes, str], Gradients]


@dataclass(frozen=True, slots=True)
class Operator:
    """`attributes`: those that the rule understands, with the defaults of the ONNX specification."""

    backward: Backward
    attributes: Mapping[str, Any]
    ranks: Mapping[int, int] | None = None
    """Where the rule holds only for some ranks: input position to rank."""
    within: str | None = None
    """The attribute with the axis along which the operator normalises: never the batch, or filler would leak."""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes over the operator's defaults.

    Raises:
        UnsupportedModel: an operator, a domain or an attribute that has no rule.
    """
    where = f"node {node.name or node.output[0]!r}"
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedModel(f"{where}: domain {node.domain!r}; export with standard ONNX operators only")
    row = OPERATORS.get(node.op_type)
    if row is None:
        raise UnsupportedModel(
            f"{where}: operator {node.op_type} cannot be trained yet; supported are {', '.join(sorted(OPERATORS))}"
        )
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    unknown = sorted(given.keys() - row.attributes.keys())
    if unknown:
        raise UnsupportedModel(
            f"{where}: {node.op_type} with {', '.join(unknown)}; leave it out, supported are "
            f"{', '.join(sorted(row.attributes)) or 'none'}"
        )
    return {**row.attributes, **given}


def check_shapes(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
    """Raises UnsupportedModel where an input has a rank for which there is no rule, or an axis is the batch."""
    row, where = OPERATORS[node.op_type], f"node {node.name or node.output[0]!r}"
    for position, rank in (row.ranks or {}).items():
        found = len(shapes[node.input[position]])
        if found != rank:
            raise UnsupportedModel(
                f"{where}: {node.op_type} with input {position} of rank {found}; "
                f"supported is rank {rank}, flatten before it"
            )
    if row.within:
        shape, axis = shapes[node.input[0]], attributes_of(node)[row.within]
        if shape and shape[axis] is None:
            raise UnsupportedModel(
                f"{where}: {node.op_type} with {row.within} {axis}, the batch; an example may not depend on its "
                f"neighbours, use {row.within} -1"
            )


def _matmul(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    a, b = node.input
    return tape.emit("Gemm", grad, b, transB=1), tape.emit("Gemm", a, grad, transA=1)


def _gemm(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    a, b = node.input[:2]
    alpha, beta = attributes["alpha"], attributes["beta"]
    trans_a, trans_b = attributes["transA"], attributes["transB"]
    if trans_a:
        grad_a = tape.emit("Gemm", b, grad, alpha=alpha, transA=trans_b, transB=1)
    else:
        grad_a = tape.emit("Gemm", grad, b, alpha=alpha, transB=1 - trans_b)
    if trans_b:
        grad_b = tape.emit("Gemm", grad, a, alpha=alpha, transA=1, transB=trans_a)
    else:
        grad_b = tape.emit("Gemm", a, grad, alpha=alpha, transA=1 - trans_a)
    if len(node.input) < 3 or not node.input[2]:
        return grad_a, grad_b
    grad_c = tape.unbroadcast(grad, tape.shapes[node.output[0]], tape.shapes[node.input[2]])
    return grad_a, grad_b, grad_c if beta == 1.0 else tape.emit("Mul", grad_c, tape.constant(beta))


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


def _relu(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    # Mul(Cast(Greater)) runs faster than Where.
    positive = tape.emit("Greater", node.output[0], tape.constant(0.0))
    return (tape.emit("Mul", grad, tape.emit("Cast", positive, to=onnx.TensorProto.FLOAT)),)


def _tanh(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    y = node.output[0]
    return (tape.emit("Mul", grad, tape.emit("Sub", tape.constant(1.0), tape.emit("Mul", y, y))),)


def _sigmoid(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    y = node.output[0]
    return (tape.emit("Mul", grad, tape.emit("Mul", y, tape.emit("Sub", tape.constant(1.0), y))),)


def _softmax(tape: Tape, node: onnx.NodeProto, attributes: Attributes, grad: str) -> Gradients:
    """dx = y ⊙ (dy − Σ dy ⊙ y) along the axis."""
    y = node.output[0]
    weighted = tape.emit("Mul", grad, y)
    total = tape.emit("ReduceSum", weighted, tape.axes([attributes["axis"]]), keepdims=1)
    return (tape.emit("Mul", y, tape.emit("Sub", grad, total)),)


def _as_before(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    """Flatten and Reshape: the gradient takes the input's shape back."""
    before = tape.emit("Reshape", grad, tape.emit("Shape", node.input[0]))
    return (before, *(None for _ in node.input[1:]))


def _identity(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return (grad,)


def _nothing(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    return ()


_MATRICES: Final = {0: 2, 1: 2}

OPERATORS: Final[Mapping[str, Operator]] = {
    "MatMul": Operator(_matmul, {}, _MATRICES),
    "Gemm": Operator(_gemm, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, _MATRICES),
    "Add": Operator(_add, {}),
    "Sub": Operator(_sub, {}),
    "Mul": Operator(_mul, {}),
    "Div": Operator(_div, {}),
    "Relu": Operator(_relu, {}),
    "Tanh": Operator(_tanh, {}),
    "Sigmoid": Operator(_sigmoid, {}),
    "Softmax": Operator(_softmax, {"axis": -1}, within="axis"),
    "Flatten": Operator(_as_before, {"axis": 1}),
    "Reshape": Operator(_as_before, {"allowzero": 0}),
    "Identity": Operator(_identity, {}),
    "Constant": Operator(_nothing, dict.fromkeys(("value", "value_float", "value_floats", "value_int", "value_ints"))),
}
