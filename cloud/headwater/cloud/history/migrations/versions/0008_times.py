"""How a round's time was spent, and how long each child worked for it. Of older rounds nobody knows."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OF_A_ROUND = (
    ("train_s", "Seconds that the mean child's devices worked; empty where none said so."),
    ("transfer_s", "Seconds that its model and its update were on their way."),
    ("wait_s", "Seconds that its update waited for those of others; the three make elapsed_s."),
    ("aggregate_s", "Seconds from the close until the new model was ready to be written here."),
)
OF_A_CONTRIBUTION = (
    ("train_s", "Seconds that its devices worked, the mean; empty where it does not say."),
    ("loss", "Its mean training loss; empty where it does not say."),
)


def upgrade() -> None:
    for table, columns in (("rounds", OF_A_ROUND), ("contributions", OF_A_CONTRIBUTION)):
        for name, comment in columns:
            op.add_column(table, sa.Column(name, sa.Float(), nullable=True, comment=comment))


def downgrade() -> None:
    for table, columns in (("rounds", OF_A_ROUND), ("contributions", OF_A_CONTRIBUTION)):
        for name, _ in columns:
            op.drop_column(table, name)
