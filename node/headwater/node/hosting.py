"""Law: a hosted round is the engine's value with what its shell gathered beside it; here it is only looked at."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Final

import numpy as np

from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum, means
from headwater.core.compress import decode
from headwater.core.compress.prune import Mask, narrowed_specs, widened
from headwater.core.figures import figures_by_split
from headwater.core.select import EVERYONE, Chosen
from headwater.core.times import Spent, times
from headwater.node.places import no_model_for
from headwater.schemas.limits import MAX_COUNT, MAX_TALLIED, MAX_WEIGHED
from headwater.schemas.manifest import DEVICE_TALLIES, SPENT, STANDING_METRICS, TRAIN_S, WAIT_S, Manifest
from headwater.schemas.messages import Delta, ObjectRef, Plan, Reason, RoundKey
from headwater.schemas.statuses import MemberStatus, NodeStatus, RoundStatus, Times
from headwater.schemas.tensors import Array, Specs, TensorError, decode_tensor, decode_tensors, delta_specs
from headwater.schemas.wire import WireError, reference
from headwater.transport.session import Traffic

MAX_REFUSALS_KEPT: Final = 256
"""Of one round, with their sentences; further ones are only counted."""

MAX_MEMBERS_TOLD: Final = 1_000
"""Of a larger cluster people read the numbers; with everyone's name a status would not pass a broker."""

DIGITS_TOLD: Final = 5
"""Of what is told of each member."""

MEMBER_SIZE_BYTES: Final = 176
"""What a member takes in a status, beside its name, at most."""

MEMBERS_SIZE_BYTES: Final = 192 * 1024
"""What all of them may take; the rest of a status is for the figures."""

MAX_SPLITS: Final = 4
"""Of which a delta tells metrics and tallies."""

DELTA_OVERHEAD_BYTES: Final = 64 * 1024
"""What a delta may have beside its tensors."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one child gave to a round, `after_s` seconds after it opened.

    `key` is that of the plan which the delta answers: an older round's where it is stale, and the sum holds `factor`
    times it then. `ref` names the encoded delta; `payload` is that, where the host was asked to keep it. `loss` is its
    mean training loss, `train_s` and `wait_s` how long the mean device below it worked, and its update waited for
    others below; None where it does not say.
    """

    node: str
    weight: float
    examples: int
    devices: int
    after_s: float
    key: RoundKey
    factor: float
    ref: ObjectRef
    payload: bytes | None = None
    loss: float | None = None
    train_s: float | None = None
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A delta that was not taken, or a plan that was not followed."""

    node: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A round that ended: closed with a sum, or failed. `told` is what people heard of it then."""

    plan: Plan
    round: rounds.Round
    sum: WeightedSum
    contributions: tuple[Contribution, ...]
    refusals: tuple[Refused, ...]
    refused: int
    elapsed_s: float
    traffic: Traffic
    told: RoundStatus | None = None

    @property
    def times(self) -> Times | None:
        """How the mean child spent the round; None where none said so."""
        return self.told.times if self.told is not None else None

    @property
    def closed(self) -> bool:
        return self.round.state == "closed"


@dataclass(frozen=True, slots=True)
class Opening:
    """Whom a round begins with.

    `contributors` are in it already, by the journal; `counted` are the updates that the run's earlier rounds hold;
    `models` coexist, and where each belongs to a child `places` are those children in their order; `masks` are what is
    left of each shared parameter.
    """

    members: frozenset[str] = frozenset()
    chosen: Chosen = EVERYONE
    contributors: frozenset[str] = frozenset()
    counted: frozenset[rounds.Contributor] = frozenset()
    models: int = 1
    places: tuple[str, ...] = ()
    masks: tuple[Mask, ...] = ()


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
    places: tuple[str, ...] = ()
    masks: tuple[Mask, ...] = ()
    keep_payloads: bool = False
    folded: dict[tuple[str, bytes], RoundKey] = field(default_factory=dict)
    """What is in the sum, by sender and the encoded delta's hash."""
    reserves: list[str] | None = None
    """Who takes the places of those who decline, the next one last; None: nobody declined yet."""
    invited_at: float = 0.0
    """When such a place was last announced."""

    @property
    def is_tolerant(self) -> bool:
        return self.plan.max_staleness > 0

    def would_take(self, key: RoundKey) -> bool:
        return rounds.worth_taking(key, self.plan.key, self.plan.max_staleness)

    def refuse(self, refused: Refused) -> None:
        self.refused += 1
        if len(self.refusals) < MAX_REFUSALS_KEPT:
            self.refusals.append(refused)


