"""Law: a finished delta stays until the parent has answered, or its round is past taking; a reboot changes nothing.

In memory at once; on disk when no answer came within a moment, so that a quick round costs no write. What was answered
is remembered, so that the same plan is not worked on twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from headwater.node.journal import JournalFull
from headwater.node.store import MAX_OUTGOING, NodeStore
from headwater.schemas.messages import ObjectRef, RoundKey
from headwater.schemas.wire import reference

log = logging.getLogger("headwater.node")

Verdict = Literal["received", "closed", "refused"]

SETTLED_KEPT: Final = 8


@dataclass(slots=True)
class Outgoing:
    """An encoded delta on its way up. `saved` says that the disk holds it."""

    key: RoundKey
    payload: bytes
    ref: ObjectRef
    saved: bool = False


class Outbox:
    """A node's finished deltas: `MAX_OUTGOING` at most, the oldest makes room."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._entries: dict[RoundKey, Outgoing] = {}
        self._settled: deque[RoundKey] = deque(maxlen=SETTLED_KEPT)

    async def restore(self) -> None:
        """Take up what the disk holds."""
        for key, payload in await asyncio.to_thread(self._store.outgoing):
            self._entries.setdefault(key, Outgoing(key, payload, reference(payload), saved=True))
            log.info("the delta of round %d is taken up from disk", key.round)
        settled = await asyncio.to_thread(self._store.settled)
        if settled is not None:
            self._settled.append(settled)

    @property
    def oldest(self) -> Outgoing | None:
        return next(iter(self._entries.values()), None)

    def holds(self, key: RoundKey) -> bool:
        return key in self._entries

    def has_answered(self, key: RoundKey) -> bool:
        """Whether the parent answered the delta of this plan."""
        return key in self._settled

    def put(self, key: RoundKey, payload: bytes) -> None:
        self._entries[key] = Outgoing(key, payload, reference(payload))
        while len(self._entries) > MAX_OUTGOING:
            oldest = next(iter(self._entries))
            log.warning("the delta of round %d makes room for newer ones; no parent took it", oldest.round)
            del self._entries[oldest]

    def of(self, ref: ObjectRef) -> Outgoing | None:
        return next((entry for entry in self._entries.values() if entry.ref == ref), None)

    async def save(self, entry: Outgoing) -> None:
        """Put a delta on disk. A disk that is full leaves it in memory, and says so."""
        if entry.saved or entry.key not in self._entries:
            return
        try:
            await asyncio.to_thread(self._store.keep_outgoing, entry.key, entry.payload)
        except JournalFull as error:
            log.warning("the delta of round %d is in memory alone: %s", entry.key.round, error)
            return
        entry.saved = True
        if entry.key not in self._entries:
            # Answered while it was being written.
            await asyncio.to_thread(self._store.settle, entry.key)

    async def save_all(self) -> None:
        for entry in tuple(self._entries.values()):
            await self.save(entry)

    def settle(self, key: RoundKey) -> Outgoing | None:
        """The parent answered. What comes back is still to be forgotten on disk: `forget`."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._settled.append(key)
        return entry

    async def forget(self, entry: Outgoing) -> None:
        try:
            await asyncio.to_thread(self._store.settle, entry.key)
        except JournalFull as error:
            # It is sent once more after a restart then, and the parent knows it.
            log.warning("the delta of round %d could not be crossed off on disk: %s", entry.key.round, error)

    def superseded(self, is_worth: Callable[[RoundKey], bool]) -> tuple[Outgoing, ...]:
        """Those that no parent would take any more."""
        return tuple(entry for key, entry in self._entries.items() if not is_worth(key))
