"""The first schema: runs, objects, models, rounds, contributions, metrics, refusals, nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "nodes",
        sa.Column("fleet", sa.String(length=64), nullable=False, comment="The fleet."),
        sa.Column("node", sa.String(length=64), nullable=False, comment="The node."),
        sa.Column("role", sa.String(length=16), nullable=False, comment="gateway or device."),
        sa.Column("state", sa.String(length=16), nullable=False, comment="online or offline."),
        sa.Column("software", sa.String(length=64), nullable=False, comment="Its version of Headwater."),
        sa.Column(
            "first_seen_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it first appeared.",
        ),
        sa.Column(
            "last_seen_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When its state last changed.",
        ),
        sa.PrimaryKeyConstraint("fleet", "node", name=op.f("pk_nodes")),
        comment="The cloud's children, as they last said of themselves.",
    )
    op.create_table(
        "objects",
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False, comment="SHA-256 of the payload."),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="The encoded message, or the ONNX file."),
        sa.Column("size_bytes", sa.Integer(), nullable=False, comment="Length of the payload."),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was first stored.",
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_objects")),
        comment="Model versions, bundles and forward models, by the SHA-256 of their bytes.",
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=64), nullable=False, comment="Name of the run, sortable by time."),
        sa.Column("fleet", sa.String(length=64), nullable=False, comment="The fleet that works on it."),
        sa.Column("name", sa.String(length=128), nullable=False, comment="What its owner calls it."),
        sa.Column(
            "state", sa.String(length=16), nullable=False, comment="queued, running, finished, stopped or failed."
        ),
        sa.Column("description", sa.Text(), nullable=False, comment="The validated description, as JSON."),
        sa.Column("forward", sa.LargeBinary(), nullable=True, comment="The owner's forward ONNX model, if it has one."),
        sa.Column(
            "stop_requested",
            sa.Boolean(),
            nullable=False,
            comment="True when somebody asked it to stop after its round.",
        ),
        sa.Column("bundle", sa.LargeBinary(length=32), nullable=True, comment="SHA-256 of its bundle of graphs."),
        sa.Column("failure", sa.Text(), nullable=False, comment="Why it failed, in one sentence."),
        sa.Column(
            "queued_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was asked for.",
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the coordinator began it.",
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it ended, whichever way.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        comment="A run: what was asked for, and how far it came.",
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(
            "one_active_run_a_fleet",
            ["fleet"],
            unique=True,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )

    op.create_table(
        "metrics",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=False,
            comment="For test: the model version that was measured. For train: the round.",
        ),
        sa.Column("split", sa.String(length=8), nullable=False, comment="train or test."),
        sa.Column("name", sa.String(length=128), nullable=False, comment="loss, correct, …"),
        sa.Column("total", sa.Float(), nullable=False, comment="Sum over examples."),
        sa.Column("weight", sa.Float(), nullable=False, comment="Number of examples that it was summed over."),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_metrics_run_runs")),
        sa.PrimaryKeyConstraint("run", "version", "split", "name", name=op.f("pk_metrics")),
        comment="Metrics of model versions, summed over the tree; divide total by weight.",
    )
    op.create_table(
        "models",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("version", sa.Integer(), nullable=False, comment="The round whose result it is."),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False, comment="The model, in objects."),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_models_run_runs")),
        sa.ForeignKeyConstraint(["sha256"], ["objects.sha256"], name=op.f("fk_models_sha256_objects")),
        sa.PrimaryKeyConstraint("run", "version", name=op.f("pk_models")),
        comment="Which model each version of a run is. Version 0 is what it began with.",
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="Its number; 0 is the statistics pass."),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="0 for the first attempt."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="train, evaluate or statistics."),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="closed (it counts) or failed (no quorum by the deadline).",
        ),
        sa.Column("cohort", sa.Integer(), nullable=False, comment="How many of the cloud's children were expected."),
        sa.Column("received", sa.Integer(), nullable=False, comment="How many contributed."),
        sa.Column("devices", sa.Integer(), nullable=False, comment="Devices below them that contributed."),
        sa.Column("examples", sa.Integer(), nullable=False, comment="Examples behind the sum."),
        sa.Column("weight", sa.Float(), nullable=False, comment="What the sum was divided by."),
        sa.Column("refused", sa.Integer(), nullable=False, comment="How many deltas or plans were refused."),
        sa.Column(
            "bytes_down", sa.Integer(), nullable=False, comment="Payload bytes that the cloud sent during the round."
        ),
        sa.Column("bytes_up", sa.Integer(), nullable=False, comment="Payload bytes that it received."),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it opened.",
        ),
        sa.Column("elapsed_s", sa.Float(), nullable=False, comment="How long it was open, in seconds."),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_rounds_run_runs")),
        sa.PrimaryKeyConstraint("run", "round", "attempt", "task", name=op.f("pk_rounds")),
        comment="Attempts at rounds: one row each, written when the attempt has ended.",
    )
    op.create_table(
        "contributions",
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="The round."),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="The attempt."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="The task."),
        sa.Column("node", sa.String(length=64), nullable=False, comment="The child."),
        sa.Column("weight", sa.Float(), nullable=False, comment="Its weight in the mean."),
        sa.Column("examples", sa.Integer(), nullable=False, comment="Examples behind it."),
        sa.Column("devices", sa.Integer(), nullable=False, comment="Devices behind it."),
        sa.Column("size_bytes", sa.Integer(), nullable=False, comment="Bytes of its delta."),
        sa.Column(
            "after_s", sa.Float(), nullable=False, comment="Seconds after the round opened when it was complete."
        ),
        sa.ForeignKeyConstraint(
            ["run", "round", "attempt", "task"],
            ["rounds.run", "rounds.round", "rounds.attempt", "rounds.task"],
            name=op.f("fk_contributions_run_round_attempt_task_rounds"),
        ),
        sa.PrimaryKeyConstraint("run", "round", "attempt", "task", "node", name=op.f("pk_contributions")),
        comment="What each child of the cloud gave to a round that closed.",
    )
    op.create_table(
        "refusals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False, comment="A number."),
        sa.Column("run", sa.String(length=64), nullable=False, comment="The run."),
        sa.Column("round", sa.Integer(), nullable=False, comment="The round."),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="The attempt."),
        sa.Column("task", sa.String(length=16), nullable=False, comment="The task."),
        sa.Column("node", sa.String(length=64), nullable=False, comment="The child."),
        sa.Column("reason", sa.String(length=32), nullable=False, comment="One of the protocol's reasons."),
        sa.Column("detail", sa.Text(), nullable=False, comment="The sentence that was sent."),
        sa.ForeignKeyConstraint(
            ["run", "round", "attempt", "task"],
            ["rounds.run", "rounds.round", "rounds.attempt", "rounds.task"],
            name=op.f("fk_refusals_run_round_attempt_task_rounds"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refusals")),
        comment="Deltas not taken and plans not followed, with the reason.",
    )


def downgrade() -> None:

    op.drop_table("refusals")
    op.drop_table("contributions")
    op.drop_table("rounds")
    op.drop_table("models")
    op.drop_table("metrics")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index(
            "one_active_run_a_fleet",
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )

    op.drop_table("runs")
    op.drop_table("objects")
    op.drop_table("nodes")
