"""Tables of the store. Every row carries the tenant and the trace keys; migrations make the same shape step by step."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

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
    Index(
        "ix_event_session_ends", "tenant_id", "session_id", "kind",
        sqlite_where=text("kind = 'session.opened' OR kind = 'session.closed'"),
        postgresql_where=text("kind = 'session.opened' OR kind = 'session.closed'"),
    ),
)  # fmt: skip
"""The hash chain, one per session. Triggers refuse UPDATE, DELETE and REPLACE."""

EVENT_PAYLOAD = Table(
    "event_payload", METADATA,
    Column("event_id", String(36), primary_key=True),
    *_trace_keys(),
    Column("key_id", String(64), nullable=True),
    Column("salt", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_event_payload_session", "tenant_id", "session_id"),
)  # fmt: skip
"""JCS bytes of each event's payload, encrypted under ``key_id`` (null: as they are), and the salt of its commitment."""

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
    Column("role", String(32), nullable=False, server_default="operator"),
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
    Column("failures", Integer, nullable=False, server_default="0"),
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

# --- identity, leases, kill switches (contracts §3, §16) -------------------------------------------------------------

TENANT = Table(
    "tenant", METADATA,
    *_trace_keys(primary=True),
    Column("name", String(256), nullable=False),
    Column("status", String(16), nullable=False),
    Column("currency", String(8), nullable=False),
    *_times(),
)  # fmt: skip
"""``status``: active, suspended, closed."""

