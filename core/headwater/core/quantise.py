"""Law: a weight becomes eight bits with a scale for each output channel; what is not a weight keeps its precision.

    w ≈ s_c·q,  q = round(w / s_c) in −127..127,  s_c = max |w| / 127 over channel c
    x ≈ s·(q − z),  q in −128..127, where the range of x is known: then the product itself is one of whole numbers

The result is standard ONNX (QuantizeLinear and DequantizeLinear), which stock onnxruntime fuses into integer kernels.
Ranges come from examples: the owner's, or, for a model with a normaliser, drawn from the fleet's mean and spread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwater.core.graph.execution import run_all
from headwater.core.graph.outputs import output_axis
from headwater.core.models import NORMALISER_NAMES

Range = tuple[float, float]

_WEIGHT_INPUTS: Final[dict[str, tuple[int, ...]]] = {
    "MatMul": (1,),
    "Gemm": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Which inputs of an operator are its weights; the first axis of them that runs over output channels is below."""

_INTEGER: Final = ("MatMul", "Gemm", "Conv")
"""Operators that have an integer kernel."""

_MOVES: Final = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators that give values that they were given: the range stays, and with it the integers."""

_LEAST_SCALE: Final = 1e-12
_MAX_BIAS: Final = 2.0**30


def imagined_examples(model: bytes, count: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Examples as the normaliser's mean and spread have them, or None for a model without one."""
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}
    if not all(name in tensors for name in NORMALISER_NAMES):
        return None
    mean, scale = (tensors[name] for name in NORMALISER_NAMES)
    drawn = rng.standard_normal((count, *mean.shape)) / scale + mean
    return np.asarray(drawn, dtype=np.float32)


def observed_ranges(model: bytes, x: NDArray[np.float32]) -> dict[str, Range]:
    """The least and the greatest of every float value of the model on these examples, with 0 between them."""
    parsed = onnx.load_from_string(model)
    values = run_all(parsed, {parsed.graph.input[0].name: x})
    ranges = {
        name: (min(float(value.min()), 0.0), max(float(value.max()), 0.0))
        for name, value in values.items()
        if value.dtype == np.float32 and value.size
    }
    for node in parsed.graph.node:
        if node.op_type in _MOVES and node.input[0] in ranges:
            ranges[node.output[0]] = ranges[node.input[0]]
    return ranges


def quantise(model: bytes, ranges: Mapping[str, Range] | None = None) -> bytes:
    """The model with eight-bit weights, and with integer arithmetic for the values whose range is given."""
    parsed = onnx.load_from_string(model)
    _fold_batch_norms(parsed.graph)
    _Rewriting(parsed.graph, ranges or {}).run()
    onnx.checker.check_model(parsed)
    return bytes(parsed.SerializeToString())


def _fold_batch_norms(graph: onnx.GraphProto) -> None:
    """A normalisation behind a convolution becomes part of its weights: w·γ/σ, and (b − μ)·γ/σ + β as its bias."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers, outputs = _readers(graph), {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or _attribute(norm, "training_mode", 0):
            continue
        known = all(name in tensors for name in [*conv.input[1:], *norm.input[1:]])
        alone = len(readers[conv.output[0]]) == len(readers[conv.input[1]]) == 1
        if known and alone and conv.output[0] not in outputs:
            graph.initializer.extend(_fold(conv, norm, tensors))
            graph.node.remove(norm)
    _drop_unread(graph)


def _fold(conv: onnx.NodeProto, norm: onnx.NodeProto, tensors: Mapping[str, Any]) -> list[onnx.TensorProto]:
    """The convolution takes over the normalisation's output; its new weight and bias."""
    scale, shift, mean, variance = (tensors[name].astype(np.float64) for name in norm.input[1:5])
    factor = scale / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
    weight = tensors[conv.input[1]]
    bias = tensors[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight))
    folded = {
        f"{conv.input[1]}.folded": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
        f"{conv.input[1]}.shift": (bias - mean) * factor + shift,
    }
    del conv.input[1:]
    conv.input.extend(folded)
    conv.output[0] = norm.output[0]
    return [numpy_helper.from_array(value.astype(np.float32), name) for name, value in folded.items()]


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = _readers(graph).keys() | {value.name for value in graph.output}
    _keep(graph, lambda name: name in read)


