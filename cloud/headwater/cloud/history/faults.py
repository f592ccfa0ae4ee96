"""Law: a database's fault is told in plain words, with the transaction that met it and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from headwater.schemas.errors import HistoryError


@contextmanager
def named(shown: str, name: str) -> Iterator[None]:
    """Raises HistoryError for whatever the database says during the transaction `name`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise HistoryError(f"database {shown}: {name}: {reason(error)}{_mend(error)}") from error


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
