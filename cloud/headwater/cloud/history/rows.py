"""Law: a row becomes a record in one place."""

import json
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.cloud.history import tables
from headwater.cloud.history.records import ClusterRecord, NodeRecord, RoundRecord, RunRecord
from headwater.cloud.history.states import Rest, Standing
from headwater.core.figures import figures
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import DataStatus, Figures, RoundStatus, Times


def standing_of(row: tables.Run) -> Standing:
    rest = Rest(row.pauses, row.rested_s, row.rests_since)
    return Standing(row.state, row.stop_requested, row.pause_requested, rest)  # type: ignore[arg-type]


def run_record(row: tables.Run, last_round: int) -> RunRecord:
    return RunRecord(
        id=row.id,
        fleet=row.fleet,
        name=row.name,
        state=row.state,  # type: ignore[arg-type]
        description=RunDescription.model_validate_json(row.description),
        round=last_round,
        stop_requested=row.stop_requested,
        pause_requested=row.pause_requested,
        failure=row.failure,
        queued_at=row.queued_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        rest=standing_of(row).rest,
    )


def figures_by_version(rows: Iterable[tables.Tally]) -> dict[tuple[int, str], Figures]:
    tallies: dict[tuple[int, str], dict[str, NDArray[np.float64]]] = {}
    for row in rows:
        tallies.setdefault((row.version, row.split), {})[row.name] = np.array(row.counts)
    return {version_and_split: figures(named_counts) for version_and_split, named_counts in tallies.items()}


def round_record(
    row: tables.Round, means: dict[tuple[int, str, str], float], figures: dict[tuple[int, str], Figures]
) -> RoundRecord:
    result = row.round if row.task == "train" else None
    return RoundRecord(
        round=row.round,
        attempt=row.attempt,
        task=row.task,
        state=row.state,
        cohort=row.cohort,
        received=row.received,
        devices=row.devices,
        examples=row.examples,
        refused=row.refused,
        bytes_down=row.bytes_down,
        bytes_up=row.bytes_up,
        opened_at=row.opened_at,
        elapsed_s=row.elapsed_s,
        times=_times(row),
        loss=means.get((row.round, "train", "loss")) if result is not None else None,
        test_loss=means.get((row.round, "test", "loss")) if result is not None else None,
        accuracy=means.get((row.round, "test", "correct")) if result is not None else None,
        train=figures.get((row.round, "train")) if result is not None else None,
        test=figures.get((row.round, "test")) if result is not None else None,
        personal=figures.get((row.round, "personal")) if result is not None else None,
        local=figures.get((row.round, "local")) if result is not None else None,
    )


def _times(row: tables.Round) -> Times | None:
    """None of a round that nobody told them of, or that was written before they were."""
    if row.train_s is None or row.transfer_s is None or row.wait_s is None:
        return None
    return Times(train_s=row.train_s, transfer_s=row.transfer_s, wait_s=row.wait_s, aggregate_s=row.aggregate_s or 0.0)


MEMBER_FIELDS: Final = ("node", "state", "examples", "devices", "after_s", "loss", "train_s", "size_bytes")
"""What a cluster's status tells of a member, each a column."""


def cluster_record(row: tables.ClusterRound, members: Iterable[tables.ClusterMember]) -> ClusterRecord:
    told = json.loads(row.status)
    told["members"] = [{name: getattr(member, name) for name in MEMBER_FIELDS} for member in members]
    return ClusterRecord(row.recorded_at, RoundStatus.model_validate_json(json.dumps(told), extra="ignore"))


def node_record(row: tables.Node) -> NodeRecord:
    return NodeRecord(
        fleet=row.fleet,
        node=row.node,
        role=row.role,
        parent=row.parent,
        state=row.state,
        software=row.software,
        battery_percent=row.battery_percent,
        data={key: DataStatus.model_validate(of_key) for key, of_key in (row.data or {}).items()},
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
    )
