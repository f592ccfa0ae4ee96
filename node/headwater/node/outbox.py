"""Law: a finished delta stays until the parent has answered, or its round is past taking; a reboot changes nothing.

In memory at once; on disk when no answer came within a moment, so that a quick round costs no write. What was answered
is remembered, so that the same plan is not worked on twice.

What a node gives to a round goes to one parent. Of two the other is sent no part of it, in whatever edge round, for
where the parents' sums meet it would be counted twice; so a node with two parents writes down whom it gives a part
before it does.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headwater.node.journal import JournalFull
from headwater.node.store import MAX_GIVEN, MAX_OUTGOING, NodeStore
from headwater.schemas.messages import ObjectRef, RoundKey
from headwater.schemas.wire import reference

log = logging.getLogger("headwater.node")

SETTLED_KEPT: Final = 8


@dataclass(slots=True)
class Outgoing:
    """An encoded delta on its way up. `saved` says that the disk holds it, `sent` that the parent may.

    `ref` names what travels: the payload, or `sealed`, that with the signature by which one parent will take it.
    """

    key: RoundKey
    payload: bytes
    ref: ObjectRef
    sealed: bytes | None = None
    saved: bool = False
    sent: bool = False

    @property
    def travels(self) -> bytes:
        return self.payload if self.sealed is None else self.sealed

    def seal(self, sealed: bytes) -> None:
        self.sealed, self.ref = sealed, reference(sealed)


class Outbox:
    """A node's finished deltas, for whichever parent it follows: `MAX_OUTGOING` at most, the oldest makes room.

    Args:
        has_two_parents: whether it must outlive a reboot who was given what.
        saves_first: whether a delta is on disk before any of it is sent. A gateway's must be: if its parent has a sum,
            and a restart makes another of the same round, whoever is only in the second was promised too much.
    """

    def __init__(self, store: NodeStore, *, has_two_parents: bool = False, saves_first: bool = False) -> None:
        self._store = store
        self.saves_first = saves_first
        self._has_two_parents = has_two_parents
        self._entries: dict[RoundKey, Outgoing] = {}
        self._settled: deque[RoundKey] = deque(maxlen=SETTLED_KEPT)
        self._given: deque[tuple[RoundKey, str]] = deque(maxlen=MAX_GIVEN)

    async def restore(self) -> None:
        """Take up what the disk holds and this process does not know."""
        settled = await asyncio.to_thread(self._store.settled)
        if settled is not None and settled not in self._settled:
            self._settled.append(settled)
        for key, payload in await asyncio.to_thread(self._store.outgoing):
            if key not in self._entries and key not in self._settled:
                self._entries[key] = Outgoing(key, payload, reference(payload), saved=True, sent=True)
                log.info("the delta of round %d is taken up from disk", key.round)
        if not self._given:
            self._given.extend(await asyncio.to_thread(self._store.given))

    def next_for(self, parent: str) -> Outgoing | None:
        """The oldest that belongs to this parent, or to none yet."""
        entries = self._entries.values()
        return next((entry for entry in entries if self._owner(entry.key) in (None, parent)), None)

    @property
    def size_bytes(self) -> int:
        """Of all of them, encoded."""
        return sum(len(entry.payload) for entry in self._entries.values())

    def holds(self, key: RoundKey) -> bool:
        return key in self._entries

    def has_answered(self, key: RoundKey) -> bool:
        """Whether a parent answered the delta of this plan."""
        return key in self._settled

    def needs_work(self, key: RoundKey, parent: str) -> bool:
        """Whether this plan of `parent` is still to be done, and is not of a round in which another has a part."""
        return not (self.holds(key) or self.has_answered(key)) and self._owner(key) in (None, parent)

    def put(self, key: RoundKey, payload: bytes) -> tuple[RoundKey, ...]:
        """Take a finished delta in. What comes back made room for it."""
        self._entries[key] = Outgoing(key, payload, reference(payload))
        oldest = tuple(self._entries)[: max(0, len(self._entries) - MAX_OUTGOING)]
        for gone in oldest:
            log.warning("the delta of round %d makes room for newer ones; no parent took it", gone.round)
            del self._entries[gone]
        return oldest

    def of(self, ref: ObjectRef) -> Outgoing | None:
        return next((entry for entry in self._entries.values() if entry.ref == ref), None)

    async def give(self, entry: Outgoing, parent: str) -> bool:
        """To be told before a delta is sent: from now on this parent may have it. False where another may already."""
        owner = self._owner(entry.key)
        if owner is not None:
            return owner == parent
        self._given.append((entry.key, parent))
        if self._has_two_parents:
            try:
                await asyncio.to_thread(self._store.keep_given, entry.key, parent)
            except JournalFull as error:
                log.warning("that %s has a part in round %d is in memory alone: %s", parent, entry.key.round, error)
        return True

    def _owner(self, key: RoundKey) -> str | None:
        """The parent that may have this node's part in the round of `key`."""
        return next((parent for other, parent in self._given if _is_same_round(other, key)), None)

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
            await self.forget(entry)

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


def _is_same_round(one: RoundKey, other: RoundKey) -> bool:
    """Whatever edge round of it."""
    return (one.run, one.round, one.attempt) == (other.run, other.round, other.attempt)
