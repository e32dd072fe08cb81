"""Tenants, principals and what binds them (contracts §3): facts, and the one order in which they are checked."""

from __future__ import annotations

from typing import Literal, NamedTuple

from schemas.canonical import sha256_hex
from schemas.model import Digest, Payload

Role = Literal[
    "localizer", "planner", "implementer", "verifier", "reviewer", "release_captain", "operator", "auditor", "tenant_admin"
]
PrincipalKind = Literal["human", "service", "agent", "engine"]
Status = Literal["active", "suspended", "closed"]
"""Of tenants and principals; closed is for good."""


class Tenant(Payload):
    tenant_id: str
    name: str
    status: Status = "active"
    currency: str = "USD"


class Principal(Payload):
    """``issuer``/``subject`` are what a verified credential says: an OIDC issuer and its ``sub``, ``ssh`` and a key's
    fingerprint, ``temporal`` and the name that the server stamped, ``local`` and a uid."""

    principal_id: str
    tenant_id: str
    kind: PrincipalKind
    issuer: str
    subject: str
    status: Status = "active"


class RoleBinding(Payload):
    tenant_id: str
    principal_id: str
    role: Role
    granted_by: str


class PolicyBinding(Payload):
    """What a role may do at most in a tenant. An empty list means nothing."""

    policy_id: str
    tenant_id: str
    role: Role
    allowed_actions: tuple[str, ...]
    """Side effects: none, read, write, irreversible."""
    capability_prefixes: tuple[str, ...]
    path_tier_max: str
    autonomy_tier: str
    max_memory_mb: int
    max_tokens: int
    policy_digest: Digest


class SessionLease(Payload):
    """The right of a session to act, for a while. A row, no secret; ``generation`` fences older ones."""

    lease_id: str
    tenant_id: str
    session_id: str
    principal_id: str
    policy_id: str
    generation: int
    issued_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int | None = None
    revoked_reason: str | None = None


class IdentityFacts(Payload):
    """What the directory knows of who wants to act. None: there is no such row."""

    tenant: Tenant | None = None
    principal: Principal | None = None
    binding: RoleBinding | None = None
    policy: PolicyBinding | None = None
    lease: SessionLease | None = None
    """The newest of the session."""


class Wanted(Payload):
    """What the execution row and the capability say of one call; nothing of it comes from an argument or a header."""

    tenant_id: str
    session_id: str
    principal_id: str
    role: str
    capability_id: str
    side_effect: str
    generation: int | None = None
    """Of the lease under which the work began; None while it only begins."""
    memory_mb: int = 0
    tokens: int = 0


class IdentityRefusal(NamedTuple):
    code: str
    message: str
    remedy: str


_ACTIVATE = "ask a tenant_admin to activate it, then start a new session"
_RESTART = "start a new session"
REMEDIES: dict[str, str] = {
    "TENANT_INACTIVE": _ACTIVATE,
    "PRINCIPAL_UNKNOWN": "ask a tenant_admin to register the principal: gen4 principal add --help",
    "PRINCIPAL_INACTIVE": _ACTIVATE,
    "PRINCIPAL_FOREIGN": "act in the tenant that the principal belongs to",
    "ROLE_UNBOUND": "ask a tenant_admin to grant the role: gen4 role grant --help",
    "POLICY_UNBOUND": "name the role under `roles` in policies/data.json and start the worker again",
    "ROLE_MISMATCH": "bind the policy to the role that acts",
    "LEASE_MISSING": _RESTART,
    "LEASE_REVOKED": "find out why in `gen4 lease list`; a revoked lease never comes back, start a new session",
    "LEASE_EXPIRED": "nothing: the lease is issued again while tenant, principal and bindings allow it",
    "LEASE_STALE": "nothing: the call is repeated under the newest lease",
    "LEASE_MISMATCH": _RESTART,
    "CAPABILITY_NOT_LEASED": "act in a role whose capability_prefixes in policies/data.json cover it",
    "ACTION_NOT_LEASED": "act in a role whose allowed_actions in policies/data.json cover it",
    "MEMORY_ABOVE_POLICY": "ask for no more memory than the role's max_memory_mb",
    "TOKENS_ABOVE_POLICY": "ask for no more tokens than the role's max_tokens",
    "SCHEDULE_UNREGISTERED": "register who owns the schedule; nobody's schedule starts nothing",
}
"""Every refusal code of identity with its remedy."""


