"""Tables of the store. Every row carries the tenant and the trace keys; migrations make the same shape step by step."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint

METADATA = MetaData()


def _trace_keys(*, primary: bool = False) -> tuple[Column[str], ...]:
    """``primary``: the row is identified per tenant."""
    return (
        Column("tenant_id", String(64), primary_key=primary, nullable=False),
        Column("trace_id", String(128), nullable=False),
        Column("session_id", String(128), nullable=False),
        Column("task_id", String(256), nullable=True),
        Column("capability_id", String(128), nullable=True),
        Column("version", String(32), nullable=False),
    )


def _times() -> tuple[Column[int], ...]:
    return (Column("created_at_ms", BigInteger, nullable=False), Column("updated_at_ms", BigInteger, nullable=False))


EVENT = Table(
    "event", METADATA,
    Column("event_id", String(36), primary_key=True),
    *_trace_keys(),
    Column("seq", Integer, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("actor_principal_id", String(256), nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("idempotency_key", String(512), nullable=False),
    Column("payload_commitment", String(64), nullable=False),
    Column("recorded_at_ms", BigInteger, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("tenant_id", "session_id", "seq", name="uq_event_seq"),
    UniqueConstraint("tenant_id", "idempotency_key", name="uq_event_idempotency"),
)  # fmt: skip
"""The hash chain, one per session. Triggers refuse UPDATE, DELETE and REPLACE."""

EVENT_PAYLOAD = Table(
    "event_payload", METADATA,
    Column("event_id", String(36), primary_key=True),
    *_trace_keys(),
    Column("salt", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_event_payload_session", "tenant_id", "session_id"),
)  # fmt: skip
"""JCS bytes of each event's payload, and the salt of its commitment."""

EXECUTION = Table(
    "execution", METADATA,
    Column("workflow_id", String(512), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    *_trace_keys(primary=True),
    Column("first_run_id", String(64), nullable=False),
    Column("parent_workflow_id", String(512), nullable=True),
    Column("parent_run_id", String(64), nullable=True),
    Column("principal_id", String(256), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("reset", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_execution_session", "tenant_id", "session_id"),
)  # fmt: skip
"""Which session a workflow run belongs to, made once from the server's record of its start."""

EFFECT = Table(
    "effect", METADATA,
    Column("effect_key", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("attempt_key", String(512), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("result_json", Text, nullable=True),
    *_times(),
)  # fmt: skip
"""One row per effect, whatever the number of attempts."""

APPROVAL = Table(
    "approval", METADATA,
    Column("approval_id", String(64), primary_key=True),
    *_trace_keys(),
    Column("run_id", String(64), nullable=False),
    Column("action_digest", String(71), nullable=False),
    Column("status", String(16), nullable=False),
    Column("request_json", Text, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("decided_by", String(256), nullable=True),
    Column("decision_json", Text, nullable=True),
    Column("deliver_by_ms", BigInteger, nullable=True),
    *_times(),
    Index("ix_approval_status", "tenant_id", "status"),
    Index("ix_approval_digest", "action_digest"),
)  # fmt: skip
"""Approval requests; the request never changes, ``status`` moves by compare-and-set."""

CURSOR = Table(
    "cursor", METADATA,
    Column("cursor_key", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("value_json", Text, nullable=False),
    *_times(),
)  # fmt: skip
"""How far a long activity got, so that a new attempt goes on from there."""
