"""Law: an object is named by its hash; its pieces may come in any order, twice, from anyone; only the whole counts.

A dropped link costs a chunk. Memory is bounded: by the object's declared size, by the number of assemblies a holder
admits, and by the store's budget.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from headwater.schemas.limits import CHUNK_SIZE_BYTES
from headwater.schemas.messages import Chunk, ObjectRef
from headwater.schemas.wire import encode, reference


def chunk_count(ref: ObjectRef) -> int:
    return -(-ref.size_bytes // CHUNK_SIZE_BYTES)


def chunks(payload: bytes, indices: Iterable[int] | None = None) -> Iterator[Chunk]:
    """The pieces of an object, or only those of `indices`, each once; indices that it does not have are passed over."""
    ref = reference(payload)
    count = chunk_count(ref)
    for index in range(count) if indices is None else dict.fromkeys(indices):
        if 0 <= index < count:
            offset = index * CHUNK_SIZE_BYTES
            yield Chunk.model_construct(object=ref, offset=offset, data=payload[offset : offset + CHUNK_SIZE_BYTES])


def travelling_bytes(payload: bytes) -> int:
    """How many payload bytes an object is in MQTT messages, headers of its chunks included."""
    return sum(len(encode(chunk)) for chunk in chunks(payload))


class Assembly:
    """An object on its way in. `add` returns the whole once, when its last piece came and its hash is right."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref
        self._buffer = bytearray(ref.size_bytes)
        self._missing = set(range(chunk_count(ref)))

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(sorted(self._missing))

    def add(self, chunk: Chunk) -> bytes | None:
        """The object, or None while pieces are missing. A wrong whole is forgotten and gathered anew."""
        index = chunk.offset // CHUNK_SIZE_BYTES
        if chunk.object != self.ref or index not in self._missing:
            return None
        self._buffer[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        self._missing.discard(index)
        if self._missing:
            return None
        payload = bytes(self._buffer)
        if hashlib.sha256(payload).digest() != self.ref.sha256:
            self._missing = set(range(chunk_count(self.ref)))
            return None
        return payload


class ObjectStore:
    """Whole objects by hash, least recently used out first, at most `budget_bytes` (one object always fits)."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._objects: OrderedDict[bytes, bytes] = OrderedDict()
        self._size_bytes = 0

    def put(self, payload: bytes) -> ObjectRef:
        ref = reference(payload)
        if ref.sha256 not in self._objects:
            self._objects[ref.sha256] = payload
            self._size_bytes += len(payload)
        self._objects.move_to_end(ref.sha256)
        while self._size_bytes > self._budget_bytes and len(self._objects) > 1:
            _, dropped = self._objects.popitem(last=False)
            self._size_bytes -= len(dropped)
        return ref

    def get(self, ref: ObjectRef) -> bytes | None:
        payload = self._objects.get(ref.sha256)
        if payload is not None:
            self._objects.move_to_end(ref.sha256)
        return payload

    def __contains__(self, ref: ObjectRef) -> bool:
        return ref.sha256 in self._objects
