"""Law: where the few large values stand is told by where those before them stood.

A tensor is a matrix, and large updates share rows and columns: a unit that learns moves all of its weights. For each
piece of a row the number of its entries is coded, then each gap to the next one, from

    p_j = min(k·w_j / Σw, 7/8),   w_j = 4·(entries of column j so far) + 2·(their mean over the columns) + 1
    P(next = j | one more comes) = p_j·Π_{i<j} (1 − p_i) / (1 − Π_i (1 − p_i)),  i from where the last one stood

then the sign, from the signs of its column or its row, whichever are of one mind, and the size. Uniform positions would
cost log2 of their binomial; these cost about half of it on updates of dense layers. Only exactly rounded operations, in
a fixed order, go into p: every machine has the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.compress.coder import TOTAL_BITS, Decoder, Encoder, Number, Tree
from headwater.schemas.tensors import TensorError

Whole = NDArray[np.int64]
Shape = tuple[int, ...]

MAX_ENTRIES: Final = 8192
"""Each takes some 20 µs: more are for a layout that is vectorised."""

MAX_PIECES: Final = 32_768
"""Of rows, in all tensors. Each takes some 2 µs, empty or not."""

PIECE: Final = 320
"""Of a row's columns. (1/8)**320 is still a float64, so no product of a piece underflows."""

_NONE: Final = np.zeros(0, dtype=np.int64)
_CAP: Final = 0.875
_RESOLUTION: Final = 2.0 ** (TOTAL_BITS - 1)


@dataclass(frozen=True, slots=True)
class Entries:
    """The kept values of one tensor: flat positions, ascending, and their codes; `codes` may be left out."""

    positions: Whole
    codes: Whole | None = None


def as_matrix(shape: Shape) -> tuple[int, int]:
    """Rows and columns: the first axis against all the others; a vector is one row."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def fits(shapes: Sequence[Shape], entries: int) -> bool:
    """Whether this layout is for so many."""
    pieces = (max(_piece_count(shape, turned=turned) for turned in _ways(shape)) for shape in shapes)
    return entries <= MAX_ENTRIES and sum(pieces) <= MAX_PIECES


def write(tensors: Sequence[Entries], shapes: Sequence[Shape], magnitude_bits: int) -> bytes:
    """The entries of all the tensors. `magnitude_bits`: of |code|; 0 where every code is ±1, or there are none."""
    encoder, shared = Encoder(), _Shared(magnitude_bits)
    for entries, shape in zip(tensors, shapes, strict=True):
        _write_tensor(encoder, shared, entries, shape)
    return encoder.finish()


def read(data: bytes, shapes: Sequence[Shape], magnitude_bits: int, *, coded: bool) -> list[Entries]:
    """Raises TensorError for bytes that `write` does not make of such shapes, as far as that shows."""
    if not fits(shapes, 0):
        raise TensorError("malformed", f"coded: entries one by one where there are over {MAX_PIECES} rows")
    reading, entries, left = _Reading(Decoder(data), _Shared(magnitude_bits), coded), [], MAX_ENTRIES
    for shape in shapes:
        entries.append(_read_tensor(reading, shape, left))
        left -= len(entries[-1].positions)
    return entries


class _Shared:
    """Statistics that all tensors of one update share: of sizes and of counts, a row's by whether the last had any."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.tree = Tree(bits)
        self.in_tensor = Number()
        self.in_row = (Number(), Number())


@dataclass(frozen=True, slots=True)
class _Reading:
    decoder: Decoder
    shared: _Shared
    coded: bool


