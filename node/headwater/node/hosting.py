"""Law: a hosted round is the engine's value with what its shell gathered beside it; here it is only looked at."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum, means
from headwater.core.figures import figures_by_split
from headwater.schemas.limits import MAX_TALLIED
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Delta, Plan, Reason
from headwater.schemas.statuses import MemberStatus, NodeStatus, RoundStatus
from headwater.schemas.tensors import Array, TensorError, decode_tensor, decode_tensors, delta_specs
from headwater.schemas.wire import WireError
from headwater.transport.session import Traffic

MAX_REFUSALS_KEPT: Final = 256
"""Of one round, with their sentences; further ones are only counted."""

DELTA_OVERHEAD_BYTES: Final = 64 * 1024
"""What a delta may have beside its tensors."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one child gave to a round, `after_s` seconds after it opened."""

    node: str
    weight: float
    examples: int
    devices: int
    size_bytes: int
    after_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A delta that was not taken, or a plan that was not followed."""

    node: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A round that ended: closed with a sum, or failed."""

    plan: Plan
    round: rounds.Round
    sum: WeightedSum
    contributions: tuple[Contribution, ...]
    refusals: tuple[Refused, ...]
    refused: int
    elapsed_s: float
    traffic: Traffic

    @property
    def closed(self) -> bool:
        return self.round.state == "closed"


@dataclass(slots=True)
class Hosted:
    """The round under way with what its shell needs beside the engine's value."""

    plan: Plan
    manifest: Manifest
    round: rounds.Round
    sum: WeightedSum
    traffic: Traffic
    max_delta_bytes: int
    contributions: list[Contribution] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    refused: int = 0

    def refuse(self, refused: Refused) -> None:
        self.refused += 1
        if len(self.refusals) < MAX_REFUSALS_KEPT:
            self.refusals.append(refused)


def open_hosted(
    plan: Plan,
    manifest: Manifest,
    members: Iterable[str],
    cohort: frozenset[str] | None,
    traffic: Traffic,
    now: float,
) -> Hosted:
    """A round that opens now. `cohort` None means all members, and whoever joins."""
    specs = delta_specs(plan.task, manifest)
    round_ = rounds.open_round(
        plan.key,
        members if cohort is None else cohort,
        quorum=plan.quorum,
        deadline_s=plan.deadline_s,
        now=now,
        open_to_all=cohort is None,
    )
    # Eight bytes an element is the widest dtype that a delta may have.
    tallied = 2 * sum(tally.length for tally in manifest.tallies)
    max_delta_bytes = 8 * (sum(math.prod(shape) for _, shape, _ in specs) + tallied) + DELTA_OVERHEAD_BYTES
    return Hosted(plan, manifest, round_, WeightedSum([shape for _, shape, _ in specs]), traffic, max_delta_bytes)


def result_of(hosted: Hosted, traffic: Traffic, now: float) -> RoundResult:
    return RoundResult(
        hosted.plan,
        hosted.round,
        hosted.sum,
        tuple(hosted.contributions),
        tuple(hosted.refusals),
        hosted.refused,
        now - hosted.round.opened_at,
        traffic.since(hosted.traffic),
    )


def checked_tensors(delta: Delta, node: str, hosted: Hosted) -> tuple[Array, ...]:
    """The delta's tensors.

    Raises:
        WireError: it is not from the node whose topic it came on, or not for this task, or has unknown metrics.
        TensorError: its tensors or tallies are not the manifest's.
    """
    if delta.sender != node:
        raise WireError("unauthorised", f"sender: {delta.sender} on the topic of {node}")
    if delta.task != hosted.plan.task:
        raise WireError("malformed", f"task: {delta.task} where {hosted.plan.task} was planned")
    unknown = {metric.name for metric in delta.metrics} - set(hosted.manifest.metrics)
    if unknown:
        raise WireError("malformed", f"metrics: {', '.join(sorted(unknown))} are not in the manifest")
    if not delta.weight > 0:
        raise WireError("malformed", "weight: 0; a node with nothing to give declines the plan")
    check_tallies(delta, hosted.manifest)
    return decode_tensors(delta.tensors, delta_specs(delta.task, hosted.manifest))


def check_tallies(delta: Delta, manifest: Manifest) -> None:
    """Hold a delta's tallies against the manifest: each known one once a split at most, and nothing but counts.

    Raises:
        WireError: an unknown name, one that stands twice, or a count that no number of examples gives.
        TensorError: another length or dtype, or a count that is not finite.
    """
    lengths = {tally.name: tally.length for tally in manifest.tallies}
    seen = {(tally.split, tally.name) for tally in delta.tallies}
    if len(seen) != len(delta.tallies):
        raise WireError("malformed", "tallies: one stands twice")
    for tally in delta.tallies:
        if tally.name not in lengths:
            raise WireError("malformed", f"tallies: {tally.name} is not in the manifest")
        values, length = tally.values, lengths[tally.name]
        if values.shape != (length,) or values.dtype != "float64":
            found = f"{values.dtype} {list(values.shape)}"
            raise TensorError("wrong_shape", f"{tally.name}: {found} where float64 [{length}] belongs")
        counts = decode_tensor(values, tally.name)
        if counts.min() < 0:
            raise WireError("malformed", f"{tally.name}: holds {counts.min()}; a count is at least 0")
        # A bound a device, so that no child can make its parent's own sum a thing to refuse.
        if counts.max() > MAX_TALLIED * delta.devices:
            raise WireError("malformed", f"{tally.name}: holds {counts.max()}; at most {MAX_TALLIED} a device")


def status_of(
    hosted: Hosted, parent: str, members: Mapping[str, NodeStatus], traffic: Traffic, now: float
) -> RoundStatus:
    """The round for people."""
    since = traffic.since(hosted.traffic)
    key, round_ = hosted.plan.key, hosted.round
    return RoundStatus(
        parent=parent,
        run=key.run,
        round=key.round,
        step=key.step,
        attempt=key.attempt,
        task=hosted.plan.task,
        state=round_.state,
        cohort=len(round_.cohort),
        received=len(round_.received),
        refused=hosted.refused,
        devices=round_.devices,
        examples=round_.examples,
        elapsed_s=now - round_.opened_at,
        deadline_s=hosted.plan.deadline_s,
        bytes_down=since.sent_bytes,
        bytes_up=since.received_bytes,
        metrics={f"{mean.split}/{mean.name}": mean.value for mean in means(hosted.sum.metrics)},
        members=_members(hosted, members),
        figures=figures_by_split(hosted.sum.tallies),
    )


def _members(hosted: Hosted, members: Mapping[str, NodeStatus]) -> tuple[MemberStatus, ...]:
    given = {contribution.node: contribution for contribution in hosted.contributions}
    refused = {refusal.node for refusal in hosted.refusals}

    def member(node: str) -> MemberStatus:
        if node in given:
            contribution = given[node]
            return MemberStatus(
                node=node, state="received", examples=contribution.examples, devices=contribution.devices
            )
        if node in hosted.round.away:
            return MemberStatus(node=node, state="refused" if node in refused else "left")
        return MemberStatus(node=node, state="waiting" if node in hosted.round.cohort else "idle")

    return tuple(member(node) for node in sorted(hosted.round.cohort | members.keys()))