def _keep(graph: onnx.GraphProto, wanted: Callable[[str], bool]) -> None:
    """The constants that are wanted, without a trace of the others."""
    gone = {tensor.name for tensor in graph.initializer if not wanted(tensor.name)}
    for fields in (graph.initializer, graph.input, graph.value_info):
        kept = [field for field in fields if field.name not in gone]
        del fields[:]
        fields.extend(kept)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight's channel axis and its scales."""

    axis: int
    scales: NDArray[np.float32]


class _Rewriting:
    """One graph on its way: what was, and what replaces it."""

    def __init__(self, graph: onnx.GraphProto, ranges: Mapping[str, Range]) -> None:
        self._graph = graph
        self._ranges = ranges
        self._tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._readers = _readers(graph)
        self._outputs = {value.name for value in graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._done: dict[str, str] = {}
        self._gone: set[str] = set()

    def run(self) -> None:
        for node in list(self._graph.node):
            replaced = onnx.NodeProto()
            replaced.CopyFrom(node)
            for position, name in enumerate(node.input):
                if name in self._done and name not in self._tensors:
                    replaced.input[position] = self._done[name]
            self._rewrite(node, replaced)
            self._nodes.append(replaced)
            self._after(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        _keep(self._graph, lambda name: name not in self._gone)

    def _rewrite(self, node: onnx.NodeProto, replaced: onnx.NodeProto) -> None:
        whole = self._integer_scale(node)
        for position in _WEIGHT_INPUTS.get(node.op_type, ()):
            name = node.input[position]
            if not self._is_weight(name):
                continue
            weight = self._scales(node, position, whole)
            replaced.input[position] = self._weight(name, weight)
            if whole is not None:
                replaced.input[0] = self._activation(node.input[0])
                if len(node.input) > 2 and node.input[2]:
                    replaced.input[2] = self._bias(node.input[2], weight.scales * whole)

    def _after(self, node: onnx.NodeProto) -> None:
        """A convolution's kernel is an integer one only where its result is asked for as integers."""
        if node.op_type == "Conv":
            readers = self._readers.get(node.output[0], [])
            if len(readers) == 1 and readers[0].op_type == "Relu":
                return
        follows_conv = node.op_type == "Relu" and any(
            before.op_type == "Conv" and node.input[0] in before.output for before in self._graph.node
        )
        result = node.output[0]
        if (node.op_type == "Conv" or follows_conv) and result in self._ranges and result not in self._outputs:
            self._activation(result)

    # ── what is decided of a node ───────────────────────────────────────────────────────────────────────────────

    def _is_weight(self, name: str) -> bool:
        """A matrix or more that is read as a weight and nothing else."""
        value = self._tensors.get(name)
        return (
            value is not None
            and value.dtype == np.float32
            and value.ndim >= 2
            and name not in self._outputs
            and all(self._reads_as_weight(reader, name) for reader in self._readers[name])
        )

    def _reads_as_weight(self, reader: onnx.NodeProto, name: str) -> bool:
        places = [place for place, given in enumerate(reader.input) if given == name]
        return all(place in _WEIGHT_INPUTS.get(reader.op_type, ()) for place in places) and bool(places)

    def _integer_scale(self, node: onnx.NodeProto) -> float | None:
        """The scale of the node's input where the node may count in whole numbers, else None."""
        if node.op_type not in _INTEGER or node.input[0] not in self._ranges or not self._is_weight(node.input[1]):
            return None
        weight = self._tensors[node.input[1]]
        plain = node.op_type == "Conv" or (weight.ndim == 2 and _is_plain_gemm(node))
        bias = self._tensors.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        alone = len(self._readers[node.input[1]]) == 1
        if not plain or not alone or bias is None or bias.ndim != 1:
            return None
        return _affine(self._ranges[node.input[0]])[0]

    def _scales(self, node: onnx.NodeProto, position: int, whole: float | None) -> _Weight:
        value = self._tensors[node.input[position]]
        axis = output_axis(node, value.ndim)
        others = tuple(other for other in range(value.ndim) if other != axis)
        scales = np.abs(value).max(axis=others, initial=0.0) / 127
        if whole is not None and len(node.input) > 2 and node.input[2]:
            # A bias is counted in steps of both scales, in 32 bits.
            scales = np.maximum(scales, np.abs(self._tensors[node.input[2]]) / (whole * _MAX_BIAS))
        return _Weight(axis, np.maximum(scales, _LEAST_SCALE).astype(np.float32))

    # ── what is written ─────────────────────────────────────────────────────────────────────────────────────────

    def _weight(self, name: str, weight: _Weight) -> str:
        if name not in self._done:
            value = self._tensors[name]
            scales = weight.scales.reshape([-1 if axis == weight.axis else 1 for axis in range(value.ndim)])
            whole = np.clip(np.rint(value / scales), -127, 127).astype(np.int8)
            zeros = np.zeros(len(weight.scales), np.int8)
            self._done[name] = self._dequantised(name, whole, weight.scales, zeros, weight.axis)
            self._gone.add(name)
        return self._done[name]

    def _bias(self, name: str, scales: NDArray[np.float32]) -> str:
        steps = np.rint(self._tensors[name] / scales.astype(np.float64)).astype(np.int32)
        if all(reader.op_type in ("Conv", "Gemm") for reader in self._readers[name]) and len(self._readers[name]) == 1:
            self._gone.add(name)
        return self._dequantised(name, steps, scales.astype(np.float32), None, 0)

    def _dequantised(
        self, name: str, whole: NDArray[Any], scales: NDArray[np.float32], zeros: NDArray[np.int8] | None, axis: int
    ) -> str:
        """`zeros`, all 0, may be left out, but onnxruntime's product of matrices looks for those of its weights."""
        inputs = [self._constant(f"{name}.int", whole), self._constant(f"{name}.scale", scales)]
        if zeros is not None:
            inputs.append(self._constant(f"{name}.zero", zeros))
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.quantised"], axis=axis))
        return f"{name}.quantised"

    def _activation(self, name: str) -> str:
        if name not in self._done:
            scale, zero = _affine(self._ranges[name])
            shared = [
                self._constant(f"{name}.scale", np.float32(scale)),
                self._constant(f"{name}.zero", np.int8(zero)),
            ]
            self._nodes.append(helper.make_node("QuantizeLinear", [name, *shared], [f"{name}.int"]))
            self._nodes.append(helper.make_node("DequantizeLinear", [f"{name}.int", *shared], [f"{name}.quantised"]))
            self._done[name] = f"{name}.quantised"
        return self._done[name]

    def _constant(self, name: str, value: Any) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _affine(range_: Range) -> tuple[float, int]:
    """Scale and zero of int8 over a range that has 0 in it, so that 0 is exact."""
    low, high = range_
    scale = float(np.float32(max((high - low) / 255, _LEAST_SCALE)))
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


def _is_plain_gemm(node: onnx.NodeProto) -> bool:
    factors: Sequence[Any] = [_attribute(node, name, 1.0) for name in ("alpha", "beta")]
    return all(factor == 1.0 for factor in factors) and not _attribute(node, "transA", 0)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Who reads a value; whatever a subgraph reads, its node does."""
    readers: dict[str, list[onnx.NodeProto]] = {}

    def walk(inner: onnx.GraphProto, outer: onnx.NodeProto | None) -> None:
        for node in inner.node:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(outer or node)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g, outer or node)

    walk(graph, None)
    return readers
