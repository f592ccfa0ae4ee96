"""Alembic's entry: the caller brings the connection and its transaction."""

from alembic import context

from headwater.cloud.history.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
