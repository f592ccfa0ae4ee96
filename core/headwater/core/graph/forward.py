"""Law: a forward model is read once, checked whole, and known by its shapes; its parameters are in the order of use.

Initializer order, exporter names and file order carry no meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from headwater.core.graph.operators import attributes_of, check_ranks
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape
from headwater.schemas.limits import MAX_OBJECT_SIZE_BYTES
from headwater.schemas.manifest import Parameter

OPSETS: Final = range(13, 22)
"""Within these the meaning of every supported operator is the same."""

OPSET: Final = 18
"""Of the graphs that come out."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A checked forward model: `x` and `output` by name, the shape of every value, parameters and constants."""

    model: onnx.ModelProto
    x: str
    output: str
    shapes: Mapping[str, Shape]
    parameters: tuple[Parameter, ...]
    initial: tuple[NDArray[np.float32], ...]
    constants: Mapping[str, onnx.TensorProto]

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return tuple(self.model.graph.node)


def read_forward(payload: bytes, frozen: tuple[str, ...]) -> Forward:
    """Check a forward ONNX model.

    Args:
        frozen: name patterns (as in file names) of parameters that do not train.

    Raises:
        UnsupportedModel: anything that cannot be trained, by operator, attribute and node.
    """
    model = _parsed(payload)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnsupportedModel(
            f"model: {len(inputs)} inputs and {len(graph.output)} outputs; exactly one of each can be trained"
        )
    for node in graph.node:
        attributes_of(node)
    shapes = _shapes(model, inputs[0])
    for node in graph.node:
        check_ranks(node, shapes)
    used = list(dict.fromkeys(name for node in graph.node for name in node.input if name in weights))
    floats = [name for name in used if weights[name].data_type == onnx.TensorProto.FLOAT]
    _check_dtypes(weights, used)
    if not floats:
        raise UnsupportedModel("model: no float32 parameters; there is nothing to train")
    parameters = tuple(
        Parameter(
            name=name,
            shape=tuple(weights[name].dims),
            trainable=not any(fnmatchcase(name, pattern) for pattern in frozen),
        )
        for name in floats
    )
    return Forward(
        model=model,
        x=inputs[0],
        output=graph.output[0].name,
        shapes=shapes,
        parameters=parameters,
        initial=tuple(np.array(numpy_helper.to_array(weights[name]), dtype=np.float32) for name in floats),
        constants={name: weights[name] for name in used if name not in floats},
    )


def _parsed(payload: bytes) -> onnx.ModelProto:
    if len(payload) > MAX_OBJECT_SIZE_BYTES:
        raise UnsupportedModel(f"model: {len(payload)} bytes; at most {MAX_OBJECT_SIZE_BYTES} travel")
    try:
        model = onnx.load_from_string(payload)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise UnsupportedModel(f"model: not a valid ONNX model ({str(error).splitlines()[0]})") from None
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise UnsupportedModel(f"model: opset {opset}; export with {OPSETS[0]} to {OPSETS[-1]}, best {OPSET}")
    if model.functions or model.graph.sparse_initializer:
        raise UnsupportedModel("model: functions or sparse initializers; export with everything inlined and dense")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UnsupportedModel("model: external data; save it as one file")
    return model


def _check_dtypes(weights: Mapping[str, onnx.TensorProto], used: list[str]) -> None:
    for name in used:
        if weights[name].data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64):
            dtype = onnx.TensorProto.DataType.Name(weights[name].data_type)
            raise UnsupportedModel(f"parameter {name!r}: {dtype}; parameters must be FLOAT (float32)")


def _shapes(model: onnx.ModelProto, x: str) -> dict[str, Shape]:
    """The shape of every value; only the first dimension, the batch, may be dynamic."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise UnsupportedModel(f"model: shapes do not fit ({str(error).splitlines()[0]})") from None
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    shapes = {value.name: _shape(value) for value in values}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for name, shape in shapes.items():
        if None in shape[1:] or (name == x and (not shape or shape[0] is not None)):
            raise UnsupportedModel(
                f"value {name!r}: shape {list(shape)}; the first must be the (dynamic) batch, all others fixed"
            )
    missing = sorted({name for node in model.graph.node for name in node.output} - shapes.keys())
    if missing:
        raise UnsupportedModel(f"value {missing[0]!r}: its shape is not known; export with fixed shapes")
    return shapes


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dimensions)
