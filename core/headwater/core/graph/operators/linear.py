"""Law: a product's gradient is a product with the other factor transposed."""

from collections.abc import Mapping
from typing import Final

import onnx

from headwater.core.graph.operators.row import Attributes, Gradients, Operator, refuse
from headwater.core.graph.tape import Shape, Tape


def transposed(tape: Tape, value: str, rank: int) -> str:
    """With its last two axes swapped."""
    return tape.emit("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def flat(tape: Tape, value: str, last: int) -> str:
    """As a matrix: all axes but the last in one."""
    return tape.emit("Reshape", value, tape.axes([-1, last]))


def _matmul(tape: Tape, node: onnx.NodeProto, _: Attributes, grad: str) -> Gradients:
    a, b = node.input
    shape_a, shape_b = tape.shapes[a], tape.shapes[b]
    if len(shape_a) == len(shape_b) == 2:
        return tape.emit("Gemm", grad, b, transB=1), tape.emit("Gemm", a, grad, transA=1)
    if len(shape_b) == 2 and None not in shape_b:
        # One large product instead of one for each example and a sum.
        inner, outer = shape_b[0] or 0, shape_b[1] or 0
        grad_b = tape.emit("Gemm", flat(tape, a, inner), flat(tape, grad, outer), transA=1)
        return tape.emit("MatMul", grad, transposed(tape, b, 2)), grad_b
    out = tape.shapes[node.output[0]]
    grad_a = tape.emit("MatMul", grad, transposed(tape, b, len(shape_b)))
    grad_b = tape.emit("MatMul", transposed(tape, a, len(shape_a)), grad)
    return (
        tape.unbroadcast(grad_a, (*out[:-2], *shape_a[-2:]), shape_a),
        tape.unbroadcast(grad_b, (*out[:-2], *shape_b[-2:]), shape_b),
    )


def _no_vectors(node: onnx.NodeProto, _: Attributes, shapes: Mapping[str, Shape]) -> None:
    for position, name in enumerate(node.input):
        if len(shapes[name]) < 2:
            raise refuse(node, f"with input {position} of rank {len(shapes[name])}; give it an axis of size 1")


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


LINEAR: Final[Mapping[str, Operator]] = {
    "Gemm": Operator(_gemm, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "MatMul": Operator(_matmul, {}, check=_no_vectors),
}
