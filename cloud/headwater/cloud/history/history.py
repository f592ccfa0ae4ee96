"""Law: one method, one transaction, one name; the clock comes in as an argument.

Methods block; the coordinator calls them in a thread, one at a time. Several processes may share a database: what is
the coordinator's alone is written under its lease, what anybody may ask for is not.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headwater.cloud.history import states, tables
from headwater.cloud.history.clusters import ClusterRounds
from headwater.cloud.history.faults import Conflict
from headwater.cloud.history.journal import RoundJournal
from headwater.cloud.history.leases import Leases
from headwater.cloud.history.lookups import existing_run, last_round, no_version
from headwater.cloud.history.nodes import meet
from headwater.cloud.history.reading import Reading
from headwater.cloud.history.records import ClosedRound, RoundRecord, RunRecord, Version
from headwater.cloud.history.releases import Releases
from headwater.cloud.history.rows import run_record, standing_of
from headwater.cloud.history.transactions import READS, Lease, Transactions
from headwater.node.hosting import Contribution
from headwater.schemas.base import Task
from headwater.schemas.errors import HistoryError
from headwater.schemas.messages import RoundKey
from headwater.schemas.patterns import check_form
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import NodeStatus, RunState
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import reference


class History(Transactions):
    """The named transactions of one database.

    Every method raises HistoryError when the database fails, and HistoryAway where that may pass; under a lease those
    that change what is the coordinator's raise LeaseLost once another leads.
    """

    def led(self, lease: Lease) -> "History":
        """This history, for the coordinator that holds the lease."""
        return History(self._engine, self.shown, lease)

    @property
    def leases(self) -> Leases:
        return Leases(self._engine, self.shown)

    @property
    def journal(self) -> RoundJournal:
        """What the open round has received."""
        return RoundJournal(self._engine, self.shown, self.lease)

    @property
    def reading(self) -> Reading:
        """What others are told, beside whoever writes."""
        return Reading(self._engine.execution_options(**{READS: True}), self.shown)

    @property
    def clusters(self) -> ClusterRounds:
        """What gateways tell of their clusters' rounds."""
        return ClusterRounds(self._engine, self.shown, self.lease)

    @property
    def releases(self) -> Releases:
        """The software that its fleets run."""
        return Releases(self._engine, self.shown, self.lease)

    def close(self) -> None:
        self._engine.dispose()

    # ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────

    def enqueue_run(
        self,
        run: str,
        fleet: str,
        description: RunDescription,
        forward: bytes | None,
        now: datetime,
        *,
        initial: bytes | None = None,
    ) -> RunRecord:
        """Ask for a run; it begins when those before it in its fleet have ended.

        Args:
            forward: the owner's ONNX file, and `initial` the parameters of the owner's as an encoded model, where the
                description speaks of a file.

        Raises:
            ConfigError: the run's name or the fleet's is none that a topic can bear.
            Conflict: there is a run of this name.
        """
        for field, name in (("run", run), ("fleet", fleet)):
            check_form(field, name)
        with self._transaction("enqueue run") as session:
            if session.get(tables.Run, run):
                raise Conflict(f"run {run!r}: there is one of this name; give another with --id, or leave it out")
            row = tables.Run(
                id=run,
                fleet=fleet,
                name=description.name,
                state="queued",
                description=description.model_dump_json(),
                forward=forward,
                initial=initial,
                stop_requested=False,
                pause_requested=False,
                pauses=0,
                rested_s=0.0,
                failure="",
                queued_at=now,
            )
            session.add(row)
            session.flush()
            return run_record(row, 0)

    def claim_next_run(self, fleet: str, now: datetime) -> RunRecord | None:
        """The fleet's running or paused run, or else its oldest queued one, which becomes running."""
        with self._leading("claim next run") as session:
            row = session.scalars(_runs(fleet, *states.ACTIVE)).first()
            if row is None:
                row = session.scalars(_runs(fleet, "queued")).first()
                if row is None:
                    return None
                row.state, row.started_at = "running", now
                try:
                    session.flush()
                except IntegrityError:
                    raise HistoryError(
                        f"fleet {fleet!r}: another coordinator has just begun a run; a fleet has one coordinator"
                    ) from None
            return run_record(row, last_round(session, row.id))

    def request(self, run: str, request: states.Request, now: datetime) -> RunRecord:
        """Ask a run to stop, to pause or to go on, by the table in `states`; its coordinator hears of it by itself.

        Raises:
            NotThere: there is no such run.
            Conflict: it cannot do that any more, or not yet.
        """
        with self._transaction(f"request {request}") as session:
            row = existing_run(session, run, locked=True)
            _stand(row, states.asked(run, standing_of(row), request, now), now)
            return run_record(row, last_round(session, run))

    def standing(self, run: str) -> states.Standing:
        """Where it is, and what its coordinator shall do between two attempts."""
        with self._transaction("read standing") as session:
            return standing_of(existing_run(session, run))

    def hold_run(self, run: str, now: datetime) -> states.Standing:
        """The run rests, if that is still asked of it; where it is then."""
        with self._leading("hold run") as session:
            row = existing_run(session, run, locked=True)
            standing = states.held(standing_of(row), now)
            _stand(row, standing, now)
            return standing

    def finish_run(self, run: str, state: RunState, failure: str, now: datetime) -> None:
        with self._leading("finish run") as session:
            session.execute(
                update(tables.Run).where(tables.Run.id == run).values(state=state, failure=failure, ended_at=now)
            )

    def list_runs(self, fleet: str | None = None) -> tuple[RunRecord, ...]:
        """Newest first."""
        return self.reading.runs(fleet).entries

    def show_run(self, run: str) -> RunRecord:
        """Raises NotThere where there is none of this name."""
        return self.reading.run(run)

    def forward_of(self, run: str) -> bytes | None:
        """The forward ONNX model that a run's models belong to."""
        with self._transaction("read forward model") as session:
            return existing_run(session, run).forward

    def initial_of(self, run: str) -> bytes | None:
        """The owner's parameters that a run shall begin with, as an encoded model."""
        with self._transaction("read initial parameters") as session:
            return existing_run(session, run).initial

    # ── models ──────────────────────────────────────────────────────────────────────────────────────────────────

    def record_start(self, run: str, forward: bytes, bundle: bytes, model: bytes, now: datetime) -> None:
        """What a run begins with: its forward model, its bundle of graphs, and version 0."""
        with self._leading("record start") as session:
            row = existing_run(session, run)
            row.forward, row.initial = forward, None
            row.bundle = _put(session, bundle, now)
            session.merge(tables.ModelVersion(run=run, version=0, sha256=_put(session, model, now)))

    def bundle_of(self, run: str) -> bytes | None:
        with self._transaction("read bundle") as session:
            sha256 = existing_run(session, run).bundle
            return _payload(session, sha256) if sha256 else None

    def model_of(self, run: str, version: int | None = None) -> tuple[int, bytes]:
        """A version of a run's model, the newest by default.

        Raises:
            NotThere: the run has no such version.
            HistoryError: the stored bytes are not those that were stored.
        """
        with self._transaction("read model") as session:
            row = _version(session, run, version)
            return row.version, _payload(session, row.sha256)

    def newest_version(self, run: str) -> Version:
        """What a run goes on from. Raises as `model_of`."""
        with self._transaction("read newest version") as session:
            row = _version(session, run, None)
            return Version(
                row.version,
                _payload(session, row.sha256),
                _payload(session, row.memory) if row.memory else None,
                _payload(session, row.patch) if row.patch else None,
            )

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────

    def record_round(self, closed: ClosedRound, now: datetime) -> None:
        """An attempt with its contributions, metrics, tallies, refusals and new model: all of it, or nothing.

        The run's journal is emptied with it.
        """
        key = {"run": closed.run, "round": closed.round, "attempt": closed.attempt, "task": closed.task}
        with self._leading("record round") as session:
            session.execute(delete(tables.Contribution).filter_by(**key))
            session.execute(delete(tables.Refusal).filter_by(**key))
            columns = {name: getattr(closed, name) for name in _ROUND_COLUMNS}
            times = closed.times.model_dump() if closed.times is not None else {}
            session.merge(tables.Round(**key, **columns, **times))
            session.flush()
            session.add_all(tables.Contribution(**key, **_given(session, closed, c, now)) for c in closed.contributions)
            session.execute(delete(tables.Pending).where(tables.Pending.run == closed.run))
            session.add_all(
                tables.Refusal(**key, node=refused.node, reason=refused.reason, detail=refused.detail)
                for refused in closed.refusals
            )
            for metric in closed.metrics:
                version = closed.round if metric.split == "train" else closed.measured
                session.merge(tables.Metric(run=closed.run, version=version, **metric.model_dump()))
            for tally in closed.tallies:
                version = closed.round if tally.split == "train" else closed.measured
                counts = decode_tensor(tally.values, tally.name).tolist()
                session.merge(
                    tables.Tally(run=closed.run, version=version, split=tally.split, name=tally.name, counts=counts)
                )
            if closed.model is not None:
                _forget_memories(session, closed.run)
                session.merge(
                    tables.ModelVersion(
                        run=closed.run,
                        version=closed.round,
                        sha256=_put(session, closed.model, now),
                        memory=_put(session, closed.memory, now) if closed.memory else None,
                        patch=_put(session, closed.patch, now) if closed.patch else None,
                    )
                )

    def senders(self, run: str) -> frozenset[str]:
        """Whose updates the run's open round has."""
        with self._transaction("read senders") as session:
            return frozenset(session.scalars(select(tables.Pending.node).where(tables.Pending.run == run).distinct()))

    def next_attempt(self, run: str, round_: int, task: Task) -> int | None:
        """The attempt at a round that is open or comes next: the one that has deltas, or that behind the last failed
        one. None where the round has closed.
        """
        with self._transaction("read attempts") as session:
            attempts = session.execute(
                select(tables.Round.attempt, tables.Round.state).filter_by(run=run, round=round_, task=task)
            ).all()
            if any(state == "closed" for _, state in attempts):
                return None
            begun = session.scalar(select(func.max(tables.Pending.attempt)).filter_by(run=run, round=round_, task=task))
            return max([begun or 0, *(attempt + 1 for attempt, _ in attempts)])

    def counted(self, run: str, since_round: int) -> frozenset[tuple[str, RoundKey]]:
        """The updates of plans since this round that rounds already hold, by sender and plan."""
        with self._transaction("read counted updates") as session:
            rows = session.execute(
                select(tables.Contribution.node, tables.Contribution.based_on, tables.Contribution.based_attempt)
                .join(tables.Round)
                .where(
                    tables.Contribution.run == run,
                    tables.Contribution.based_on >= since_round,
                    tables.Round.state == "closed",
                )
            )
            return frozenset((node, RoundKey(run=run, round=on, attempt=attempt)) for node, on, attempt in rows)

    def rounds_of(self, run: str) -> tuple[RoundRecord, ...]:
        """All attempts in order, as `Reading.rounds`."""
        return self.reading.rounds(run).entries

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def node_seen(self, fleet: str, status: NodeStatus, now: datetime) -> None:
        said = {
            "role": status.role,
            "parent": status.parent,
            "state": status.state,
            "software": status.software,
            "battery_percent": status.battery_percent,
            "data": {
                key: {"train_examples": of_key.train_examples, "test_examples": of_key.test_examples}
                for key, of_key in status.data.items()
            },
            "last_seen_at": now,
        }
        with self._leading("record node") as session:
            meet(session, [{"fleet": fleet, "node": status.node, "first_seen_at": now, **said}])
            session.execute(update(tables.Node).filter_by(fleet=fleet, node=status.node).values(**said))


