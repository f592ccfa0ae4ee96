"""Law: a loss is one row: the examples' losses, their metrics, and the gradient of the masked mean beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape, Tape
from headwater.schemas.base import Dtype
from headwater.schemas.manifest import Example
from headwater.schemas.manifest import Objective as ObjectiveName


@dataclass(frozen=True, slots=True)
class Objective:
    """How a loss is computed.

    `values` gives, for a prediction and target of b examples, a float32 `[b]` for each name in `metrics`, the loss
    first. `gradient` gives that of Σ share·loss to the prediction, `share` being float32 `[b]`.
    """

    metrics: tuple[str, ...]
    target: Callable[[Shape, int], Example]
    values: Callable[[Tape, str, str], tuple[str, ...]]
    gradient: Callable[[Tape, str, str, str], str]


def _label(shape: Shape, classes: int) -> Example:
    if len(shape) != 2 or shape[1] is None:
        raise UnsupportedModel(f"output: shape {list(shape)}; cross-entropy needs [batch, classes]")
    if classes and classes != shape[1]:
        raise UnsupportedModel(f"output: {shape[1]} values where the run has {classes} classes; make them equal")
    return Example(shape=(), dtype="int64", classes=shape[1])


def _cross_entropy(tape: Tape, logits: str, labels: str) -> tuple[str, ...]:
    """−log softmax(z)[y], and whether arg max z = y."""
    log_p = tape.emit("LogSoftmax", logits, axis=1)
    column = tape.emit("Unsqueeze", labels, tape.axes([1]))
    picked = tape.emit("GatherElements", log_p, column, axis=1)
    loss = tape.emit("Neg", tape.emit("Squeeze", picked, tape.axes([1])))
    best = tape.emit("ArgMax", logits, axis=1, keepdims=0)
    return loss, tape.emit("Cast", tape.emit("Equal", best, labels), to=onnx.TensorProto.FLOAT)


def _cross_entropy_gradient(tape: Tape, logits: str, labels: str, share: str) -> str:
    """share·(softmax(z) − one-hot(y))."""
    classes = tape.shapes[logits][1]
    one_hot = tape.emit("OneHot", labels, tape.constant(classes, np.int64), tape.constant([0.0, 1.0]), axis=1)
    error = tape.emit("Sub", tape.emit("Softmax", logits, axis=1), one_hot)
    return tape.emit("Mul", error, tape.emit("Unsqueeze", share, tape.axes([1])))


def _number(shape: Shape, classes: int) -> Example:
    dimensions = tuple(size for size in shape[1:] if size is not None)
    if len(dimensions) != len(shape) - 1:
        raise UnsupportedModel(f"output: shape {list(shape)}; only the batch may be dynamic")
    return Example(shape=dimensions, dtype="float32")


def _squared_error(tape: Tape, prediction: str, target: str) -> tuple[str, ...]:
    """The mean over an example's outputs of (ŷ − y)²."""
    difference = tape.emit("Sub", prediction, target)
    square = tape.emit("Mul", difference, difference)
    axes = range(1, len(tape.shapes[prediction]))
    return (tape.emit("ReduceMean", square, tape.axes(axes), keepdims=0) if axes else square,)


def _squared_error_gradient(tape: Tape, prediction: str, target: str, share: str) -> str:
    """share·2(ŷ − y)/d for d outputs an example."""
    shape = tape.shapes[prediction]
    outputs = int(np.prod([size or 1 for size in shape[1:]]))
    scaled = tape.emit("Mul", share, tape.constant(2.0 / outputs))
    if len(shape) > 1:
        scaled = tape.emit("Unsqueeze", scaled, tape.axes(range(1, len(shape))))
    return tape.emit("Mul", tape.emit("Sub", prediction, target), scaled)


OBJECTIVES: Final[Mapping[ObjectiveName, Objective]] = {
    "cross_entropy": Objective(("loss", "correct"), _label, _cross_entropy, _cross_entropy_gradient),
    "mse": Objective(("loss",), _number, _squared_error, _squared_error_gradient),
}

DTYPES: Final[Mapping[Dtype, int]] = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
