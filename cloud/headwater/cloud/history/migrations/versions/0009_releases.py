"""Releases of the software that fleets run, and how far each is."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("fleet", sa.String(64), nullable=False, comment="The fleet."),
        sa.Column("counter", sa.BigInteger(), nullable=False, comment="Grows with every release of the fleet."),
        sa.Column("version", sa.String(64), nullable=False, comment="The version of Headwater in it."),
        sa.Column("release", sa.LargeBinary(), nullable=False, comment="What was signed, as it travels."),
        sa.Column("signature", sa.LargeBinary(), nullable=False, comment="Its signer's, Ed25519."),
        sa.Column("wheel", sa.LargeBinary(), nullable=False, comment="The wheel, in objects."),
        sa.Column("policy", sa.Text(), nullable=False, comment="How it spreads, JSON."),
        sa.Column("stage", sa.Integer(), nullable=False, comment="Which of the policy's stages it has come to."),
        sa.Column("state", sa.String(16), nullable=False, comment="canary, wider, done or paused."),
        sa.Column("said", sa.Integer(), nullable=False, comment="How many words on it went to the fleet before."),
        sa.Column(
            "well_since", sa.Float(), nullable=True, comment="Since when all of the stage are well, UTC seconds."
        ),
        sa.Column(
            "forgiven", sa.Integer(), nullable=False, comment="How many failures an operator has seen, and went on."
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="What it waits for, or why it is paused."),
        sa.Column("report", sa.Text(), nullable=True, comment="What the devices last said, summed, JSON."),
        sa.Column("wish", sa.String(8), nullable=False, comment="What an operator asked for and did not get yet."),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False, comment="When it was published."),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, comment="When it last changed."),
        sa.PrimaryKeyConstraint("fleet", "counter", name="pk_releases"),
        sa.ForeignKeyConstraint(["wheel"], ["objects.sha256"], name="fk_releases_wheel_objects"),
        comment="Releases of the software, and how far each is; a fleet's newest is the one that is rolled out.",
    )


def downgrade() -> None:
    op.drop_table("releases")
