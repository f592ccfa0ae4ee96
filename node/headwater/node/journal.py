"""Law: a parent acknowledges nothing that its journal does not hold.

What a round received stands in the journal before its sender hears of it, until the round's result is durable by
itself: in the history of the cloud, or in the gateway's own outbox and then with its parent. A parent that begins anew
opens the same round with what the journal holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headwater.schemas.messages import RoundKey


class JournalFull(Exception):
    """There is no room: its bound, or the disk. What is not kept is not acknowledged, and comes again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An encoded `Delta` and who sent it."""

    sender: str
    payload: bytes


class Journal(Protocol):
    """What a parent needs of a durable store. Methods block, and are called in a thread, one at a time."""

    def load(self, key: RoundKey) -> tuple[Entry, ...]:
        """What was kept for this round, in the order in which it was kept."""
        ...

    def keep(self, key: RoundKey, entries: Sequence[Entry]) -> None:
        """Write all of them durably, or none. A sender's later entry of the same delta replaces the earlier.

        Raises:
            JournalFull: there is no room for them.
        """
        ...
