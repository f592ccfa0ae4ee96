"""Law: a forward model is read once, checked whole, and known by its shapes; its parameters are in the order of use.

Initializer order, exporter names and file order carry no meaning. No example may depend on another of its batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from headwater.core.graph.operators import attributes_of, check_shapes
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape
from headwater.schemas.limits import MAX_NAME_LENGTH, MAX_OBJECT_SIZE_BYTES, MAX_RANK, MAX_TENSORS
from headwater.schemas.manifest import Parameter

OPSETS: Final = range(13, 22)
"""Within these the meaning of every supported operator is the same."""

OPSET: Final = 18
"""Of the graphs that come out."""

_BATCHES: Final = (7919, 7907)
"""Two batch sizes; a dimension that differs between them hangs on the batch, whatever an exporter called it."""


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
        """Those that compute: what a Constant gives is in `constants`."""
        return tuple(node for node in self.model.graph.node if node.op_type != "Constant")


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
    used = list(dict.fromkeys(name for node in graph.node for name in node.input if name in weights))
    floats = [name for name in used if weights[name].data_type == onnx.TensorProto.FLOAT]
    _check_parameters(weights, used, floats)
    _check_input(next(value for value in graph.input if value.name == inputs[0]))
    shapes = _shapes(model, inputs[0])
    for node in graph.node:
        check_shapes(node, shapes)
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
        constants={name: weights[name] for name in used if name not in floats}
        | {node.output[0]: _constant(node) for node in graph.node if node.op_type == "Constant"},
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


def depending(nodes: Sequence[onnx.NodeProto], on: Iterable[str]) -> set[str]:
    """The values that depend on any of `on`, these included. `nodes` are in the order in which they run."""
    depends = set(on)
    for node in nodes:
        if depends.intersection(node.input):
            depends.update(node.output)
    return depends


def _check_input(x: onnx.ValueInfoProto) -> None:
    dtype, shape = x.type.tensor_type.elem_type, _shape(x)
    if dtype != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(dtype)
        raise UnsupportedModel(f"input {x.name!r}: {name}; the examples must be FLOAT (float32)")
    if not shape or shape[0] is not None or None in shape[1:]:
        raise UnsupportedModel(
            f"input {x.name!r}: shape {list(shape)}; the first must be the (dynamic) batch, all others fixed"
        )


def _check_parameters(weights: Mapping[str, onnx.TensorProto], used: list[str], floats: list[str]) -> None:
    for name in used:
        if len(name) > MAX_NAME_LENGTH or len(weights[name].dims) > MAX_RANK:
            raise UnsupportedModel(
                f"parameter {name[:MAX_NAME_LENGTH]!r}: a name of {len(name)} characters, rank "
                f"{len(weights[name].dims)}; at most {MAX_NAME_LENGTH} and {MAX_RANK}"
            )
        if weights[name].data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64):
            dtype = onnx.TensorProto.DataType.Name(weights[name].data_type)
            raise UnsupportedModel(f"parameter {name!r}: {dtype}; parameters must be FLOAT (float32)")
    if not floats:
        raise UnsupportedModel("model: no float32 parameters; there is nothing to train")
    if len(floats) > MAX_TENSORS:
        raise UnsupportedModel(f"model: {len(floats)} parameters; at most {MAX_TENSORS}, join some")


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """What a Constant gives, as a tensor of the output's name."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.from_array(numpy_helper.to_array(value), node.output[0])
    dtype = np.float32 if "float" in attribute.name else np.int64
    return numpy_helper.from_array(np.asarray(value, dtype), node.output[0])


def _shapes(model: onnx.ModelProto, x: str) -> dict[str, Shape]:
    """The shape of every value: what depends on x has the batch as its first dimension and nowhere else."""
    one, other = (_inferred(model, x, size) for size in _BATCHES)
    depends = depending(model.graph.node, [x])
    missing = sorted({name for node in model.graph.node for name in node.output} - one.keys())
    if missing:
        raise UnsupportedModel(f"value {missing[0]!r}: its shape is not known; export with fixed shapes")
    shapes: dict[str, Shape] = {}
    for name, shape in one.items():
        if name not in depends:
            shapes[name] = shape
            continue
        if (shape[:1], other[name][:1]) != tuple((size,) for size in _BATCHES) or shape[1:] != other[name][1:]:
            found = ["batch" if size == _BATCHES[0] else size for size in shape]
            raise UnsupportedModel(
                f"value {name!r}: shape {found}; the first must be the (dynamic) batch, all others fixed"
            )
        shapes[name] = (None, *shape[1:])
    return shapes


def _inferred(model: onnx.ModelProto, x: str, batch: int) -> dict[str, Shape]:
    """All shapes for a batch of this size, by the operators alone: what the file claims of inner values is dropped."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("value_info")
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in copy.graph.input:
        if value.name == x:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        graph = onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise UnsupportedModel(f"model: shapes do not fit ({str(error).splitlines()[0]})") from None
    known = [v for v in (*graph.input, *graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")]
    shapes = {value.name: _shape(value) for value in known}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dimensions)
