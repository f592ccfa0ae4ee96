"""Law: each way of laying out an update is a pair, and the half that reads believes no number before it has checked it.

dense     every value                              entries   position and value, arithmetically coded, of a few
drawn     values at positions that a draw gives    gaps      positions as gaps, then values, of many
factors   two thin matrices for one                active   every value, coded by its row's and column's activity
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from headwater.core.compress import activity, lowrank, positions, sparse, values
from headwater.core.compress.lowrank import Bases
from headwater.core.compress.positions import Whole
from headwater.core.compress.values import Form, Values, narrowed, split
from headwater.schemas.tensors import TensorError

Update = tuple[Values, ...]
Shapes = Sequence[tuple[int, ...]]

_LONG_GAP: Final = 255
_MAX_VARINT_BYTES: Final = 5
_MAGNITUDE_BITS: Final[dict[Form, int]] = {"int8": 7, "int4": 3, "ternary": 1, "sign": 0}


@dataclass(frozen=True, slots=True)
class Numbers:
    """How the numbers of one payload are written: their form, and over which of them a scale stretches."""

    form: Form
    block: int
    joint: bool = False

    @property
    def is_scaled(self) -> bool:
        return self.form in _MAGNITUDE_BITS

    def write(self, parts: Sequence[Values], rng: np.random.Generator) -> bytes:
        return values.write(self._segments(parts), self.form, self.block, rng)

    def read(self, data: bytes, lengths: Sequence[int]) -> list[Values]:
        """Raises TensorError for anything but these many numbers."""
        segments = values.read(data, self._lengths(lengths), self.form, self.block)
        return split(segments[0], lengths) if self.joint and lengths else segments

    def quantise(self, parts: Sequence[Values], rng: np.random.Generator) -> tuple[list[Whole], Values]:
        """Whole numbers of each part, and all scales."""
        coded = [values.quantised(part, self.form, self.block, rng) for part in self._segments(parts)]
        codes = np.concatenate([part.codes for part in coded]) if coded else np.zeros(0, dtype=np.int8)
        scales = np.concatenate([part.scales for part in coded]) if coded else np.zeros(0, dtype=np.float32)
        return split(codes.astype(np.int64), [len(part) for part in parts]), scales

    def restore(self, codes: Sequence[Whole], scale_bytes: bytes) -> list[Values]:
        """Raises TensorError for scales that are none, or not as many as belong."""
        lengths = [len(part) for part in codes]
        stretches = self._lengths(lengths)
        counts = [values.scale_count([length], self.form, self.block) for length in stretches]
        if len(scale_bytes) != 2 * sum(counts):
            raise TensorError("malformed", f"coded: {len(scale_bytes)} bytes of scales where {2 * sum(counts)} belong")
        scales = split(values.scales_of(scale_bytes), counts)
        flat = split(np.concatenate([*codes, np.zeros(0, dtype=np.int64)]), stretches)
        restored = [
            values.restored(values.Coded(part.astype(np.int8), of_part), self.reach(len(part)))
            for part, of_part in zip(flat, scales, strict=True)
        ]
        return split(restored[0], lengths) if self.joint and lengths else restored

    def scale_count(self, lengths: Sequence[int]) -> int:
        return values.scale_count(self._lengths(lengths), self.form, self.block)

    def reach(self, length: int) -> int:
        """Over how many of `length` values a scale stretches."""
        return max(1, length) if self.form == "sign" else self.block

    def _segments(self, parts: Sequence[Values]) -> list[Values]:
        return [np.concatenate(parts)] if self.joint and parts else list(parts)

    def _lengths(self, lengths: Sequence[int]) -> list[int]:
        return [sum(lengths)] if self.joint and lengths else list(lengths)


# ── every value ─────────────────────────────────────────────────────────────────────────────────────────────────────


def write_dense(tensors: Sequence[Values], numbers: Numbers, rng: np.random.Generator) -> bytes:
    return numbers.write([tensor.ravel() for tensor in tensors], rng)


def read_dense(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    parts = numbers.read(body, [prod(shape) for shape in shapes])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


# ── every value, by the activity of its row and column ──────────────────────────────────────────────────────────────


def write_active(tensors: Sequence[Values], numbers: Numbers, rng: np.random.Generator) -> bytes:
    """The scales, the classes' length and classes, and the numbers."""
    codes, scales = numbers.quantise([tensor.ravel() for tensor in tensors], rng)
    shapes = [tensor.shape for tensor in tensors]
    classes, coded = activity.write(codes, shapes, values.LEVELS[numbers.form])
    return values.scale_bytes(scales) + write_number(len(classes)) + classes + coded


