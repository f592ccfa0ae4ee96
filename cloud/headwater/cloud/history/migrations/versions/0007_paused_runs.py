"""Runs that rest between two rounds. A paused run is its fleet's active one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INDEX = "one_active_run_a_fleet"
BEFORE, AFTER = "state = 'running'", "state IN ('running', 'paused')"
STATES = (
    "queued, running, finished, stopped or failed.",
    "queued, running, paused, finished, stopped or failed.",
)


def upgrade() -> None:
    # Not in a batch: SQLite cannot make the table anew to which all others point.
    op.drop_index(INDEX, "runs")
    op.add_column(
        "runs",
        sa.Column(
            "pause_requested",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="True while somebody wants it to rest between two rounds.",
        ),
    )
    _tell_of_states(*STATES)
    _create_index(AFTER)


def downgrade() -> None:
    op.drop_index(INDEX, "runs")
    op.execute("UPDATE runs SET state = 'running' WHERE state = 'paused'")
    op.drop_column("runs", "pause_requested")
    _tell_of_states(*reversed(STATES))
    _create_index(BEFORE)


def _tell_of_states(before: str, after: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    op.alter_column(
        "runs",
        "state",
        existing_type=sa.String(length=16),
        existing_nullable=False,
        existing_comment=before,
        comment=after,
    )


def _create_index(where: str) -> None:
    op.create_index(INDEX, "runs", ["fleet"], unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
