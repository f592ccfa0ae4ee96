"""Law: what an encoder leaves out is known to it, and what a decoder makes of any bytes is bounded and finite.

encode(update, specs, compression, …) → payload          decode(payload, specs) → update

Stages, each a pair beside its other half: which tensors and which values travel (`positions`), how a number is written
(`values`), how it is all laid out (`layouts`, `sparse`, `lowrank`), and Zstandard for what is left. `feedback` goes
around them, `sketch` and `prune` before. A payload says what it is:

    1 byte      layout (3 bits), whether tensors are left out, whether the body is a frame, form of numbers (3 bits)
    a number    2·block + joint, of forms that have a scale; joint: the blocks run over all tensors
    bits        which tensors are there, if any is left out
    body        of the layout; a frame says how long it is, and that is held against the specs before it is opened
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Final

import numpy as np

from headwater.core.compress import activity, layouts, positions, sparse
from headwater.core.compress.layouts import Numbers, Shapes, Update
from headwater.core.compress.lowrank import Bases
from headwater.core.compress.positions import Turn
from headwater.core.compress.values import FORMS, LEVELS, Form, Values
from headwater.schemas import packing
from headwater.schemas.learning import CodecName, Compression
from headwater.schemas.tensors import Array, Specs, TensorError

DENSE: Final = 0
ENTRIES: Final = 1
GAPS: Final = 2
DRAWN: Final = 3
FACTORS: Final = 4
ACTIVE: Final = 5

_READERS: Final[dict[int, Callable[[bytes, Shapes, Numbers], Update]]] = {
    DENSE: layouts.read_dense,
    ENTRIES: layouts.read_entries,
    GAPS: layouts.read_gaps,
    DRAWN: layouts.read_drawn,
    FACTORS: layouts.read_factors,
    ACTIVE: layouts.read_active,
}

MANY: Final = 2048
"""Values among which classes and tables pay for themselves."""

_PARTIAL: Final = 1 << 3
_FRAMED: Final = 1 << 4
_FORM_AT: Final = 5
_MAX_BLOCK: Final = 1 << 16

_FORM_OF: Final[dict[CodecName, Form]] = {
    "none": "fp32",
    "fp16": "fp16",
    "int8": "int8",
    "int4": "int4",
    "ternary": "ternary",
    "sign": "sign",
    "stc": "sign",
}
"""Of codecs that say themselves how a number is written; for the others `Compression.values` does."""


@dataclass(frozen=True, slots=True)
class Header:
    """All of a payload but its body."""

    layout: int
    numbers: Numbers
    there: tuple[bool, ...]

    @property
    def bytes(self) -> bytes:
        is_partial = not all(self.there)
        first = self.layout | _PARTIAL * is_partial | FORMS.index(self.numbers.form) << _FORM_AT
        scaled = layouts.write_number(2 * self.numbers.block + self.numbers.joint) if self.numbers.is_scaled else b""
        return bytes([first]) + scaled + (np.packbits(self.there).tobytes() if is_partial else b"")


def encode(
    update: Sequence[Array],
    specs: Specs,
    compression: Compression,
    rng: np.random.Generator,
    turn: Turn,
    start: Bases = (),
) -> bytes:
    """An update in few bytes.

    Args:
        update: finite arrays of the specs' shapes.
        rng: for what is rounded by chance; nobody else needs to know it.
        turn: what all nodes under one plan have in common.
        start: what `bases` said of the last payload, for lowrank to go on from.
    """
    there = positions.in_turn(turn, len(specs), compression.layers)
    sent = [np.asarray(value, dtype=np.float32) for value, is_sent in zip(update, there, strict=True) if is_sent]
    numbers = Numbers(
        _FORM_OF.get(compression.codec, compression.values),
        compression.block,
        joint=compression.codec == "stc" and not compression.per_layer,
    )
    layout, body = _laid_out(sent, compression, numbers, rng, turn, start)
    # What is coded number by number is noise to a match finder.
    return _payload(Header(layout, numbers, there), body, compression.zstd and layout != ACTIVE)


def _laid_out(
    sent: Sequence[Values],
    compression: Compression,
    numbers: Numbers,
    rng: np.random.Generator,
    turn: Turn,
    start: Bases,
) -> tuple[int, bytes]:
    """The update in the layout of its codec and size."""
    match compression.codec:
        case "topk" | "stc":
            chosen = positions.largest(sent, compression.fraction, per_layer=compression.per_layer)
            if sparse.fits([value.shape for value in sent], sum(map(len, chosen))):
                return ENTRIES, layouts.write_entries(sent, chosen, numbers, rng)
            return GAPS, layouts.write_gaps(sent, chosen, numbers, rng)
        case "randk":
            grown = not compression.keeps_what_is_left
            return DRAWN, layouts.write_drawn(sent, turn.draw, compression.fraction, numbers, rng, grown=grown)
        case "lowrank":
            return FACTORS, layouts.write_factors(sent, compression.rank, numbers, rng, start)
        case _:
            count, shapes = sum(value.size for value in sent), [value.shape for value in sent]
            if numbers.form in LEVELS and count >= MANY and activity.fits(shapes):
                return ACTIVE, layouts.write_active(sent, numbers, rng)
            return DENSE, layouts.write_dense(sent, numbers, rng)


def _payload(header: Header, body: bytes, may_pack: bool) -> bytes:
    head = header.bytes
    frame = packing.pack(body) if may_pack else body
    if len(frame) < len(body):
        return bytes([head[0] | _FRAMED]) + head[1:] + frame
    return head + body


def decode(payload: bytes, specs: Specs) -> Update:
    """The update in a payload: float32 arrays of the specs' shapes; 0 where nothing was sent.

    Raises:
        TensorError: the payload is no such update.
    """
    header, body = _opened(payload, specs)
    shapes = [shape for (_, shape, _), is_there in zip(specs, header.there, strict=True) if is_there]
    sent = iter(_READERS[header.layout](body, shapes, header.numbers))
    return tuple(
        next(sent) if is_there else np.zeros(shape, dtype=np.float32)
        for (_, shape, _), is_there in zip(specs, header.there, strict=True)
    )


def bases(payload: bytes, specs: Specs) -> Bases:
    """What the next update of a lowrank codec starts from; nothing of the others, nor where tensors take turns."""
    header, body = _opened(payload, specs)
    if header.layout != FACTORS or not all(header.there):
        return ()
    return layouts.read_bases(body, [shape for _, shape, _ in specs], header.numbers)


def _opened(payload: bytes, specs: Specs) -> tuple[Header, bytes]:
    """The header, and the body out of its frame."""
    if any(dtype != "float32" for _, _, dtype in specs):
        raise TensorError("wrong_shape", "coded: tensors that are not float32")
    if not payload:
        raise TensorError("malformed", "coded: empty")
    layout, form = payload[0] & 7, payload[0] >> _FORM_AT
    if layout not in _READERS or form >= len(FORMS):
        raise TensorError("malformed", f"coded: layout {layout} with form {form} is not known here")
    numbers, at = Numbers(FORMS[form], _MAX_BLOCK), 1
    if numbers.is_scaled:
        scaled, at = layouts.read_number(payload, at)
        numbers = Numbers(FORMS[form], scaled >> 1, joint=bool(scaled & 1))
        if not 1 <= numbers.block <= _MAX_BLOCK:
            raise TensorError("malformed", f"coded: blocks of {numbers.block}")
    there, at = _there(payload, at, len(specs)) if payload[0] & _PARTIAL else ((True,) * len(specs), at)
    body = payload[at:]
    if payload[0] & _FRAMED:
        body = _unpacked(body, specs)
    return Header(layout, numbers, there), body


def _there(payload: bytes, at: int, tensors: int) -> tuple[tuple[bool, ...], int]:
    end = at + ceil(tensors / 8)
    if len(payload) < end:
        raise TensorError("malformed", "coded: ends before it says which tensors are there")
    bits = np.unpackbits(np.frombuffer(payload[at:end], dtype=np.uint8), count=tensors)
    return tuple(bool(bit) for bit in bits), end


def _unpacked(frame: bytes, specs: Specs) -> bytes:
    """No layout takes more than twice what the tensors take, and a little for each."""
    most = 8 * sum(prod(shape) for _, shape, _ in specs) + 16 * len(specs) + 64
    try:
        return packing.unpack(frame, most)
    except packing.PackingError as error:
        raise TensorError("oversized" if error.is_oversized else "malformed", f"coded: {error}") from None
