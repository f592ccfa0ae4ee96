"""Law: what the cloud answers over HTTP is typed here, once, for who serves it and for who reads it.

Fields are only ever added, so a reader ignores those that it does not know. Times are UTC. Lists come in pages: `next`
is what to ask with for the page behind, null behind the last.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat
from pydantic.config import JsonDict

from headwater.schemas import limits
from headwater.schemas.base import Count, Frozen, HexSha256, Name, NodeId, RunId
from headwater.schemas.config import Invalid, checked
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import DataStatus, Figures, NodeState, RolloutStatus, RoundStatus, RunState, Times

PREFIX: Final = "/api/v1"
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 500
"""Entries of one answer."""

MAX_SKIP: Final = 1_000_000
MAX_FORWARD_LENGTH: Final = 4 * ((limits.MAX_OBJECT_SIZE_BYTES + 2) // 3)
"""Characters of base64 of the largest ONNX file."""

TokenRole = Literal["viewer", "operator"]
"""Who reads; and who reads, starts, stops, pauses and resumes runs, and pauses and resumes releases."""

ReleaseState = Literal["canary", "wider", "done", "paused"]
ReleaseWish = Literal["pause", "resume"]


class Answer(Frozen):
    """What comes back from the API."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)


Stored = str
"""A name as the history has it: older versions checked none, and what they queued is told of all the same."""


class Problem(Answer):
    """What went wrong (RFC 9457, `application/problem+json`). `detail` names the field, the value and the mend."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class Health(Answer):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(Answer):
    """Whether this coordinator leads its fleet and has its broker and its database; `detail` says what it lacks."""

    ready: bool
    role: Literal["leading", "standby"]
    broker: bool
    database: bool
    detail: str = ""


class Coordinator(Answer):
    """Who leads a fleet. `heard_at` is by its own clock; `is_alive`: by the server's that is not long ago."""

    holder: str
    term: Count
    heard_at: datetime
    is_alive: bool


class Fleet(Answer):
    """A fleet that has a coordinator, or runs. `coordinator` is null where nobody leads it now."""

    fleet: Stored
    coordinator: Coordinator | None
    active: Stored | None
    queued: Count


class Fleets(Answer):
    fleets: tuple[Fleet, ...]


class Run(Answer):
    """A run. `round` is the last that closed; `waits_for` says why a queued one has not begun."""

    run: Stored
    fleet: Stored
    name: Name
    state: RunState
    round: Count
    rounds: Count
    stop_requested: bool
    pause_requested: bool
    failure: str
    waits_for: str
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunDetail(Run):
    """A run with what was asked for."""

    description: RunDescription


class Runs(Answer):
    """Newest first; `next` is for `before`."""

    runs: tuple[Run, ...]
    next: Stored | None = None


class Round(Answer):
    """An attempt at a round that has ended.

    `loss` and `train` are of the round's training; `test_loss`, `accuracy`, `test`, `personal` and `local` of the model
    that came of it. `times` are how the mean child spent it. What was not measured, or not told, is null.
    """

    round: Count
    attempt: Count
    task: str
    state: str
    cohort: Count
    received: Count
    devices: Count
    examples: Count
    refused: Count
    bytes_down: Count
    bytes_up: Count
    opened_at: datetime
    elapsed_s: FiniteFloat
    times: Times | None = None
    loss: FiniteFloat | None
    test_loss: FiniteFloat | None
    accuracy: FiniteFloat | None
    train: Figures | None = None
    test: Figures | None = None
    personal: Figures | None = None
    local: Figures | None = None


class Rounds(Answer):
    """In order, all attempts at so many round numbers; `next` is for `after`."""

    rounds: tuple[Round, ...]
    next: Count | None = None


class Part(Answer):
    """A node's part in an attempt at a round of its parent, which is null for the cloud.

    `step` counts a gateway's edge rounds. `share` is its part of the round's examples, `staleness` how many versions of
    the model it was behind, `factor` what it counted for that. `after_s` is when it was in, behind the opening. What
    nobody told is null.
    """

    run: RunId
    round: Count
    step: Count
    attempt: Count
    task: str
    node: NodeId
    parent: NodeId | None
    state: str
    at: datetime
    examples: Count
    devices: Count
    share: FiniteFloat | None
    size_bytes: Count
    after_s: FiniteFloat | None = None
    train_s: FiniteFloat | None = None
    loss: FiniteFloat | None = None
    weight: FiniteFloat | None = None
    staleness: Count | None = None
    factor: FiniteFloat | None = None


