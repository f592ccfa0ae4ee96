"""Law: a symbol costs what its probability says, and both ends count the same probabilities from what went before.

A range coder (Martin 1979) with carries: `[low, low + width)` narrows by each symbol's share of the total. All of it is
whole numbers, so every machine decodes what any machine encoded. Any bytes decode to some symbols: who reads bounds
how many it asks for, and checks what they say.
"""

from typing import Final

_BITS: Final = 64
_TOP: Final = 1 << _BITS
_BYTE: Final = _BITS - 8
_LEAST: Final = 1 << _BYTE
_MASK: Final = _LEAST - 1

TOTAL_BITS: Final = 24
"""Of the largest total that frequencies may have."""


class Encoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self._low = 0
        self._width = _TOP
        self._bytes = bytearray()

    def put(self, start: int, size: int, total: int) -> None:
        """The symbol that owns `[start, start + size)` of `total`, up to 2**`TOTAL_BITS`."""
        share = self._width // total
        self._low += share * start
        self._width = share * size
        if self._low >= _TOP:
            self._carry()
        while self._width <= _LEAST:
            self._bytes.append(self._low >> _BYTE)
            self._low = (self._low & _MASK) << 8
            self._width <<= 8

    def _carry(self) -> None:
        self._low -= _TOP
        place = len(self._bytes) - 1
        while self._bytes[place] == 255:
            self._bytes[place] = 0
            place -= 1
        self._bytes[place] += 1

    def finish(self) -> bytes:
        """The shortest bytes that decode to all of it: zeros at the end are not written, a reader has them anyway."""
        for kept in range(_BITS // 8 + 1):
            unit = 1 << (_BITS - 8 * kept)
            value = -(-self._low // unit) * unit
            if value < self._low + self._width:
                break
        if value >= _TOP:
            self._low = value
            self._carry()
            value -= _TOP
        return bytes(self._bytes + value.to_bytes(_BITS // 8, "big")).rstrip(b"\0")


class Decoder:
    """Bytes in, symbols out; behind the last byte there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = _BITS // 8
        self._code = int.from_bytes(data[: self._place].ljust(self._place, b"\0"), "big")
        self._width = _TOP
        self._share = 0

    def peek(self, total: int) -> int:
        """Where in `[0, total)` the next symbol is; `take` must follow."""
        self._share = self._width // total
        return min(self._code // self._share, total - 1)

    def take(self, start: int, size: int) -> None:
        self._width = self._share * size
        # No encoder's bytes are past the width; any others must not grow without end.
        self._code = min(self._code - self._share * start, self._width - 1)
        while self._width <= _LEAST:
            byte = self._data[self._place] if self._place < len(self._data) else 0
            self._place += 1
            self._code = (self._code << 8) | byte
            self._width <<= 8


class Bit:
    """How often a bit was 0 and 1 where it stood alike: it costs by that (Krichevsky & Trofimov 1981)."""

    __slots__ = ("ones", "zeros")

    MOST: Final = 255
    """After this many, what was counts half: statistics drift."""

    def __init__(self) -> None:
        self.zeros = 0
        self.ones = 0

    def put(self, encoder: Encoder, bit: int) -> None:
        zeros, total = 2 * self.zeros + 1, 2 * (self.zeros + self.ones) + 2
        if bit:
            encoder.put(zeros, total - zeros, total)
        else:
            encoder.put(0, zeros, total)
        self._count(bit)

    def get(self, decoder: Decoder) -> int:
        zeros, total = 2 * self.zeros + 1, 2 * (self.zeros + self.ones) + 2
        bit = int(decoder.peek(total) >= zeros)
        if bit:
            decoder.take(zeros, total - zeros)
        else:
            decoder.take(0, zeros)
        self._count(bit)
        return bit

    def _count(self, bit: int) -> None:
        if bit:
            self.ones += 1
        else:
            self.zeros += 1
        if self.zeros + self.ones > self.MOST:
            self.zeros >>= 1
            self.ones >>= 1


class Tree:
    """A number of `bits` bits, each bit told by those above it."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._nodes = [Bit() for _ in range(1 << bits)]

    def put(self, encoder: Encoder, value: int) -> None:
        node = 1
        for place in reversed(range(self._bits)):
            bit = value >> place & 1
            self._nodes[node].put(encoder, bit)
            node = 2 * node + bit

    def get(self, decoder: Decoder) -> int:
        node = 1
        for _ in range(self._bits):
            node = 2 * node + self._nodes[node].get(decoder)
        return node - (1 << self._bits)


class Number:
    """A number that is mostly small, below 2**`LONGEST`: its length, then the bits below its first (Elias's γ)."""

    LONGEST: Final = 32

    def __init__(self) -> None:
        self._lengths = [Bit() for _ in range(self.LONGEST + 1)]
        self._first = [Bit() for _ in range(self.LONGEST + 1)]

    def put(self, encoder: Encoder, value: int) -> None:
        length = (value + 1).bit_length() - 1
        for shorter in range(length):
            self._lengths[shorter].put(encoder, 1)
        if length < self.LONGEST:
            self._lengths[length].put(encoder, 0)
        for place in reversed(range(length)):
            bit = (value + 1) >> place & 1
            if place == length - 1:
                self._first[length].put(encoder, bit)
            else:
                encoder.put(bit, 1, 2)

    def get(self, decoder: Decoder) -> int:
        length = 0
        while length < self.LONGEST and self._lengths[length].get(decoder):
            length += 1
        value = 1
        for place in reversed(range(length)):
            if place == length - 1:
                bit = self._first[length].get(decoder)
            else:
                bit = int(decoder.peek(2))
                decoder.take(bit, 1)
            value = 2 * value + bit
        return value - 1
