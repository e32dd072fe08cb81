"""Who is acting, from the server's own record of how a run began. Arguments and headers are never asked (contracts §2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from activities.record.executions import ExecutionRow
from activities.record.leases import ENGINE
from schemas.identity import Role
from schemas.task import UNTRACED, Phase, TraceKeys

PHASES: dict[str, Phase] = {
    "Remediation": "control", "Explore": "explore", "Compile": "compile", "Release": "release", "GaDiff": "diff",
    "Reaper": "operations", "Reconciliation": "operations", "Checkpoint": "operations",
}  # fmt: skip
"""The closed list of workflow types; no other type may run anything."""

OPERATIONS_SESSION = "operations"
"""Session of the fabric's own schedules."""

STARTING_ROLES: tuple[Role, ...] = ("operator", "tenant_admin", "implementer", "verifier")


@dataclass(frozen=True)
class Started:
    """What WorkflowExecutionStarted says of a run."""

    workflow_id: str
    run_id: str
    workflow_type: str
    original_run_id: str
    """The run for which the event was written: a reset copies it, so it then differs from ``run_id``."""
    first_run_id: str
    continued_run_id: str | None = None
    parent: tuple[str, str] | None = None
    """(workflow id, run id) of the parent."""
    foreign_parent: bool = False
    """The parent lives in another namespace, hence with another tenant."""
    stamp_type: str = ""
    stamp_name: str = ""
    """Whom the server authenticated when the run was started; empty where it authenticates nobody."""
    scheduled_by: str = ""
    """The schedule that started the run."""


def predecessor(started: Started) -> tuple[str, str] | None:
    """The run whose row this one inherits, or None for a root."""
    if started.original_run_id != started.run_id:
        return (started.workflow_id, started.original_run_id)
    if started.continued_run_id:
        return (started.workflow_id, started.continued_run_id)
    return started.parent


def task_of(session_id: str) -> str:
    """One task a session in this version: the last 12 hex digits of the session's id, fit for a branch name."""
    return session_id.replace("-", "")[-12:]


def root_row(started: Started, tenant_id: str, principal_id: str, role: Role) -> ExecutionRow | None:
    """The row of a run that a person, CI or a schedule started; None for a workflow type that is not ours.

    The fabric's own schedules share one session: each of their runs is short, and one chain tells their story. The lease of
    that session is the fabric's, so what somebody else starts of these types has a session of its own.
    """
    phase = PHASES.get(started.workflow_type)
    if phase is None:
        return None
    shared = phase == "operations" and principal_id == ENGINE.principal_id
    session_id = OPERATIONS_SESSION if shared else started.first_run_id or started.run_id
    return ExecutionRow(
        tenant_id=tenant_id, workflow_id=started.workflow_id, run_id=started.run_id,
        first_run_id=started.first_run_id or started.run_id, parent_workflow_id=None, parent_run_id=None, session_id=session_id,
        trace_id=session_id.replace("-", ""), task_id=task_of(session_id), principal_id=principal_id, phase=phase, role=role,
        generation=1, reset=False,
    )  # fmt: skip


def role_of(held: Iterable[Role]) -> Role:
    """The role in which a principal starts a session: the widest of those that may, else one that is not bound."""
    roles = frozenset(held)
    return next((role for role in STARTING_ROLES if role in roles), "operator")


def heir_row(started: Started, source: ExecutionRow) -> ExecutionRow | None:
    """The row of a child, a continued run or a reset run, from the row of its parent or predecessor."""
    phase = PHASES.get(started.workflow_type)
    if phase is None or started.foreign_parent:
        return None
    was_reset = started.original_run_id != started.run_id
    same_workflow = source.workflow_id == started.workflow_id
    inherited = {
        "workflow_id": started.workflow_id, "run_id": started.run_id, "first_run_id": started.first_run_id or started.run_id,
        "phase": phase, "generation": source.generation + was_reset, "reset": source.reset or was_reset,
    }  # fmt: skip
    if not same_workflow:
        inherited |= {"parent_workflow_id": source.workflow_id, "parent_run_id": source.run_id}
    return source.model_copy(update=inherited)


def keys_of(row: ExecutionRow | None, tenant_id: str) -> TraceKeys:
    """T of a run; calls that belong to no run of ours share one chain of refusals."""
    if row is None:
        return TraceKeys(tenant_id=tenant_id, trace_id=UNTRACED, session_id=UNTRACED, task_id=UNTRACED)
    return TraceKeys(tenant_id=row.tenant_id, trace_id=row.trace_id, session_id=row.session_id, task_id=row.task_id)
