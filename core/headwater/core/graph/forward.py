"""Law: a forward model is read once, checked whole, and known by its shapes; its parameters are in the order of use.

Initializer order, exporter names and file order carry no meaning. No example may depend on another of its batch.
What follows from shapes alone, as exporters write it for a Reshape, is worked out here and gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from headwater.core.graph.execution import run_all
from headwater.core.graph.operators import OPERATORS, attributes_of, check_at_sight, check_node
from headwater.core.graph.operators.composite import COMPOSITES, check_opset, rewritten
from headwater.core.graph.operators.row import refuse
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape, needed
from headwater.schemas.limits import MAX_NAME_LENGTH, MAX_OBJECT_SIZE_BYTES, MAX_RANK, MAX_TENSORS
from headwater.schemas.manifest import Parameter

OPSETS: Final = range(13, 22)
"""Within these every supported operator can be read."""

OPSET: Final = 18
"""Of the graphs that come out."""

_BATCHES: Final = (3, 5)
"""Two batch sizes; a dimension that grows with them hangs on the batch, whatever an exporter called it."""

_BLIND: Final = frozenset({"Shape", "Size"})
"""Operators that see sizes, never values."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A checked forward model: `x` and `output` by name, the shape of every value, parameters and constants.

    `nodes` are those that compute, in order; `model` is the same model for inference, rewritten into operators that
    have rules.
    """

    model: onnx.ModelProto
    x: str
    output: str
    nodes: tuple[onnx.NodeProto, ...]
    shapes: Mapping[str, Shape]
    parameters: tuple[Parameter, ...]
    initial: tuple[NDArray[np.float32], ...]
    constants: Mapping[str, NDArray[Any]]


def read_forward(payload: bytes, frozen: tuple[str, ...] = (), personal: tuple[str, ...] = ()) -> Forward:
    """Check a forward ONNX model.

    Args:
        frozen: name patterns (as in file names) of parameters that do not train.
        personal: name patterns of parameters that train and never leave their device.

    Raises:
        UnsupportedModel: anything that cannot be trained, by operator, attribute and node.
    """
    model = _plain(_parsed(payload))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnsupportedModel(
            f"model: {len(inputs)} inputs and {len(graph.output)} outputs; exactly one of each can be trained"
        )
    for node in graph.node:
        check_at_sight(node)
    x, output = inputs[0], graph.output[0].name
    _check_input(next(value for value in graph.input if value.name == x))
    found = _Traced(model, x, _parameter_names(graph, weights))
    nodes = needed(found.nodes, [output])
    used = list(dict.fromkeys(name for node in nodes for name in node.input))
    floats = [name for name in used if name in found.parameters]
    _check_parameters(weights, floats, {name for name in used if name in weights})
    shapes = found.shapes(nodes, [x, *used])
    for node in nodes:
        check_node(node, shapes, {*used, output}, found.constants)
        if OPERATORS[node.op_type].state and not found.is_by_example(node.input[0]):
            raise refuse(node, "of rows that are not the examples; normalise before they are taken apart")
    if not found.is_by_example(output):
        raise UnsupportedModel(f"output {output!r}: its first axis must be the (dynamic) batch, one row an example")
    return Forward(
        model=model,
        x=x,
        output=output,
        nodes=tuple(nodes),
        shapes=shapes,
        parameters=_parameters(nodes, floats, shapes, frozen, personal),
        initial=tuple(np.array(numpy_helper.to_array(weights[name]), dtype=np.float32) for name in floats),
        constants={name: found.constants[name] for name in used if name in found.constants},
    )


def depending(nodes: Sequence[onnx.NodeProto], on: Iterable[str]) -> set[str]:
    """The values that depend on any of `on`, these included. `nodes` are in the order in which they run."""
    depends = set(on)
    for node in nodes:
        if node.op_type not in _BLIND and depends.intersection(node.input):
            depends.update(node.output)
    return depends - {""}


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────────


def _parsed(payload: bytes) -> onnx.ModelProto:
    if len(payload) > MAX_OBJECT_SIZE_BYTES:
        raise UnsupportedModel(f"model: {len(payload)} bytes; at most {MAX_OBJECT_SIZE_BYTES} travel")
    try:
        model = onnx.load_from_string(payload)
        for node in model.graph.node:
            check_opset(node, _opset(model))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UnsupportedModel(f"model: not a valid ONNX model ({why}); export it anew, as one .onnx file") from None
    opset = _opset(model)
    if opset not in OPSETS:
        raise UnsupportedModel(f"model: opset {opset}; export with {OPSETS[0]} to {OPSETS[-1]}, best {OPSET}")
    if model.functions or model.graph.sparse_initializer:
        raise UnsupportedModel("model: functions or sparse initializers; export with everything inlined and dense")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UnsupportedModel("model: external data; save it as one file")
    return model


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 18, for inference, without composites."""
    opset = _opset(model)
    if opset < OPSET:
        for node in model.graph.node:
            # Named by the reader's own refusal, before a converter stumbles over it.
            if node.op_type not in OPERATORS and node.op_type not in COMPOSITES:
                attributes_of(node)
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:
            # The converter's exceptions have no base of their own.
            raise UnsupportedModel(
                f"model: opset {opset} cannot be brought to {OPSET} ({str(error).splitlines()[0]}); export with {OPSET}"
            ) from None
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    nodes = [new for node in model.graph.node for new in rewritten(_for_inference(node, used))]
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    for entry in plain.opset_import:
        entry.version = OPSET if entry.domain in ("", "ai.onnx") else entry.version
    plain.ir_version = min(plain.ir_version, 10)
    plain.graph.ClearField("value_info")
    return plain


