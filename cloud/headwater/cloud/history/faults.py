"""Law: a database's fault is told in plain words, with the transaction that met it and what to do.

A fault passes, and is worth waiting for, or it does not: a database that is away, full or locked is as it was when it
is back; one that is damaged, or of another schema, is not mended by trying again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError

from headwater.schemas.errors import HistoryError, RunFailed

_LASTING: Final = ("no such", "syntax error", "has no column", "malformed", "not a database")
"""What SQLite also calls operational."""


class HistoryAway(HistoryError):
    """A fault that passes: the database is restarted, its disk is full, or another holds its lock."""


class NotThere(RunFailed):
    """What was asked for by name is not in the history."""


class Conflict(RunFailed):
    """A run, or a release, is there, and is not in a state in which this can be done."""


@contextmanager
def named(shown: str, name: str) -> Iterator[None]:
    """Raises HistoryError for whatever the database says during the transaction `name`; HistoryAway if that passes."""
    try:
        yield
    except SQLAlchemyError as error:
        kind = HistoryAway if _passes(error) else HistoryError
        raise kind(f"database {shown}: {name}: {reason(error)}{_mend(error)}") from error


def _passes(error: SQLAlchemyError) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    operational = isinstance(error, OperationalError | InterfaceError | TimeoutError)
    return operational and not any(words in reason(error) for words in _LASTING)


def reason(error: Exception) -> str:
    """The driver's first line, without the statement and its values."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or ["unknown"])[0]


def _mend(error: Exception) -> str:
    said = str(error)
    if "disk is full" in said or "No space left" in said or "disk I/O error" in said:
        return "; free some space: nothing of this step was written, and the run goes on from its last round"
    if "locked" in said:
        return "; another process holds it: end that one, or use PostgreSQL"
    return ""