_ROUND_COLUMNS = (
    "state",
    "cohort",
    "received",
    "devices",
    "examples",
    "weight",
    "refused",
    "bytes_down",
    "bytes_up",
    "opened_at",
    "elapsed_s",
)


def _runs(fleet: str, *of_states: str) -> Any:
    return (
        select(tables.Run)
        .where(tables.Run.fleet == fleet, tables.Run.state.in_(of_states))
        .order_by(tables.Run.queued_at, tables.Run.id)
        .limit(1)
        .with_for_update()
    )


def _stand(row: tables.Run, standing: states.Standing, now: datetime) -> None:
    row.state = standing.state
    row.stop_requested, row.pause_requested = standing.stop_requested, standing.pause_requested
    row.pauses, row.rested_s, row.rests_since = standing.rest.pauses, standing.rest.over_s, standing.rest.since
    if standing.state in states.ENDED:
        row.ended_at = now


def _given(session: Session, closed: ClosedRound, given: Contribution, now: datetime) -> dict[str, Any]:
    return {
        "node": given.node,
        "weight": given.weight,
        "examples": given.examples,
        "devices": given.devices,
        "based_on": given.key.round,
        "based_attempt": given.key.attempt,
        "staleness": closed.round - given.key.round,
        "factor": given.factor,
        "sha256": None if given.payload is None else _put(session, given.payload, now),
        "size_bytes": given.ref.size_bytes,
        "after_s": given.after_s,
        "train_s": given.train_s,
        "loss": given.loss,
    }


