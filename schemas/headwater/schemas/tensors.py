"""Law: a tensor crosses the wire as finite little-endian row-major values of exactly the declared shape."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.base import Dtype, Task
from headwater.schemas.learning import PLAIN, Learning
from headwater.schemas.manifest import Manifest, Parameter
from headwater.schemas.messages import Model, Reason, Tensor

Array = NDArray[Any]
Spec = tuple[str, tuple[int, ...], str]
"""A tensor's name, shape and dtype."""

Specs = Sequence[Spec]

_DTYPES: Final[dict[Dtype, np.dtype[np.generic]]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}
_NAMES: Final[dict[np.dtype[np.generic], Dtype]] = {dtype: name for name, dtype in _DTYPES.items()}


class TensorError(ValueError):
    """A tensor that is not what it says, or not what was asked for. `reason` is one of `messages.Reason`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def encode_tensor(array: Array) -> Tensor:
    """Raises ValueError for a dtype that has no name on the wire."""
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"dtype: {array.dtype} does not travel; use one of {', '.join(_DTYPES)}")
    data = np.asarray(array, dtype=_DTYPES[name]).tobytes()
    return Tensor.model_construct(dtype=name, shape=array.shape, codec="raw", data=data)


def encode_tensors(arrays: Iterable[Array]) -> tuple[Tensor, ...]:
    return tuple(encode_tensor(array) for array in arrays)


def decode_tensor(tensor: Tensor, what: str = "tensor") -> Array:
    """A read-only view of the tensor's bytes.

    Raises:
        TensorError: as many bytes as the shape needs are not there, or a value is NaN or infinite.
    """
    dtype = _DTYPES[tensor.dtype]
    expected = dtype.itemsize * int(np.prod(tensor.shape, dtype=object))
    if len(tensor.data) != expected:
        raise TensorError(
            "malformed",
            f"{what}: {len(tensor.data)} bytes where {list(tensor.shape)} {tensor.dtype} takes {expected}",
        )
    array = np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise TensorError("not_finite", f"{what}: holds NaN or infinity")
    return array


def decode_tensors(tensors: Sequence[Tensor], expected: Specs) -> tuple[Array, ...]:
    """Arrays of exactly the expected (name, shape, dtype), in that order.

    Raises:
        TensorError: a wrong number of tensors, a wrong shape or dtype, or bytes that `decode_tensor` refuses.
    """
    if len(tensors) != len(expected):
        raise TensorError("wrong_shape", f"tensors: {len(tensors)} where {len(expected)} belong")
    for tensor, (name, shape, dtype) in zip(tensors, expected, strict=True):
        if tensor.shape != shape or tensor.dtype != dtype:
            raise TensorError(
                "wrong_shape",
                f"{name}: {tensor.dtype} {list(tensor.shape)} where {dtype} {list(shape)} belongs",
            )
    return tuple(decode_tensor(tensor, name) for tensor, (name, _, _) in zip(tensors, expected, strict=True))


def parameter_specs(parameters: Iterable[Parameter]) -> tuple[Spec, ...]:
    return tuple((parameter.name, parameter.shape, "float32") for parameter in parameters)


def model_specs(manifest: Manifest, models: int = 1) -> tuple[Spec, ...]:
    """What a model message's tensors must be, where so many models coexist."""
    return models * parameter_specs(manifest.parameters)


def models_of(manifest: Manifest, model: Model) -> tuple[tuple[Array, ...], ...]:
    """The models of a message, each in the manifest's order.

    Raises:
        TensorError: they are not the manifest's.
    """
    count, each = len(model.clusters) or 1, len(manifest.parameters)
    flat = decode_tensors(model.tensors, model_specs(manifest, count))
    return tuple(flat[begin : begin + each] for begin in range(0, len(flat), each))


def delta_specs(task: Task, manifest: Manifest, learning: Learning = PLAIN, models: int = 1) -> tuple[Spec, ...]:
    """What a delta's tensors must be: the shared parameters, or the sums of x and of x², or nothing.

    Behind the shared parameters of each of `models` models comes what the strategy adds up besides: SCAFFOLD's changes
    of the control variates. Where devices send sketches, those are what is added up, and nothing else.
    """
    match task:
        case "train" if learning.uplink.codec == "sketch":
            return (("sketch", (learning.uplink.rows, learning.uplink.columns), "float32"),)
        case "train":
            controls = companion_specs(manifest, learning) if learning.strategy.local_rule == "scaffold" else ()
            return models * (*parameter_specs(manifest.shared), *controls)
        case "statistics":
            return ("sum of x", manifest.x.shape, "float64"), ("sum of x²", manifest.x.shape, "float64")
        case "evaluate":
            return ()


def companion_specs(manifest: Manifest, learning: Learning) -> tuple[Spec, ...]:
    """What travels beside the model, a tensor for each shared trainable parameter: SCAFFOLD's control variate, which a
    delta has too, or MOCHA's anchor."""
    if learning.strategy.local_rule == "scaffold":
        what = "control"
    elif learning.personal.method == "mocha":
        what = "anchor"
    else:
        return ()
    corrected = (parameter for parameter in manifest.shared if parameter.trainable)
    return tuple((f"{what} of {parameter.name}", parameter.shape, "float32") for parameter in corrected)