def open_hosted(
    plan: Plan, manifest: Manifest, opening: Opening, traffic: Traffic, now: float, deadline_s: float | None = None
) -> Hosted:
    """A round that opens now. `deadline_s` is how long this parent waits, where that is not what the plan allows."""
    # Statistics and evaluations are about the data, whichever model they belong to.
    models, places = (opening.models, opening.places) if plan.task == "train" else (1, ())
    specs = delta_specs(plan.task, manifest, plan.learning)
    chosen = opening.chosen
    round_ = rounds.open_round(
        plan.key,
        (opening.members if chosen.cohort is None else chosen.cohort) | opening.contributors,
        quorum=plan.quorum,
        deadline_s=deadline_s or plan.deadline_s,
        now=now,
        open_to_all=chosen.cohort is None,
        enough=plan.buffer or (chosen.needed if plan.over_selection and chosen.cohort is not None else 0),
        tolerance=rounds.Tolerance(plan.max_staleness, plan.staleness_exponent, opening.counted),
    )
    # Eight bytes an element is the widest dtype that a delta may have.
    tallied = MAX_SPLITS * (sum(tally.length for tally in manifest.tallies) + sum(DEVICE_TALLIES.values()))
    elements = models * sum(math.prod(shape) for _, shape, _ in specs)
    max_delta_bytes = 8 * (elements + tallied) + DELTA_OVERHEAD_BYTES
    sum_ = WeightedSum([shape for _, shape, _ in specs], models)
    return Hosted(plan, manifest, round_, sum_, traffic, max_delta_bytes, places=places, masks=opening.masks)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delta on its way into the sum. `is_kept`: the journal has it, and it comes from there."""

    delta: Delta
    tensors: tuple[Array, ...]
    payload: bytes
    is_kept: bool


def fold(hosted: Hosted, arrival: Arrival, factor: float, now: float) -> None:
    """Add `factor` times a delta to the round's sum, and to its records."""
    delta, ref = arrival.delta, reference(arrival.payload)
    shares = _of_its_place(hosted, delta) if hosted.places else delta.shares
    tensors, rest = _discounted(hosted, arrival.tensors, factor)
    hosted.sum.add(tensors, delta.weight, delta.metrics, delta.tallies, factor=rest, shares=shares)
    hosted.folded[delta.sender, ref.sha256] = delta.key
    hosted.contributions.append(
        Contribution(
            node=delta.sender,
            weight=delta.weight,
            examples=delta.examples,
            devices=delta.devices,
            after_s=now - hosted.round.opened_at,
            key=delta.key,
            factor=factor,
            ref=ref,
            payload=arrival.payload if hosted.keep_payloads else None,
            loss=_mean(delta, "loss"),
            train_s=_mean(delta, TRAIN_S),
            wait_s=_mean(delta, WAIT_S),
        )
    )


def _discounted(hosted: Hosted, tensors: tuple[Array, ...], factor: float) -> tuple[tuple[Array, ...], float]:
    """What is added of an update that counts `factor` times, and how many times. Its step may be smaller; a control
    variate's change is a fact: its device has made all of it, and the fleet's is the mean of the devices' only if it
    does too."""
    if factor == 1 or hosted.plan.learning.strategy.local_rule != "scaffold" or hosted.plan.task != "train":
        return tensors, factor
    steps = len(hosted.manifest.shared)
    return (*(factor * tensor.astype(np.float64) for tensor in tensors[:steps]), *tensors[steps:]), 1.0


