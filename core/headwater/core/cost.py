"""Law: what a model asks of a device is counted from its shapes alone, by a rule that can be said in a sentence.

A product counts two operations for each multiplication, any other operator one for each element that it makes, and
moving elements about none. A training step is taken for three times the forward pass: once forward, and twice that
back, to the values and to the parameters (Griewank & Walther 2008, chapter 4). Memory is an
estimate, within a factor of two of what was measured: every value of the forward pass and a gradient for it,
parameters before and after a step with a gradient, and the optimiser's slots.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import onnx

from headwater.core.graph import Compiled
from headwater.core.graph.execution import run_all
from headwater.core.graph.forward import Forward, depending
from headwater.schemas.messages import Delta, Metric, Model, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode

BACKWARD: Final = 2
"""Of a training step, in forward passes."""

_FLOAT_BYTES: Final = 4

_RECURRENT_VALUES: Final = 5
"""What a recurrent layer keeps of each time, for each row of its gates; measured, as there is no counting it."""

_SAME_BYTES: Final = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))

_MOVES: Final = frozenset(
    (
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Range",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that an example goes through. `inputs` are the layers before it; `operations` are for one example."""

    name: str
    operator: str
    shape: tuple[int, ...]
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    operations: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one example, one step and one round cost."""

    layers: tuple[Layer, ...]
    batch: int
    forward_operations: int
    """For one example."""
    step_operations: int
    """For one training step over the batch."""
    step_memory_bytes: int
    up_bytes: int
    """A device's delta in a round."""
    down_bytes: int
    """The model that it takes."""
    graph_bytes: Mapping[str, int]
    """The graphs, sent once a run."""


def cost(compiled: Compiled, batch: int) -> Cost:
    """What a compiled model costs with minibatches of `batch` examples."""
    shapes = _shapes(compiled.forward)
    layers = _layers(compiled.forward, shapes)
    forward = sum(layer.operations for layer in layers)
    return Cost(
        layers=layers,
        batch=batch,
        forward_operations=forward,
        step_operations=(1 + BACKWARD) * forward * batch,
        step_memory_bytes=_memory_bytes(compiled, shapes, batch),
        up_bytes=len(encode(_delta(compiled))),
        down_bytes=len(encode(_model(compiled))),
        graph_bytes={name: len(graph) for name, graph in compiled.bundle.graphs.items()},
    )


def layers_of(forward: Forward) -> tuple[Layer, ...]:
    """The nodes that an example goes through, in order; what is made of parameters alone belongs to who takes it."""
    return _layers(forward, _shapes(forward))


def _layers(forward: Forward, shapes: Shapes) -> tuple[Layer, ...]:
    on_the_way = depending(forward.nodes, [forward.x])
    owned: dict[str, tuple[str, ...]] = {parameter.name: (parameter.name,) for parameter in forward.parameters}
    maker: dict[str, str] = {}
    layers = []
    for node in forward.nodes:
        parameters = _distinct(name for value in node.input for name in owned.get(value, ()))
        if not on_the_way.intersection(node.output):
            owned |= dict.fromkeys(node.output, parameters)
            continue
        name = node.name or node.output[0]
        maker |= dict.fromkeys(node.output, name)
        layers.append(
            Layer(
                name=name,
                operator=node.op_type,
                shape=shapes[node.output[0]][1:],
                parameters=parameters,
                inputs=_distinct(maker.get(value, "") for value in node.input),
                operations=operations(node, shapes),
            )
        )
    return tuple(layers)


def operations(node: onnx.NodeProto, shapes: Shapes) -> int:
    """By the rule above, for the shapes given."""
    made = prod(shapes[node.output[0]])
    if node.op_type in ("MatMul", "Gemm"):
        left = shapes[node.input[0]]
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * made * (left[0] if turned else left[-1])
    if node.op_type == "Conv":
        return 2 * made * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("GRU", "LSTM", "RNN"):
        time, examples = shapes[node.input[0]][:2]
        return 2 * time * examples * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))
    return 0 if node.op_type in _MOVES else made


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name)


def _shapes(forward: Forward) -> dict[str, tuple[int, ...]]:
    """Of every value, for one example."""
    x = np.zeros([size or 1 for size in forward.shapes[forward.x]], np.float32)
    values: dict[str, Any] = {**run_all(forward.model, {forward.x: x}), **forward.constants}
    shapes = {name: tuple(np.shape(value)) for name, value in values.items()}
    return shapes | {parameter.name: parameter.shape for parameter in forward.parameters}


def _memory_bytes(compiled: Compiled, shapes: Shapes, batch: int) -> int:
    forward, manifest = compiled.forward, compiled.manifest
    on_the_way = depending(forward.nodes, [forward.x])
    values = sum(_kept(node, shapes) for node in forward.nodes if on_the_way.intersection(node.output))
    every = sum(prod(parameter.shape) for parameter in manifest.parameters)
    moving = sum(prod(parameter.shape) for parameter in manifest.moving)
    slots = sum(prod(slot.shape) for slot in manifest.slots)
    examples = batch * prod(manifest.x.shape)
    return _FLOAT_BYTES * (2 * batch * values + examples + every + 2 * moving + 2 * slots)


def _kept(node: onnx.NodeProto, shapes: Shapes) -> int:
    """How many numbers a node leaves for the way back, for one example."""
    if node.op_type in _SAME_BYTES:
        return 0
    made = sum(prod(shapes[name]) for name in node.output if name)
    if node.op_type in ("GRU", "LSTM", "RNN"):
        time, gates = shapes[node.input[0]][0], shapes[node.input[1]][:2]
        made += _RECURRENT_VALUES * time * prod(gates)
    return made


def _delta(compiled: Compiled) -> Delta:
    """One as a device sends it."""
    manifest = compiled.manifest
    return Delta(
        key=RoundKey(run="20260101-000000-run-0000", round=1, attempt=1),
        sender="device",
        task="train",
        weight=1.0,
        examples=1,
        devices=1,
        tensors=encode_tensors(np.zeros(parameter.shape, np.float32) for parameter in manifest.shared),
        metrics=tuple(Metric(split="train", name=name, total=0.0, weight=1.0) for name in manifest.metrics),
    )


def _model(compiled: Compiled) -> Model:
    return Model(run="20260101-000000-run-0000", version=1, tensors=encode_tensors(compiled.initial))