NAMESPACE = Table(
    "namespace", METADATA,
    Column("namespace", String(256), primary_key=True),
    *_trace_keys(),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip
"""A Temporal namespace belongs to one tenant, for good."""

PRINCIPAL = Table(
    "principal", METADATA,
    Column("principal_id", String(256), primary_key=True),
    *_trace_keys(primary=True),
    Column("kind", String(16), nullable=False),
    Column("issuer", String(512), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("status", String(16), nullable=False),
    *_times(),
    UniqueConstraint("tenant_id", "issuer", "subject", name="uq_principal_subject"),
)  # fmt: skip
"""``issuer`` is an OIDC issuer, ``ssh`` (subject: key fingerprint), ``temporal`` (stamped name) or ``local`` (subject: uid)."""

ROLE_BINDING = Table(
    "role_binding", METADATA,
    Column("principal_id", String(256), primary_key=True),
    Column("role", String(32), primary_key=True),
    *_trace_keys(primary=True),
    Column("granted_by", String(256), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip

POLICY_BINDING = Table(
    "policy_binding", METADATA,
    Column("policy_id", String(128), primary_key=True),
    *_trace_keys(primary=True),
    Column("role", String(32), nullable=False),
    Column("allowed_actions_json", Text, nullable=False),
    Column("capability_prefixes_json", Text, nullable=False),
    Column("path_tier_max", String(4), nullable=False),
    Column("autonomy_tier", String(4), nullable=False),
    Column("max_memory_mb", Integer, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("policy_digest", String(71), nullable=False),
    *_times(),
    UniqueConstraint("tenant_id", "role", name="uq_policy_binding_role"),
)  # fmt: skip
"""What a role may do at most; an empty list means nothing."""

SESSION_LEASE = Table(
    "session_lease", METADATA,
    Column("lease_id", String(64), primary_key=True),
    *_trace_keys(primary=True),
    Column("principal_id", String(256), nullable=False),
    Column("policy_id", String(128), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger, nullable=True),
    Column("revoked_reason", String(256), nullable=True),
    UniqueConstraint("tenant_id", "session_id", "generation", name="uq_session_lease_generation"),
)  # fmt: skip
"""One row per generation; the newest counts. A row, no secret."""

USED_TOKEN = Table(
    "used_token", METADATA,
    Column("issuer", String(512), primary_key=True),
    Column("jti", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip
"""Tokens that acted once; each acts once only."""

SCHEDULE_OWNER = Table(
    "schedule_owner", METADATA,
    Column("schedule_id", String(256), primary_key=True),
    *_trace_keys(primary=True),
    Column("principal_id", String(256), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip
"""On whose behalf a Temporal schedule starts workflows; a schedule without an owner starts nothing."""

KILL_SWITCH = Table(
    "kill_switch", METADATA,
    Column("scope", String(16), primary_key=True),
    Column("target", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("active", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("changed_by", String(256), nullable=False),
    *_times(),
)  # fmt: skip
"""``scope`` is everything (of tenant ``*``), tenant, session or capability; ``epoch`` counts the changes."""

# --- ledger (contracts §4) -------------------------------------------------------------------------------------------

BUDGET_ACCOUNT = Table(
    "budget_account", METADATA,
    Column("account_id", String(256), primary_key=True),
    *_trace_keys(primary=True),
    Column("parent_account_id", String(256), nullable=True),
    Column("unit", String(16), nullable=False),
    Column("debits_pending", BigInteger, nullable=False),
    Column("debits_posted", BigInteger, nullable=False),
    Column("credits_posted", BigInteger, nullable=False),
    Column("credit_limit", BigInteger, nullable=True),
    Column("debits_must_not_exceed_credits", Boolean, nullable=False),
    Column("frozen", Boolean, nullable=False),
    *_times(),
    Index("ix_budget_account_session", "tenant_id", "session_id"),
)  # fmt: skip

LEDGER_ENTRY = Table(
    "ledger_entry", METADATA,
    Column("ledger_id", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("debit_account_id", String(256), nullable=False),
    Column("credit_account_id", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("unit", String(16), nullable=False),
    Column("pending_id", String(512), nullable=True),
    Column("expires_at_ms", BigInteger, nullable=True),
    Column("token_cost", BigInteger, nullable=False),
    Column("tool_cost", BigInteger, nullable=False),
    Column("duration_cost", BigInteger, nullable=False),
    Column("price_table_version", String(64), nullable=False),
    Column("reason", String(512), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_ledger_entry_session", "tenant_id", "session_id"),
    Index("ix_ledger_entry_pending", "tenant_id", "pending_id"),
)  # fmt: skip
"""Append-only: grant, reserve, settle, void, expire, overrun, blocked."""

RESERVATION = Table(
    "reservation", METADATA,
    Column("pending_id", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("effect_key", String(512), nullable=False),
    Column("account_id", String(256), nullable=False),
    Column("unit", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("settled", BigInteger, nullable=False),
    Column("overrun", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    *_times(),
    Index("ix_reservation_effect", "tenant_id", "effect_key"),
    Index("ix_reservation_open", "tenant_id", "status", "expires_at_ms"),
)  # fmt: skip
"""One per effect and unit: open, then exactly one of settled, voided, expired."""

QUOTA_WINDOW = Table(
    "quota_window", METADATA,
    Column("window_id", String(256), primary_key=True),
    *_trace_keys(primary=True),
    Column("account_id", String(256), nullable=False),
    Column("window_start_ms", BigInteger, nullable=False),
    Column("window_end_ms", BigInteger, nullable=False),
    Column("window_budget", BigInteger, nullable=False),
    Column("consumed", BigInteger, nullable=False),
    Column("blocked_count", Integer, nullable=False),
    *_times(),
)  # fmt: skip

COST_ATTRIBUTION = Table(
    "cost_attribution", METADATA,
    Column("attribution_id", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("role", String(32), nullable=False),
    Column("model", String(128), nullable=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("tool_invocations", BigInteger, nullable=False),
    Column("cpu_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("egress_bytes", BigInteger, nullable=False),
    Column("token_cost_micros", BigInteger, nullable=False),
    Column("tool_cost_micros", BigInteger, nullable=False),
    Column("duration_cost_micros", BigInteger, nullable=False),
    Column("total_cost_micros", BigInteger, nullable=False),
    Column("price_table_version", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("ix_cost_attribution_session", "tenant_id", "session_id"),
)  # fmt: skip
"""Append-only: one per settled effect."""

# --- breaker (contracts §6) ------------------------------------------------------------------------------------------

BREAKER = Table(
    "breaker", METADATA,
    Column("scope_key", String(512), primary_key=True),
    *_trace_keys(primary=True),
    Column("phase", String(16), nullable=False),
    Column("failure_count", Integer, nullable=False),
    Column("success_count", Integer, nullable=False),
    Column("threshold", Integer, nullable=False),
    Column("cooldown_ms", BigInteger, nullable=False),
    Column("failing_since_ms", BigInteger, nullable=True),
    Column("opened_at_ms", BigInteger, nullable=True),
    Column("probe_id", String(512), nullable=True),
    Column("probe_from_ms", BigInteger, nullable=True),
    Column("probe_until_ms", BigInteger, nullable=True),
    Column("last_failure_ms", BigInteger, nullable=True),
    Column("last_success_ms", BigInteger, nullable=True),
    Column("last_reason", String(256), nullable=False),
    Column("generation", Integer, nullable=False),
    *_times(),
)  # fmt: skip

# --- checkpoints, payload keys, erasure, read views (contracts §8, threats 7.1, 7.2) ---------------------------------

CHECKPOINT = Table(
    "checkpoint", METADATA,
    Column("number", BigInteger, primary_key=True),
    *_trace_keys(primary=True),
    Column("sessions", Integer, nullable=False),
    Column("root_sha256", String(64), nullable=False),
    Column("previous_root", String(64), nullable=False),
    Column("signed_note", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip
"""Append-only. ``signed_note``: C2SP signed note over number, sessions, root and previous root."""

CHECKPOINT_HEAD = Table(
    "checkpoint_head", METADATA,
    Column("number", BigInteger, nullable=False),
    *_trace_keys(),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
    PrimaryKeyConstraint("tenant_id", "number", "session_id"),
)  # fmt: skip
"""Append-only: heads that changed since the checkpoint before; the others are as they were."""

PAYLOAD_KEY = Table(
    "payload_key", METADATA,
    Column("key_id", String(64), primary_key=True),
    *_trace_keys(primary=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    *_times(),
)  # fmt: skip
"""Data keys of a tenant's payloads, wrapped by the key in the home's keys folder."""

PAYLOAD_ERASURE = Table(
    "payload_erasure", METADATA,
    Column("event_id", String(36), primary_key=True),
    *_trace_keys(),
    Column("authority_event_id", String(36), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)  # fmt: skip
"""Append-only tombstones: payload and salt of ``event_id`` were deleted on the authority of a ``payload.erased`` event."""

SESSION_VIEW = Table(
    "session_view", METADATA,
    *_trace_keys(),
    Column("seq", Integer, nullable=False),
    Column("view_json", Text, nullable=False),
    *_times(),
    PrimaryKeyConstraint("tenant_id", "session_id"),
)  # fmt: skip
"""A read view: rebuilt at any time from events alone; ``seq`` is the last event that it contains."""

# --- run cache (contracts §10) ---------------------------------------------------------------------------------------

RUN_CACHE = Table(
    "run_cache", METADATA,
    Column("run_key", String(64), primary_key=True),
    *_trace_keys(primary=True),
    Column("outcomes_sha256", String(64), nullable=False),
    Column("runs_sha256", String(64), nullable=False),
    Column("runs_size", BigInteger, nullable=False),
    Column("measured", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    *_times(),
)  # fmt: skip
"""Agreed runs of a tree, in the content store; ``state`` is agreed, or irreproducible once other agreed outcomes came."""
