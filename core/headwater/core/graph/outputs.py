"""Law: which axis of a weight runs over its layer's outputs is read from the node that uses it, never from its shape.

A layer whose outputs are the model's own has none to give away, and of recurrent cells an output is four or three rows
in three tensors: those are left whole.
"""

from collections.abc import Sequence
from typing import Final

import onnx

from headwater.core.graph.forward import read_forward
from headwater.core.graph.operators import attributes_of

_WEIGHT: Final = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1}
"""Which input of an operator is its weight."""


def output_axes(forward: bytes, names: Sequence[str]) -> tuple[int | None, ...]:
    """Of each of these parameters the axis of its outputs, or None where it is no layer's weight or the last layer's.

    Raises:
        UnsupportedModel: the forward model is none.
    """
    model = read_forward(forward)
    axes = {
        node.input[_WEIGHT[node.op_type]]: output_axis(node, len(model.shapes[node.input[_WEIGHT[node.op_type]]]))
        for node in model.nodes
        if node.op_type in _WEIGHT and node.input[_WEIGHT[node.op_type]] in names
    }
    if axes:
        axes.popitem()
    return tuple(axes.get(name) for name in names)


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Output channels: rows of a convolution's weight, columns of a matrix, the middle of a recurrent weight."""
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm" if attributes_of(node).get("transB"):
            return 0
        case "MatMul" | "Gemm":
            return rank - 1
    return 1
