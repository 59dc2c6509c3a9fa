"""Alembic's entry point; `node.index.engine.place` provides the connection."""

from alembic import context

from node.index.models.levels import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
