"""Law: whoever writes as a fleet's coordinator proves, in the same transaction, that it leads.

A lease is held by its term. A takeover raises the term, and waits for the transactions that have already read it; so
what a deposed coordinator still had in hand is written before the takeover or never, however long it was paused
(fencing; Kleppmann 2017, "Designing Data-Intensive Applications", chapter 8).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.faults import named

READS: Final = "headwater_reads"
"""The execution option of an engine whose transactions only read."""


class LeaseLost(Exception):
    """Another coordinator leads. It is nobody's fault and ends no process: who loses the lease stands by again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write as the coordinator of `fleet`, until a later term begins."""

    fleet: str
    term: int


class Transactions:
    """The transactions of one database, as nobody in particular or under a lease.

    All raise HistoryError when the database fails, and HistoryAway where that may pass by itself.
    """

    def __init__(self, engine: Engine, shown: str, lease: Lease | None = None) -> None:
        self._engine = engine
        self.shown = shown
        self.lease = lease

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Session]:
        with named(self.shown, name), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _leading(self, name: str) -> Iterator[Session]:
        """A write that is the coordinator's alone. Raises LeaseLost, with nothing written, where that is another."""
        with self._transaction(name) as session:
            if self.lease is not None:
                _prove(session, self.lease, name)
            yield session


def _prove(session: Session, lease: Lease, name: str) -> None:
    # Shared, so that a takeover waits for this transaction; SQLite has its one writer's lock from the beginning.
    query = select(tables.Lease).where(tables.Lease.fleet == lease.fleet).with_for_update(read=True)
    row = session.scalars(query).one_or_none()
    if row is None or row.term != lease.term:
        leads = f"{row.holder or 'nobody'} in term {row.term}" if row else "nobody"
        raise LeaseLost(f"{name}: {leads} leads fleet {lease.fleet!r}, not term {lease.term}; nothing was written")
