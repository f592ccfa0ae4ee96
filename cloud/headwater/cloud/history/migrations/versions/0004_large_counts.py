"""Counts and bytes beyond two thousand million, which PostgreSQL's `integer` does not hold."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = (
    ("rounds", "devices"),
    ("rounds", "examples"),
    ("rounds", "bytes_down"),
    ("rounds", "bytes_up"),
    ("contributions", "devices"),
    ("contributions", "examples"),
    ("contributions", "based_attempt"),
    ("pending", "of_attempt"),
)


def upgrade() -> None:
    _change(sa.Integer(), sa.BigInteger())


def downgrade() -> None:
    _change(sa.BigInteger(), sa.Integer())


def _change(before: sa.types.TypeEngine[int], after: sa.types.TypeEngine[int]) -> None:
    """SQLite's integers are large already."""
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column in COLUMNS:
        op.alter_column(table, column, existing_type=before, type_=after, existing_nullable=False)