class _Statistics:
    """What is known of a matrix's rows and columns from the entries so far."""

    def __init__(self, columns: int) -> None:
        self.columns = np.zeros(columns, dtype=np.int64)
        self.entries = 0
        self._row_signs: dict[int, list[int]] = {}
        self._column_signs: dict[int, list[int]] = {}

    def survival(self, piece: slice, count: int) -> NDArray[np.float64]:
        """Π_{i ≤ j} (1 − p_i) over the piece, behind a 1."""
        weights = 4 * self.columns[piece] + (2 * self.entries // max(1, len(self.columns)) + 1)
        p = np.minimum(weights * (count / int(weights.sum())), _CAP)
        return np.multiply.accumulate(np.concatenate(([1.0], 1.0 - p)))

    def sign(self, row: int, column: int) -> tuple[int, int]:
        """The odds of − and +."""
        minus, plus = self._row_signs.setdefault(row, [0, 0])
        others = self._column_signs.setdefault(column, [0, 0])
        if abs(others[0] - others[1]) > abs(minus - plus):
            minus, plus = others
        return 5 * minus + 2, 5 * plus + 2

    def count_sign(self, row: int, column: int, plus: int) -> None:
        self._row_signs[row][plus] += 1
        self._column_signs[column][plus] += 1


def _cumulative(survival: NDArray[np.float64], after: int) -> Whole:
    """How much of the total each column behind `after` and those behind it have: falling, at least 1 each, 0 last."""
    left = survival[after:]
    share = (left - left[-1]) / max(left[0] - left[-1], 1e-300)
    return np.asarray((share * _RESOLUTION).astype(np.int64) + np.arange(len(left) - 1, -1, -1))


def _size(shape: Shape, *, turned: bool) -> tuple[int, int]:
    rows, columns = as_matrix(shape)
    return (columns, rows) if turned else (rows, columns)


def _piece_count(shape: Shape, *, turned: bool) -> int:
    rows, columns = _size(shape, turned=turned)
    return rows * -(-columns // PIECE)


def _pieces(shape: Shape, *, turned: bool) -> Iterator[tuple[int, slice]]:
    """Row and columns of each piece, in order; all pieces of a row but its last are alike."""
    rows, columns = _size(shape, turned=turned)
    width = -(-columns // max(1, -(-columns // PIECE)))
    for row in range(rows):
        for start in range(0, columns, max(1, width)):
            yield row, slice(start, min(start + width, columns))


def _ways(shape: Shape) -> tuple[bool, ...]:
    """Row by row, or turned, column by column: a vector has one way."""
    return (False, True) if len(shape) > 1 else (False,)


def _is_better_turned(entries: Entries, shape: Shape) -> bool:
    """Whether columns have more unequal numbers of entries than rows: those are told, the others only guessed."""
    rows, columns, _ = _straight(entries, shape)
    return len(_ways(shape)) > 1 and _inequality(columns) > _inequality(rows)


def _inequality(lines: Whole) -> float:
    counts = np.bincount(lines)
    return float((counts * np.log2(np.maximum(counts, 1))).sum())


def _write_tensor(encoder: Encoder, shared: _Shared, entries: Entries, shape: Shape) -> None:
    shared.in_tensor.put(encoder, len(entries.positions))
    if not len(entries.positions):
        return
    turned = _is_better_turned(entries, shape)
    encoder.put(int(turned), 1, 2)
    rows, columns, codes = _turned(entries, shape) if turned else _straight(entries, shape)
    width = _size(shape, turned=turned)[1]
    known, before, left = _Statistics(width), 0, len(rows)
    keys, place = rows * width + columns, 0
    for row, piece in _pieces(shape, turned=turned):
        end = int(np.searchsorted(keys, row * width + piece.stop))
        count = end - place
        shared.in_row[min(before, 1)].put(encoder, count)
        if count:
            survival, after = known.survival(piece, count), 0
            for column in (columns[place:end] - piece.start).tolist():
                cumulative = _cumulative(survival, after)
                step = column - after
                high, low = int(cumulative[step]), int(cumulative[step + 1])
                encoder.put(low, high - low, int(cumulative[0]))
                after = column + 1
            if codes is not None:
                _write_codes(encoder, shared, known, row, columns[place:end].tolist(), codes[place:end].tolist())
            known.columns[columns[place:end]] += 1
            known.entries += count
        before, place, left = count, end, left - count
        if not left:
            return


def _write_codes(
    encoder: Encoder, shared: _Shared, known: _Statistics, row: int, columns: Sequence[int], codes: Sequence[int]
) -> None:
    for column, code in zip(columns, codes, strict=True):
        if shared.bits:
            shared.tree.put(encoder, abs(code))
        if code or not shared.bits:
            plus = int(code > 0)
            odds = known.sign(row, column)
            encoder.put(odds[0] * plus, odds[plus], sum(odds))
            known.count_sign(row, column, plus)


def _read_tensor(reading: _Reading, shape: Shape, most: int) -> Entries:
    decoder, shared = reading.decoder, reading.shared
    left = shared.in_tensor.get(decoder)
    if not left:
        return Entries(_NONE, _NONE if reading.coded else None)
    if left > min(most, prod(shape)):
        raise TensorError("malformed", f"coded: {left} entries where {min(most, prod(shape))} are left")
    turned = bool(decoder.peek(2))
    decoder.take(int(turned), 1)
    if turned not in _ways(shape):
        raise TensorError("malformed", "coded: a vector that is turned")
    width = _size(shape, turned=turned)[1]
    known, before = _Statistics(width), 0
    positions: list[int] = []
    codes: list[int] = []
    for row, piece in _pieces(shape, turned=turned):
        count = shared.in_row[min(before, 1)].get(decoder)
        if count > min(left, piece.stop - piece.start):
            raise TensorError("malformed", f"coded: {count} entries in a row for fewer")
        if count:
            columns = [piece.start + column for column in _read_columns(decoder, known, piece, count)]
            if reading.coded:
                codes += _read_codes(reading, known, row, columns)
            positions += [row * width + column for column in columns]
            known.columns[columns] += 1
            known.entries += count
        before, left = count, left - count
        if not left:
            break
    if left:
        raise TensorError("malformed", f"coded: {left} entries have no place")
    found = np.array(positions, dtype=np.int64)
    return _restored(found, np.array(codes, dtype=np.int64) if reading.coded else None, shape, turned=turned)


def _read_columns(decoder: Decoder, known: _Statistics, piece: slice, count: int) -> Iterator[int]:
    survival, after = known.survival(piece, count), 0
    for left in reversed(range(count)):
        cumulative = _cumulative(survival, after)
        place = decoder.peek(int(cumulative[0]))
        step = len(cumulative) - 1 - int(np.searchsorted(cumulative[::-1], place, side="right"))
        high, low = int(cumulative[step]), int(cumulative[step + 1])
        decoder.take(low, high - low)
        after += step + 1
        if len(survival) - 1 - after < left:
            raise TensorError("malformed", "coded: entries past the end of a row")
        yield after - 1


def _read_codes(reading: _Reading, known: _Statistics, row: int, columns: Sequence[int]) -> list[int]:
    decoder, shared, codes = reading.decoder, reading.shared, []
    for column in columns:
        size = shared.tree.get(decoder) if shared.bits else 1
        if size:
            odds = known.sign(row, column)
            plus = int(decoder.peek(sum(odds)) >= odds[0])
            decoder.take(odds[0] * plus, odds[plus])
            known.count_sign(row, column, plus)
            size = size if plus else -size
        codes.append(size)
    return codes


def _straight(entries: Entries, shape: Shape) -> tuple[Whole, Whole, Whole | None]:
    columns = max(1, as_matrix(shape)[1])
    return entries.positions // columns, entries.positions % columns, entries.codes


def _turned(entries: Entries, shape: Shape) -> tuple[Whole, Whole, Whole | None]:
    columns = max(1, as_matrix(shape)[1])
    rows, across = entries.positions // columns, entries.positions % columns
    order = np.lexsort((rows, across))
    return across[order], rows[order], None if entries.codes is None else entries.codes[order]


def _restored(positions: Whole, codes: Whole | None, shape: Shape, *, turned: bool) -> Entries:
    """Of the tensor itself, ascending."""
    if not turned:
        return Entries(positions, codes)
    rows, columns = as_matrix(shape)
    original = positions % max(1, rows) * columns + positions // max(1, rows)
    order = np.argsort(original)
    return Entries(original[order], None if codes is None else codes[order])
