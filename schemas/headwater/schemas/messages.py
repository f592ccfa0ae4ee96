"""Law: one message type serves every tier; whatever may arrive twice names (run, round, step, attempt, sender).

A `Delta` is a weighted sum with its weight, so a device's is the sum of one, a gateway's the sum of its
cluster, and the division happens once, at the top.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, FiniteFloat, model_validator

from headwater.schemas import limits
from headwater.schemas.base import (
    Count,
    Dtype,
    Fraction,
    Frozen,
    Name,
    NodeId,
    Positive,
    RunId,
    Sha256,
    Shape,
    Split,
    Task,
    Text,
    Version,
    Weight,
    added_later,
)
from headwater.schemas.learning import PLAIN, Learning
from headwater.schemas.manifest import SKETCH_BUCKETS, GraphName, Manifest

MAX_ERROR_SPLITS: Final = 2
"""Splits whose errors a plan tells."""

Reason = Literal[
    "duplicate",
    "stale",
    "unknown_round",
    "not_in_cohort",
    "closed",
    "oversized",
    "malformed",
    "wrong_shape",
    "not_finite",
    "unauthorised",
    "no_data",
    "wrong_data",
    "unsupported_graph",
    "training_failed",
    "not_now",
    "two_identities",
]


class RoundKey(Frozen):
    """Which round of which run. `step` counts a parent's own edge rounds within `round`; `attempt` its retries."""

    run: RunId
    round: Count
    step: Count = 0
    attempt: Count = 0


class ObjectRef(Frozen):
    """An object by its content: the SHA-256 of its bytes, and their number."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0, le=limits.MAX_OBJECT_SIZE_BYTES)]


class Tensor(Frozen):
    """A tensor as little-endian row-major bytes; `codec` says how `data` becomes those bytes."""

    dtype: Dtype
    shape: Shape
    codec: Literal["raw"] = "raw"
    data: bytes


class Metric(Frozen):
    """A sum over examples and the number that it was summed over, so that metrics add up exactly."""

    split: Split
    name: Name
    total: FiniteFloat
    weight: Weight


class Counts(Frozen):
    """The sums of a tally, float64: `split` and `name` as a metric's, the divisor being that of the split's metrics."""

    split: Split
    name: Name
    values: Tensor


Tensors = Annotated[tuple[Tensor, ...], Field(max_length=limits.MAX_TENSORS)]
Metrics = Annotated[tuple[Metric, ...], Field(max_length=limits.MAX_METRICS)]


class Bundle(Frozen):
    """A model's graphs, shipped once: ONNX bytes by graph name, and the manifest that orders their inputs."""

    kind: ClassVar = "bundle"
    manifest: Manifest
    graphs: Annotated[dict[GraphName, bytes], Field(min_length=1)]


class Model(Frozen):
    """The parameters of one model version, in the manifest's order.

    Where several models coexist `tensors` hold them one behind the other, in the order of their names in `clusters`.
    `companions` are what a strategy has travel beside the model: SCAFFOLD's control variate, a tensor for each shared
    trainable parameter.
    """

    kind: ClassVar = "model"
    run: RunId
    version: Count
    tensors: Tensors
    clusters: Annotated[tuple[Name, ...], Field(max_length=limits.MAX_CLUSTERS), added_later(())] = ()
    companions: Annotated[Tensors, added_later(())] = ()


class Patch(Frozen):
    """How a model follows from the one before it: by an update, encoded as one going up is.

    The plan says which model it is to be added to. What comes of it is the plan's model, bit by bit; its hash says
    whether it is.
    """

    kind: ClassVar = "patch"
    run: RunId
    version: Count
    update: Annotated[bytes, Field(min_length=1)]


class PatchRef(Frozen):
    """A patch, the model that it belongs on, and the codec that its reader must know."""

    base: ObjectRef
    patch: ObjectRef
    codec: Name


