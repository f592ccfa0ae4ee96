"""The parameters of an owner's file, which a run begins with: read where the run is asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: SQLite cannot make the table anew to which all others point.
    op.add_column(
        "runs",
        sa.Column(
            "initial",
            sa.LargeBinary(),
            nullable=True,
            comment="The owner's parameters to begin with, as a model, until it has begun.",
        ),
    )


def downgrade() -> None:
    op.drop_column("runs", "initial")
