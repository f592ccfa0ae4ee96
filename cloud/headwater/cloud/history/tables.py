"""Law: every table and column says in plain words what it holds; a round's rows are written together or not at all."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """Times with a zone in, UTC times out, on databases that keep zones and on those that do not."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Said(TypeDecorator[str]):
    """What others said. PostgreSQL knows no text with a NUL in it."""

    impl: Any = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if value else value


class SaidInShort(Said):
    """Of a stated length."""

    impl = String
    cache_ok = True


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


_COUNTED = BigInteger().with_variant(Integer(), "sqlite")
"""What children count, or a link: more than PostgreSQL's `integer` holds. SQLite has one integer, of eight bytes."""

_ONE_ACTIVE = text("state IN ('running', 'paused')")


class Run(Base):
    """A run from its description to its end."""

    __tablename__ = "runs"
    __table_args__ = (
        # The rule that a fleet has one active run at a time is the database's, so no two coordinators can break it.
        Index("one_active_run_a_fleet", "fleet", unique=True, sqlite_where=_ONE_ACTIVE, postgresql_where=_ONE_ACTIVE),
        {"comment": "A run: what was asked for, and how far it came."},
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True, comment="Name of the run, sortable by time.")
    fleet: Mapped[str] = mapped_column(String(64), comment="The fleet that works on it.")
    name: Mapped[str] = mapped_column(String(128), comment="What its owner calls it.")
    state: Mapped[str] = mapped_column(String(16), comment="queued, running, paused, finished, stopped or failed.")
    description: Mapped[str] = mapped_column(Text, comment="The validated description, as JSON.")
    # Megabytes that who lists runs has no use for.
    forward: Mapped[bytes | None] = mapped_column(
        LargeBinary, deferred=True, comment="The owner's forward ONNX model, if it has one."
    )
    initial: Mapped[bytes | None] = mapped_column(
        LargeBinary, deferred=True, comment="The owner's parameters to begin with, as a model, until it has begun."
    )
    stop_requested: Mapped[bool] = mapped_column(comment="True when somebody asked it to stop after its round.")
    pause_requested: Mapped[bool] = mapped_column(comment="True while somebody wants it to rest between two rounds.")
    pauses: Mapped[int] = mapped_column(Integer, comment="How often it rested, the rest that goes on included.")
    rested_s: Mapped[float] = mapped_column(Float, comment="Seconds for which it rested, in the rests that are over.")
    rests_since: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="When the rest began that goes on, or in which the run was ended."
    )
    bundle: Mapped[bytes | None] = mapped_column(LargeBinary(32), comment="SHA-256 of its bundle of graphs.")
    failure: Mapped[str] = mapped_column(Said, default="", comment="Why it failed, in one sentence.")
    queued_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it was asked for.")
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="When the coordinator began it.")
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="When it ended, whichever way.")


class Object(Base):
    """Bytes by their hash."""

    __tablename__ = "objects"
    __table_args__ = ({"comment": "Model versions, bundles and forward models, by the SHA-256 of their bytes."},)

    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True, comment="SHA-256 of the payload.")
    payload: Mapped[bytes] = mapped_column(LargeBinary, comment="The encoded message, or the ONNX file.")
    size_bytes: Mapped[int] = mapped_column(Integer, comment="Length of the payload.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it was first stored.")


class ModelVersion(Base):
    """A version of a run's model."""

    __tablename__ = "models"
    __table_args__ = ({"comment": "Which model each version of a run is. Version 0 is what it began with."},)

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, comment="The run.")
    version: Mapped[int] = mapped_column(Integer, primary_key=True, comment="The round whose result it is.")
    sha256: Mapped[bytes] = mapped_column(ForeignKey("objects.sha256"), comment="The model, in objects.")
    memory: Mapped[bytes | None] = mapped_column(
        ForeignKey("objects.sha256"), comment="What the strategy keeps beside it, in objects; of the newest version."
    )
    patch: Mapped[bytes | None] = mapped_column(
        ForeignKey("objects.sha256"), comment="What leads here from the version before, in objects, where one is sent."
    )