def _mean(delta: Delta, name: str) -> float | None:
    """What a delta says of its training."""
    totals = [(m.total, m.weight) for m in delta.metrics if m.split == "train" and m.name == name and m.weight > 0]
    return totals[0][0] / totals[0][1] if totals else None


def result_of(hosted: Hosted, told: RoundStatus, traffic: Traffic) -> RoundResult:
    return RoundResult(
        hosted.plan,
        hosted.round,
        hosted.sum,
        tuple(hosted.contributions),
        tuple(hosted.refusals),
        hosted.refused,
        told.elapsed_s,
        traffic.since(hosted.traffic),
        told,
    )


def with_aggregate(result: RoundResult, aggregate_s: float) -> RoundResult:
    """The result, and what people hear of it, with how long the new model took behind the round's close."""
    if result.told is None or result.times is None:
        return result
    times = result.times.model_copy(update={"aggregate_s": aggregate_s})
    return replace(result, told=result.told.model_copy(update={"times": times}))


def checked_tensors(delta: Delta, node: str, hosted: Hosted) -> tuple[Array, ...]:
    """The delta's tensors, none where its key alone has the engine refuse it.

    Raises:
        WireError: it is not from the node whose topic it came on, or not for this task, or has unknown metrics, or
            numbers that no sum can hold.
        TensorError: its tensors or tallies are not the manifest's.
    """
    if delta.sender != node:
        raise WireError("unauthorised", f"sender: {delta.sender} on the topic of {node}")
    if not hosted.would_take(delta.key):
        return ()
    if delta.task != hosted.plan.task:
        raise WireError("malformed", f"task: {delta.task} where {hosted.plan.task} was planned")
    unknown = {metric.name for metric in delta.metrics} - {*hosted.manifest.metrics, *STANDING_METRICS}
    if unknown:
        raise WireError("malformed", f"metrics: {', '.join(sorted(unknown))} are not in the manifest")
    if not delta.weight > 0:
        raise WireError("malformed", "weight: 0; a node with nothing to give declines the plan")
    check_sums(delta, hosted.round)
    check_tallies(delta, hosted.manifest)
    check_shares(delta, hosted)
    models = sum(share > 0 for share in delta.shares) or 1
    specs = delta_specs(delta.task, hosted.manifest, hosted.plan.learning, models)
    return update_of(delta, specs, _masks_of(hosted, delta.key))


def _masks_of(hosted: Hosted, key: RoundKey) -> tuple[Mask, ...]:
    """What was left of the model that a plan was about: a late update may be of the whole one."""
    return hosted.masks if key.round > hosted.plan.learning.pruning.at_round else ()


def update_of(delta: Delta, specs: Specs, masks: tuple[Mask, ...] = ()) -> tuple[Array, ...]:
    """A delta's tensors, however they are written.

    Raises:
        TensorError: they are not what the specs say.
    """
    if not delta.coded:
        return decode_tensors(delta.tensors, specs)
    return widened(decode(delta.coded, narrowed_specs(specs, masks)), masks) if masks else decode(delta.coded, specs)


def _of_its_place(hosted: Hosted, delta: Delta) -> tuple[float, ...]:
    """All of a delta's weight is that of its sender's model."""
    return tuple(delta.weight if place == delta.sender else 0.0 for place in hosted.places)


def check_shares(delta: Delta, hosted: Hosted) -> None:
    """Raises WireError where a delta's weight is not shared among the models that coexist, or has none of them."""
    if hosted.places and delta.sender not in hosted.places:
        raise WireError("not_in_cohort", f"sender: {no_model_for(delta.sender)}")
    models = 0 if hosted.places else len(hosted.sum.shares)
    if len(delta.shares) != models:
        raise WireError("malformed", f"shares: {len(delta.shares)} where {models} models coexist")
    if models and not math.isclose(math.fsum(delta.shares), delta.weight, rel_tol=1e-9):
        raise WireError("malformed", f"shares: {list(delta.shares)} do not make the weight {delta.weight}")


