"""Law: what crosses the history's door is a frozen value; rows stay inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from headwater.cloud.history.states import Rest
from headwater.node.hosting import Contribution, Refused
from headwater.schemas.base import Task
from headwater.schemas.messages import Counts, Metric
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import DataStatus, Figures, RoundStatus, RunState, Times


class ClusterKey(NamedTuple):
    """Which of its rounds a gateway tells of."""

    run: str
    round: int
    gateway: str
    step: int
    attempt: int
    task: Task

    @classmethod
    def of(cls, status: RoundStatus) -> "ClusterKey":
        return cls(status.run, status.round, status.parent, status.step, status.attempt, status.task)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run. `round` is the last that closed, `failure` says why a failed run failed."""

    id: str
    fleet: str
    name: str
    state: RunState
    description: RunDescription
    round: int
    stop_requested: bool
    pause_requested: bool
    failure: str
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    rest: Rest = field(default_factory=Rest)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a run's model, encoded, with what belongs to it."""

    number: int
    model: bytes
    memory: bytes | None
    patch: bytes | None


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """An attempt that has ended, with all that is written of it at once.

    `model` is the encoded new version, or None where the round made none (evaluate, failed); `memory` what its strategy
    keeps beside it, and `patch` what leads there from the last version. Train metrics belong to the round, all
    others to version `measured`, the model that the round began with.
    """

    run: str
    round: int
    attempt: int
    task: Task
    state: str
    cohort: int
    received: int
    devices: int
    examples: int
    weight: float
    refused: int
    bytes_down: int
    bytes_up: int
    opened_at: datetime
    elapsed_s: float
    measured: int
    times: Times | None = None
    model: bytes | None = None
    memory: bytes | None = None
    patch: bytes | None = None
    contributions: tuple[Contribution, ...] = ()
    refusals: tuple[Refused, ...] = ()
    metrics: tuple[Metric, ...] = ()
    tallies: tuple[Counts, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round as the history tells it, with the means of its metrics and the figures of its tallies.

    What is of the train split is of the round; what is of the others is of the model that the round made: of itself
    (`test`), of what each device made of it for itself (`personal`), and of what each reached alone by then (`local`).
    """

    round: int
    attempt: int
    task: str
    state: str
    cohort: int
    received: int
    devices: int
    examples: int
    refused: int
    bytes_down: int
    bytes_up: int
    opened_at: datetime
    elapsed_s: float
    times: Times | None
    loss: float | None
    test_loss: float | None
    accuracy: float | None
    train: Figures | None = None
    test: Figures | None = None
    personal: Figures | None = None
    local: Figures | None = None


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """Who holds a fleet's lease, and when it last said so, by its own clock."""

    holder: str
    term: int
    renewed_at: datetime


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A fleet: who leads it, which run is running or paused, and how many are queued."""

    fleet: str
    leader: LeaderRecord | None
    active: str | None
    queued: int


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A child's part in a round of its parent (None: the cloud). `at` is when the cloud's round opened, or when it
    heard of the cluster's end; `of_examples` are all of that round's. What nobody told is None."""

    run: str
    round: int
    step: int
    attempt: int
    task: str
    node: str
    parent: str | None
    state: str
    at: datetime
    examples: int
    devices: int
    of_examples: int
    size_bytes: int
    after_s: float | None
    train_s: float | None
    loss: float | None
    weight: float | None
    based_on: int | None
    factor: float | None


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """What was refused or declined, at the cloud (no parent) or at a gateway, which tells no reason."""

    run: str
    round: int
    step: int
    attempt: int
    task: str
    node: str
    parent: str | None
    at: datetime
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster's round that has ended, and when the cloud heard of it."""

    recorded_at: datetime
    status: RoundStatus


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A version of a model: its number, and of the encoded message hash, size and time."""

    version: int
    sha256: bytes
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as it was last heard of; `state` is empty for who is heard of in clusters' rounds alone."""

    fleet: str
    node: str
    role: str
    parent: str | None
    state: str
    software: str
    battery_percent: float | None
    data: Mapping[str, DataStatus]
    first_seen_at: datetime
    last_seen_at: datetime
