"""Law: only operators that compute, in the default domain, in every subgraph; nothing that reads a file or never ends.

onnxruntime itself would read external data from disk and run any operator that it has. What is not on the list is
refused by name before onnxruntime sees a byte, and it then sees only what was read here, written anew.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError

from headwater.device.runtime.failures import GraphRefused
from headwater.device.runtime.onnx_reader import NUMBERS, attribute_field, model_class
from headwater.device.runtime.sizes import OPERATORS
from headwater.schemas.limits import MAX_RANK

OPSETS: Final = range(13, 22)
MAX_GRAPH_SIZE_BYTES: Final = 16 * 1024 * 1024
MAX_NODES: Final = 10_000
MAX_NESTING: Final = 4
MAX_CONSTANT_ELEMENTS: Final = 4 * 1024 * 1024
MAX_NAME_LENGTH: Final = 512
"""A parameter's name and the prefixes that a compiler puts before it."""


def check_graph(payload: bytes) -> Any:
    """Read the whole of a serialized ONNX model.

    Returns:
        The model as it was read: its `SerializeToString` is for onnxruntime, in place of the payload.

    Raises:
        GraphRefused: anything that is not allowed, by name.
    """
    if len(payload) > MAX_GRAPH_SIZE_BYTES:
        raise GraphRefused(f"graph: {len(payload)} bytes; at most {MAX_GRAPH_SIZE_BYTES}")
    model = model_class()()
    try:
        model.ParseFromString(payload)
    except (DecodeError, RecursionError, ValueError):
        raise GraphRefused("graph: not an ONNX model") from None
    model.DiscardUnknownFields()
    _check_model(model)
    graphs = tuple(_graphs(model.graph, 1))
    nodes = [node for graph in graphs for node in graph.node]
    if not nodes or len(nodes) > MAX_NODES:
        raise GraphRefused(f"graph: {len(nodes)} nodes; 1 to {MAX_NODES} are allowed")
    for node in nodes:
        _check_node(node)
    for graph in graphs:
        _check_names(graph)
        _check_tensors(graph)
    return model


def _check_model(model: Any) -> None:
    if model.functions or model.training_info:
        raise GraphRefused("graph: holds functions or training info; only plain nodes are allowed")
    domains = {entry.domain for entry in model.opset_import}
    versions = {entry.version for entry in model.opset_import}
    if domains - {"", "ai.onnx"}:
        raise GraphRefused(f"graph: operator domains {sorted(domains)}; only the default domain is allowed")
    # One domain may stand twice: each of its versions must be allowed, whichever a reader takes.
    if not versions or not all(version in OPSETS for version in versions):
        raise GraphRefused(f"graph: opset {sorted(versions)}; {OPSETS[0]} to {OPSETS[-1]} are allowed")


def _graphs(graph: Any, depth: int) -> Iterator[Any]:
    """The graph and every graph in its nodes' attributes."""
    if depth > MAX_NESTING:
        raise GraphRefused(f"graph: nested more than {MAX_NESTING} deep")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, depth + 1)
            for inner in attribute.graphs:
                yield from _graphs(inner, depth + 1)


def _check_node(node: Any) -> None:
    where = f"node {node.name[:MAX_NAME_LENGTH] or '?'!r}"
    if node.domain not in ("", "ai.onnx"):
        raise GraphRefused(f"{where}: domain {node.domain!r}; only the default domain is allowed")
    if node.op_type not in OPERATORS:
        raise GraphRefused(f"{where}: operator {node.op_type[:MAX_NAME_LENGTH]!r} is not allowed on a device")
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) != len(names):
        raise GraphRefused(f"{where}: an attribute stands twice")
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise GraphRefused(f"{where}: a sparse tensor in {attribute.name!r}")
        if attribute_field(attribute) is None:
            raise GraphRefused(f"{where}: {attribute.name!r} is of type {attribute.type}, which no operator here takes")
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i not in NUMBERS:
            raise GraphRefused(f"{where}: casts to type {attribute.i}; only numbers are allowed")


def _check_names(graph: Any) -> None:
    names = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    names += [name for node in graph.node for name in (node.name, *node.input, *node.output)]
    longest = max(names, key=len, default="")
    if len(longest) > MAX_NAME_LENGTH:
        raise GraphRefused(f"name {longest[:40]!r}…: {len(longest)} characters; at most {MAX_NAME_LENGTH}")


def _check_tensors(graph: Any) -> None:
    if graph.sparse_initializer:
        raise GraphRefused("graph: sparse initializers")
    inside = [
        tensor
        for node in graph.node
        for attribute in node.attribute
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
    ]
    for tensor in (*graph.initializer, *inside):
        if tensor.data_location or tensor.external_data:
            raise GraphRefused(f"tensor {tensor.name!r}: external data; a device reads no file for a graph")
        if tensor.data_type not in NUMBERS:
            raise GraphRefused(f"tensor {tensor.name!r}: is of type {tensor.data_type}; only numbers are allowed")
        # The rank first: the product of a million sizes would take hours.
        if len(tensor.dims) > MAX_RANK or min(tensor.dims, default=0) < 0:
            raise GraphRefused(
                f"tensor {tensor.name!r}: {len(tensor.dims)} dimensions from {min(tensor.dims)}; at most {MAX_RANK}, "
                "none of them negative"
            )
        elements = math.prod(tensor.dims)
        if elements > MAX_CONSTANT_ELEMENTS:
            raise GraphRefused(f"tensor {tensor.name!r}: {elements} elements; at most {MAX_CONSTANT_ELEMENTS}")
