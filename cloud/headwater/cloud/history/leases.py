"""Law: of several coordinators of a fleet one leads; the database says which, and no machine's clock is asked.

A lease is a counter (term, beat) that its holder keeps moving. Whoever has watched it stand still for long enough, by
its own clock, takes it by compare-and-set: of two who try, one finds the counter moved.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Update, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.transactions import Lease, LeaseLost, Transactions
from headwater.node.envelope import epoch_at


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The lease as it stands. A free one has the holder ""."""

    holder: str
    term: int
    beat: int

    @property
    def free(self) -> bool:
        return not self.holder


NEVER_HELD = LeaseRecord(holder="", term=0, beat=0)


class Leases(Transactions):
    """The named transactions of a fleet's lease."""

    def read_lease(self, fleet: str) -> LeaseRecord:
        with self._transaction("read lease") as session:
            row = session.get(tables.Lease, fleet)
            return LeaseRecord(row.holder, row.term, row.beat) if row else NEVER_HELD

    def take_lease(self, fleet: str, holder: str, seen: LeaseRecord, now: datetime) -> Lease | None:
        """Begin a new term, if the lease is still as it was `seen`; None where somebody was faster.

        A term is above the last, and above those of a database that was lost, or restored from an older copy: the
        fleet takes no word of an earlier term again.
        """
        term = epoch_at(now, seen.term)
        values = {"holder": holder, "term": term, "beat": 0, "renewed_at": now}
        with self._transaction("take lease") as session:
            if seen == NEVER_HELD:
                taken = _inserted(session, {"fleet": fleet} | values)
            else:
                as_seen = _of(fleet, seen.term).where(tables.Lease.beat == seen.beat)
                taken = _changes(session, as_seen.values(**values))
            return Lease(fleet, term) if taken else None

    def renew_lease(self, lease: Lease, now: datetime) -> None:
        """Move the counter on. Raises LeaseLost where a later term has begun."""
        with self._transaction("renew lease") as session:
            moved = _of(lease.fleet, lease.term).values(beat=tables.Lease.beat + 1, renewed_at=now)
            if not _changes(session, moved):
                raise LeaseLost(f"renew lease: term {lease.term} of fleet {lease.fleet!r} is over")

    def release_lease(self, lease: Lease, now: datetime) -> None:
        """Give it back, so that whoever stands by need not wait; a lease that was lost stays as it is."""
        with self._transaction("release lease") as session:
            session.execute(_of(lease.fleet, lease.term).values(holder="", renewed_at=now))


def _of(fleet: str, term: int) -> Update:
    return update(tables.Lease).where(tables.Lease.fleet == fleet, tables.Lease.term == term)


def _changes(session: Session, statement: Update) -> bool:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def _inserted(session: Session, values: dict[str, Any]) -> bool:
    try:
        with session.begin_nested():
            session.execute(insert(tables.Lease).values(**values))
    except IntegrityError:
        return False
    return True