class Round(Base):
    """One attempt at a round."""

    __tablename__ = "rounds"
    __table_args__ = ({"comment": "Attempts at rounds: one row each, written when the attempt has ended."},)

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, comment="The run.")
    round: Mapped[int] = mapped_column(Integer, primary_key=True, comment="Its number; 0 is the statistics pass.")
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, comment="0 for the first attempt.")
    task: Mapped[str] = mapped_column(String(16), primary_key=True, comment="train, evaluate or statistics.")
    state: Mapped[str] = mapped_column(String(16), comment="closed (it counts) or failed (no quorum by the deadline).")
    cohort: Mapped[int] = mapped_column(Integer, comment="How many of the cloud's children were expected.")
    received: Mapped[int] = mapped_column(Integer, comment="How many contributed.")
    devices: Mapped[int] = mapped_column(_COUNTED, comment="Devices below them that contributed.")
    examples: Mapped[int] = mapped_column(_COUNTED, comment="Examples behind the sum.")
    weight: Mapped[float] = mapped_column(Float, comment="What the sum was divided by.")
    refused: Mapped[int] = mapped_column(Integer, comment="How many deltas or plans were refused.")
    bytes_down: Mapped[int] = mapped_column(_COUNTED, comment="Payload bytes that the cloud sent during the round.")
    bytes_up: Mapped[int] = mapped_column(_COUNTED, comment="Payload bytes that it received.")
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it opened.")
    elapsed_s: Mapped[float] = mapped_column(Float, comment="How long it was open, in seconds.")
    train_s: Mapped[float | None] = mapped_column(
        Float, comment="Seconds that the mean child's devices worked; empty where none said so."
    )
    transfer_s: Mapped[float | None] = mapped_column(
        Float, comment="Seconds that its model and its update were on their way."
    )
    wait_s: Mapped[float | None] = mapped_column(
        Float, comment="Seconds that its update waited for those of others; the three make elapsed_s."
    )
    aggregate_s: Mapped[float | None] = mapped_column(
        Float, comment="Seconds from the close until the new model was ready to be written here."
    )


def _of_a_round() -> ForeignKeyConstraint:
    key = ("run", "round", "attempt", "task")
    return ForeignKeyConstraint(key, [f"rounds.{column}" for column in key])


_ANSWERS = ("of_round", "of_step", "of_attempt")


class Contribution(Base):
    """What a child gave to a round."""

    __tablename__ = "contributions"
    __table_args__ = (
        _of_a_round(),
        Index("contributions_of_a_node", "node"),
        {"comment": "What each child of the cloud gave to a round that closed."},
    )

    run: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The run.")
    round: Mapped[int] = mapped_column(Integer, primary_key=True, comment="The round.")
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, comment="The attempt.")
    task: Mapped[str] = mapped_column(String(16), primary_key=True, comment="The task.")
    node: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The child.")
    weight: Mapped[float] = mapped_column(Float, comment="Its weight in the mean.")
    examples: Mapped[int] = mapped_column(_COUNTED, comment="Examples behind it.")
    devices: Mapped[int] = mapped_column(_COUNTED, comment="Devices behind it.")
    based_on: Mapped[int] = mapped_column(
        Integer, primary_key=True, comment="The round whose plan it answers: an earlier one where it came late."
    )
    based_attempt: Mapped[int] = mapped_column(_COUNTED, primary_key=True, comment="The attempt at that round.")
    staleness: Mapped[int] = mapped_column(Integer, comment="How many model versions it is behind.")
    factor: Mapped[float] = mapped_column(Float, comment="What its delta was multiplied by for that.")
    sha256: Mapped[bytes | None] = mapped_column(
        ForeignKey("objects.sha256"), comment="Its encoded delta, in objects, where the run keeps deltas."
    )
    size_bytes: Mapped[int] = mapped_column(Integer, comment="Bytes of its delta.")
    after_s: Mapped[float] = mapped_column(Float, comment="Seconds after the round opened when it was complete.")
    train_s: Mapped[float | None] = mapped_column(
        Float, comment="Seconds that its devices worked, the mean; empty where it does not say."
    )
    loss: Mapped[float | None] = mapped_column(Float, comment="Its mean training loss; empty where it does not say.")


class Pending(Base):
    """A delta that the open round has, and that was acknowledged."""

    __tablename__ = "pending"
    __table_args__ = (
        Index("one_pending_a_delta", "run", "round", "attempt", "node", *_ANSWERS, unique=True),
        {"comment": "What the open round has received, until it ends. A coordinator that begins anew goes on with it."},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True, comment="Their order.")
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), comment="The run.")
    round: Mapped[int] = mapped_column(Integer, comment="The open round.")
    attempt: Mapped[int] = mapped_column(Integer, comment="Its attempt.")
    task: Mapped[str] = mapped_column(String(16), comment="Its task.")
    node: Mapped[str] = mapped_column(String(64), comment="The child.")
    of_round: Mapped[int] = mapped_column(Integer, comment="The round whose plan the delta answers.")
    of_step: Mapped[int] = mapped_column(Integer, comment="Its step.")
    of_attempt: Mapped[int] = mapped_column(_COUNTED, comment="Its attempt.")
    size_bytes: Mapped[int] = mapped_column(Integer, comment="Length of the payload.")
    # Last, so that sizes are summed up without reading any payload.
    payload: Mapped[bytes] = mapped_column(LargeBinary, comment="The encoded delta.")


