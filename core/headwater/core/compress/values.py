"""Law: a number is written coarsely by chance, never by habit: but for fp16 and sign, its expectation is itself.

    int8, int4   q = ⌊v/s + u⌋, u uniform in [0, 1);  v ≈ s·q,  |q| ≤ 127, 7         QSGD, Alistarh et al. 2017, §3.1
    ternary      the same with |q| ≤ 1, s = max |v|: TernGrad's variant of QSGD with one level
    sign         v ≈ ±s, s = mean |v|                                  EF-signSGD, Karimireddy et al. 2019, algorithm 2
    fp16         v ≈ 2**e·h, h of half precision, 2**e ≥ max |v|

s is of a block of values and travels as the upper half of a float32. It is max |v| over the most that |q| may be, but
no finer than a share of the block's root mean square: a finer step only spells out noise that others drown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.tensors import TensorError

Form = Literal["fp32", "fp16", "int8", "int4", "ternary", "sign"]
FORMS: Final[tuple[Form, ...]] = ("fp32", "fp16", "int8", "int4", "ternary", "sign")

Values = NDArray[np.float32]
Codes = NDArray[np.int8]

LEVELS: Final[dict[Form, int]] = {"int8": 127, "int4": 7, "ternary": 1}
"""The most that |q| may be, of the forms that are whole numbers by chance."""

FINEST: Final[dict[Form, float]] = {"int8": 1 / 6, "int4": 1.6, "ternary": 0.0}
"""Of the root mean square: an error of about 1/200 and 1/3 of an update's energy, where ternary's is 3 times it."""

_LARGEST_SCALE: Final = float(np.uint32(0x7F7F0000).view(np.float32))
_MAX_EXPONENT: Final = 256
_PER_BYTE: Final[dict[Form, int]] = {"int8": 1, "int4": 2, "ternary": 5, "sign": 8}


@dataclass(frozen=True, slots=True)
class Coded:
    """Values as whole numbers: `codes`, and the scale of each block of them."""

    codes: Codes
    scales: Values


def blocks(count: int, block: int) -> int:
    return -(-count // block)


def quantised(values: Values, form: Form, block: int, rng: np.random.Generator) -> Coded:
    """`values`: finite, of one dimension. For `sign` the codes are ±1 and `block` is not asked."""
    if form == "sign":
        scales = _rounded_scales(np.abs(values.astype(np.float64)).mean(keepdims=True) if len(values) else np.zeros(0))
        return Coded(np.where(values < 0, -1, 1).astype(np.int8), scales)
    levels = LEVELS[form]
    padded = np.zeros((blocks(len(values), block), min(block, max(1, len(values)))))
    padded.ravel()[: len(values)] = values
    largest = np.abs(padded).max(axis=1)
    filled = np.minimum(np.full(len(padded), padded.shape[1]), len(values) - padded.shape[1] * np.arange(len(padded)))
    spread = np.sqrt(np.square(padded / np.maximum(largest, 1e-300)[:, None]).sum(axis=1) / np.maximum(filled, 1))
    scales = _rounded_scales(np.maximum(largest / levels, FINEST[form] * spread * largest))
    steps = np.where(scales > 0, scales, 1).astype(np.float64)
    codes = np.floor(padded / steps[:, None] + rng.random(padded.shape)).clip(-levels, levels)
    return Coded(codes.ravel()[: len(values)].astype(np.int8), scales)


def _rounded_scales(scales: NDArray[np.float64]) -> Values:
    """Up to the next that 16 bits hold: rounded down the largest value would not fit."""
    bits = np.minimum(scales, _LARGEST_SCALE).astype(np.float32).view(np.uint32).astype(np.uint64)
    up = np.minimum((bits + 0xFFFF) >> np.uint64(16), np.uint64(0x7F7F))
    return np.asarray((up.astype(np.uint32) << np.uint32(16)).view(np.float32))


def restored(coded: Coded, block: int) -> Values:
    """s·q, rounded once to float32."""
    if not len(coded.codes):
        return np.zeros(0, dtype=np.float32)
    scales = np.repeat(coded.scales.astype(np.float64), min(block, len(coded.codes)))[: len(coded.codes)]
    return narrowed(coded.codes * scales)


def narrowed(wide: NDArray[np.float64]) -> Values:
    """Rounded to float32, and what is past its end put there."""
    largest = float(np.finfo(np.float32).max)
    return np.asarray(np.clip(wide, -largest, largest), dtype=np.float32)


def scale_bytes(scales: Values) -> bytes:
    """The upper halves, first all first bytes and then all second ones: alike beside alike."""
    halves = (scales.view(np.uint32) >> 16).astype("<u2")
    return _planes(halves.view(np.uint8).reshape(-1, 2))


def scales_of(data: bytes) -> Values:
    """Raises TensorError where one is negative, NaN or infinite."""
    halves = _unplaned(data, 2).view("<u2").ravel()
    scales = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if len(scales) and not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise TensorError("not_finite", "coded: a scale that is none")
    return scales


def packed(codes: Codes, form: Form) -> bytes:
    """Several to a byte: 2 of int4, 5 of ternary, 8 signs."""
    if form == "int8":
        return codes.tobytes()
    if form == "sign":
        return np.packbits(codes > 0).tobytes()
    levels, per_byte = LEVELS[form], _PER_BYTE[form]
    base = 16 if form == "int4" else 2 * levels + 1
    digits = np.zeros(-(-len(codes) // per_byte) * per_byte, dtype=np.int64)
    digits[: len(codes)] = codes.astype(np.int64) + levels
    return (digits.reshape(-1, per_byte) @ base ** np.arange(per_byte)).astype(np.uint8).tobytes()


def packed_size(count: int, form: Form) -> int:
    return {"fp32": 4 * count, "fp16": 2 * count}.get(form) or -(-count // _PER_BYTE.get(form, 1))


def unpacked(data: bytes, count: int, form: Form) -> Codes:
    """Raises TensorError for bytes that are not `count` such codes."""
    raw = np.frombuffer(data, dtype=np.uint8)
    if len(raw) != packed_size(count, form):
        raise TensorError("malformed", f"coded: {len(raw)} bytes of codes where {packed_size(count, form)} belong")
    if form == "sign":
        return np.where(np.unpackbits(raw, count=count), 1, -1).astype(np.int8)
    if form == "int8":
        codes = raw.view(np.int8)
    else:
        levels, per_byte = LEVELS[form], _PER_BYTE[form]
        base = 16 if form == "int4" else 2 * levels + 1
        digits = raw[:, None] // base ** np.arange(per_byte) % base
        codes = (digits.ravel()[:count] - levels).astype(np.int8)
    if len(codes) and (codes.max() > LEVELS[form] or codes.min() < -LEVELS[form]):
        raise TensorError("malformed", f"coded: a code that is not of {form}")
    return codes


def write(segments: Sequence[Values], form: Form, block: int, rng: np.random.Generator) -> bytes:
    """Segments of values, one behind the other; a block never crosses from one to the next."""
    if form == "fp32":
        return _planes(np.concatenate([*segments, np.zeros(0)]).astype("<f4").view(np.uint8).reshape(-1, 4))
    if form == "fp16":
        return _write_halves(segments)
    coded = [quantised(segment, form, block, rng) for segment in segments]
    codes = np.concatenate([part.codes for part in coded]) if coded else np.zeros(0, dtype=np.int8)
    scales = np.concatenate([part.scales for part in coded]) if coded else np.zeros(0, dtype=np.float32)
    return scale_bytes(scales) + packed(codes, form)


def scale_count(lengths: Sequence[int], form: Form, block: int) -> int:
    if form == "sign":
        return sum(length > 0 for length in lengths)
    return sum(blocks(length, block) for length in lengths)


def size_bytes(lengths: Sequence[int], form: Form, block: int) -> int:
    """What `write` makes of segments of these lengths."""
    match form:
        case "fp32":
            return 4 * sum(lengths)
        case "fp16":
            return 2 * len(lengths) + 2 * sum(lengths)
        case _:
            return 2 * scale_count(lengths, form, block) + packed_size(sum(lengths), form)


def read(data: bytes, lengths: Sequence[int], form: Form, block: int) -> list[Values]:
    """The segments.

    Raises:
        TensorError: not as many bytes as they take, or numbers that are none.
    """
    if len(data) != size_bytes(lengths, form, block):
        expected = size_bytes(lengths, form, block)
        raise TensorError("malformed", f"coded: {len(data)} bytes of values where {expected} belong")
    if form == "fp32":
        return split(_finite(_unplaned(data, 4).view("<f4").ravel().astype(np.float32)), lengths)
    if form == "fp16":
        return _read_halves(data, lengths)
    cut = 2 * scale_count(lengths, form, block)
    codes = split(unpacked(data[cut:], sum(lengths), form), lengths)
    counts = [scale_count([length], form, block) for length in lengths]
    scales = split(scales_of(data[:cut]), counts)
    width = [max(1, length) if form == "sign" else block for length in lengths]
    return [restored(Coded(c, s), b) for c, s, b in zip(codes, scales, width, strict=True)]


def _write_halves(segments: Sequence[Values]) -> bytes:
    """A power of two a segment, so that its largest is below 1: half precision's own range is too narrow for sums."""
    exponents, halves = [], [np.zeros(0, dtype="<f2")]
    for segment in segments:
        exponent = int(np.frexp(np.abs(segment).max())[1]) if len(segment) else 0
        exponents.append(exponent)
        halves.append(np.ldexp(segment.astype(np.float64), -exponent).astype("<f2"))
    planes = _planes(np.concatenate(halves).view(np.uint8).reshape(-1, 2))
    return np.array(exponents, dtype="<i2").tobytes() + planes


def _read_halves(data: bytes, lengths: Sequence[int]) -> list[Values]:
    cut = 2 * len(lengths)
    exponents = np.frombuffer(data[:cut], dtype="<i2").astype(np.int64).clip(-_MAX_EXPONENT, _MAX_EXPONENT)
    halves = split(_unplaned(data[cut:], 2).view("<f2").ravel(), lengths)
    return [
        narrowed(np.ldexp(_finite(half).astype(np.float64), exponent))
        for half, exponent in zip(halves, exponents, strict=True)
    ]


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise TensorError("not_finite", "coded: holds NaN or infinity")
    return values


def split(values: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
    """Parts of these lengths, which together are all of it."""
    return np.split(values, np.cumsum(lengths)[:-1]) if lengths else []


def _planes(columns: NDArray[np.uint8]) -> bytes:
    """All first bytes, then all second ones, and so on: exponents beside exponents pack well."""
    return np.ascontiguousarray(columns.T[::-1]).tobytes()


def _unplaned(data: bytes, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.frombuffer(data, dtype=np.uint8).reshape(width, -1)[::-1].T)
