"""The run cache: which runs of a tree agreed, by run key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from activities.record.migrations.guards import on_postgresql

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_cache",
        sa.Column("run_key", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("trace_id", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("task_id", sa.String(256), nullable=True),
        sa.Column("capability_id", sa.String(128), nullable=True),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("outcomes_sha256", sa.String(64), nullable=False),
        sa.Column("runs_sha256", sa.String(64), nullable=False),
        sa.Column("runs_size", sa.BigInteger, nullable=False),
        sa.Column("measured", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_key", "tenant_id"),
    )
    if on_postgresql():
        mine = "tenant_id = (SELECT gen4_tenant()) OR (SELECT gen4_tenant()) = '*'"
        op.execute("ALTER TABLE run_cache ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE run_cache FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY gen4_own ON run_cache USING ({mine})")