def judge_identity(facts: IdentityFacts, wanted: Wanted, now_ms: int) -> IdentityRefusal | None:
    """May this principal do this now? The first broken fact decides, in the order of contracts §3.

    Ids are compared as they are: another case, Unicode form or a space more is another id.
    """
    return judge_holder(facts, wanted) or judge_lease(facts.lease, facts, wanted, now_ms) or _judge_policy(facts, wanted)


def judge_bearer(facts: IdentityFacts, wanted: Wanted, now_ms: int) -> IdentityRefusal | None:
    """The part about who acts, for calls of which it is not known yet what they ask for."""
    return judge_holder(facts, wanted) or judge_lease(facts.lease, facts, wanted, now_ms)


def judge_holder(facts: IdentityFacts, wanted: Wanted) -> IdentityRefusal | None:
    """The part about tenant, principal, role and policy: may he hold a lease, or get it again?"""
    tenant, principal, binding, policy = facts.tenant, facts.principal, facts.binding, facts.policy
    if tenant is None or tenant.tenant_id != wanted.tenant_id or tenant.status != "active":
        return _no("TENANT_INACTIVE", f"tenant {wanted.tenant_id} is {tenant.status if tenant else 'unknown'}")
    if principal is None or principal.principal_id != wanted.principal_id:
        return _no("PRINCIPAL_UNKNOWN", f"no principal {wanted.principal_id!r} is registered")
    if principal.status != "active":
        return _no("PRINCIPAL_INACTIVE", f"principal {wanted.principal_id} is {principal.status}")
    if principal.tenant_id != wanted.tenant_id:
        return _no("PRINCIPAL_FOREIGN", f"principal {wanted.principal_id} belongs to another tenant")
    if binding is None or (binding.tenant_id, binding.principal_id) != (wanted.tenant_id, wanted.principal_id):
        return _no("ROLE_UNBOUND", f"principal {wanted.principal_id} does not hold role {wanted.role!r}")
    if policy is None or policy.tenant_id != wanted.tenant_id:
        return _no("POLICY_UNBOUND", f"role {wanted.role!r} is bound to no policy")
    if not binding.role == policy.role == wanted.role:
        return _no("ROLE_MISMATCH", f"held is {binding.role}, the policy is for {policy.role}, acting is {wanted.role!r}")
    return None


def judge_lease(
    lease: SessionLease | None, facts: IdentityFacts, wanted: Wanted, now_ms: int
) -> IdentityRefusal | None:
    """The part about the lease: exists, live, newest, matches in everything."""
    if lease is None:
        return _no("LEASE_MISSING", f"session {wanted.session_id} has no lease")
    if lease.revoked_at_ms is not None:
        return _no("LEASE_REVOKED", f"the lease was revoked: {lease.revoked_reason or 'no reason given'}")
    if now_ms >= lease.expires_at_ms:
        return _no("LEASE_EXPIRED", f"the lease expired {now_ms - lease.expires_at_ms} ms ago")
    if wanted.generation is not None and wanted.generation != lease.generation:
        return _no("LEASE_STALE", f"begun under generation {wanted.generation}, the newest is {lease.generation}")
    held = (lease.tenant_id, lease.session_id, lease.principal_id, lease.policy_id)
    if held != (wanted.tenant_id, wanted.session_id, wanted.principal_id, facts.policy.policy_id if facts.policy else None):
        return _no("LEASE_MISMATCH", "the lease belongs to another tenant, session, principal or policy")
    return None


def covers(prefixes: tuple[str, ...], capability_id: str) -> bool:
    """A prefix is a whole id or ends at a dot: ``explore.`` covers ``explore.repair``, ``explore.rep`` nothing."""
    return any(
        capability_id == prefix or (prefix.endswith(".") and len(prefix) > 1 and capability_id.startswith(prefix))
        for prefix in prefixes
    )


