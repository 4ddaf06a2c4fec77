"""Runs the steps on the connection it is handed, inside the transaction that is open there."""

from __future__ import annotations

from alembic import context

from reconciler.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by rebuilding it
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
