"""Law: agent and worker exchange frames: a small header and named arrays as raw bytes, each bounded before it is read.

    size of header (4 bytes) | size of arrays (8 bytes) | header: JSON | the arrays, one after the other

The same frame, in a file, is what a device keeps of its training. Nothing in it can run.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_HEADER_SIZE_BYTES: Final = 8 * 1024 * 1024
"""Thousands of tensors, each with its name and shape."""

_SIZES: Final = struct.Struct("<IQ")
_DTYPES: Final = frozenset(["float32", "float64", "int32", "int64", "uint8"])


class FrameError(Exception):
    """Bytes that are no frame, or a frame that is too large."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`header` holds texts, numbers, lists and tables; `arrays` go by name."""

    header: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)


def parts(frame: Frame) -> list[memoryview]:
    """The bytes of a frame, without a copy of its arrays."""
    arrays = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in frame.arrays.items()}
    listed = [[name, value.dtype.name, list(value.shape)] for name, value in arrays.items()]
    header = json.dumps([frame.header, listed], separators=(",", ":")).encode()
    sizes = _SIZES.pack(len(header), sum(value.nbytes for value in arrays.values()))
    return [
        memoryview(sizes + header),
        *(value.reshape(-1).view(np.uint8).data for value in arrays.values() if value.nbytes),
    ]


def read(fill: Callable[[memoryview], None], max_size_bytes: int) -> Frame:
    """The next frame.

    Args:
        fill: fills a buffer with the next bytes, or raises what its caller understands.

    Raises:
        FrameError: the arrays are larger than allowed, or the bytes are no frame.
    """
    header_size_bytes, size_bytes = _SIZES.unpack(_filled(fill, _SIZES.size))
    if header_size_bytes > MAX_HEADER_SIZE_BYTES or size_bytes > max_size_bytes:
        raise FrameError(f"frame: {header_size_bytes} and {size_bytes} bytes; at most {max_size_bytes}")
    header, listed = _opened(bytes(_filled(fill, header_size_bytes)))
    # One buffer for all: the arrays are views of it.
    body = np.empty(size_bytes, dtype=np.uint8)
    if size_bytes:
        fill(body.data)
    return Frame(header, _views(body, listed))


def _filled(fill: Callable[[memoryview], None], size_bytes: int) -> bytearray:
    buffer = bytearray(size_bytes)
    fill(memoryview(buffer))
    return buffer


def _opened(header: bytes) -> tuple[dict[str, Any], list[tuple[str, str, tuple[int, ...]]]]:
    try:
        told, listed = json.loads(header)
        rows = [(name, dtype, tuple(shape)) for name, dtype, shape in listed]
    except (ValueError, TypeError, RecursionError):
        raise FrameError("frame: its header is none") from None
    for name, dtype, shape in rows:
        sound = isinstance(name, str) and dtype in _DTYPES and all(type(size) is int and size >= 0 for size in shape)
        if not sound or len(shape) > 32:
            raise FrameError(f"frame: array {name!r} of {dtype!r} {list(shape)}")
    if not isinstance(told, dict):
        raise FrameError("frame: its header is none")
    return told, rows


def _views(body: NDArray[np.uint8], listed: list[tuple[str, str, tuple[int, ...]]]) -> dict[str, Array]:
    views, begin = {}, 0
    for name, dtype, shape in listed:
        end = begin + np.dtype(dtype).itemsize * math.prod(shape)
        if end > len(body):
            raise FrameError(f"frame: array {name!r} goes beyond it")
        part = body[begin:end]
        # onnxruntime and numpy want numbers at their own boundaries.
        aligned = part if begin % np.dtype(dtype).itemsize == 0 else part.copy()
        views[name] = aligned.view(dtype).reshape(shape)
        begin = end
    if begin != len(body):
        raise FrameError(f"frame: {len(body) - begin} bytes belong to no array")
    return views
