"""Law: a graph under construction knows the shape of every value; names are made once and never clash."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Shape = tuple[int | None, ...]
"""Static dimensions; None stands for the batch."""


class Tape:
    """Nodes in the order in which they run, the constants that they use, and the shapes of the forward values."""

    def __init__(self, prefix: str, shapes: Mapping[str, Shape]) -> None:
        self._prefix = prefix
        self._count = 0
        self.shapes = dict(shapes)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def emit(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        output = name or self._fresh(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"{output}_node", **attributes))
        return output

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A constant by its value; the same value is stored once."""
        array: NDArray[Any] = np.asarray(value, dtype=dtype)
        key = f"{self._prefix}const_{array.dtype.name}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()[:64]}"
        if key not in self.constants or array.nbytes > 32:
            key = key if array.nbytes <= 32 else self._fresh("constant")
            self.constants[key] = numpy_helper.from_array(array, key)
        return key

    def axes(self, axes: Sequence[int]) -> str:
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

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{self._prefix}{stem}_{self._count}"
