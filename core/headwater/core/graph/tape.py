"""Law: a graph under construction knows the shape of every forward value; names are made once and never clash."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Shape = tuple[int | None, ...]
"""Static dimensions; None stands for the batch, or a multiple of it."""

FLOAT = onnx.TensorProto.FLOAT
INT64 = onnx.TensorProto.INT64
UINT32 = onnx.TensorProto.UINT32


@dataclass(frozen=True, slots=True)
class Training:
    """What a training step knows beside the model: names of values on its tape.

    `keep` float32 `[b]`: the examples' weights, 0 for filler. `active` float32 scalar: 0 where all is filler.
    `seed` int64 scalar, or None where the graph may draw nothing. `walked` is whether a backward walk follows: where
    none does, an operator runs as it is written. `still` names the parameters that no step moves.
    """

    keep: str
    active: str
    seed: str | None
    walked: bool = True
    still: frozenset[str] = frozenset()


class Tape:
    """Nodes in the order in which they run, the constants that they use, and the shapes of the forward values.

    `training` is None in graphs that only evaluate. `saved` is what an operator's forward emission leaves for its
    backward rule, by the node's first output; `moved` maps running statistics to their new values.
    """

    def __init__(
        self,
        prefix: str,
        shapes: Mapping[str, Shape],
        training: Training | None = None,
        known: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._prefix = prefix
        self._count = 0
        self._known = known or {}
        self.shapes = dict(shapes)
        self.training = training
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.saved: dict[str, tuple[str, ...]] = {}
        self.moved: dict[str, str] = {}

    def emit(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        output = name or self.fresh(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"{output}_node", **attributes))
        return output

    def emit_many(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Append a node with several outputs; returns their names."""
        names = tuple(self.fresh(operator) for _ in range(outputs))
        self.nodes.append(helper.make_node(operator, list(inputs), list(names), name=f"{names[0]}_node", **attributes))
        return names

    def branch(self, stem: str) -> "Tape":
        """A tape for a subgraph of a node on this one. Its constants belong to this tape: `absorb` takes them."""
        return Tape(self.fresh(stem) + "_", {}, self.training)

    def absorb(self, inner: "Tape") -> None:
        self.constants |= inner.constants

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A constant by its value; the same value is stored once."""
        array: NDArray[Any] = np.asarray(value, dtype=dtype)
        key = f"{self._prefix}const_{array.dtype.name}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()[:64]}"
        if key not in self.constants or array.nbytes > 32:
            key = key if array.nbytes <= 32 else self.fresh("constant")
            self.constants[key] = numpy_helper.from_array(array, key)
        return key

    def is_known(self, name: str) -> bool:
        """Whether a forward value is a constant of the model."""
        return name in self._known

    def value_of(self, name: str) -> Any:
        """A constant of the forward model, as Python numbers."""
        return self._known[name].tolist()

    def axes(self, axes: Iterable[int]) -> str:
        return self.constant(list(axes), np.int64)

    def total(self, terms: Sequence[str]) -> str:
        """The sum of gradients that meet where a value fans out."""
        result = terms[0]
        for term in terms[1:]:
            result = self.emit("Add", result, term)
        return result

    def unbroadcast(self, gradient: str, shape: Shape, target: Shape) -> str:
        """The gradient of a value of shape `target` that was broadcast to `shape`: summed where it was repeated."""
        leading = len(shape) - len(target)
        if leading:
            gradient = self.emit("ReduceSum", gradient, self.axes(range(leading)), keepdims=0)
        stretched = [i for i, size in enumerate(target) if size == 1 and shape[leading + i] != 1]
        if stretched:
            gradient = self.emit("ReduceSum", gradient, self.axes(stretched), keepdims=1)
        return gradient

    def reshaped(self, value: str, like: str) -> str:
        """`value` in the shape of the forward value `like`, which has as many elements."""
        return self.emit("Reshape", value, self.shape_of(like))

    def shape_of(self, value: str) -> str:
        """The shape of a forward value for a Reshape: a constant where at most one dimension hangs on the batch."""
        shape = self.shapes[value]
        if shape.count(None) <= 1 and 0 not in shape:
            return self.axes(-1 if size is None else size for size in shape)
        return self.emit("Shape", value)

    def full_shape(self, value: str) -> str:
        """The shape of a forward value with the batch's size in it."""
        shape = self.shapes[value]
        return self.axes(size or 0 for size in shape) if None not in shape else self.emit("Shape", value)

    def per_example(self, values: str, rank: int) -> str:
        """`[b]` values as `[b, 1, …]` of this rank."""
        return self.emit("Unsqueeze", values, self.axes(range(1, rank))) if rank > 1 else values

    def as_float(self, value: str) -> str:
        return self.emit("Cast", value, to=FLOAT)

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{self._prefix}{stem}_{self._count}"


def used_by(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node takes, those that its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            body = attribute.g
            own = {value.name for value in body.input} | {name for inner in body.node for name in inner.output}
            taken = [name for inner in body.node for name in used_by(inner)]
            yield from (name for name in (*taken, *(value.name for value in body.output)) if name not in own)


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(used_by(node))
    return kept[::-1]


def value_info(name: str, rank: int, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A value of this rank whose dimensions are found when the graph runs."""
    return helper.make_tensor_value_info(name, dtype, [None] * rank)
