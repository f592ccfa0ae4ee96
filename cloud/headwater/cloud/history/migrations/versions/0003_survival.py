"""Leases, the journal of the open round, and of which model each contribution is a step."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = ["run", "round", "attempt", "task", "node"]


def upgrade() -> None:
    _create_leases()
    _create_pending()
    with op.batch_alter_table("contributions") as batch:
        batch.add_column(
            sa.Column(
                "based_on",
                sa.Integer(),
                nullable=True,
                comment="The round whose plan it answers: an earlier one where it came late.",
            )
        )
        batch.add_column(sa.Column("based_attempt", sa.Integer(), nullable=True, comment="The attempt at that round."))
        batch.add_column(
            sa.Column("staleness", sa.Integer(), nullable=True, comment="How many model versions it is behind.")
        )
        batch.add_column(
            sa.Column(
                "factor",
                sa.Float(),
                nullable=True,
                comment="What its delta was multiplied by for that.",
            )
        )
        batch.add_column(
            sa.Column(
                "sha256",
                sa.LargeBinary(length=32),
                nullable=True,
                comment="Its encoded delta, in objects, where the run keeps deltas.",
            )
        )
    # Until now every contribution answered the plan of its own round.
    op.execute("UPDATE contributions SET based_on = round, based_attempt = attempt, staleness = 0, factor = 1")
    with op.batch_alter_table("contributions") as batch:
        for name in ("based_on", "based_attempt", "staleness"):
            batch.alter_column(name, existing_type=sa.Integer(), nullable=False)
        batch.alter_column("factor", existing_type=sa.Float(), nullable=False)
        batch.drop_constraint("pk_contributions", type_="primary")
        batch.create_primary_key("pk_contributions", [*KEY, "based_on", "based_attempt"])
        batch.create_foreign_key(op.f("fk_contributions_sha256_objects"), "objects", ["sha256"], ["sha256"])


def downgrade() -> None:
    # The older schema has room for one contribution of a child to a round: its latest stays.
    op.execute(
        "DELETE FROM contributions WHERE EXISTS (SELECT 1 FROM contributions AS other WHERE "
        + " AND ".join(f"other.{name} = contributions.{name}" for name in KEY)
        + " AND (other.based_on > contributions.based_on OR (other.based_on = contributions.based_on"
        " AND other.based_attempt > contributions.based_attempt)))"
    )
    with op.batch_alter_table("contributions") as batch:
        batch.drop_constraint(op.f("fk_contributions_sha256_objects"), type_="foreignkey")
        batch.drop_constraint("pk_contributions", type_="primary")
        batch.create_primary_key("pk_contributions", KEY)
        for name in ("sha256", "factor", "staleness", "based_attempt", "based_on"):
            batch.drop_column(name)
    op.drop_table("pending")
    op.drop_table("leases")


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("fleet", sa.String(length=64), nullable=False, comment="The fleet."),
        sa.Column(
            "holder",
            sa.String(length=256),
            nullable=False,
            comment="Who holds it, for people; empty when it is free.",
        ),
        sa.Column(
            "term", sa.Integer(), nullable=False, comment="Raised by each takeover; only the newest term may write."
        ),
        sa.Column("beat", sa.BigInteger(), nullable=False, comment="Raised by the holder as a sign of life."),
        sa.Column(
            "renewed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="For people: when the holder last said so.",
        ),
        sa.PrimaryKeyConstraint("fleet", name=op.f("pk_leases")),
        comment="The coordinator of each fleet. It leads while (term, beat) goes on changing.",
    )


def _create_pending() -> None:
    op.create_table(
        "pending",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False, comment="Their order."),
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="The open round."),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="Its attempt."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="Its task."),
        sa.Column("node", sa.String(length=64), nullable=False, comment="The child."),
        sa.Column("of_round", sa.Integer(), nullable=False, comment="The round whose plan the delta answers."),
        sa.Column("of_step", sa.Integer(), nullable=False, comment="Its step."),
        sa.Column("of_attempt", sa.Integer(), nullable=False, comment="Its attempt."),
        sa.Column("size_bytes", sa.Integer(), nullable=False, comment="Length of the payload."),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="The encoded delta."),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_pending_run_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pending")),
        comment="What the open round has received, until it ends. A coordinator that begins anew goes on with it.",
    )
    with op.batch_alter_table("pending") as batch:
        batch.create_index(
            "one_pending_a_delta",
            ["run", "round", "attempt", "node", "of_round", "of_step", "of_attempt"],
            unique=True,
        )
