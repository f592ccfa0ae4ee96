"""Law: the parts of ONNX that the guard must see are described here, so that the device needs no ONNX package.

The descriptor is a subset of onnx.proto (IR version 10) with its field numbers; protobuf, which onnxruntime brings
along, does the reading, and passes over the fields that are not named.
"""

from functools import lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES: Final = {"int64": 3, "int32": 5, "string": 9, "message": 11, "bytes": 12}

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
        "initializer": (5, "TensorProto", True),
        "sparse_initializer": (15, "bytes", True),
    },
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
        "t": (5, "TensorProto", False),
        "g": (6, "GraphProto", False),
        "tensors": (10, "TensorProto", True),
        "graphs": (11, "GraphProto", True),
        "sparse_tensor": (22, "bytes", False),
        "sparse_tensors": (23, "bytes", True),
    },
    "TensorProto": {
        "dims": (1, "int64", True),
        "name": (8, "string", False),
        "external_data": (13, "bytes", True),
        "data_location": (14, "int32", False),
    },
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