def check_sums(delta: Delta, round_: rounds.Round) -> None:
    """Hold a delta's numbers against what a round can count and tell, its own sum and those of the tiers above.

    Raises:
        WireError: more examples or devices than can be counted with those of the round, or a weight, or a metric's
            mean, beyond `MAX_WEIGHED`.
    """
    for what, more, so_far in (
        ("examples", delta.examples, round_.examples),
        ("devices", delta.devices, round_.devices),
    ):
        if so_far + more > MAX_COUNT:
            raise WireError("malformed", f"{what}: {more} more pass the {MAX_COUNT} that a round can count")
    if delta.weight > MAX_WEIGHED:
        raise WireError("malformed", f"weight: {delta.weight}; at most {MAX_WEIGHED}")
    for metric in delta.metrics:
        # A weight that is next to nothing would make a mean that is no number.
        if metric.weight > MAX_WEIGHED or abs(metric.total) > MAX_WEIGHED * metric.weight:
            said = f"{metric.total} over {metric.weight}"
            raise WireError("malformed", f"metrics: {metric.name} is {said}; weight and mean are {MAX_WEIGHED} at most")


def check_tallies(delta: Delta, manifest: Manifest) -> None:
    """Hold a delta's tallies against the manifest: each known one once a split at most, and nothing but counts.

    Raises:
        WireError: an unknown name, one that stands twice, or a count that no number of examples gives.
        TensorError: another length or dtype, or a count that is not finite.
    """
    lengths = DEVICE_TALLIES | {tally.name: tally.length for tally in manifest.tallies}
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
    elapsed_s = now - round_.opened_at
    told = [metric for metric in hosted.sum.metrics if metric.name not in SPENT]
    return RoundStatus(
        parent=parent,
        run=key.run,
        round=key.round,
        step=key.step,
        attempt=key.attempt,
        task=hosted.plan.task,
        state=round_.state,
        cohort=len(round_.cohort),
        received=round_.updates,
        refused=hosted.refused,
        devices=round_.devices,
        examples=round_.examples,
        elapsed_s=elapsed_s,
        deadline_s=hosted.plan.deadline_s,
        bytes_down=since.sent_bytes,
        bytes_up=since.received_bytes,
        metrics={f"{mean.split}/{mean.name}": mean.value for mean in means(told)},
        members=_members(hosted, members),
        figures=figures_by_split(hosted.sum.tallies),
        times=None if round_.state == "open" else times(elapsed_s, _spent(hosted.contributions)),
    )


def _spent(contributions: Sequence[Contribution]) -> Iterator[Spent]:
    """Of the children that say it."""
    for given in contributions:
        if given.train_s is not None:
            yield Spent(given.after_s, given.train_s, given.wait_s or 0.0)


def _members(hosted: Hosted, members: Mapping[str, NodeStatus]) -> tuple[MemberStatus, ...]:
    given = {contribution.node: contribution for contribution in hosted.contributions}
    refused = {refusal.node for refusal in hosted.refusals}

    def member(node: str) -> MemberStatus:
        if node in given:
            return _received(given[node])
        if node in hosted.round.away:
            return MemberStatus(node=node, state="refused" if node in refused else "left")
        return MemberStatus(node=node, state="waiting" if node in hosted.round.cohort else "idle")

    known = hosted.round.cohort | members.keys()
    room = MEMBERS_SIZE_BYTES // (MEMBER_SIZE_BYTES + max(map(len, known), default=0))
    return tuple(member(node) for node in nsmallest(min(MAX_MEMBERS_TOLD, room), known))


def _received(given: Contribution) -> MemberStatus:
    """In digits that people read: a large cluster's status has room for no more."""
    return MemberStatus(
        node=given.node,
        state="received",
        examples=given.examples,
        devices=given.devices,
        after_s=_short(given.after_s),
        loss=_short(given.loss),
        train_s=_short(given.train_s),
        size_bytes=given.ref.size_bytes,
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS_TOLD}g}")
