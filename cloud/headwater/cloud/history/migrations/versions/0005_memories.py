"""What a strategy keeps beside a model, and the patches that lead from one version to the next."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = {
    "memory": "What the strategy keeps beside it, in objects; of the newest version.",
    "patch": "What leads here from the version before, in objects, where one is sent.",
}


def upgrade() -> None:
    with op.batch_alter_table("models") as models:
        for name, comment in COLUMNS.items():
            models.add_column(sa.Column(name, sa.LargeBinary(), nullable=True, comment=comment))
            models.create_foreign_key(f"fk_models_{name}_objects", "objects", [name], ["sha256"])


def downgrade() -> None:
    with op.batch_alter_table("models") as models:
        for name in COLUMNS:
            models.drop_constraint(f"fk_models_{name}_objects", type_="foreignkey")
            models.drop_column(name)