def read_active(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    if numbers.form not in values.LEVELS:
        raise TensorError("malformed", f"coded: activity of {numbers.form}")
    lengths = [prod(shape) for shape in shapes]
    scales = _part(body, 0, 2 * numbers.scale_count(lengths))
    length, at = read_number(body, len(scales))
    classes = _part(body, at, length)
    codes = activity.read(classes, body[at + length :], shapes, values.LEVELS[numbers.form])
    parts = numbers.restore(codes, scales)
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


# ── few of them, one by one ─────────────────────────────────────────────────────────────────────────────────────────


def write_entries(
    tensors: Sequence[Values], chosen: Sequence[Whole], numbers: Numbers, rng: np.random.Generator
) -> bytes:
    """The stream's length, the stream of positions and whole numbers, and their scales or the numbers themselves."""
    parts = _taken(tensors, chosen)
    shapes = [tensor.shape for tensor in tensors]
    if numbers.is_scaled:
        codes, scales = numbers.quantise(parts, rng)
        entries = [sparse.Entries(place, code) for place, code in zip(chosen, codes, strict=True)]
        stream = sparse.write(entries, shapes, _MAGNITUDE_BITS[numbers.form])
        return write_number(len(stream)) + stream + values.scale_bytes(scales)
    stream = sparse.write([sparse.Entries(place) for place in chosen], shapes, 0)
    return write_number(len(stream)) + stream + numbers.write(parts, rng)


def read_entries(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    length, at = read_number(body, 0)
    stream, rest = body[at : at + length], body[at + length :]
    if not numbers.is_scaled:
        entries = sparse.read(stream, shapes, 0, coded=False)
        places = [entry.positions for entry in entries]
        return _placed(numbers.read(rest, [len(place) for place in places]), places, shapes)
    entries = sparse.read(stream, shapes, _MAGNITUDE_BITS[numbers.form], coded=True)
    codes = [entry.codes if entry.codes is not None else entry.positions for entry in entries]
    return _placed(numbers.restore(codes, rest), [entry.positions for entry in entries], shapes)


# ── more of them, as gaps ───────────────────────────────────────────────────────────────────────────────────────────


def write_gaps(tensors: Sequence[Values], chosen: Sequence[Whole], numbers: Numbers, rng: np.random.Generator) -> bytes:
    """How many in each tensor, the gaps before them, what passes a byte of those, and the numbers."""
    gaps = np.concatenate([np.diff(place, prepend=-1) - 1 for place in chosen] or [np.zeros(0, dtype=np.int64)])
    long = gaps[gaps >= _LONG_GAP]
    head = b"".join(write_number(len(place)) for place in chosen)
    short = np.minimum(gaps, _LONG_GAP).astype(np.uint8)
    told: bytes = short.tobytes() + long.astype("<u4").tobytes()
    return head + told + numbers.write(_taken(tensors, chosen), rng)


def read_gaps(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    counts, at = [], 0
    for shape in shapes:
        count, at = read_number(body, at)
        if count > prod(shape):
            raise TensorError("malformed", f"coded: {count} values in a tensor of {prod(shape)}")
        counts.append(count)
    short = np.frombuffer(_part(body, at, sum(counts)), dtype=np.uint8)
    at += len(short)
    is_long = short == _LONG_GAP
    gaps = short.astype(np.int64)
    gaps[is_long] = np.frombuffer(_part(body, at, 4 * int(is_long.sum())), dtype="<u4")
    at += 4 * int(is_long.sum())
    places = [np.cumsum(part + 1) - 1 for part in split(gaps, counts)]
    for place, shape in zip(places, shapes, strict=True):
        if len(place) and place[-1] >= prod(shape):
            raise TensorError("malformed", f"coded: a value at {place[-1]} of a tensor of {prod(shape)}")
    return _placed(numbers.read(body[at:], counts), places, shapes)


# ── at drawn positions ──────────────────────────────────────────────────────────────────────────────────────────────


def write_drawn(
    tensors: Sequence[Values], draw: bytes, fraction: float, numbers: Numbers, rng: np.random.Generator, *, grown: bool
) -> bytes:
    """The draw, how many it draws, and the values there; `grown` makes up for the others, so that the mean is right."""
    sizes = [tensor.size for tensor in tensors]
    kept = positions.kept_of(sum(sizes), fraction)
    places = positions.split_positions(positions.drawn(draw, sum(sizes), kept), sizes)
    factor = np.float32(sum(sizes) / kept) if grown and kept else np.float32(1)
    parts = [narrowed(part.astype(np.float64) * factor) for part in _taken(tensors, places)]
    return draw + write_number(kept) + numbers.write(parts, rng)


def read_drawn(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    draw = _part(body, 0, positions.SEED_BYTES)
    kept, at = read_number(body, positions.SEED_BYTES)
    sizes = [prod(shape) for shape in shapes]
    if kept > sum(sizes):
        raise TensorError("malformed", f"coded: {kept} drawn of {sum(sizes)}")
    places = positions.split_positions(positions.drawn(draw, sum(sizes), kept), sizes)
    return _placed(numbers.read(body[at:], [len(place) for place in places]), places, shapes)


# ── as thin matrices ────────────────────────────────────────────────────────────────────────────────────────────────


def write_factors(
    tensors: Sequence[Values], rank: int, numbers: Numbers, rng: np.random.Generator, start: Bases
) -> bytes:
    """The rank, then P̂ and Q of each matrix that they make shorter, and the others as they are."""
    rank = min(rank, lowrank.highest_rank([tensor.shape for tensor in tensors]))
    parts: list[Values] = []
    bases = iter(start)
    for tensor in tensors:
        if not lowrank.is_thinned(tensor.shape, rank):
            parts.append(tensor.ravel())
            continue
        parts += [factor.ravel() for factor in lowrank.factors(tensor, rank, next(bases, None))]
    return write_number(rank) + numbers.write(parts, rng)


def read_factors(body: bytes, shapes: Shapes, numbers: Numbers) -> Update:
    rank, parts = _read_factors(body, shapes, numbers)
    update, place = [], 0
    for shape in shapes:
        if lowrank.is_thinned(shape, rank):
            p, q = (part.reshape(-1, rank) for part in parts[place : place + 2])
            update.append(lowrank.product(p, q, shape))
            place += 2
        else:
            update.append(parts[place].reshape(shape))
            place += 1
    return tuple(update)


def read_bases(body: bytes, shapes: Shapes, numbers: Numbers) -> Bases:
    """Q of each thinned tensor."""
    rank, parts = _read_factors(body, shapes, numbers)
    bases, place = [], 0
    for shape in shapes:
        if lowrank.is_thinned(shape, rank):
            bases.append(parts[place + 1].reshape(-1, rank))
            place += 1
        place += 1
    return tuple(bases)


def _read_factors(body: bytes, shapes: Shapes, numbers: Numbers) -> tuple[int, list[Values]]:
    rank, at = read_number(body, 0)
    highest = lowrank.highest_rank(shapes)
    if not 1 <= rank <= highest:
        raise TensorError("malformed", f"coded: matrices of rank {rank}; 1 to {highest} here")
    return rank, numbers.read(body[at:], lowrank.factor_lengths(shapes, rank))


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_number(number: int) -> bytes:
    """Seven bits a byte, the lowest first (LEB128)."""
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and where it ends."""
    number = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = _part(data, at + place, 1)[0]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise TensorError("malformed", f"coded: a number of over {_MAX_VARINT_BYTES} bytes")


def _part(data: bytes, at: int, size: int) -> bytes:
    if len(data) - at < size:
        raise TensorError("malformed", f"coded: ends after {len(data)} bytes where {at + size} belong")
    return data[at : at + size]


def _taken(tensors: Sequence[Values], chosen: Sequence[Whole]) -> list[Values]:
    return [tensor.ravel()[place] for tensor, place in zip(tensors, chosen, strict=True)]


def _placed(parts: Sequence[Values], places: Sequence[Whole], shapes: Shapes) -> Update:
    update = []
    for part, place, shape in zip(parts, places, shapes, strict=True):
        flat = np.zeros(prod(shape), dtype=np.float32)
        flat[place] = part
        update.append(flat.reshape(shape))
    return tuple(update)