def _for_inference(node: onnx.NodeProto, used: set[str]) -> onnx.NodeProto:
    """Without what makes Dropout and BatchNormalization behave as in training: a training graph does so anyway."""
    if node.op_type not in ("Dropout", "BatchNormalization"):
        return node
    extra = next((name for name in node.output[1:] if name in used), None)
    if extra is not None:
        raise refuse(node, f"whose output {extra!r} is used; only the first can be")
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    if node.op_type == "Dropout":
        del plain.input[2:]
    kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
    del plain.attribute[:]
    plain.attribute.extend(kept)
    del plain.output[1:]
    return plain


def _check_input(x: onnx.ValueInfoProto) -> None:
    dtype = x.type.tensor_type.elem_type
    dimensions = [d.dim_value if d.HasField("dim_value") else None for d in x.type.tensor_type.shape.dim]
    if dtype != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(dtype)
        raise UnsupportedModel(f"input {x.name!r}: {name}; the examples must be FLOAT (float32)")
    if not dimensions or dimensions[0] is not None or None in dimensions[1:]:
        raise UnsupportedModel(
            f"input {x.name!r}: shape {dimensions}; the first must be the (dynamic) batch, all others fixed"
        )


# ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────


def _parameter_names(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Float initializers, but for those that stand only where an operator takes constants."""
    names = set()
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in weights or position in OPERATORS[node.op_type].fixed:
                continue
            if weights[name].data_type == onnx.TensorProto.FLOAT:
                names.add(name)
            elif weights[name].data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):
                dtype = onnx.TensorProto.DataType.Name(weights[name].data_type)
                raise UnsupportedModel(f"parameter {name!r}: {dtype}; parameters must be FLOAT (float32)")
    return names


def _check_parameters(weights: Mapping[str, onnx.TensorProto], floats: Sequence[str], used: set[str]) -> None:
    for name in used:
        if len(name) > MAX_NAME_LENGTH or len(weights[name].dims) > MAX_RANK:
            raise UnsupportedModel(
                f"parameter {name[:MAX_NAME_LENGTH]!r}: a name of {len(name)} characters, rank "
                f"{len(weights[name].dims)}; at most {MAX_NAME_LENGTH} and {MAX_RANK}"
            )
    if not floats:
        raise UnsupportedModel("model: no float32 parameters; there is nothing to train")
    if len(floats) > MAX_TENSORS:
        raise UnsupportedModel(f"model: {len(floats)} parameters; at most {MAX_TENSORS}, join some")


def _parameters(
    nodes: Sequence[onnx.NodeProto],
    names: Sequence[str],
    shapes: Mapping[str, Shape],
    frozen: tuple[str, ...],
    personal: tuple[str, ...],
) -> tuple[Parameter, ...]:
    statistics = [node.input[p] for node in nodes for p in OPERATORS[node.op_type].state]
    shared = next((name for name in statistics if statistics.count(name) > 1), None)
    if shared is not None:
        raise UnsupportedModel(
            f"parameter {shared!r}: two nodes keep their running statistics in it; give each its own"
        )
    made = []
    for name in names:
        fixed, own = _matches(name, frozen), _matches(name, personal)
        made.append(
            Parameter(
                name=name,
                shape=tuple(size or 0 for size in shapes[name]),
                trainable=not fixed and name not in statistics,
                state=not fixed and name in statistics,
                personal=own and not fixed,
            )
        )
    return tuple(made)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# ── shapes, and what follows from them ──────────────────────────────────────────────────────────────────────────


class _Traced:
    """What two runs with batches of two sizes tell: every shape, and every value that hangs on sizes alone."""

    def __init__(self, model: onnx.ModelProto, x: str, parameters: set[str]) -> None:
        self.parameters = parameters
        self._x = x
        size = [dim.dim_value for dim in next(v for v in model.graph.input if v.name == x).type.tensor_type.shape.dim]
        self._small, self._large = (run_all(model, {x: np.zeros((batch, *size[1:]), np.float32)}) for batch in _BATCHES)
        self._depends = depending(model.graph.node, [x])
        moving = depending(model.graph.node, [x, *parameters])
        initializers = {t.name: np.asarray(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self.constants = {name: value for name, value in initializers.items() if name not in parameters}
        for name, value in self._small.items():
            if name not in moving and np.array_equal(value, self._large[name]):
                self.constants[name] = value
        for name in parameters:
            self._small[name] = self._large[name] = initializers[name]
        self.nodes = [self._settled(node) for node in model.graph.node if not self._is_constant(node)]

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        return all(name in self.constants for name in node.output if name)

    def _settled(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A Reshape whose sizes hang on the batch in one place says -1 there."""
        if node.op_type != "Reshape" or node.input[1] in self.constants:
            return node
        small, large = self._small[node.input[1]], self._large[node.input[1]]
        differs = np.flatnonzero(small != large)
        if len(differs) != 1 or (small == -1).any():
            return node
        fixed, name = small.copy(), f"{node.output[0]}.sizes"
        fixed[differs[0]] = -1
        self.constants[name] = fixed
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[1] = name
        return copy

    def shapes(self, nodes: Sequence[onnx.NodeProto], names: Iterable[str]) -> dict[str, Shape]:
        """The shape of every value; what depends on x has the batch in it, and x and the output have it first."""
        made = {name for node in nodes for name in node.output if name}
        return {name: self._shape(name) for name in dict.fromkeys((*names, *sorted(made))) if name}

    def is_by_example(self, name: str) -> bool:
        """Whether a value has a row for each example."""
        return self._small[name].shape[:1] == _BATCHES[:1] and self._large[name].shape[:1] == _BATCHES[1:]

    def _shape(self, name: str) -> Shape:
        if name in self.constants:
            return self.constants[name].shape
        if name == self._x or name not in self._small:
            return (None, *self._small[name].shape[1:])
        one, other = self._small[name].shape, self._large[name].shape
        shape = tuple(_dimension(a, b) for a, b in zip(one, other, strict=True)) if len(one) == len(other) else ("?",)
        if "?" in shape or (name in self._depends and None not in shape):
            found = [f"{a}→{b}" if a != b else a for a, b in zip(one, other, strict=False)]
            raise UnsupportedModel(
                f"value {name!r}: shape {found} for batches of {_BATCHES[0]}→{_BATCHES[1]}; one dimension must be the "
                "(dynamic) batch, all others fixed"
            )
        if shape.count(None) > 1:
            met = ["batch" if size is None else size for size in shape]
            raise UnsupportedModel(
                f"value {name!r}: shape {met}; every example meets every other in it, and none may depend on its "
                "neighbours"
            )
        return tuple(size if isinstance(size, int) else None for size in shape)


def _dimension(small: int, large: int) -> int | str | None:
    """None for a multiple of the batch, "?" for what is neither that nor fixed."""
    if small == large:
        return small
    return None if small * _BATCHES[1] == large * _BATCHES[0] else "?"
