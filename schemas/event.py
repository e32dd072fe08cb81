"""The event envelope and its closed list of kinds (contracts §8). One gapless hash chain per session."""

from __future__ import annotations

from typing import Any, Literal

from schemas.canonical import jcs_sha256
from schemas.model import Payload, Sha256

EventKind = Literal[
    "session.opened", "session.transition", "session.transition_refused", "session.closed",
    "policy.decision", "plan.committed", "gate.decision", "lease.issued", "lease.revoked",
    "approval.requested", "approval.decided", "approval.refused", "approval.redeemed", "approval.expired", "approval.revoked",
    "budget.reserved", "budget.settled", "budget.voided", "budget.expired", "budget.overrun", "budget.blocked",
    "budget.reconciled", "task.started", "task.receipt", "task.reconciled", "candidate.recorded", "trajectory.sealed",
    "compile.completed", "bundle.sealed", "verify.verdict", "change.opened", "change.merged", "rollout.changed",
    "breaker.changed", "config.changed", "killswitch.changed", "key.created", "key.rotated", "key.revoked", "auth.refused",
    "sandbox.violation", "sandbox.killed", "store.restored", "execution.reset", "payload.erased", "checkpoint.signed",
]  # fmt: skip
"""The kinds that this version writes; later versions add to it (contracts §8 has the whole list)."""

GENESIS = "0" * 64
"""``prev_hash`` of the first event of a chain."""


class Actor(Payload):
    principal_id: str
    kind: Literal["human", "service", "agent", "engine"]


class Event(Payload):
    """One record. ``hash`` = sha256(JCS(all other fields)); the payload lies beside, committed by salt."""

    event_id: str
    tenant_id: str
    trace_id: str
    session_id: str
    task_id: str | None
    capability_id: str | None
    version: str
    seq: int
    kind: EventKind
    actor: Actor
    idempotency_key: str
    payload_commitment: Sha256
    recorded_at_ms: int
    prev_hash: Sha256
    hash: Sha256


class EventDraft(Payload):
    """What a writer supplies; the chain adds sequence, time, commitment and hashes."""

    kind: EventKind
    task_id: str | None = None
    capability_id: str | None = None
    version: str = "1"
    idempotency_key: str
    payload: dict[str, Any]


def event_hash(event: dict[str, Any]) -> str:
    """Hash of an event given as JSON object, over every field but ``hash`` (null fields included)."""
    return jcs_sha256({key: value for key, value in event.items() if key != "hash"})
