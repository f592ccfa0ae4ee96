"""Clusters' rounds with their members, and what nodes say of themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COUNTED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = ("run", "round", "gateway", "step", "attempt", "task")
INDEXES = (
    ("contributions_of_a_node", "contributions", "node"),
    ("refusals_of_a_node", "refusals", "node"),
    ("refusals_of_a_run", "refusals", "run"),
)
# Of nodes: name, type, comment; and the comments that have become truer.
COLUMNS = (
    ("parent", sa.String(length=64), "Its parent when it was last heard of."),
    ("battery_percent", sa.Float(), "The level of its battery, if it has one."),
    ("data", sa.JSON(), "Examples by data key, as it last said."),
)
COMMENTS = (
    (
        "state",
        sa.String(length=16),
        "online or offline.",
        "online or offline; empty: heard of in rounds only.",
    ),
    (
        "software",
        sa.String(length=64),
        "Its version of Headwater.",
        "Its version of Headwater; empty where it did not say.",
    ),
    (
        "last_seen_at",
        sa.DateTime(timezone=True),
        "When its state last changed.",
        "When its state last changed, or a round last had its answer.",
    ),
)
OF_NODES = (
    "The cloud's children, as they last said of themselves.",
    "The cloud's children, as they last said of themselves; and who took part below its gateways.",
)


def upgrade() -> None:
    _create_cluster_rounds()
    _create_cluster_members()
    for name, table, column in INDEXES:
        op.create_index(name, table, [column])
    before, after = OF_NODES
    with op.batch_alter_table("nodes") as nodes:
        for name, type_, comment in COLUMNS:
            nodes.add_column(sa.Column(name, type_, nullable=True, comment=comment))
        for name, of_type, old, new in COMMENTS:
            nodes.alter_column(name, existing_type=of_type, existing_nullable=False, existing_comment=old, comment=new)
        nodes.create_table_comment(after, existing_comment=before)


def downgrade() -> None:
    before, after = OF_NODES
    # Who is heard of in rounds only is nobody that the older software knows.
    op.execute("DELETE FROM nodes WHERE state = ''")
    with op.batch_alter_table("nodes") as nodes:
        nodes.create_table_comment(before, existing_comment=after)
        for name, of_type, old, new in COMMENTS:
            nodes.alter_column(name, existing_type=of_type, existing_nullable=False, existing_comment=new, comment=old)
        for name, _, _ in COLUMNS:
            nodes.drop_column(name)
    for name, table, _ in INDEXES:
        op.drop_index(name, table)
    op.drop_table("cluster_members")
    op.drop_table("cluster_rounds")


def _create_cluster_rounds() -> None:
    op.create_table(
        "cluster_rounds",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="The cloud's round that it is a part of."),
        sa.Column("gateway", sa.String(length=64), nullable=False, comment="Whose cluster it is."),
        sa.Column("step", COUNTED, nullable=False, comment="Which of its edge rounds, from 0."),
        sa.Column("attempt", COUNTED, nullable=False, comment="The attempt at the round."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="train, evaluate or statistics."),
        sa.Column("state", sa.String(length=16), nullable=False, comment="closed or failed."),
        sa.Column("examples", COUNTED, nullable=False, comment="Examples behind its sum."),
        sa.Column("devices", COUNTED, nullable=False, comment="Devices behind it."),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), nullable=False, comment="When the cloud heard of its end."
        ),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="All that the gateway told, as JSON, without the members."
        ),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_cluster_rounds_run_runs")),
        sa.PrimaryKeyConstraint(*KEY, name=op.f("pk_cluster_rounds")),
        comment="Clusters' rounds that have ended, as their gateways told people; what nobody heard is not here.",
    )


def _create_cluster_members() -> None:
    op.create_table(
        "cluster_members",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="The round."),
        sa.Column("gateway", sa.String(length=64), nullable=False, comment="The gateway."),
        sa.Column("step", COUNTED, nullable=False, comment="The edge round."),
        sa.Column("attempt", COUNTED, nullable=False, comment="The attempt."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="The task."),
        sa.Column("node", sa.String(length=64), nullable=False, comment="The child."),
        sa.Column("state", sa.String(length=16), nullable=False, comment="received, waiting, left, refused or idle."),
        sa.Column("examples", COUNTED, nullable=False, comment="Examples behind what it gave."),
        sa.Column("devices", COUNTED, nullable=False, comment="Devices behind it."),
        sa.Column("after_s", sa.Float(), nullable=True, comment="Seconds after the round opened when it was complete."),
        sa.Column("loss", sa.Float(), nullable=True, comment="Its mean training loss."),
        sa.Column("train_s", sa.Float(), nullable=True, comment="Seconds for which it trained."),
        sa.Column("size_bytes", COUNTED, nullable=False, comment="Bytes of its delta."),
        sa.ForeignKeyConstraint(
            KEY,
            [f"cluster_rounds.{column}" for column in KEY],
            name=op.f("fk_cluster_members_run_cluster_rounds"),
        ),
        sa.PrimaryKeyConstraint(*KEY, "node", name=op.f("pk_cluster_members")),
        comment="What each child of a gateway had to do with a round of its cluster.",
    )
    op.create_index("cluster_rounds_of_a_node", "cluster_members", ["node"])
