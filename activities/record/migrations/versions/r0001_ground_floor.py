"""Ground floor: event chain, executions, effects, approvals, cursors. The chain starts with the first row ever written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from activities.record.migrations.guards import append_only, make_functions

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    make_functions()
    op.create_table(
        "event",
        sa.Column("event_id", sa.String(36), primary_key=True),
        *_trace_keys(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("actor_principal_id", sa.String(256), nullable=False),
        sa.Column("actor_kind", sa.String(16), nullable=False),
        sa.Column("idempotency_key", sa.String(512), nullable=False),
        sa.Column("payload_commitment", sa.String(64), nullable=False),
        sa.Column("recorded_at_ms", sa.BigInteger, nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.UniqueConstraint("tenant_id", "session_id", "seq", name="uq_event_seq"),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_event_idempotency"),
    )
    op.create_table(
        "event_payload",
        sa.Column("event_id", sa.String(36), primary_key=True),
        *_trace_keys(),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_event_payload_session", "event_payload", ["tenant_id", "session_id"])
    append_only(
        "event",
        "event_id = NEW.event_id",
        "tenant_id = NEW.tenant_id AND session_id = NEW.session_id AND seq = NEW.seq",
        "tenant_id = NEW.tenant_id AND idempotency_key = NEW.idempotency_key",
    )
    append_only("event_payload", "event_id = NEW.event_id")
    op.create_table(
        "execution",
        sa.Column("workflow_id", sa.String(512), primary_key=True),
        sa.Column("run_id", sa.String(64), primary_key=True),
        *_trace_keys(primary=True),
        sa.Column("first_run_id", sa.String(64), nullable=False),
        sa.Column("parent_workflow_id", sa.String(512), nullable=True),
        sa.Column("parent_run_id", sa.String(64), nullable=True),
        sa.Column("principal_id", sa.String(256), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("reset", sa.Boolean, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_execution_session", "execution", ["tenant_id", "session_id"])
    op.create_table(
        "effect",
        sa.Column("effect_key", sa.String(512), primary_key=True),
        *_trace_keys(primary=True),
        sa.Column("attempt_key", sa.String(512), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("result_json", sa.Text, nullable=True),
        *_times(),
    )
    op.create_table(
        "approval",
        sa.Column("approval_id", sa.String(64), primary_key=True),
        *_trace_keys(),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("action_digest", sa.String(71), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("request_json", sa.Text, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("decided_by", sa.String(256), nullable=True),
        sa.Column("decision_json", sa.Text, nullable=True),
        sa.Column("deliver_by_ms", sa.BigInteger, nullable=True),
        *_times(),
    )
    op.create_index("ix_approval_status", "approval", ["tenant_id", "status"])
    op.create_index("ix_approval_digest", "approval", ["action_digest"])
    op.create_table(
        "cursor",
        sa.Column("cursor_key", sa.String(512), primary_key=True),
        *_trace_keys(primary=True),
        sa.Column("value_json", sa.Text, nullable=False),
        *_times(),
    )


def _trace_keys(*, primary: bool = False) -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("tenant_id", sa.String(64), primary_key=primary, nullable=False),
        sa.Column("trace_id", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("task_id", sa.String(256), nullable=True),
        sa.Column("capability_id", sa.String(128), nullable=True),
        sa.Column("version", sa.String(32), nullable=False),
    )


def _times() -> tuple[sa.Column[int], ...]:
    return (sa.Column("created_at_ms", sa.BigInteger, nullable=False), sa.Column("updated_at_ms", sa.BigInteger, nullable=False))
