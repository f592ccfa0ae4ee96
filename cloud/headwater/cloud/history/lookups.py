"""Law: what several transactions look up is looked up in one way, and what is not there is said with what is."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.faults import NotThere

NEWEST_TOLD = 5
"""Runs that are named where another one was asked for."""


def existing_run(session: Session, run: str, *, locked: bool = False) -> tables.Run:
    """Raises NotThere."""
    row = session.get(tables.Run, run, with_for_update=locked or None)
    if row is None:
        newest = select(tables.Run.id).order_by(tables.Run.queued_at.desc()).limit(NEWEST_TOLD)
        recent: Sequence[str] = session.scalars(newest).all()
        raise NotThere(f"run {run!r}: no such run; the newest are {', '.join(recent) or 'none'}")
    return row


def last_rounds(session: Session, runs: Iterable[str] | None = None) -> dict[str, int]:
    """The last round of training that closed, by run; of these runs, or of all. A run without one is not among them."""
    query = select(tables.Round.run, func.max(tables.Round.round)).where(
        tables.Round.state == "closed", tables.Round.task == "train"
    )
    if runs is not None:
        query = query.where(tables.Round.run.in_(tuple(runs)))
    return {row[0]: row[1] for row in session.execute(query.group_by(tables.Round.run))}


def last_round(session: Session, run: str) -> int:
    return last_rounds(session, (run,)).get(run, 0)


def no_version(session: Session, run: str, version: int | None) -> NoReturn:
    """Raises NotThere, which says what versions of its model a run has, or that there is no such run."""
    existing_run(session, run)
    newest = session.scalar(select(func.max(tables.ModelVersion.version)).where(tables.ModelVersion.run == run))
    has = "it has none yet" if newest is None else f"it has 0 to {newest}"
    raise NotThere(f"run {run!r}: no model{'' if version is None else f' of round {version}'}; {has}")
