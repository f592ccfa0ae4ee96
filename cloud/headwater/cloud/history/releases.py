"""Law: a release is kept as it was signed, with its wheel, for as long as the history; how far it is, under the lease.

Publishing one, and asking for a pause, is anybody's who may write the database: a device believes the signature alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.transactions import READS, Transactions
from headwater.cloud.releasing import Policy, Progress, Wish, begin
from headwater.schemas.errors import RunFailed
from headwater.schemas.messages import Release
from headwater.schemas.statuses import RolloutStatus
from headwater.schemas.wire import decode


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """A release and how far it is. `wish` is an operator's that the coordinator has not seen yet."""

    release: Release
    encoded: bytes
    signature: bytes
    progress: Progress
    wish: Wish | None
    published_at: datetime
    changed_at: datetime


class Releases(Transactions):
    """The named transactions of a fleet's releases."""

    @contextmanager
    def _looking(self, name: str) -> Iterator[Session]:
        """A transaction that takes no lock: the coordinator looks every other second."""
        with Transactions(self._engine.execution_options(**{READS: True}), self.shown)._transaction(name) as session:
            yield session

    def next_counter(self, fleet: str) -> int:
        with self._looking("next release") as session:
            newest = session.scalar(select(func.max(tables.Release.counter)).where(tables.Release.fleet == fleet))
            return (newest or 0) + 1

    def publish(
        self, release: Release, encoded: bytes, signature: bytes, wheel: bytes, policy: Policy, now: datetime
    ) -> ReleaseRecord:
        """The fleet's release from now on, in place of the last.

        Raises:
            RunFailed: its counter is not above the last one's, or its version was one of another wheel.
        """
        with self._transaction("publish release") as session:
            newest = session.scalars(_of(release.fleet)).first()
            if newest is not None and newest.counter >= release.counter:
                raise RunFailed(
                    f"counter: {release.counter}; {newest.counter} is published already, so sign a later one"
                )
            other = session.scalars(_of(release.fleet).where(tables.Release.version == release.version)).first()
            if other is not None and other.wheel != release.wheel.sha256:
                raise RunFailed(
                    f"version: {release.version} was published with another wheel; a version stands for one: give "
                    "this one another"
                )
            if session.get(tables.Object, release.wheel.sha256) is None:
                session.add(
                    tables.Object(sha256=release.wheel.sha256, payload=wheel, size_bytes=len(wheel), created_at=now)
                )
                session.flush()
            row = tables.Release(
                fleet=release.fleet,
                counter=release.counter,
                version=release.version,
                release=encoded,
                signature=signature,
                wheel=release.wheel.sha256,
                policy=policy.model_dump_json(),
                published_at=now,
                wish="",
            )
            _write(row, begin(release.counter, policy), now)
            session.add(row)
            session.flush()
            return _record(row)

    def current(self, fleet: str) -> ReleaseRecord | None:
        """The newest release, which is the one that is rolled out."""
        with self._looking("read release") as session:
            row = session.scalars(_of(fleet)).first()
            return _record(row) if row is not None else None

    def published(self, fleet: str) -> tuple[ReleaseRecord, ...]:
        """Newest first."""
        with self._looking("list releases") as session:
            return tuple(_record(row) for row in session.scalars(_of(fleet)))

    def wheel(self, release: Release) -> bytes:
        with self._looking("read wheel") as session:
            return session.scalars(
                select(tables.Object.payload).where(tables.Object.sha256 == release.wheel.sha256)
            ).one()

    def ask(self, fleet: str, wish: Wish, now: datetime) -> ReleaseRecord:
        """Ask the coordinator to pause the fleet's release, or to go on.

        Raises:
            RunFailed: there is none.
        """
        with self._transaction("ask of release") as session:
            row = session.scalars(_of(fleet)).first()
            if row is None:
                raise RunFailed(f"fleet {fleet!r}: has no release; publish one first")
            row.wish, row.changed_at = wish, now
            session.flush()
            return _record(row)

    def keep(self, fleet: str, progress: Progress, seen: Wish | None, now: datetime) -> None:
        """How far a release is; the wish that was `seen` is fulfilled. Raises LeaseLost."""
        with self._leading("keep release") as session:
            row = session.get(tables.Release, (fleet, progress.counter))
            if row is not None:
                _write(row, progress, now)
                if row.wish == (seen or ""):
                    row.wish = ""


def _of(fleet: str) -> Select[Any]:
    return select(tables.Release).where(tables.Release.fleet == fleet).order_by(tables.Release.counter.desc())


def _write(row: tables.Release, progress: Progress, now: datetime) -> None:
    row.stage, row.state, row.said = progress.stage, progress.state, progress.said
    row.well_since, row.forgiven, row.detail = progress.well_since, progress.forgiven, progress.detail
    row.report = progress.report.model_dump_json() if progress.report is not None else None
    row.changed_at = now


def _record(row: tables.Release) -> ReleaseRecord:
    progress = Progress(
        counter=row.counter,
        policy=Policy.model_validate_json(row.policy),
        stage=row.stage,
        state=row.state,  # type: ignore[arg-type]
        said=row.said,
        well_since=row.well_since,
        forgiven=row.forgiven,
        detail=row.detail,
        report=RolloutStatus.model_validate_json(row.report) if row.report is not None else None,
    )
    return ReleaseRecord(
        release=decode(row.release, Release),
        encoded=row.release,
        signature=row.signature,
        progress=progress,
        wish=row.wish or None,  # type: ignore[arg-type]
        published_at=row.published_at,
        changed_at=row.changed_at,
    )
