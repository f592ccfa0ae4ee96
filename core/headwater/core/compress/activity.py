"""Law: how large a whole number may be is told by its row and its column, before the numbers themselves.

A unit that learns moves all of its weights, and most do not learn at a time. So a class travels of each tensor, of each
of its rows and of each of its columns: log2 of their mean |q|, rounded, plus 9, or 0 where all of them are 0. By

    class of a value ≈ class of its row + class of its column − class of the tensor

values are sorted into tables of two bytes: how often they are not 0, and by which factor each size is rarer than the
one below it (a two-sided geometric distribution). Values of one table go together, as many as a byte holds. That is
within 3 % of the entropy that they have given these classes, and up to a quarter less than without them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.compress import lanes
from headwater.core.compress.coder import Decoder, Encoder, Tree
from headwater.core.compress.lanes import TOTAL, Whole
from headwater.core.compress.sparse import Shape, as_matrix
from headwater.schemas.tensors import TensorError

MAX_LINES: Final = 32_768
"""Rows and columns of all tensors whose class is told; each takes some 10 µs."""

LEAST: Final = 16
"""Values that a row or column has, or else telling its class costs more than it saves."""

TABLE_BYTES: Final = 2

_MOST_SYMBOLS: Final = 256
_TOTAL_BITS: Final = TOTAL.bit_length() - 1
_CLASS_BITS: Final = 4
_MOST: Final = 15
_OF_ONE: Final = 9
_TABLES: Final = range(-4, 18)
"""Classes of values: beyond them all are alike."""

Classes = NDArray[np.int64]
_Codes = NDArray[np.int8]
_NONE: Final = np.zeros(0, dtype=np.int8)


def fits(shapes: Sequence[Shape]) -> bool:
    """Whether this layout is for such tensors."""
    return sum(1 + sum(_told(shape)) for shape in shapes) <= MAX_LINES


def write(tensors: Sequence[Whole], shapes: Sequence[Shape], levels: int) -> tuple[bytes, bytes]:
    """Classes as one stream; and their tables, with the numbers by them. `tensors`: flat, |q| ≤ `levels`."""
    stream, trees, tables_of = Encoder(), _trees(), []
    for codes, shape in zip(tensors, shapes, strict=True):
        classes = _classes(np.abs(codes), shape)
        for tree, told in zip(trees, classes, strict=True):
            for number in told.tolist():
                tree.put(stream, number)
        tables_of.append(_tables_of(classes, shape))
    sorting = _Sorting.by(np.concatenate([_NONE, *tables_of]))
    codes = np.concatenate([_NONE, *tensors])[sorting.order]
    fitted = b"".join(_fitted(np.abs(part)) for part in np.split(codes, np.cumsum(sorting.counts)[:-1]) if len(part))
    symbols = sorting.grouped(codes, levels)
    return stream.finish(), fitted + lanes.write(symbols, sorting.of_groups(levels), _tables(fitted, levels))


def read(stream: bytes, rest: bytes, shapes: Sequence[Shape], levels: int) -> list[Whole]:
    """Flat whole numbers of each tensor. Raises TensorError for bytes that `write` does not make of such shapes, as far
    as that shows."""
    if not fits(shapes):
        raise TensorError("malformed", f"coded: classes where there are over {MAX_LINES} rows and columns")
    decoder, trees, tables_of = Decoder(stream), _trees(), []
    for shape in shapes:
        (whole,) = _read_classes(decoder, trees[0], 1)
        rows, columns = _told(shape) if whole else (0, 0)
        classes = _read_classes(decoder, trees[1], rows), _read_classes(decoder, trees[2], columns)
        tables_of.append(_tables_of((np.array([whole]), *classes), shape))
    which = np.concatenate([_NONE, *tables_of])
    sorting = _Sorting.by(which)
    cut = TABLE_BYTES * len(sorting.counts)
    if len(rest) < cut:
        raise TensorError("malformed", f"coded: ends before its {len(sorting.counts)} tables")
    symbols = lanes.read(rest[cut:], sorting.of_groups(levels), _tables(rest[:cut], levels))
    codes = np.zeros(len(which), dtype=np.int64)
    codes[sorting.order] = sorting.parted(symbols, levels)
    return np.split(codes, np.cumsum([prod(shape) for shape in shapes])[:-1]) if shapes else []


# ── values of one table, as many as a byte holds ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Sorting:
    """Where the values of each table are, those of the first table first, and how many each has: none has none."""

    order: Whole
    counts: Whole

    @classmethod
    def by(cls, which: _Codes) -> "_Sorting":
        """Values whose table is 0 are left out."""
        counts = np.bincount(which, minlength=1)
        return cls(np.argsort(which, kind="stable")[counts[0] :], counts[1:][counts[1:] > 0])

    def of_groups(self, levels: int) -> Whole:
        """The table of each group, numbered from 0 on."""
        return np.repeat(np.arange(len(self.counts)), -(-self.counts // _group(levels)))

    def grouped(self, codes: Whole, levels: int) -> Whole:
        """Values in order as symbols."""
        size, base = _group(levels), 2 * levels + 1
        filled = np.full(size * int((-(-self.counts // size)).sum()), levels, dtype=np.int64)
        filled[self._places(size)] = codes + levels
        return np.asarray(filled.reshape(-1, size) @ base ** np.arange(size))

    def parted(self, symbols: Whole, levels: int) -> Whole:
        """The values in symbols."""
        size, base = _group(levels), 2 * levels + 1
        digits = symbols[:, None] // base ** np.arange(size) % base
        return np.asarray(digits.ravel()[self._places(size)] - levels)

    def _places(self, size: int) -> Whole:
        """Of each value among the groups: a table begins with a new one."""
        fillers = -self.counts % size
        return np.arange(len(self.order)) + np.repeat(np.cumsum(fillers) - fillers, self.counts)


def _group(levels: int) -> int:
    """How many values go together."""
    size, base = 1, 2 * levels + 1
    while base ** (size + 1) <= _MOST_SYMBOLS:
        size += 1
    return size


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trees() -> tuple[Tree, Tree, Tree]:
    """Of tensors, rows and columns."""
    return Tree(_CLASS_BITS), Tree(_CLASS_BITS), Tree(_CLASS_BITS)


def _told(shape: Shape) -> tuple[int, int]:
    """Of how many rows and columns the class travels."""
    rows, columns = as_matrix(shape)
    return rows if columns >= LEAST and rows > 1 else 0, columns if rows >= LEAST and columns > 1 else 0


def _classes(sizes: Whole, shape: Shape) -> tuple[Classes, Classes, Classes]:
    """Of a tensor, its rows and its columns, as far as they are told."""
    matrix, (rows, columns) = sizes.reshape(as_matrix(shape)), _told(shape)
    if not matrix.any():
        return _class_of([0.0]), _class_of([]), _class_of([])
    return (
        _class_of([matrix.mean()]),
        _class_of(matrix.mean(axis=1)[:rows]),
        _class_of(matrix.mean(axis=0)[:columns]),
    )


def _class_of(means: Iterable[float]) -> Classes:
    found = np.asarray(means, dtype=np.float64)
    logs = np.log2(np.maximum(found, 2.0**-_MOST))
    return np.where(found > 0, (np.rint(logs) + _OF_ONE).clip(1, _MOST), 0).astype(np.int64)


def _read_classes(decoder: Decoder, tree: Tree, count: int) -> Classes:
    return np.array([tree.get(decoder) for _ in range(count)], dtype=np.int64)


def _tables_of(classes: tuple[Classes, Classes, Classes], shape: Shape) -> _Codes:
    """The table of each value, from 1 on; 0: it is 0."""
    (whole,), rows, columns = classes
    size = as_matrix(shape)
    if not whole:
        return np.zeros(prod(size), dtype=np.int8)
    # Who is not told of is as the tensor is.
    rows = np.broadcast_to(rows if len(rows) else whole, size[0])[:, None]
    columns = np.broadcast_to(columns if len(columns) else whole, size[1])[None, :]
    found = (rows + columns - whole).clip(_TABLES.start, _TABLES.stop - 1) - (_TABLES.start - 1)
    return np.where((rows > 0) & (columns > 0), found, 0).astype(np.int8).ravel()


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SHARES: Final = [(17 + (byte & 15) << 11) >> (byte >> 4) for byte in range(256)]
"""Of 2**16, in steps of a sixteenth at most: how often a value is not 0."""


def _fitted(sizes: NDArray[np.int64]) -> bytes:
    """The table that fits these |q| best."""
    others, total = int(np.count_nonzero(sizes)), int(sizes.sum())
    share = min(range(256), key=lambda byte: abs(_SHARES[byte] * len(sizes) - others * TOTAL))
    return bytes([share, min(255, round(256 * (1 - others / total))) if total else 0])


def _tables(fitted: bytes, levels: int) -> Whole:
    """Frequencies of the symbols of each table, `[tables, (2·levels + 1)**group]`, each at least 1."""
    tables = [
        _joint(_table(_SHARES[share], decay, levels), levels)
        for share, decay in zip(fitted[::2], fitted[1::2], strict=True)
    ]
    return np.array(tables, dtype=np.int64).reshape(-1, (2 * levels + 1) ** _group(levels))


def _table(share: int, decay: int, levels: int) -> Whole:
    """How many of 2**16 values are −levels … levels."""
    weights = [1 << 32]
    for _ in range(levels - 1):
        weights.append(weights[-1] * decay >> 8)
    side = [share * weight // (2 * sum(weights)) for weight in weights]
    return np.array([*reversed(side), TOTAL - 2 * sum(side), *side])


def _joint(table: Whole, levels: int) -> Whole:
    """Of groups whose values know nothing of each other. What rounding leaves has the group of zeros."""
    joint = table
    for _ in range(_group(levels) - 1):
        joint = np.multiply.outer(joint, table).ravel() >> _TOTAL_BITS
    joint = 1 + (joint * (TOTAL - len(joint)) >> _TOTAL_BITS)
    joint[len(joint) // 2] += TOTAL - joint.sum()
    return joint
