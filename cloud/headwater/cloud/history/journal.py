"""Law: what the cloud acknowledged of an open round stands in the database until the round does."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.faults import HistoryAway
from headwater.cloud.history.transactions import LeaseLost, Transactions
from headwater.node.envelope import opened
from headwater.node.journal import Entry, JournalFull
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.wire import decode_object

MAX_PENDING_SIZE_BYTES: Final = 4 * 1024 * 1024 * 1024
"""Of one run's open round: 10,000 children of 400 kB each, or 64 of the largest objects."""


class RoundJournal(Transactions):
    """A parent's journal (`node.journal.Journal`) in the history. `record_round` empties it."""

    def load(self, key: RoundKey) -> tuple[Entry, ...]:
        """What was kept for this round, in order."""
        with self._transaction("load journal") as session:
            rows = session.scalars(select(tables.Pending).filter_by(**_round(key)).order_by(tables.Pending.id))
            return tuple(Entry(row.node, row.payload) for row in rows)

    def keep(self, key: RoundKey, entries: Sequence[Entry]) -> None:
        """All of the entries, or none; a sender's later entry of the same delta replaces the earlier.

        Raises:
            JournalFull: `MAX_PENDING_SIZE_BYTES`, a full disk, a database that is away, or a lease that was lost: in
                each case nothing was kept, so nothing may be acknowledged.
        """
        try:
            with self._leading("keep deltas") as session:
                for entry in entries:
                    _keep(session, key, entry)
                session.flush()
                _check_size(session, key)
        except (HistoryAway, LeaseLost) as error:
            raise JournalFull(str(error)) from error


def _round(key: RoundKey) -> dict[str, Any]:
    return {"run": key.run, "round": key.round, "attempt": key.attempt}


def _keep(session: Session, key: RoundKey, entry: Entry) -> None:
    delta = decode_object(opened(entry.payload), Delta)
    answers = {"of_round": delta.key.round, "of_step": delta.key.step, "of_attempt": delta.key.attempt}
    same = _round(key) | {"node": entry.sender} | answers
    session.execute(delete(tables.Pending).filter_by(**same))
    session.add(tables.Pending(**same, task=delta.task, size_bytes=len(entry.payload), payload=entry.payload))


def _check_size(session: Session, key: RoundKey) -> None:
    held = session.scalar(select(func.sum(tables.Pending.size_bytes)).where(tables.Pending.run == key.run)) or 0
    if held > MAX_PENDING_SIZE_BYTES:
        raise JournalFull(f"{held} bytes of round {key.round} wait; at most {MAX_PENDING_SIZE_BYTES}")
