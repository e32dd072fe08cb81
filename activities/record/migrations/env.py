"""Run by alembic: applies migrations on the connection, and in the transaction, that the store hands over."""

from __future__ import annotations

from alembic import context

from activities.record.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
