"""Law: whoever is heard of has one row, however many hear of it first at once."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from headwater.cloud.history import tables

_INSERT: Final[dict[str, Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def meet(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Write those of these nodes that have no row; the others stay as they are."""
    insert = _INSERT[session.get_bind().dialect.name]
    session.execute(insert(tables.Node).on_conflict_do_nothing(), rows)