class Errors(Frozen):
    """How many of the fleet's test examples a model misses by how much: its `error_sketch`, from bucket `first` on.

    Buckets before and behind are empty. Counts, and not a threshold: what is an alarm is for each device to say. They
    need not be whole, where a part of them is from an earlier round.
    """

    split: Split
    first: Annotated[int, Field(ge=0, lt=SKETCH_BUCKETS)]
    counts: Annotated[tuple[Weight, ...], Field(min_length=1, max_length=SKETCH_BUCKETS)]

    @model_validator(mode="after")
    def _fits(self) -> "Errors":
        if self.first + len(self.counts) > SKETCH_BUCKETS:
            raise ValueError(f"counts: {len(self.counts)} from bucket {self.first} on; there are {SKETCH_BUCKETS}")
        if not sum(self.counts) > 0:
            raise ValueError("counts: nothing was counted; leave it out")
        return self


class Plan(Frozen):
    """What a parent asks of its cohort in one round. Durations count from arrival: no clock is shared.

    `evaluate` asks for metrics of the received model on the node's own test part, beside the task. A round whose
    number is up to `max_staleness` behind the open one is still worth finishing and sending; it then counts
    `(1 + staleness)**-staleness_exponent`. The round is over when `buffer` updates are in (0: no such number), or, with
    `over_selection`, when as many are in as were needed of the more that were asked. With `adaptive_deadline` a
    parent waits as long as its children's past times suggest, `deadline_s` at most. `learning` names the strategy
    and what else differs from plain FedAvg. Who holds the last version needs only the `patch` to have the model. `mask`
    says which parameters are left of a pruned one. `errors` are the fleet's, by split, as the newest models that were
    measured had them: of the received model (`test`), and of the devices' own (`personal`).
    """

    key: RoundKey
    task: Task
    data: Name
    model: ObjectRef
    bundle: ObjectRef
    local_epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    edge_rounds: Annotated[int, Field(ge=1, le=1_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    learning_rate: Positive = 0.1
    seed: Count = 0
    evaluate: bool = False
    deadline_s: Positive = 60.0
    quorum: Fraction = 0.5
    cohort: Fraction = 1.0
    max_staleness: Annotated[Count, added_later(0)] = 0
    staleness_exponent: Annotated[Weight, added_later(0.5)] = 0.5
    buffer: Annotated[Count, added_later(0)] = 0
    over_selection: Annotated[Weight, added_later(0.0)] = 0.0
    adaptive_deadline: Annotated[bool, added_later(False)] = False
    # A factory, for pydantic makes a deep copy of a default that holds a table, with each plan.
    learning: Annotated[Learning, added_later(PLAIN)] = Field(default_factory=lambda: PLAIN)
    patch: Annotated[PatchRef | None, added_later(None)] = None
    mask: Annotated[ObjectRef | None, added_later(None)] = None
    errors: Annotated[tuple[Errors, ...], Field(max_length=MAX_ERROR_SPLITS), added_later(())] = ()


class Announcement(Frozen):
    """A parent's retained word on where things stand: the open round, or none; and the last that closed.

    With `offers` a child says how large its delta is and sends it when it is asked to.
    """

    kind: ClassVar = "announcement"
    parent: NodeId
    plan: Plan | None = None
    cohort: Annotated[tuple[NodeId, ...], Field(max_length=limits.MAX_CHILDREN)] | None = None
    closed: RoundKey | None = None
    offers: Annotated[bool, added_later(False)] = False


class Delta(Frozen):
    """A weighted sum with its weight, going up.

    `tensors` hold the sum of w·Δ over `devices` devices and `examples` examples with the sum of w in `weight`: a tensor
    for each shared parameter (task train), none (evaluate), or the sums of x and of x² (statistics). Where a strategy
    has more to add up (`tensors.delta_specs`) that follows. `coded` is all of them in few bytes, in place of `tensors`.
    Where several models coexist the tensors are those of each, and `shares` says how much of the weight each has.
    `applied` lists what was done to it on the way (clip, noise, codec), in order.
    """

    kind: ClassVar = "delta"
    key: RoundKey
    sender: NodeId
    task: Task
    weight: Weight
    examples: Count
    devices: Count
    tensors: Tensors = ()
    metrics: Metrics = ()
    applied: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    tallies: Annotated[tuple[Counts, ...], Field(max_length=limits.MAX_METRICS), added_later(())] = ()
    coded: Annotated[bytes, added_later(b"")] = b""
    shares: Annotated[tuple[Weight, ...], Field(max_length=limits.MAX_CLUSTERS), added_later(())] = ()

    @model_validator(mode="after")
    def _weight_and_tensors_agree(self) -> "Delta":
        carries = bool(self.tensors or self.coded)
        if self.tensors and self.coded:
            raise ValueError("coded: there are tensors too; a delta has one of them")
        if self.task == "evaluate" and carries:
            raise ValueError("tensors: an evaluation carries none")
        if self.task != "evaluate" and carries != (self.weight > 0):
            raise ValueError("weight: must be 0 exactly when there are no tensors")
        return self


class Chunk(Frozen):
    """A piece of an object; pieces may come in any order, twice, or from another sender."""

    kind: ClassVar = "chunk"
    object: ObjectRef
    offset: Count
    data: Annotated[bytes, Field(min_length=1, max_length=limits.CHUNK_SIZE_BYTES)]

    @model_validator(mode="after")
    def _fits(self) -> "Chunk":
        if self.offset % limits.CHUNK_SIZE_BYTES:
            raise ValueError(f"offset: {self.offset} is no multiple of {limits.CHUNK_SIZE_BYTES}")
        expected = min(limits.CHUNK_SIZE_BYTES, self.object.size_bytes - self.offset)
        if len(self.data) != expected:
            raise ValueError(f"data: {len(self.data)} bytes where {expected} belong")
        return self


class Want(Frozen):
    """A request for the chunks of an object that a node misses, by index."""

    kind: ClassVar = "want"
    object: ObjectRef
    missing: Annotated[tuple[Count, ...], Field(min_length=1, max_length=limits.MAX_CHUNKS)]


class Offer(Frozen):
    """A child has its delta ready, and waits for the parent's `Want` before it sends it."""

    kind: ClassVar = "offer"
    key: RoundKey
    sender: NodeId
    object: ObjectRef


class Release(Frozen):
    """What whoever signs a fleet's software says once and for all: this wheel is version `version`.

    `counter` grows with every release of a fleet, also with one whose version is an older one: a device takes none that
    is not above its last, so that a release of the past is good for nothing when it comes again.
    """

    kind: ClassVar = "release"
    fleet: NodeId
    counter: Annotated[int, Field(ge=1, le=limits.MAX_COUNT)]
    version: Version
    wheel: ObjectRef

    @model_validator(mode="after")
    def _is_small(self) -> "Release":
        if self.wheel.size_bytes > limits.MAX_WHEEL_SIZE_BYTES:
            raise ValueError(f"wheel: {self.wheel.size_bytes} bytes; at most {limits.MAX_WHEEL_SIZE_BYTES}")
        return self


class Rollout(Frozen):
    """A parent's retained word on which of the devices below it should run a release, in this stage.

    `release` is the encoded Release, `signature` its signer's. Asked are those in `nodes`, and that share of all others
    which `node.releases.is_asked` draws; with neither nobody is, and who has not begun stays as it is.
    """

    kind: ClassVar = "rollout"
    release: Annotated[bytes, Field(min_length=1, max_length=1024)]
    signature: Annotated[bytes, Field(min_length=limits.SIGNATURE_SIZE_BYTES, max_length=limits.SIGNATURE_SIZE_BYTES)]
    stage: Count = 0
    nodes: Annotated[tuple[NodeId, ...], Field(max_length=limits.MAX_CANARIES)] = ()
    share: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0


class Alive(Frozen):
    """A sign of life, every `every_s` seconds; silence is judged by the listener's own clock."""

    kind: ClassVar = "alive"
    sender: NodeId
    boot: Annotated[str, Field(max_length=64)]
    every_s: Positive


class Receipt(Frozen):
    """The parent's word, not merely the broker's, that a delta is in its round."""

    kind: ClassVar = "receipt"
    key: RoundKey
    sender: NodeId


class Refusal(Frozen):
    """Why a delta was not taken (parent to child), or why a plan cannot be followed (child to parent)."""

    kind: ClassVar = "refusal"
    key: RoundKey | None
    sender: NodeId
    reason: Reason
    detail: Text = ""


Domain = Literal["announcement", "delta"]
"""What kind of word was signed, so that one cannot stand for another."""


class Signed(Frozen):
    """A message as bytes, and its sender's Ed25519 signature over all of this but `certificate`, and the fleet's name.

    A delta names its plan's `key` and the `receiver` that it is for. An announcement is for whoever reads it, and says
    how new it is: by `number` within an `epoch` of its sender, which rises with each of its starts. `certificate` is
    the sender's, in DER, and empty where the receiver has it from the sender's status.
    """

    kind: ClassVar = "signed"
    domain: Domain
    sender: NodeId
    receiver: NodeId | None = None
    key: RoundKey | None = None
    epoch: Count = 0
    number: Count = 0
    certificate: Annotated[bytes, Field(max_length=limits.MAX_CERTIFICATE_SIZE_BYTES)] = b""
    signature: Annotated[bytes, Field(min_length=limits.SIGNATURE_SIZE_BYTES, max_length=limits.SIGNATURE_SIZE_BYTES)]
    payload: Annotated[bytes, Field(min_length=1)]


class EnrolmentRequest(Frozen):
    """Whoever has a one-time token asks for the certificate of the node that it names.

    `request` is a PEM request (CSR), signed by the key that it is about; `proof` shows that its sender has the token.
    """

    kind: ClassVar = "enrolment_request"
    node: NodeId
    request: Annotated[bytes, Field(min_length=1, max_length=limits.MAX_REQUEST_SIZE_BYTES)]
    proof: Annotated[bytes, Field(min_length=32, max_length=32)]


class EnrolmentAnswer(Frozen):
    """The node's certificate and its authorities', in PEM; or a `refusal`, in words.

    `proof` shows that the answer is from who made the token, and to this request. It is of this message's encoding
    without it, and empty where the token is unknown or was not proven.
    """

    kind: ClassVar = "enrolment_answer"
    certificate: Annotated[bytes, Field(max_length=limits.MAX_CERTIFICATE_SIZE_BYTES)] = b""
    authorities: Annotated[bytes, Field(max_length=limits.MAX_AUTHORITIES_SIZE_BYTES)] = b""
    refusal: Text = ""
    proof: Annotated[bytes, Field(max_length=32)] = b""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "EnrolmentAnswer":
        if bool(self.refusal) == bool(self.certificate) or bool(self.certificate) != bool(self.authorities):
            raise ValueError("refusal: there is one exactly when there are no certificates")
        return self


Message = (
    Bundle
    | Model
    | Patch
    | Announcement
    | Delta
    | Chunk
    | Want
    | Offer
    | Release
    | Rollout
    | Alive
    | Receipt
    | Refusal
    | Signed
    | EnrolmentRequest
    | EnrolmentAnswer
)
MESSAGES: tuple[type[Message], ...] = (
    Bundle,
    Model,
    Patch,
    Announcement,
    Delta,
    Chunk,
    Want,
    Offer,
    Release,
    Rollout,
    Alive,
    Receipt,
    Refusal,
    Signed,
    EnrolmentRequest,
    EnrolmentAnswer,
)
