"""How often a run rested, and for how long: people are told of each rest, and of the time at work."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: SQLite cannot make the table anew to which all others point.
    for column in (
        sa.Column(
            "pauses",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="How often it rested, the rest that goes on included.",
        ),
        sa.Column(
            "rested_s",
            sa.Float(),
            nullable=False,
            server_default="0",
            comment="Seconds for which it rested, in the rests that are over.",
        ),
        sa.Column(
            "rests_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the rest began that goes on, or in which the run was ended.",
        ),
    ):
        op.add_column("runs", column)
    # Since when nobody wrote down.
    op.execute("UPDATE runs SET pauses = 1 WHERE state = 'paused'")


def downgrade() -> None:
    for name in ("rests_since", "rested_s", "pauses"):
        op.drop_column("runs", name)
