"""Law: the parts of ONNX that a device understands are described here; onnxruntime is given these parts and no others.

The descriptor is a subset of onnx.proto (IR version 10) with its field numbers; protobuf, which onnxruntime brings
along, does the reading. What the subset does not name is dropped, so nothing reaches onnxruntime that the guard
did not see.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

_TYPES: Final = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "string": 9,
    "message": 11,
    "bytes": 12,
}

# message: {field: (number, type, repeated)}; a type that is no scalar is a message of this table.
_MESSAGES: Final[dict[str, dict[str, tuple[int, str, bool]]]] = {
    "ModelProto": {
        "ir_version": (1, "int64", False),
        "graph": (7, "GraphProto", False),
        "opset_import": (8, "OperatorSetIdProto", True),
        "training_info": (20, "bytes", True),
        "functions": (25, "bytes", True),
    },
    "OperatorSetIdProto": {"domain": (1, "string", False), "version": (2, "int64", False)},
    "GraphProto": {
        "node": (1, "NodeProto", True),
        "name": (2, "string", False),
        "initializer": (5, "TensorProto", True),
        "input": (11, "ValueInfoProto", True),
        "output": (12, "ValueInfoProto", True),
        "sparse_initializer": (15, "bytes", True),
    },
    "ValueInfoProto": {"name": (1, "string", False), "type": (2, "TypeProto", False)},
    "TypeProto": {"tensor_type": (1, "TensorTypeProto", False)},
    "TensorTypeProto": {"elem_type": (1, "int32", False), "shape": (2, "TensorShapeProto", False)},
    "TensorShapeProto": {"dim": (1, "DimensionProto", True)},
    "DimensionProto": {"dim_value": (1, "int64", False), "dim_param": (2, "string", False)},
    "NodeProto": {
        "input": (1, "string", True),
        "output": (2, "string", True),
        "name": (3, "string", False),
        "op_type": (4, "string", False),
        "attribute": (5, "AttributeProto", True),
        "domain": (7, "string", False),
    },
    "AttributeProto": {
        "name": (1, "string", False),
        "f": (2, "float", False),
        "i": (3, "int64", False),
        "s": (4, "bytes", False),
        "t": (5, "TensorProto", False),
        "g": (6, "GraphProto", False),
        "floats": (7, "float", True),
        "ints": (8, "int64", True),
        "strings": (9, "bytes", True),
        "tensors": (10, "TensorProto", True),
        "graphs": (11, "GraphProto", True),
        "type": (20, "int32", False),
        "sparse_tensor": (22, "bytes", False),
        "sparse_tensors": (23, "bytes", True),
    },
    "TensorProto": {
        "dims": (1, "int64", True),
        "data_type": (2, "int32", False),
        "float_data": (4, "float", True),
        "int32_data": (5, "int32", True),
        "int64_data": (7, "int64", True),
        "name": (8, "string", False),
        "raw_data": (9, "bytes", False),
        "double_data": (10, "double", True),
        "uint64_data": (11, "uint64", True),
        "external_data": (13, "bytes", True),
        "data_location": (14, "int32", False),
    },
}

FLOAT: Final = 1
INT32: Final = 6
INT64: Final = 7
NUMBERS: Final = frozenset([1, 2, 3, 4, 5, INT32, INT64, 9, 10, 11, 12, 13])
"""Tensor types that hold numbers or booleans; 8 would be texts, the others complex or packed."""

# AttributeProto.type: the field that then counts, whatever else is filled in.
_FIELDS: Final = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
}


@lru_cache(maxsize=1)
def model_class() -> Any:
    """The message class that reads a ModelProto. Raises google.protobuf.message.DecodeError on bytes that are none."""
    file = descriptor_pb2.FileDescriptorProto(name="headwater_onnx.proto", package="headwater_onnx", syntax="proto2")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=name, number=number, label=3 if repeated else 1)
            field.type = _TYPES.get(kind, _TYPES["message"])
            if kind not in _TYPES:
                field.type_name = f".headwater_onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("headwater_onnx.ModelProto"))


def attribute_field(attribute: Any) -> str | None:
    """The name of the field that holds an attribute's value; None for a type that this reader does not know."""
    return _FIELDS.get(attribute.type)


def attributes(node: Any) -> dict[str, Any]:
    """A guarded node's attributes by name."""
    return {attribute.name: getattr(attribute, _FIELDS[attribute.type]) for attribute in node.attribute}


def whole_numbers(tensor: Any, most: int) -> NDArray[np.int64] | None:
    """The content of a small tensor of integers; None for any other."""
    shape = tuple(tensor.dims)
    if tensor.data_type not in (INT32, INT64) or int(np.prod(shape, dtype=object)) > most:
        return None
    if tensor.raw_data:
        flat = np.frombuffer(tensor.raw_data, dtype="<i4" if tensor.data_type == INT32 else "<i8").astype(np.int64)
    else:
        flat = np.array(tensor.int32_data if tensor.data_type == INT32 else tensor.int64_data, dtype=np.int64)
    return flat.reshape(shape)


def real_numbers(tensor: Any, most: int) -> NDArray[np.float32] | None:
    """The content of a small float32 tensor; None for any other."""
    shape = tuple(tensor.dims)
    if tensor.data_type != FLOAT or int(np.prod(shape, dtype=object)) > most:
        return None
    flat = np.frombuffer(tensor.raw_data, dtype="<f4") if tensor.raw_data else np.array(tensor.float_data, dtype="<f4")
    return flat.reshape(shape)