def _version(session: Session, run: str, version: int | None) -> tables.ModelVersion:
    """Raises NotThere where there is none."""
    query = select(tables.ModelVersion).where(tables.ModelVersion.run == run)
    if version is not None:
        query = query.where(tables.ModelVersion.version == version)
    row = session.scalars(query.order_by(tables.ModelVersion.version.desc()).limit(1)).first()
    if row is None:
        no_version(session, run, version)
    return row


def _forget_memories(session: Session, run: str) -> None:
    """Of a version that is not the newest any more nobody needs the memory, which is larger than its model."""
    mine = tables.ModelVersion.run == run
    remembered = select(tables.ModelVersion.memory).where(tables.ModelVersion.memory.is_not(None))
    old = session.scalars(remembered.where(mine)).all()
    session.execute(update(tables.ModelVersion).where(mine).values(memory=None))
    if old:
        # Two runs may remember the same.
        unused = tables.Object.sha256.in_(old) & tables.Object.sha256.not_in(remembered)
        session.execute(delete(tables.Object).where(unused))


def _put(session: Session, payload: bytes, now: datetime) -> bytes:
    sha256 = reference(payload).sha256
    if session.get(tables.Object, sha256) is None:
        session.add(tables.Object(sha256=sha256, payload=payload, size_bytes=len(payload), created_at=now))
        session.flush()
    return sha256


def _payload(session: Session, sha256: bytes) -> bytes:
    row = session.get(tables.Object, sha256)
    if row is None or reference(row.payload).sha256 != sha256:
        raise HistoryError(f"object {sha256.hex()}: damaged or gone; restore the database from a backup")
    return row.payload
