"""Law: whoever looks takes no lock from whoever writes, and gets a page of stated size.

Named transactions that read. On SQLite they see the database as it was when they began, beside a writer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, String, cast, func, literal, null, select, union_all
from sqlalchemy.orm import Session

from headwater.cloud.history import states, tables
from headwater.cloud.history.faults import NotThere
from headwater.cloud.history.lookups import existing_run, last_round, last_rounds, no_version
from headwater.cloud.history.records import (
    ClusterRecord,
    FleetRecord,
    LeaderRecord,
    NodeRecord,
    PartRecord,
    RefusalRecord,
    RoundRecord,
    RunRecord,
    VersionRecord,
)
from headwater.cloud.history.releases import (
    ReleaseRecord,
    existing_release,
    newest_counter,
    release_record,
    releases_of,
)
from headwater.cloud.history.rows import cluster_record, figures_by_version, node_record, round_record, run_record
from headwater.cloud.history.transactions import Transactions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, and whether more follow."""

    entries: tuple[T, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a list is asked for: `limit` entries behind the first `skip`."""

    limit: int
    skip: int = 0


class Reading(Transactions):
    """What others are told of the history. Each raises HistoryError, and HistoryAway where that may pass."""

    def is_there(self) -> None:
        """Raises where the database is not."""
        with self._transaction("look at the database") as session:
            session.execute(select(literal(1)))

    # ── fleets and runs ─────────────────────────────────────────────────────────────────────────────────────────

    def fleets(self) -> tuple[FleetRecord, ...]:
        """By name, those that have or had a coordinator, and those that have runs."""
        with self._transaction("read fleets") as session:
            leaders = {row.fleet: _leader(row) for row in session.scalars(select(tables.Lease))}
            of_runs = select(tables.Run.fleet, tables.Run.state, tables.Run.id)
            open_runs = session.execute(of_runs.where(tables.Run.state.in_(("queued", *states.ACTIVE)))).all()
            named = set(session.scalars(select(tables.Run.fleet).distinct())) | leaders.keys()
            active = {fleet: run for fleet, state, run in open_runs if state in states.ACTIVE}
            return tuple(
                FleetRecord(
                    fleet,
                    leaders.get(fleet),
                    active.get(fleet),
                    sum(of == fleet and state == "queued" for of, state, _ in open_runs),
                )
                for fleet in sorted(named)
            )

    def runs(self, fleet: str | None = None, limit: int | None = None, before: str | None = None) -> Page[RunRecord]:
        """Newest first, those older than `before`; without a `limit` all. Raises NotThere where `before` is no run."""
        with self._transaction("read runs") as session:
            query = select(tables.Run).order_by(tables.Run.queued_at.desc(), tables.Run.id.desc())
            if fleet is not None:
                query = query.where(tables.Run.fleet == fleet)
            if before is not None:
                at = existing_run(session, before).queued_at
                is_older = (tables.Run.queued_at < at) | ((tables.Run.queued_at == at) & (tables.Run.id < before))
                query = query.where(is_older)
            rows = session.scalars(query if limit is None else query.limit(limit + 1)).all()
            last = last_rounds(session, None if limit is None else [row.id for row in rows])
            return _page([run_record(row, last.get(row.id, 0)) for row in rows], limit or len(rows))

    def run(self, run: str) -> RunRecord:
        """Raises NotThere where there is none of this name."""
        with self._transaction("read run") as session:
            return run_record(existing_run(session, run), last_round(session, run))

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────

    def rounds(self, run: str, limit: int | None = None, after: int = -1) -> Page[RoundRecord]:
        """All attempts at `limit` round numbers above `after`, in order, each with its metrics: the train loss of the
        round, all else of its result. Raises NotThere."""
        with self._transaction("read rounds") as session:
            existing_run(session, run)
            of_run = select(tables.Round).where(tables.Round.run == run, tables.Round.round > after)
            numbers = None
            if limit is not None:
                distinct = select(tables.Round.round).where(tables.Round.run == run, tables.Round.round > after)
                numbers = session.scalars(distinct.distinct().order_by(tables.Round.round).limit(limit + 1)).all()
                of_run = of_run.where(tables.Round.round.in_(numbers[:limit]))
            order = (tables.Round.round, tables.Round.attempt, tables.Round.opened_at)
            rows = session.scalars(of_run.order_by(*order)).all()
            told = {row.round for row in rows}
            last = max(told, default=after)

            def of_versions(table: Any) -> Any:
                return select(table).where(table.run == run, table.version > after, table.version <= last)

            means = {
                (metric.version, metric.split, metric.name): metric.total / metric.weight
                for metric in session.scalars(of_versions(tables.Metric))
                if metric.weight > 0
            }
            figures = figures_by_version(session.scalars(of_versions(tables.Tally)))
            more = numbers is not None and limit is not None and len(numbers) > limit
            return Page(tuple(round_record(row, means, figures) for row in rows), more)

    def contributions(self, run: str, round_: int, part: Part) -> Page[PartRecord]:
        """What the cloud's children gave to all attempts at a round, by attempt and name. Raises NotThere."""
        with self._transaction("read contributions") as session:
            _known_round(session, run, round_)
            of_round = _given().where(tables.Contribution.run == run, tables.Contribution.round == round_)
            given = tables.Contribution
            order = (given.attempt, given.task, given.node, given.based_on, given.based_attempt)
            return _parts(session, of_round.order_by(*order), part)

    def clusters(self, run: str, round_: int, part: Part) -> Page[ClusterRecord]:
        """The clusters' rounds within a round, by gateway, attempt and step, each with its members. Raises NotThere."""
        with self._transaction("read cluster rounds") as session:
            existing_run(session, run)
            row = tables.ClusterRound
            query = select(row).where(row.run == run, row.round == round_)
            query = query.order_by(row.gateway, row.attempt, row.step, row.task)
            rows = session.scalars(query.offset(part.skip).limit(part.limit + 1)).all()
            return _page([cluster_record(one, _members(session, one)) for one in rows], part.limit)

    def refusals(self, run: str, part: Part) -> Page[RefusalRecord]:
        """The cloud's own, and those of which a gateway told, newest first. Raises NotThere."""
        with self._transaction("read refusals") as session:
            existing_run(session, run)
            return _refusals(session, part, lambda table: table.run == run)

    # ── models ──────────────────────────────────────────────────────────────────────────────────────────────────

    def models(self, run: str, limit: int, before: int | None = None) -> Page[VersionRecord]:
        """The versions of a run's model, newest first, those below `before`. Raises NotThere."""
        with self._transaction("read versions") as session:
            existing_run(session, run)
            query = _versions(run)
            if before is not None:
                query = query.where(tables.ModelVersion.version < before)
            rows = session.execute(query.order_by(tables.ModelVersion.version.desc()).limit(limit + 1)).all()
            return _page([VersionRecord(*row) for row in rows], limit)

    def version(self, run: str, version: int) -> VersionRecord:
        """Raises NotThere."""
        with self._transaction("read version") as session:
            existing_run(session, run)
            row = session.execute(_versions(run).where(tables.ModelVersion.version == version)).one_or_none()
            return VersionRecord(*(row or no_version(session, run, version)))

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def nodes(
        self, fleet: str, limit: int, after: str = "", role: str | None = None, parent: str | None = None
    ) -> Page[NodeRecord]:
        """By name, those behind `after`."""
        with self._transaction("read nodes") as session:
            query = select(tables.Node).where(tables.Node.fleet == fleet, tables.Node.node > after)
            if role is not None:
                query = query.where(tables.Node.role == role)
            if parent is not None:
                query = query.where(tables.Node.parent == parent)
            rows = session.scalars(query.order_by(tables.Node.node).limit(limit + 1)).all()
            return _page([node_record(row) for row in rows], limit)

    def node(self, fleet: str, node: str) -> NodeRecord:
        """Raises NotThere."""
        with self._transaction("read node") as session:
            row = session.get(tables.Node, (fleet, node))
            if row is None:
                raise NotThere(
                    f"node {node!r}: nobody of this name was heard of in fleet {fleet!r}; see the list of nodes"
                )
            return node_record(row)

    def parts_of(self, fleet: str, node: str, part: Part) -> Page[PartRecord]:
        """A node's parts in rounds of its parents, newest first."""
        with self._transaction("read parts of node") as session:
            own = _given().where(tables.Contribution.node == node)
            below = _told().where(tables.ClusterMember.node == node, tables.ClusterMember.state != "idle")
            of_fleet = select(tables.Run.id).where(tables.Run.fleet == fleet)
            own = own.where(tables.Contribution.run.in_(of_fleet))
            below = below.where(tables.ClusterMember.run.in_(of_fleet))
            both = union_all(own, below).subquery()
            newest = (
                both.c.at.desc(),
                both.c.run.desc(),
                both.c.round.desc(),
                both.c.step.desc(),
                both.c.based_on.desc(),
            )
            return _parts(session, select(both).order_by(*newest), part)

    def refusals_of(self, fleet: str, node: str, part: Part) -> Page[RefusalRecord]:
        """What a node was refused, or declined, newest first."""
        with self._transaction("read refusals of node") as session:
            of_fleet = select(tables.Run.id).where(tables.Run.fleet == fleet)
            return _refusals(session, part, lambda table: (table.node == node) & table.run.in_(of_fleet))

    # ── releases ────────────────────────────────────────────────────────────────────────────────────────────────

    def releases(self, fleet: str, limit: int | None = None, before: int | None = None) -> Page[ReleaseRecord]:
        """Newest first, those below the counter `before`; without a `limit` all."""
        with self._transaction("read releases") as session:
            query, newest = releases_of(fleet), newest_counter(session, fleet)
            if before is not None:
                query = query.where(tables.Release.counter < before)
            rows = session.scalars(query if limit is None else query.limit(limit + 1)).all()
            return _page([release_record(row, newest) for row in rows], limit or len(rows))

    def release(self, fleet: str, counter: int) -> ReleaseRecord:
        """Raises NotThere."""
        with self._transaction("read release") as session:
            return release_record(existing_release(session, fleet, counter), newest_counter(session, fleet))


# ── what the named transactions share ───────────────────────────────────────────────────────────────────────────


def _page(entries: list[T], limit: int) -> Page[T]:
    return Page(tuple(entries[:limit]), len(entries) > limit)


def _leader(row: tables.Lease) -> LeaderRecord | None:
    return LeaderRecord(row.holder, row.term, row.renewed_at) if row.holder else None


def _known_round(session: Session, run: str, round_: int) -> None:
    existing_run(session, run)
    ended = select(tables.Round.round).where(tables.Round.run == run, tables.Round.round == round_).limit(1)
    if session.scalar(ended) is None:
        last = session.scalar(select(func.max(tables.Round.round)).where(tables.Round.run == run))
        has = "none has ended yet" if last is None else f"the last that ended is {last}"
        raise NotThere(f"round {round_}: run {run!r} has no such round; {has}")


def _versions(run: str) -> "Select[int, bytes, int, datetime]":
    row, stored = tables.ModelVersion, tables.Object
    query = select(row.version, stored.sha256, stored.size_bytes, stored.created_at)
    return query.join(stored, stored.sha256 == row.sha256).where(row.run == run)


_NO_NAME = cast(null(), String)


def _given() -> "Select[*tuple[Any, ...]]":
    """What children of the cloud gave, as rows of a `PartRecord`."""
    row, of = tables.Contribution, tables.Round
    return select(
        row.run, row.round, literal(0).label("step"), row.attempt, row.task, row.node, _NO_NAME.label("parent"),
        literal("received").label("state"), of.opened_at.label("at"), row.examples, row.devices,
        of.examples.label("of_examples"), row.size_bytes, row.after_s, row.train_s,
        row.loss, row.weight, row.based_on, row.factor,
    ).join(of)  # fmt: skip


_NO_NUMBER = cast(null(), tables.Contribution.weight.type)
_NO_COUNT = cast(null(), tables.Contribution.based_on.type)


def _told() -> "Select[*tuple[Any, ...]]":
    """What gateways told of their children, as rows of a `PartRecord`."""
    row, of = tables.ClusterMember, tables.ClusterRound
    return select(
        row.run, row.round, row.step, row.attempt, row.task, row.node, row.gateway.label("parent"),
        row.state, of.recorded_at.label("at"), row.examples, row.devices,
        of.examples.label("of_examples"), row.size_bytes, row.after_s, row.train_s,
        row.loss, _NO_NUMBER.label("weight"), _NO_COUNT.label("based_on"), _NO_NUMBER.label("factor"),
    ).join(of)  # fmt: skip


def _parts(session: Session, query: "Select[*tuple[Any, ...]]", part: Part) -> Page[PartRecord]:
    rows = session.execute(query.offset(part.skip).limit(part.limit + 1)).all()
    return _page([PartRecord(*row) for row in rows], part.limit)


def _refusals(session: Session, part: Part, which: Callable[[Any], Any]) -> Page[RefusalRecord]:
    own, member = tables.Refusal, tables.ClusterMember
    at_cloud = select(
        own.run, own.round, literal(0).label("step"), own.attempt, own.task, own.node, _NO_NAME.label("parent"),
        tables.Round.opened_at.label("at"), own.reason, own.detail, own.id.label("number"),
    ).join(tables.Round).where(which(own))  # fmt: skip
    at_gateways = select(
        member.run, member.round, member.step, member.attempt, member.task, member.node, member.gateway,
        tables.ClusterRound.recorded_at, literal(""), literal(""), literal(0),
    ).join(tables.ClusterRound).where(which(member), member.state == "refused")  # fmt: skip
    both = union_all(at_cloud, at_gateways).subquery()
    newest = (
        both.c.at.desc(),
        both.c.number.desc(),
        both.c.run.desc(),
        both.c.round.desc(),
        both.c.step.desc(),
        both.c.node,
    )
    rows = session.execute(select(both).order_by(*newest).offset(part.skip).limit(part.limit + 1)).all()
    return _page([RefusalRecord(*row[:-1]) for row in rows], part.limit)


def _members(session: Session, of: tables.ClusterRound) -> tuple[tables.ClusterMember, ...]:
    key = {column.name: getattr(of, column.name) for column in tables.ClusterRound.__table__.primary_key}
    return tuple(session.scalars(select(tables.ClusterMember).filter_by(**key).order_by(tables.ClusterMember.node)))
