"""Who is acting and on what: the identities that every event, row and report line carries (contracts §0 "T")."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.model import Digest, GitId, Payload
from schemas.testing import Limits

Phase = Literal["control", "explore", "compile", "release", "diff", "operations"]
"""Derived by the gate from the type of the workflow that scheduled the activity, never from an argument."""


RequiredId = Annotated[str, Field(min_length=1)]
"""An event or row that lacks one cannot be written."""


class TraceKeys(Payload):
    """T: tenant and trace keys."""

    tenant_id: RequiredId
    trace_id: RequiredId
    session_id: RequiredId
    task_id: RequiredId


UNTRACED = "untraced"
"""Session of calls that belong to no run of ours: one chain a tenant keeps their refusals."""
TENANT_CHAIN = "tenant"
"""Session id of a tenant's own chain: identity, switches, keys, checkpoints."""


def tenant_keys(tenant_id: str) -> TraceKeys:
    """T of what concerns a tenant as a whole."""
    return TraceKeys(tenant_id=tenant_id, trace_id=TENANT_CHAIN, session_id=TENANT_CHAIN, task_id=TENANT_CHAIN)


class SessionConfig(Payload):
    """Everything that a workflow needs of the settings, frozen at intake (workflows read no settings)."""

    approval_expiry_ms: int = 72 * 3_600_000
    deliver_within_ms: int = 600_000
    max_replan: int = 3
    runs: int = 2
    limits: Limits = Limits()
    """What a sandbox of the session may use: the request's wishes, completed and bounded by policy."""


class Source(Payload):
    """The code that a session is about, after its objects were fetched into our own object store."""

    repository: str
    """As requested, made absolute: a local path or an allowlisted https/ssh URL."""
    ref: str
    """The requested ref, resolved: ``refs/heads/main`` or a commit id (detached HEAD)."""
    base_commit: GitId
    base_tree: GitId
    commit_time: int
    """Committer time of ``base_commit`` in UTC seconds: SOURCE_DATE_EPOCH of every run."""


class SessionContext(Payload):
    """What intake returns and every later request of the session carries."""

    keys: TraceKeys
    requester_id: str
    config: SessionConfig
    config_digest: Digest
    approvers_digest: Digest
    """Of the list of approvers at intake; a decision counts only while it is unchanged."""
    assurance: Literal["single_operator", "separated"] = "single_operator"
