"""Law: a record of the history becomes an answer in one place, for the API and for the commands' `--json`."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

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
from headwater.cloud.history.releases import ReleaseRecord
from headwater.schemas.http import (
    ClusterRound,
    Coordinator,
    Fleet,
    ModelVersion,
    Node,
    Part,
    RefusalEntry,
    ReleaseEntry,
    Round,
    Run,
    RunDetail,
)
from headwater.schemas.patterns import misfit

ALIVE_WITHIN_S: Final = 60.0
"""How old a sign of life may be from which people are told that a coordinator lives. By default one comes every 3 s."""


def coordinator_of(leader: LeaderRecord, now: datetime) -> Coordinator:
    return Coordinator(
        holder=leader.holder,
        term=leader.term,
        heard_at=leader.renewed_at,
        is_alive=(now - leader.renewed_at).total_seconds() <= ALIVE_WITHIN_S,
    )


def fleet_of(record: FleetRecord, now: datetime) -> Fleet:
    leader = record.leader
    return Fleet(
        fleet=record.fleet,
        coordinator=None if leader is None else coordinator_of(leader, now),
        active=record.active,
        queued=record.queued,
    )


def waits_for(record: RunRecord, fleets: Iterable[Fleet]) -> str:
    """Why a queued run has not begun, with the mend; "" for every other one."""
    if record.state != "queued":
        return ""
    nobodys = misfit("fleet", record.fleet)
    if nobodys:
        return f"nobody can coordinate it, {nobodys}; stop it, and start it anew for a fleet of such a name"
    known = {fleet.fleet: fleet for fleet in fleets}
    own = known.get(record.fleet)
    if own is not None and own.coordinator is not None and own.coordinator.is_alive:
        return f"{own.active} is before it" if own.active else f"{own.coordinator.holder} is about to begin it"
    led = [fleet.fleet for fleet in known.values() if fleet.coordinator is not None and fleet.coordinator.is_alive]
    others = f"coordinated are: {', '.join(led)}" if led else "no fleet of this database is coordinated"
    return f"nobody coordinates fleet {record.fleet!r}: run `headwater cloud` for it, with this database; {others}"


def run_of(record: RunRecord, fleets: Iterable[Fleet]) -> Run:
    return Run(**_run(record, fleets))


def run_detail_of(record: RunRecord, fleets: Iterable[Fleet]) -> RunDetail:
    return RunDetail(**_run(record, fleets), description=record.description)


def _run(record: RunRecord, fleets: Iterable[Fleet]) -> dict[str, Any]:
    return {
        "run": record.id,
        "fleet": record.fleet,
        "name": record.name,
        "state": record.state,
        "round": record.round,
        "rounds": record.description.rounds,
        "stop_requested": record.stop_requested,
        "pause_requested": record.pause_requested,
        "failure": record.failure,
        "waits_for": waits_for(record, fleets),
        "queued_at": record.queued_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
    }


def round_of(record: RoundRecord) -> Round:
    return Round(**{name: getattr(record, name) for name in Round.model_fields})


def part_of(record: PartRecord) -> Part:
    given = {name: value for name, value in asdict(record).items() if name in Part.model_fields}
    staleness = None if record.based_on is None else record.round - record.based_on
    return Part(**given, share=_share(record.examples, record.of_examples), staleness=staleness)


def _share(examples: int, of_examples: int) -> float | None:
    return examples / of_examples if of_examples > 0 else None


def refusal_of(record: RefusalRecord) -> RefusalEntry:
    return RefusalEntry(**asdict(record))


def cluster_of(record: ClusterRecord) -> ClusterRound:
    return ClusterRound(recorded_at=record.recorded_at, status=record.status)


def node_of(record: NodeRecord) -> dict[str, Any]:
    """The fields of a `Node`, for it and for its details."""
    told = {name: getattr(record, name) for name in Node.model_fields}
    return told | {"state": record.state or None, "data": dict(record.data)}


def version_of(record: VersionRecord) -> ModelVersion:
    return ModelVersion(
        version=record.version,
        sha256=record.sha256.hex(),
        size_bytes=record.size_bytes,
        created_at=record.created_at,
    )


def release_of(record: ReleaseRecord) -> ReleaseEntry:
    release, progress = record.release, record.progress
    policy, since = progress.policy, progress.well_since
    return ReleaseEntry(
        fleet=release.fleet,
        counter=release.counter,
        version=release.version,
        wheel=release.wheel.sha256.hex(),
        is_current=record.is_current,
        state=progress.state,
        stage=progress.stage,
        stages=len(policy.stages),
        shares=policy.stages,
        canaries=policy.canaries,
        soak_s=policy.soak_s,
        max_failures=policy.max_failures,
        well_since=None if since is None else datetime.fromtimestamp(since, UTC),
        detail=progress.detail,
        report=progress.report,
        wish=record.wish,
        published_at=record.published_at,
        changed_at=record.changed_at,
    )