class Metric(Base):
    """A metric of a model version."""

    __tablename__ = "metrics"
    __table_args__ = ({"comment": "Metrics of model versions, summed over the tree; divide total by weight."},)

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, comment="The run.")
    version: Mapped[int] = mapped_column(
        Integer, primary_key=True, comment="For test: the model version that was measured. For train: the round."
    )
    split: Mapped[str] = mapped_column(String(8), primary_key=True, comment="train or test.")
    name: Mapped[str] = mapped_column(String(128), primary_key=True, comment="loss, correct, …")
    total: Mapped[float] = mapped_column(Float, comment="Sum over examples.")
    weight: Mapped[float] = mapped_column(Float, comment="Number of examples that it was summed over.")


class Tally(Base):
    """A tally of a model version."""

    __tablename__ = "tallies"
    __table_args__ = (
        {"comment": "Counts behind the figures of model versions, summed over the tree: by class, or an error sketch."},
    )

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, comment="The run.")
    version: Mapped[int] = mapped_column(
        Integer, primary_key=True, comment="For test: the model version that was measured. For train: the round."
    )
    split: Mapped[str] = mapped_column(String(8), primary_key=True, comment="train or test.")
    name: Mapped[str] = mapped_column(String(128), primary_key=True, comment="class_examples, error_sketch, …")
    counts: Mapped[list[float]] = mapped_column(JSON, comment="The counts, a JSON list in the order of the classes.")


class Refusal(Base):
    """What was refused in a round."""

    __tablename__ = "refusals"
    __table_args__ = (
        _of_a_round(),
        Index("refusals_of_a_node", "node"),
        Index("refusals_of_a_run", "run"),
        {"comment": "Deltas not taken and plans not followed, with the reason."},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True, comment="A number.")
    run: Mapped[str] = mapped_column(String(64), comment="The run.")
    round: Mapped[int] = mapped_column(Integer, comment="The round.")
    attempt: Mapped[int] = mapped_column(Integer, comment="The attempt.")
    task: Mapped[str] = mapped_column(String(16), comment="The task.")
    node: Mapped[str] = mapped_column(String(64), comment="The child.")
    reason: Mapped[str] = mapped_column(String(32), comment="One of the protocol's reasons.")
    detail: Mapped[str] = mapped_column(Said, comment="The sentence that was sent.")


class ClusterRound(Base):
    """A gateway's round that has ended."""

    __tablename__ = "cluster_rounds"
    __table_args__ = (
        {"comment": "Clusters' rounds that have ended, as their gateways told people; what nobody heard is not here."},
    )

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, comment="The run.")
    round: Mapped[int] = mapped_column(Integer, primary_key=True, comment="The cloud's round that it is a part of.")
    gateway: Mapped[str] = mapped_column(String(64), primary_key=True, comment="Whose cluster it is.")
    step: Mapped[int] = mapped_column(_COUNTED, primary_key=True, comment="Which of its edge rounds, from 0.")
    attempt: Mapped[int] = mapped_column(_COUNTED, primary_key=True, comment="The attempt at the round.")
    task: Mapped[str] = mapped_column(String(16), primary_key=True, comment="train, evaluate or statistics.")
    state: Mapped[str] = mapped_column(String(16), comment="closed or failed.")
    examples: Mapped[int] = mapped_column(_COUNTED, comment="Examples behind its sum.")
    devices: Mapped[int] = mapped_column(_COUNTED, comment="Devices behind it.")
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When the cloud heard of its end.")
    status: Mapped[str] = mapped_column(Text, comment="All that the gateway told, as JSON, without the members.")


_CLUSTER_KEY = ("run", "round", "gateway", "step", "attempt", "task")


