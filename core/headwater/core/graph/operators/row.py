"""Law: an operator is one row: what of it is accepted, how it runs in a training step, and its backward rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape, Tape

Gradients = tuple[str | None, ...]
Attributes = Mapping[str, Any]
Backward = Callable[..., Gradients]
"""(tape, node, attributes, *gradients of the outputs) -> gradients of the inputs, by position; None: there is none."""

Forward = Callable[[Tape, onnx.NodeProto, Attributes], None]
Check = Callable[[onnx.NodeProto, Attributes, Mapping[str, Shape]], None]
Sight = Callable[[onnx.NodeProto, Attributes], None]


@dataclass(frozen=True, slots=True)
class Operator:
    """`attributes`: those that the rule understands, with the defaults of the ONNX specification."""

    backward: Backward
    attributes: Mapping[str, Any]
    fixed: tuple[int, ...] = ()
    """Inputs that must be constants of the model, for they have no gradient."""
    state: tuple[int, ...] = ()
    """Inputs that are running statistics."""
    outputs: int = 1
    """How many of its outputs may be used."""
    forward: Forward | None = None
    """What runs in a graph instead of the node itself."""
    at_sight: Sight | None = None
    """Raises UnsupportedModel for what the attributes and inputs given forbid, before anything runs."""
    check: Check | None = None
    """Raises UnsupportedModel for what the attributes and shapes forbid."""


def where(node: onnx.NodeProto) -> str:
    return f"node {node.name or node.output[0]!r}"


def refuse(node: onnx.NodeProto, sentence: str) -> UnsupportedModel:
    return UnsupportedModel(f"{where(node)}: {node.op_type} {sentence}")


def given(node: onnx.NodeProto, position: int) -> str | None:
    """An optional input's name, or None where it is left out."""
    return node.input[position] if len(node.input) > position and node.input[position] else None


def axis_of(axis: int, shape: Shape) -> int:
    return axis + len(shape) if axis < 0 else axis


def not_the_batch(node: onnx.NodeProto, axis: int, shape: Shape) -> None:
    """Raises UnsupportedModel where an operator would mix the examples of a batch."""
    if shape and shape[axis] is None:
        raise refuse(
            node, f"along axis {axis}, the batch; an example may not depend on its neighbours, use an axis behind it"
        )