def _judge_policy(facts: IdentityFacts, wanted: Wanted) -> IdentityRefusal | None:
    policy = facts.policy
    if policy is None:
        return _no("POLICY_UNBOUND", f"role {wanted.role!r} is bound to no policy")
    if not covers(policy.capability_prefixes, wanted.capability_id):
        return _no("CAPABILITY_NOT_LEASED", f"role {wanted.role} does not reach {wanted.capability_id!r}")
    if wanted.side_effect not in policy.allowed_actions:
        return _no("ACTION_NOT_LEASED", f"role {wanted.role} may not act with side effect {wanted.side_effect!r}")
    if wanted.memory_mb > policy.max_memory_mb:
        return _no("MEMORY_ABOVE_POLICY", f"{wanted.memory_mb} MiB asked, {policy.max_memory_mb} allowed to {wanted.role}")
    if wanted.tokens > policy.max_tokens:
        return _no("TOKENS_ABOVE_POLICY", f"{wanted.tokens} tokens asked, {policy.max_tokens} allowed to {wanted.role}")
    return None


def _no(code: str, message: str) -> IdentityRefusal:
    return IdentityRefusal(code, message[:500], REMEDIES[code])


# --- leases ----------------------------------------------------------------------------------------------------------

LEASE_TTL_MS = 3_600_000


def lease_id(session_id: str, generation: int) -> str:
    """The same for whoever makes it, so that of several at once one row remains."""
    return "lea_" + sha256_hex(f"{generation}/{session_id}".encode())[:40]


def issue_lease(
    tenant_id: str, session_id: str, principal_id: str, policy_id: str, now_ms: int, ttl_ms: int = LEASE_TTL_MS
) -> SessionLease:
    """The first lease of a session."""
    return SessionLease(
        lease_id=lease_id(session_id, 1), tenant_id=tenant_id, session_id=session_id, principal_id=principal_id,
        policy_id=policy_id, generation=1, issued_at_ms=now_ms, expires_at_ms=now_ms + ttl_ms,
    )  # fmt: skip


def needs_reissue(lease: SessionLease, now_ms: int) -> bool:
    """After a long wait. What was revoked is never issued again."""
    return lease.revoked_at_ms is None and now_ms >= lease.expires_at_ms


def reissue_lease(lease: SessionLease, now_ms: int, ttl_ms: int = LEASE_TTL_MS) -> SessionLease:
    """The next generation, which fences the one before.

    Raises:
        ValueError: for a revoked lease.
    """
    if lease.revoked_at_ms is not None:
        raise ValueError(f"lease {lease.lease_id} was revoked")
    generation = lease.generation + 1
    return lease.model_copy(
        update={
            "lease_id": lease_id(lease.session_id, generation), "generation": generation,
            "issued_at_ms": now_ms, "expires_at_ms": now_ms + ttl_ms,
        }
    )  # fmt: skip


# --- whose run it is -------------------------------------------------------------------------------------------------

Mode = Literal["embedded", "server"]
"""embedded: one operator, whose processes alone reach the server. server: the server authenticates and stamps callers."""

LOCAL_ISSUER, TEMPORAL_ISSUER, SSH_ISSUER = "local", "temporal", "ssh"


class Starter(Payload):
    """Where to look up who stands behind a root run: the local operator, a stamped name, or the owner of a schedule."""

    kind: Literal["operator", "stamped", "schedule"]
    name: str = ""


def principal_of(stamp_type: str, stamp_name: str, scheduled_by: str, mode: Mode) -> Starter | IdentityRefusal:
    """Who started a root run, from the server's record of its start.

    Args:
        stamp_type, stamp_name: ``principal`` of the WorkflowExecutionStarted event; empty when it is unset.
        scheduled_by: id of the schedule that started the run; empty for none.
    """
    if mode == "embedded":
        return Starter(kind="schedule", name=scheduled_by) if scheduled_by else Starter(kind="operator")
    if stamp_type == "jwt" and stamp_name:
        return Starter(kind="stamped", name=stamp_name)
    if (stamp_type, stamp_name) == ("temporal", "internal") and scheduled_by:
        return Starter(kind="schedule", name=scheduled_by)
    by = f"{stamp_type}/{stamp_name}"[:200] if stamp_type or stamp_name else "nobody whom the server authenticated"
    return _no("PRINCIPAL_UNKNOWN", f"the run was started by {by}")


def judge_starter(principal: Principal | None, phase: str) -> IdentityRefusal | None:
    """The fabric itself starts its own operations only: whoever can rewrite its schedules does not get its right to more."""
    if principal is not None and principal.kind == "engine" and phase != "operations":
        return _no("ROLE_MISMATCH", f"{principal.principal_id} is the fabric itself, which starts no work of phase {phase}")
    return None
