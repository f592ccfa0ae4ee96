"""Law: an operator that others can say is rewritten into them first, so that it needs no rule of its own."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from headwater.core.graph.operators.row import refuse


class Rewriter:
    """Collects the nodes that take a composite's place; their values are named after its output."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.node = node
        self.nodes: list[onnx.NodeProto] = []
        self._stem = node.name or node.output[0]

    def emit(self, operator: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        name = self.node.output[0] if last else f"{self.node.output[0]}.{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], name=f"{self._stem}.{len(self.nodes)}", **attributes)
        )
        return name

    def number(self, value: float) -> str:
        return self.emit("Constant", value=numpy_helper.from_array(np.array(value, np.float32)))

    def sizes(self, *values: int) -> str:
        return self.emit("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))


Rewrite = Callable[[Rewriter, Mapping[str, Any]], None]


def _gelu(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    """Hendrycks & Gimpel 2016: x·Φ(x), or its tanh approximation."""
    x = write.node.input[0]
    if attributes.get("approximate", b"none") in (b"tanh", "tanh"):
        cube = write.emit("Mul", write.emit("Mul", x, x), x)
        inner = write.emit("Add", x, write.emit("Mul", cube, write.number(0.044715)))
        bell = write.emit("Tanh", write.emit("Mul", inner, write.number(math.sqrt(2 / math.pi))))
    else:
        bell = write.emit("Erf", write.emit("Mul", x, write.number(math.sqrt(0.5))))
    half = write.emit("Mul", write.emit("Add", bell, write.number(1.0)), write.number(0.5))
    write.emit("Mul", x, half, last=True)


def _standardised(write: Rewriter, x: str, axis: int, epsilon: float) -> str:
    """(x − mean)/√(variance + ε) along the axis."""
    axes = write.sizes(axis)
    centred = write.emit("Sub", x, write.emit("ReduceMean", x, axes, keepdims=1))
    variance = write.emit("ReduceMean", write.emit("Mul", centred, centred), axes, keepdims=1)
    deviation = write.emit("Sqrt", write.emit("Add", variance, write.number(epsilon)))
    return write.emit("Div", centred, deviation)


def _scaled_by_channel(write: Rewriter, flat: str, scale: str, bias: str, like: str) -> None:
    """`flat` `[n, channels, places]` times scale plus bias, in the shape of `like`."""
    column = write.sizes(1)
    scaled = write.emit("Mul", flat, write.emit("Unsqueeze", scale, column))
    moved = write.emit("Add", scaled, write.emit("Unsqueeze", bias, column))
    write.emit("Reshape", moved, write.emit("Shape", like), last=True)


def _instance_norm(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    """Ulyanov et al. 2016: each channel of each example by its own mean and variance."""
    x, scale, bias = write.node.input
    flat = write.emit("Reshape", x, write.sizes(0, 0, -1))
    unit = _standardised(write, flat, 2, attributes.get("epsilon", 1e-5))
    _scaled_by_channel(write, unit, scale, bias, x)


def _group_norm(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    """Wu & He 2018. Scale and bias are per channel (opset 21)."""
    x, scale, bias = write.node.input
    grouped = write.emit("Reshape", x, write.sizes(0, attributes["num_groups"], -1))
    unit = _standardised(write, grouped, 2, attributes.get("epsilon", 1e-5))
    flat = write.emit("Reshape", x, write.sizes(0, 0, -1))
    _scaled_by_channel(write, write.emit("Reshape", unit, write.emit("Shape", flat)), scale, bias, x)


def _sum(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    first, *rest = write.node.input
    if not rest:
        write.emit("Identity", first, last=True)
    for place, name in enumerate(rest, 1):
        first = write.emit("Add", first, name, last=place == len(rest))


def _absolute_sum(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    x, *axes = write.node.input
    write.emit("ReduceSum", write.emit("Abs", x), *axes, last=True, **attributes)


def _square_sum(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    x, *axes = write.node.input
    write.emit("ReduceSum", write.emit("Mul", x, x), *axes, last=True, **attributes)


def _length(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    """The Euclidean norm along axes."""
    x, *axes = write.node.input
    write.emit("Sqrt", write.emit("ReduceSum", write.emit("Mul", x, x), *axes, **attributes), last=True)


def _smallest(write: Rewriter, attributes: Mapping[str, Any]) -> None:
    """The largest of what is turned around."""
    x, *axes = write.node.input
    write.emit("Neg", write.emit("ReduceMax", write.emit("Neg", x), *axes, **attributes), last=True)


COMPOSITES: Final[Mapping[str, Rewrite]] = {
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "ReduceL1": _absolute_sum,
    "ReduceL2": _length,
    "ReduceMin": _smallest,
    "ReduceSumSquare": _square_sum,
    "Sum": _sum,
}


def check_opset(node: onnx.NodeProto, opset: int) -> None:
    """Raises UnsupportedModel for GroupNormalization of an opset below 21, which ONNX itself took back."""
    if node.op_type == "GroupNormalization" and opset < 21:
        raise refuse(node, f"of opset {opset}, which scales whole groups; export with opset 21, which scales channels")


def rewritten(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that take a node's place: itself, where it is no composite."""
    rewrite = COMPOSITES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rewrite is None:
        return [node]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    write = Rewriter(node)
    rewrite(write, attributes)
    return write.nodes
