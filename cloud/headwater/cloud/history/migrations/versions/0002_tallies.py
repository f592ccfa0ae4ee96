"""Tallies: counts by class and error sketches of model versions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=False,
            comment="For test: the model version that was measured. For train: the round.",
        ),
        sa.Column("split", sa.String(length=8), nullable=False, comment="train or test."),
        sa.Column("name", sa.String(length=128), nullable=False, comment="class_examples, error_sketch, …"),
        sa.Column("counts", sa.JSON(), nullable=False, comment="The counts, a JSON list in the order of the classes."),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_tallies_run_runs")),
        sa.PrimaryKeyConstraint("run", "version", "split", "name", name=op.f("pk_tallies")),
        comment="Counts behind the figures of model versions, summed over the tree: by class, or an error sketch.",
    )


def downgrade() -> None:
    op.drop_table("tallies")
