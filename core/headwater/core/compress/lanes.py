"""Law: symbols in many lanes at once cost what their tables say, and every machine decodes what any machine encoded.

Asymmetric numeral systems (Duda 2014), interleaved (Giesen 2014): of L lanes the first has symbols 0, L, 2L, …, and
each has a state x in [2**16, 2**32). A symbol that owns `[c, c + f)` of 2**16 is put in by

    if x ≥ 2**16·f: the low 16 bits of x go out, x ← ⌊x / 2**16⌋
    x ← 2**16·⌊x / f⌋ + x mod f + c

and taken out by the reverse, so the last symbol is put in first. All of it is whole numbers. A state costs 4 bytes,
half of them for nothing; there are as many lanes as keep Python's part short.
"""

from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.tensors import TensorError

TOTAL: Final = 1 << 16
"""What the frequencies of a table add up to."""

MAX_STEPS: Final = 768
"""Of one lane, each some 20 µs. At 100,000 symbols the lanes then cost 2 % of what four-bit numbers do."""

MIN_LANES: Final = 16

_BITS: Final = np.uint64(16)
_MASK: Final = np.uint64(TOTAL - 1)

Whole = NDArray[np.int64]
_States = NDArray[np.uint64]


def lanes_of(count: int) -> int:
    """How many lanes `count` symbols are in."""
    return min(count, max(MIN_LANES, ceil(count / MAX_STEPS)))


def write(symbols: NDArray[np.integer[Any]], which: NDArray[np.integer[Any]], tables: Whole) -> bytes:
    """The lanes' states, then what went out of them in the order in which it is read.

    Args:
        symbols: of each table 0 to K − 1.
        which: the table of each symbol.
        tables: frequencies `[tables, K]`, each at least 1.
    """
    sizes, starts, kinds = *_flat(tables), tables.shape[1]
    entries = _in_steps(which.astype(np.int32) * kinds + symbols, len(sizes) - 1)
    states: _States = np.full(entries.shape[1], TOTAL, dtype=np.uint64)
    out: list[NDArray[np.uint16]] = []
    for entry in entries[::-1]:
        size = sizes[entry]
        is_full = states >= size << _BITS
        if is_full.any():
            out.append(states[is_full].astype("<u2"))
            states = np.where(is_full, states >> _BITS, states)
        whole, rest = np.divmod(states, size)
        states = (whole << _BITS) + rest + starts[entry]
    return states.astype("<u4").tobytes() + b"".join(words.tobytes() for words in reversed(out))


def read(data: bytes, which: NDArray[np.integer[Any]], tables: Whole) -> Whole:
    """The symbols, one for each of `which`.

    Raises:
        TensorError: bytes that `write` does not make with these tables.
    """
    lanes = lanes_of(len(which))
    if len(data) < 4 * lanes or len(data) % 2:
        raise TensorError("malformed", f"coded: {len(data)} bytes for {lanes} lanes")
    states: _States = np.frombuffer(data[: 4 * lanes], dtype="<u4").astype(np.uint64)
    words: _States = np.frombuffer(data[4 * lanes :], dtype="<u2").astype(np.uint64)
    (sizes, starts), kinds, at = _flat(tables), tables.shape[1], 0
    of_slots = np.repeat(np.arange(tables.size, dtype=np.int32), tables.ravel())
    rows = _in_steps(which, len(tables))
    # A table behind the last has one certain symbol: a lane that the last step does not reach rests.
    of_slots = np.concatenate([of_slots, np.full(TOTAL, tables.size, dtype=np.int32)])
    found = np.zeros(rows.shape, dtype=np.int32)
    for step, row in enumerate(rows):
        slots = states & _MASK
        entry = of_slots[row.astype(np.int64) * TOTAL + slots.astype(np.int64)]
        states = sizes[entry] * (states >> _BITS) + slots - starts[entry]
        is_low = states < TOTAL
        wanted = int(np.count_nonzero(is_low))
        if wanted:
            if at + wanted > len(words):
                raise TensorError("malformed", "coded: lanes that end too soon")
            states[is_low] = states[is_low] << _BITS | words[at : at + wanted]
            at += wanted
        found[step] = entry
    if at != len(words) or (states != TOTAL).any():
        raise TensorError("malformed", "coded: lanes that do not end where they began")
    return np.asarray(found.ravel()[: len(which)] % kinds, dtype=np.int64)


def _flat(tables: Whole) -> tuple[_States, _States]:
    """What each symbol of each table owns, and from where on; behind them one that is certain and changes nothing."""
    sizes = np.append(tables.ravel(), TOTAL).astype(np.uint64)
    starts = np.append((np.cumsum(tables, axis=1) - tables).ravel(), 0).astype(np.uint64)
    return sizes, starts


def _in_steps(values: NDArray[np.integer[Any]], filler: int) -> NDArray[np.int32]:
    """By step and lane."""
    lanes = lanes_of(len(values))
    filled = np.full((ceil(len(values) / lanes) if lanes else 0, lanes), filler, dtype=np.int32)
    filled.ravel()[: len(values)] = values
    return filled