class ClusterMember(Base):
    """A child of a gateway in a round of its cluster."""

    __tablename__ = "cluster_members"
    __table_args__ = (
        ForeignKeyConstraint(_CLUSTER_KEY, [f"cluster_rounds.{column}" for column in _CLUSTER_KEY]),
        Index("cluster_rounds_of_a_node", "node"),
        {"comment": "What each child of a gateway had to do with a round of its cluster."},
    )

    run: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The run.")
    round: Mapped[int] = mapped_column(Integer, primary_key=True, comment="The round.")
    gateway: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The gateway.")
    step: Mapped[int] = mapped_column(_COUNTED, primary_key=True, comment="The edge round.")
    attempt: Mapped[int] = mapped_column(_COUNTED, primary_key=True, comment="The attempt.")
    task: Mapped[str] = mapped_column(String(16), primary_key=True, comment="The task.")
    node: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The child.")
    state: Mapped[str] = mapped_column(String(16), comment="received, waiting, left, refused or idle.")
    examples: Mapped[int] = mapped_column(_COUNTED, comment="Examples behind what it gave.")
    devices: Mapped[int] = mapped_column(_COUNTED, comment="Devices behind it.")
    after_s: Mapped[float | None] = mapped_column(Float, comment="Seconds after the round opened when it was complete.")
    loss: Mapped[float | None] = mapped_column(Float, comment="Its mean training loss.")
    train_s: Mapped[float | None] = mapped_column(Float, comment="Seconds for which it trained.")
    size_bytes: Mapped[int] = mapped_column(_COUNTED, comment="Bytes of its delta.")


class Node(Base):
    """A child of the cloud, or one below a gateway that a cluster's round told of."""

    __tablename__ = "nodes"
    __table_args__ = (
        {"comment": "The cloud's children, as they last said of themselves; and who took part below its gateways."},
    )

    fleet: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The fleet.")
    node: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The node.")
    role: Mapped[str] = mapped_column(String(16), comment="gateway or device.")
    parent: Mapped[str | None] = mapped_column(String(64), comment="Its parent when it was last heard of.")
    state: Mapped[str] = mapped_column(String(16), comment="online or offline; empty: heard of in rounds only.")
    software: Mapped[str] = mapped_column(
        SaidInShort(64), comment="Its version of Headwater; empty where it did not say."
    )
    battery_percent: Mapped[float | None] = mapped_column(Float, comment="The level of its battery, if it has one.")
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON, comment="Examples by data key, as it last said.")
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it first appeared.")
    last_seen_at: Mapped[datetime] = mapped_column(
        UtcDateTime, comment="When its state last changed, or a round last had its answer."
    )


class Lease(Base):
    """Who leads a fleet."""

    __tablename__ = "leases"
    __table_args__ = ({"comment": "The coordinator of each fleet. It leads while (term, beat) goes on changing."},)

    fleet: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The fleet.")
    holder: Mapped[str] = mapped_column(String(256), comment="Who holds it, for people; empty when it is free.")
    term: Mapped[int] = mapped_column(Integer, comment="Raised by each takeover; only the newest term may write.")
    beat: Mapped[int] = mapped_column(BigInteger, comment="Raised by the holder as a sign of life.")
    renewed_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="For people: when the holder last said so.")


class Release(Base):
    """A release of the software."""

    __tablename__ = "releases"
    __table_args__ = (
        {"comment": "Releases of the software, and how far each is; a fleet's newest is the one that is rolled out."},
    )

    fleet: Mapped[str] = mapped_column(String(64), primary_key=True, comment="The fleet.")
    counter: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Grows with every release of the fleet.")
    version: Mapped[str] = mapped_column(String(64), comment="The version of Headwater in it.")
    release: Mapped[bytes] = mapped_column(LargeBinary, comment="What was signed, as it travels.")
    signature: Mapped[bytes] = mapped_column(LargeBinary, comment="Its signer's, Ed25519.")
    wheel: Mapped[bytes] = mapped_column(ForeignKey("objects.sha256"), comment="The wheel, in objects.")
    policy: Mapped[str] = mapped_column(Text, comment="How it spreads, JSON.")
    stage: Mapped[int] = mapped_column(Integer, comment="Which of the policy's stages it has come to.")
    state: Mapped[str] = mapped_column(String(16), comment="canary, wider, done or paused.")
    said: Mapped[int] = mapped_column(Integer, comment="How many words on it went to the fleet before.")
    well_since: Mapped[float | None] = mapped_column(
        Float, comment="Since when all of the stage are well, UTC seconds."
    )
    forgiven: Mapped[int] = mapped_column(Integer, comment="How many failures an operator has seen, and went on.")
    detail: Mapped[str] = mapped_column(Said, comment="What it waits for, or why it is paused.")
    report: Mapped[str | None] = mapped_column(Text, comment="What the devices last said, summed, JSON.")
    wish: Mapped[str] = mapped_column(String(8), comment="What an operator asked for and did not get yet.")
    published_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it was published.")
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="When it last changed.")
