"""Law: what people and dashboards read is JSON, small, stable, and never decides anything but membership.

`NodeStatus` is a node's birth and its last will; others follow a run, its round and each cluster, and are retained. An
`Event` is told once, in CloudEvents' names, and may come twice: what has the same `source` and `id` is one.
Fields are only ever added, so a reader ignores those it does not know.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, FiniteFloat

from headwater.schemas import limits
from headwater.schemas.base import Count, Frozen, Name, NodeId, Role, RunId, Split, Task, Text, Weight, added_later

MAX_HISTOGRAM: Final = 256
"""Labels of which a node may say how many examples it has."""

NodeState = Literal["online", "offline"]
RoundState = Literal["open", "closed", "failed"]
RunState = Literal["queued", "running", "paused", "finished", "stopped", "failed"]


class DataStatus(Frozen):
    """How many examples a node (or the cluster below it) has under a data key.

    `histogram` is how many of them have each label, where the node's owner shares that: with noise, so a count may be
    any number.
    """

    train_examples: Count
    test_examples: Count
    histogram: Annotated[tuple[FiniteFloat, ...], Field(max_length=MAX_HISTOGRAM)] = ()


UpdateState = Literal["downloading", "downloaded", "verified", "updating", "updated", "failed"]
MAX_FAILURES_TOLD: Final = 16
"""Devices whose failed update is told with its reason; further ones are counted."""


class UpdateStatus(Frozen):
    """How far a device is with the release `counter`, whose software is `version`; with 0 it came with no release."""

    version: Annotated[str, Field(max_length=64)]
    state: UpdateState
    counter: Count = 0
    detail: Text = ""


class FailedUpdate(Frozen):
    """A device that did not take a release, or went back, and why."""

    node: NodeId
    detail: Text = ""


class RolloutStatus(Frozen):
    """How far the devices below a node are with one stage of a release.

    Of those that are there and asked: who did not begin is `waiting`, then `under_way`, then `updated` or `failed`.
    `away` are those that had begun and are not there. `named` are the updated ones of those that the stage names.
    """

    counter: Count
    stage: Count
    waiting: Count = 0
    under_way: Count = 0
    updated: Count = 0
    failed: Count = 0
    away: Count = 0
    named: Annotated[tuple[NodeId, ...], Field(max_length=limits.MAX_CANARIES)] = ()
    failures: Annotated[tuple[FailedUpdate, ...], Field(max_length=MAX_FAILURES_TOLD)] = ()


class NodeStatus(Frozen):
    """Birth (`online`) and last will (`offline`) of a node. `boot` differs at each start of the process.

    `codecs` are those besides plain float32 that it can encode and decode. `battery_percent` is null without a battery.
    `certificate` is the node's, in DER as base64, for its parent to check its deltas by; "" where it signs none.
    `update` is null where its software is not updated over the tree, `rollout` where it leads no devices in one.
    """

    node: NodeId
    role: Role
    parent: NodeId | None
    state: NodeState
    boot: Annotated[str, Field(max_length=64)] = ""
    software: Annotated[str, Field(max_length=64)] = ""
    data: Annotated[dict[Name, DataStatus], Field(max_length=64, default_factory=dict)]
    codecs: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    battery_percent: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    certificate: Annotated[str, Field(max_length=4 * limits.MAX_CERTIFICATE_SIZE_BYTES // 3 + 4)] = ""
    update: UpdateStatus | None = None
    rollout: RolloutStatus | None = None


class RunStatus(Frozen):
    """The run that a fleet works on, or the last one.

    `elapsed_s` is the time at work since it began, without the time for which it was paused; `remaining_s` is what the
    rest takes at that pace. `pauses` counts how often it was paused, so that each pause is told apart from the last.
    """

    run: RunId
    name: Name
    state: RunState
    round: Count
    rounds: Count
    accuracy: FiniteFloat | None = None
    loss: FiniteFloat | None = None
    elapsed_s: FiniteFloat = 0.0
    remaining_s: FiniteFloat | None = None
    detail: Text = ""
    pauses: Annotated[Count, added_later(0)] = 0


class MemberStatus(Frozen):
    """One child in a round, as its parent sees it.

    `after_s` is when its delta was in, in seconds behind the round's opening; `train_s` how long it worked on it, of a
    gateway's devices the mean; `loss` its mean training loss; `size_bytes` what its delta takes. What it did not say,
    or not yet, is left out.
    """

    node: NodeId
    state: Literal["waiting", "received", "left", "refused", "idle"]
    examples: Count = 0
    devices: Count = 0
    after_s: Annotated[FiniteFloat | None, added_later(None)] = None
    loss: Annotated[FiniteFloat | None, added_later(None)] = None
    train_s: Annotated[FiniteFloat | None, added_later(None)] = None
    size_bytes: Annotated[Count, added_later(0)] = 0


Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class ClassFigures(Frozen):
    """One class of a classifier; a figure is null where there is nothing to divide by."""

    examples: Weight
    recall: Share | None
    precision: Share | None
    f1: Share | None


class DeviceFigures(Frozen):
    """How a figure spreads over devices. `worst_decile` is the mean of the tenth of them where it is worst."""

    devices: Weight
    mean: FiniteFloat
    worst_decile: FiniteFloat


class Figures(Frozen):
    """What a split's tallies say: of a classifier its classes, in order; of a regression or a reconstruction the
    quantiles of its squared errors, each the mean over an example's values; and how accuracy, or the loss where there
    are no classes, spreads over devices."""

    balanced_accuracy: Share | None = None
    classes: Annotated[tuple[ClassFigures, ...], Field(max_length=limits.MAX_TALLY_LENGTH)] = ()
    error_quantiles: Annotated[dict[Name, Weight], Field(max_length=16, default_factory=dict)]
    by_device: DeviceFigures | None = None


class Times(Frozen):
    """How the mean child's round was spent, in seconds: it worked on its delta, the model and the delta were on their
    way, and the delta waited until those of others were in. These make the time from the round's opening to its close.
    `aggregate_s` follows on it, until the new model was ready to be written down; it is the cloud's alone.
    """

    train_s: Weight
    transfer_s: Weight
    wait_s: Weight
    aggregate_s: Weight = 0.0


Members = Annotated[tuple[MemberStatus, ...], Field(max_length=limits.MAX_CHILDREN)]


class ModelName(Frozen):
    """A model version: the run, and the round whose result it is; 0 is what the run began with."""

    run: RunId
    round: Count


class Prediction(Frozen):
    """What a device's model says of one window of its live data. `time` is the window's end, in seconds since 1970.

    A classifier gives `label` and `probabilities`, a regression `value`, a reconstruction `error`: the mean of its
    squares. Both of the latter give `threshold`, beyond which an error is an anomaly. A forecast is told a second time,
    with its `error`, when what it foretold has come; another regression's error stays unknown. `alert` is what somebody
    should look at. What does not apply is null.
    """

    node: NodeId
    data: Name
    time: FiniteFloat
    model: ModelName
    label: Name | None = None
    probabilities: Annotated[tuple[FiniteFloat, ...], Field(max_length=limits.MAX_TALLY_LENGTH)] | None = None
    value: Annotated[tuple[FiniteFloat, ...], Field(max_length=limits.MAX_TALLY_LENGTH)] | None = None
    error: FiniteFloat | None = None
    threshold: FiniteFloat | None = None
    alert: bool = False


class RoundStatus(Frozen):
    """A round at the parent that runs it: the cloud's, or (as a cluster's) a gateway's.

    `metrics` are means over examples, named `split/name`; test metrics are of the model that the round began with.
    `figures` are what the tallies say, by split.
    Bytes are payload bytes on the parent's links since the round opened.
    `times` are there once it has ended, where a child said how long it worked.
    """

    parent: NodeId
    run: RunId
    round: Count
    step: Count
    attempt: Count
    task: Task
    state: RoundState
    cohort: Count
    received: Count
    refused: Count
    devices: Count = 0
    examples: Count = 0
    elapsed_s: FiniteFloat = 0.0
    deadline_s: FiniteFloat = 0.0
    bytes_down: Count = 0
    bytes_up: Count = 0
    metrics: Annotated[dict[Name, FiniteFloat], Field(max_length=limits.MAX_METRICS, default_factory=dict)]
    epsilon_spent: FiniteFloat | None = None
    members: Members = ()
    figures: Annotated[dict[Split, Figures], Field(default_factory=dict)]
    times: Times | None = None


EventType = Literal[
    "headwater.round.opened",
    "headwater.round.closed",
    "headwater.round.failed",
    "headwater.run.started",
    "headwater.run.finished",
    "headwater.run.stopped",
    "headwater.run.failed",
    "headwater.run.paused",
    "headwater.run.resumed",
    "headwater.node.online",
    "headwater.node.offline",
    "headwater.node.enrolled",
    "headwater.enrolment.refused",
    "headwater.delta.refused",
    "headwater.plan.declined",
]


class EventData(Frozen):
    """What an event is about; what does not apply is null. `reason` is one of a few words, `detail` a sentence."""

    run: RunId | None = None
    round: Count | None = None
    step: Count | None = None
    attempt: Count | None = None
    node: NodeId | None = None
    reason: Name | None = None
    detail: Text | None = None


def _a_time_that_there_is(time: str) -> str:
    """Raises ValueError for the 31st of a February."""
    datetime.fromisoformat(time)
    return time


class Event(Frozen):
    """Something that happened, by CloudEvents 1.0 in its structured mode; `time` is by the writer's clock, RFC 3339."""

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, Field(min_length=1, max_length=256)]
    source: Annotated[str, Field(pattern=r"^/hw/[^/]+/[^/]+$", max_length=140)]
    type: EventType
    subject: Annotated[str, Field(min_length=1, max_length=192)]
    time: Annotated[
        str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"), AfterValidator(_a_time_that_there_is)
    ]
    data: EventData
