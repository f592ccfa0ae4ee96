"""Law: a release is kept as it was signed, with its wheel, for as long as the history; how far it is, under the lease.

Publishing one, and asking for a pause, is anybody's who may write the database: a device believes the signature alone.
What others are told of releases is read in `reading.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.faults import Conflict, NotThere
from headwater.cloud.history.transactions import READS, Transactions
from headwater.cloud.releasing import Policy, Progress, begin
from headwater.schemas.errors import RunFailed
from headwater.schemas.http import ReleaseWish
from headwater.schemas.messages import Release
from headwater.schemas.statuses import RolloutStatus
from headwater.schemas.wire import decode


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """A release and how far it is, or was when a newer one came. `wish` is an operator's that the coordinator has not
    seen yet; `is_current` says that it is the fleet's newest, which is the one that is rolled out."""

    release: Release
    encoded: bytes
    signature: bytes
    progress: Progress
    is_current: bool
    wish: ReleaseWish | None
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
            return newest_counter(session, fleet) + 1

    def publish(
        self, release: Release, encoded: bytes, signature: bytes, wheel: bytes, policy: Policy, now: datetime
    ) -> ReleaseRecord:
        """The fleet's release from now on, in place of the last.

        Raises:
            RunFailed: its counter is not above the last one's, or its version was one of another wheel.
        """
        with self._transaction("publish release") as session:
            newest = session.scalars(releases_of(release.fleet)).first()
            if newest is not None and newest.counter >= release.counter:
                raise RunFailed(
                    f"counter: {release.counter}; {newest.counter} is published already, so sign a later one"
                )
            other = session.scalars(releases_of(release.fleet).where(tables.Release.version == release.version)).first()
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
            return release_record(row, release.counter)

    def current(self, fleet: str) -> ReleaseRecord | None:
        """The newest release, which is the one that is rolled out."""
        with self._looking("read release") as session:
            row = session.scalars(releases_of(fleet)).first()
            return release_record(row, row.counter) if row is not None else None

    def wheel(self, release: Release) -> bytes:
        with self._looking("read wheel") as session:
            return session.scalars(
                select(tables.Object.payload).where(tables.Object.sha256 == release.wheel.sha256)
            ).one()

    def ask(self, fleet: str, wish: ReleaseWish, now: datetime, counter: int | None = None) -> ReleaseRecord:
        """Ask the coordinator to pause the fleet's release, or to go on.

        Args:
            counter: the release that is meant; by default whichever is current.

        Raises:
            NotThere: there is none, or none of this counter.
            Conflict: it was replaced by a newer one.
        """
        with self._transaction("ask of release") as session:
            row = existing_release(session, fleet, counter)
            newest = newest_counter(session, fleet)
            if row.counter != newest:
                raise Conflict(f"release {counter}: was replaced by release {newest}; ask that of release {newest}")
            row.wish, row.changed_at = wish, now
            session.flush()
            return release_record(row, newest)

    def keep(self, fleet: str, progress: Progress, seen: ReleaseWish | None, now: datetime) -> None:
        """How far a release is; the wish that was `seen` is fulfilled. Raises LeaseLost."""
        with self._leading("keep release") as session:
            row = session.get(tables.Release, (fleet, progress.counter))
            if row is not None:
                _write(row, progress, now)
                if row.wish == (seen or ""):
                    row.wish = ""


def releases_of(fleet: str) -> Select[Any]:
    """Newest first."""
    return select(tables.Release).where(tables.Release.fleet == fleet).order_by(tables.Release.counter.desc())


def newest_counter(session: Session, fleet: str) -> int:
    """0 where nothing was published."""
    return session.scalar(select(func.max(tables.Release.counter)).where(tables.Release.fleet == fleet)) or 0


def existing_release(session: Session, fleet: str, counter: int | None) -> tables.Release:
    """The release of this counter, or the newest. Raises NotThere."""
    query = releases_of(fleet) if counter is None else releases_of(fleet).where(tables.Release.counter == counter)
    row: tables.Release | None = session.scalars(query).first()
    if row is not None:
        return row
    newest = newest_counter(session, fleet)
    if not newest:
        raise NotThere(f"fleet {fleet!r}: has no release; publish one first")
    raise NotThere(f"release {counter}: fleet {fleet!r} has no such release; the newest is {newest}")


def _write(row: tables.Release, progress: Progress, now: datetime) -> None:
    row.stage, row.state, row.said = progress.stage, progress.state, progress.said
    row.well_since, row.forgiven, row.detail = progress.well_since, progress.forgiven, progress.detail
    row.report = progress.report.model_dump_json() if progress.report is not None else None
    row.changed_at = now


def release_record(row: tables.Release, newest: int) -> ReleaseRecord:
    """`newest` is the counter of the fleet's newest release."""
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
        is_current=row.counter == newest,
        wish=row.wish or None,  # type: ignore[arg-type]
        published_at=row.published_at,
        changed_at=row.changed_at,
    )
