"""Tenants, principals and what binds them (contracts §3): facts, and the one order in which they are checked."""

from __future__ import annotations

from typing import Literal

from schemas.model import Digest, Payload

Role = Literal[
    "localizer", "planner", "implementer", "verifier", "reviewer", "release_captain", "operator", "auditor", "tenant_admin"
]
PrincipalKind = Literal["human", "service", "agent", "engine"]


class Tenant(Payload):
    tenant_id: str
    name: str
    status: Literal["active", "suspended", "closed"] = "active"
    currency: str = "USD"


class Principal(Payload):
    """``issuer``/``subject`` are what a verified credential says: an OIDC issuer and its ``sub``, ``ssh`` and a key's
    fingerprint, ``temporal`` and the name that the server stamped, ``local`` and a uid."""

    principal_id: str
    tenant_id: str
    kind: PrincipalKind
    issuer: str
    subject: str
    status: Literal["active", "suspended", "closed"] = "active"


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