class Contributions(Answer):
    """What the cloud's children gave to a round; `next` is for `skip`."""

    contributions: tuple[Part, ...]
    next: Count | None = None


class ClusterRound(Answer):
    """A round of a gateway's cluster that has ended, as the gateway told of it."""

    recorded_at: datetime
    status: RoundStatus


class ClusterRounds(Answer):
    """By gateway and step; `next` is for `skip`."""

    clusters: tuple[ClusterRound, ...]
    next: Count | None = None


class RefusalEntry(Answer):
    """What was not taken or not followed. `reason` and `detail` are empty where the gateway told of the state alone."""

    run: RunId
    round: Count
    step: Count
    attempt: Count
    task: str
    node: NodeId
    parent: NodeId | None
    at: datetime
    reason: str
    detail: str


class Refusals(Answer):
    """Newest first; `next` is for `skip`."""

    refusals: tuple[RefusalEntry, ...]
    next: Count | None = None


class Node(Answer):
    """A node. One below a gateway is heard of in its cluster's rounds alone: its `state` is null.

    `last_seen_at` is when its state last changed, or a round last had its answer.
    """

    fleet: NodeId
    node: NodeId
    role: str
    parent: NodeId | None
    state: NodeState | None
    software: str
    battery_percent: FiniteFloat | None
    data: Annotated[dict[Name, DataStatus], Field(default_factory=dict)]
    first_seen_at: datetime
    last_seen_at: datetime


class Nodes(Answer):
    """By name; `next` is for `after`."""

    nodes: tuple[Node, ...]
    next: NodeId | None = None


class NodeDetail(Node):
    """A node with its parts in rounds and its refusals, each newest first and paged alike; `next` is for `skip`."""

    contributions: tuple[Part, ...]
    refusals: tuple[RefusalEntry, ...]
    next: Count | None = None


class ModelVersion(Answer):
    """A version of a run's model. `sha256` and `size_bytes` are of the stored parameters, not of the ONNX file."""

    version: Count
    sha256: HexSha256
    size_bytes: Count
    created_at: datetime


class Models(Answer):
    """Newest first; `next` is for `before`. `clusters` names the models that coexist in each version, if several do."""

    models: tuple[ModelVersion, ...]
    clusters: tuple[str, ...] = ()
    next: Count | None = None


class ReleaseEntry(Answer):
    """A release of the devices' software, and how far it is; of one that is not `is_current`, how far it was.

    `stage` counts from 0, and `shares` has of each stage the share of all devices that it asks, beside the `canaries`,
    which each stage asks. One is passed when all whom it asks, and who are there, have been well for `soak_s`;
    `well_since` is when that was first so. `detail` says what it waits for, or why it is paused. `report` is what the
    devices last said, null before they did; its own `stage` counts each word that went to the fleet. `wish` is an
    operator's that the coordinator has not seen yet.
    """

    fleet: NodeId
    counter: Count
    version: str
    wheel: HexSha256
    is_current: bool
    state: ReleaseState
    stage: Count
    stages: Count
    shares: tuple[FiniteFloat, ...]
    canaries: tuple[NodeId, ...]
    soak_s: FiniteFloat
    max_failures: FiniteFloat
    well_since: datetime | None
    detail: str
    report: RolloutStatus | None
    wish: ReleaseWish | None
    published_at: datetime
    changed_at: datetime


class Releases(Answer):
    """Newest first; `next` is for `before`."""

    releases: tuple[ReleaseEntry, ...]
    next: Count | None = None


def _described(value: object) -> object:
    """A description as it came in JSON, with every problem of it in one sentence."""
    if not isinstance(value, dict):
        return value
    try:
        return checked(RunDescription, value, "")
    except Invalid as error:
        raise ValueError("; ".join(problem.removeprefix(": ") for problem in error.problems)) from None


EXAMPLE: Final[JsonDict] = {
    "fleet": "plant",
    "description": {
        "name": "bearings",
        "data": "vibration",
        "rounds": 40,
        "model": {"kind": "mlp", "features": 4, "classes": 3},
    },
}


class RunRequest(Frozen):
    """A run that is asked for: its description, and of a model of kind `onnx` the forward file, in base64.

    Left out, the fleet is the coordinator's own, and `run`, its name, is made of the time and the description's.
    """

    # Built at once: a body of it is a field of no model, and would be built without its name.
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, defer_build=False)

    description: Annotated[RunDescription, BeforeValidator(_described)]
    fleet: NodeId | None = None
    run: RunId | None = None
    forward: Annotated[str, Field(max_length=MAX_FORWARD_LENGTH)] | None = None
