"""The kernel: tenants and principals, leases, kill switches, ledger, breakers, checkpoints, payload keys, erasure, read views.

Sessions that are open while this runs go on: their leases and accounts are made when they act next.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from activities.record.migrations.guards import append_only, drop_change_guard, on_postgresql, refuse_change, refuse_insert

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "breaker",
        sa.Column("scope_key", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("failure_count", sa.Integer, nullable=False),
        sa.Column("success_count", sa.Integer, nullable=False),
        sa.Column("threshold", sa.Integer, nullable=False),
        sa.Column("cooldown_ms", sa.BigInteger, nullable=False),
        sa.Column("failing_since_ms", sa.BigInteger, nullable=True),
        sa.Column("opened_at_ms", sa.BigInteger, nullable=True),
        sa.Column("probe_id", sa.String(512), nullable=True),
        sa.Column("probe_from_ms", sa.BigInteger, nullable=True),
        sa.Column("probe_until_ms", sa.BigInteger, nullable=True),
        sa.Column("last_failure_ms", sa.BigInteger, nullable=True),
        sa.Column("last_success_ms", sa.BigInteger, nullable=True),
        sa.Column("last_reason", sa.String(256), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("scope_key", "tenant_id"),
    )
    op.create_table(
        "budget_account",
        sa.Column("account_id", sa.String(256), nullable=False),
        *_trace_keys(),
        sa.Column("parent_account_id", sa.String(256), nullable=True),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("debits_pending", sa.BigInteger, nullable=False),
        sa.Column("debits_posted", sa.BigInteger, nullable=False),
        sa.Column("credits_posted", sa.BigInteger, nullable=False),
        sa.Column("credit_limit", sa.BigInteger, nullable=True),
        sa.Column("debits_must_not_exceed_credits", sa.Boolean, nullable=False),
        sa.Column("frozen", sa.Boolean, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("account_id", "tenant_id"),
    )
    op.create_index("ix_budget_account_session", "budget_account", ["tenant_id", "session_id"])
    op.create_table(
        "checkpoint",
        sa.Column("number", sa.BigInteger, nullable=False),
        *_trace_keys(),
        sa.Column("sessions", sa.Integer, nullable=False),
        sa.Column("root_sha256", sa.String(64), nullable=False),
        sa.Column("previous_root", sa.String(64), nullable=False),
        sa.Column("signed_note", sa.Text, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", "tenant_id"),
    )
    op.create_table(
        "checkpoint_head",
        sa.Column("number", sa.BigInteger, nullable=False),
        *_trace_keys(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number", "session_id"),
    )
    op.create_table(
        "cost_attribution",
        sa.Column("attribution_id", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("tool_invocations", sa.BigInteger, nullable=False),
        sa.Column("cpu_ms", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("egress_bytes", sa.BigInteger, nullable=False),
        sa.Column("token_cost_micros", sa.BigInteger, nullable=False),
        sa.Column("tool_cost_micros", sa.BigInteger, nullable=False),
        sa.Column("duration_cost_micros", sa.BigInteger, nullable=False),
        sa.Column("total_cost_micros", sa.BigInteger, nullable=False),
        sa.Column("price_table_version", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("attribution_id", "tenant_id"),
    )
    op.create_index("ix_cost_attribution_session", "cost_attribution", ["tenant_id", "session_id"])
    op.create_table(
        "kill_switch",
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("target", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("changed_by", sa.String(256), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("scope", "target", "tenant_id"),
    )
    op.create_table(
        "ledger_entry",
        sa.Column("ledger_id", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("debit_account_id", sa.String(256), nullable=False),
        sa.Column("credit_account_id", sa.String(256), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("pending_id", sa.String(512), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=True),
        sa.Column("token_cost", sa.BigInteger, nullable=False),
        sa.Column("tool_cost", sa.BigInteger, nullable=False),
        sa.Column("duration_cost", sa.BigInteger, nullable=False),
        sa.Column("price_table_version", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(512), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("ledger_id", "tenant_id"),
    )
    op.create_index("ix_ledger_entry_pending", "ledger_entry", ["tenant_id", "pending_id"])
    op.create_index("ix_ledger_entry_session", "ledger_entry", ["tenant_id", "session_id"])
    op.create_table(
        "namespace",
        sa.Column("namespace", sa.String(256), nullable=False),
        *_trace_keys(),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace"),
    )
    op.create_table(
        "payload_erasure",
        sa.Column("event_id", sa.String(36), nullable=False),
        *_trace_keys(),
        sa.Column("authority_event_id", sa.String(36), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_table(
        "payload_key",
        sa.Column("key_id", sa.String(64), nullable=False),
        *_trace_keys(),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("key_id", "tenant_id"),
    )
    op.create_table(
        "policy_binding",
        sa.Column("policy_id", sa.String(128), nullable=False),
        *_trace_keys(),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("allowed_actions_json", sa.Text, nullable=False),
        sa.Column("capability_prefixes_json", sa.Text, nullable=False),
        sa.Column("path_tier_max", sa.String(4), nullable=False),
        sa.Column("autonomy_tier", sa.String(4), nullable=False),
        sa.Column("max_memory_mb", sa.Integer, nullable=False),
        sa.Column("max_tokens", sa.Integer, nullable=False),
        sa.Column("policy_digest", sa.String(71), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("policy_id", "tenant_id"),
        sa.UniqueConstraint("tenant_id", "role", name="uq_policy_binding_role"),
    )
    op.create_table(
        "principal",
        sa.Column("principal_id", sa.String(256), nullable=False),
        *_trace_keys(),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("principal_id", "tenant_id"),
        sa.UniqueConstraint("tenant_id", "issuer", "subject", name="uq_principal_subject"),
    )
    op.create_table(
        "quota_window",
        sa.Column("window_id", sa.String(256), nullable=False),
        *_trace_keys(),
        sa.Column("account_id", sa.String(256), nullable=False),
        sa.Column("window_start_ms", sa.BigInteger, nullable=False),
        sa.Column("window_end_ms", sa.BigInteger, nullable=False),
        sa.Column("window_budget", sa.BigInteger, nullable=False),
        sa.Column("consumed", sa.BigInteger, nullable=False),
        sa.Column("blocked_count", sa.Integer, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("window_id", "tenant_id"),
    )
    op.create_table(
        "reservation",
        sa.Column("pending_id", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("effect_key", sa.String(512), nullable=False),
        sa.Column("account_id", sa.String(256), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("settled", sa.BigInteger, nullable=False),
        sa.Column("overrun", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("pending_id", "tenant_id"),
    )
    op.create_index("ix_reservation_effect", "reservation", ["tenant_id", "effect_key"])
    op.create_index("ix_reservation_open", "reservation", ["tenant_id", "status", "expires_at_ms"])
    op.create_table(
        "role_binding",
        sa.Column("principal_id", sa.String(256), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        *_trace_keys(),
        sa.Column("granted_by", sa.String(256), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal_id", "role", "tenant_id"),
    )
    op.create_table(
        "schedule_owner",
        sa.Column("schedule_id", sa.String(256), nullable=False),
        *_trace_keys(),
        sa.Column("principal_id", sa.String(256), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "tenant_id"),
    )
    op.create_table(
        "session_lease",
        sa.Column("lease_id", sa.String(64), nullable=False),
        *_trace_keys(),
        sa.Column("principal_id", sa.String(256), nullable=False),
        sa.Column("policy_id", sa.String(128), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("issued_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger, nullable=True),
        sa.Column("revoked_reason", sa.String(256), nullable=True),
        sa.PrimaryKeyConstraint("lease_id", "tenant_id"),
        sa.UniqueConstraint("tenant_id", "session_id", "generation", name="uq_session_lease_generation"),
    )
    op.create_table(
        "session_view",
        *_trace_keys(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("view_json", sa.Text, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("tenant_id", "session_id"),
    )
    op.create_table(
        "tenant",
        *_trace_keys(),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("currency", sa.String(8), nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "used_token",
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("jti", sa.String(512), nullable=False),
        *_trace_keys(),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "jti", "tenant_id"),
    )
    op.add_column("effect", sa.Column("failures", sa.Integer, server_default="0", nullable=False))
    op.add_column("event_payload", sa.Column("key_id", sa.String(64), nullable=True))
    ends = sa.text("kind = 'session.opened' OR kind = 'session.closed'")
    columns = ["tenant_id", "session_id", "kind"]
    op.create_index("ix_event_session_ends", "event", columns, sqlite_where=ends, postgresql_where=ends)
    op.add_column("execution", sa.Column("role", sa.String(32), server_default="operator", nullable=False))
    _guard()
    if on_postgresql():
        _separate_tenants()


def _guard() -> None:
    append_only("checkpoint", "number = NEW.number AND tenant_id = NEW.tenant_id")
    append_only("checkpoint_head", "tenant_id = NEW.tenant_id AND number = NEW.number AND session_id = NEW.session_id")
    append_only("cost_attribution", "attribution_id = NEW.attribution_id AND tenant_id = NEW.tenant_id")
    append_only("ledger_entry", "ledger_id = NEW.ledger_id AND tenant_id = NEW.tenant_id")
    append_only("payload_erasure", "event_id = NEW.event_id")
    # A payload goes only after its tombstone came, and never comes back.
    tombstone = "EXISTS (SELECT 1 FROM payload_erasure AS e WHERE e.event_id = {0}.event_id AND e.tenant_id = {0}.tenant_id)"
    drop_change_guard("event_payload", "DELETE")
    refuse_change("event_payload", "DELETE", unless=tombstone.format("OLD"))
    refuse_insert("event_payload", "no_return", tombstone.format("NEW"))
    # SQLite cannot add a CHECK to a table that exists.
    missing = "length(NEW.tenant_id) = 0 OR length(NEW.trace_id) = 0 OR length(NEW.session_id) = 0"
    refuse_insert("event", "needs_ids", missing, "lacks a required id")


def _separate_tenants() -> None:
    """Row-level security: a transaction sees the tenant that its login role is bound to, or else the one that it names.

    ``*`` names all tenants: administration, and only for a role that is bound to none.
    """
    op.create_table(
        "tenant_role",
        sa.Column("role_name", sa.String(63), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.CheckConstraint("tenant_id <> '*'", name="ck_tenant_role_one"),
    )
    op.execute("REVOKE ALL ON tenant_role FROM PUBLIC")
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    here = f"SET search_path = {schema}, pg_temp"
    op.execute(
        f"CREATE FUNCTION gen4_tenant_of_role() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER {here} AS"  # noqa: S608
        " $$ BEGIN RETURN (SELECT tenant_id FROM tenant_role WHERE role_name = session_user); END $$"
    )
    op.execute(
        f"CREATE FUNCTION gen4_tenant() RETURNS text LANGUAGE plpgsql STABLE {here} AS"
        " $$ BEGIN RETURN coalesce(gen4_tenant_of_role(), current_setting('gen4.tenant', true)); END $$"
    )
    # In a sub-select the function runs once per statement, not once per row.
    mine = "tenant_id = (SELECT gen4_tenant()) OR (SELECT gen4_tenant()) = '*'"
    for table in _TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY gen4_own ON {table} USING ({mine})")
    op.execute("CREATE POLICY gen4_seen_by_all ON kill_switch FOR SELECT USING (tenant_id = '*')")
    op.execute("CREATE POLICY gen4_set_for_all ON kill_switch USING (tenant_id = '*' AND (SELECT gen4_tenant_of_role()) IS NULL)")


_TENANT_TABLES = (
    "approval", "breaker", "budget_account", "checkpoint", "checkpoint_head", "cost_attribution", "cursor", "effect", "event",
    "event_payload", "execution", "kill_switch", "ledger_entry", "namespace", "payload_erasure", "payload_key", "policy_binding",
    "principal", "quota_window", "reservation", "role_binding", "schedule_owner", "session_lease", "session_view", "tenant",
    "used_token",
)  # fmt: skip


def _trace_keys() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("trace_id", sa.String(128), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("task_id", sa.String(256), nullable=True),
        sa.Column("capability_id", sa.String(128), nullable=True),
        sa.Column("version", sa.String(32), nullable=False),
    )


def _times() -> tuple[sa.Column[int], ...]:
    return (sa.Column("created_at_ms", sa.BigInteger, nullable=False), sa.Column("updated_at_ms", sa.BigInteger, nullable=False))
