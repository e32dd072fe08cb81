"""What the gate writes: its decision, the state of the effect and the receipt, each pair in one transaction."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection

from activities.kernel.acting import Acting
from activities.kernel.admission import CHECKS, Call, Refusal
from activities.kernel.identity import keys_of
from activities.kernel.outcome import MESSAGE_CHARS, Outcome, is_effect
from activities.record.approvals import Approvals
from activities.record.chain import EventChain
from activities.record.effects import Effects, StoredReceipt
from activities.record.executions import ExecutionRow
from activities.record.store import TenantStore
from schemas.approval import ApprovalRequest, ApprovalStatus
from schemas.capability import Capability
from schemas.error import Refused
from schemas.event import Actor, EventDraft, EventKind
from schemas.task import TraceKeys

UNREDEEMED: tuple[ApprovalStatus, ...] = ("pending", "approved")
ENGINE = Actor(principal_id="gen4", kind="engine")


class Recording:
    """Blocking; every method raises InfrastructureError when the store is down."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store
        self._chain = EventChain(store)
        self._effects = Effects(store)
        self._approvals = Approvals(store)

    def refused(self, call: Call, who: Acting, refusal: Refusal) -> None:
        payload = {
            "decision": "blocked", "check_no": refusal.check_no, "code": refusal.code, "reason": refusal.message,
            "activity_type": call.activity_type[:MESSAGE_CHARS], **_policy_digest(call),
        }  # fmt: skip
        self._append(None, call, who, "gate.decision", payload)

    def begin(self, call: Call, capability: Capability[Any, Any], who: Acting) -> StoredReceipt | None:
        """Before an attempt runs.

        Returns:
            The receipt of the effect if an earlier attempt completed it; it must not be repeated.
        """
        if not is_effect(capability):
            return None  # a single event will hold decision and outcome

        def both(connection: Connection) -> StoredReceipt | None:
            stored = self._effects.begin(who, capability.id, connection)
            if stored is None:
                self._append(connection, call, who, "gate.decision", _allowed(call))
            else:
                payload = {"outcome": stored.outcome, "stored": True, "done_by": stored.attempt_key}
                self._append(connection, call, who, "task.receipt", payload)
            return stored

        return self._store.write(both)

    def settle(self, call: Call, capability: Capability[Any, Any], who: Acting, outcome: Outcome, latency_ms: int) -> None:
        """After an attempt, however it ended."""
        receipt = {**outcome.receipt, "latency_ms": latency_ms}
        if not is_effect(capability):
            self._append(None, call, who, "task.receipt", {**_allowed(call), **receipt})
            return

        def both(connection: Connection) -> None:
            self._effects.finish(who, capability.id, outcome.name, outcome.result_json, connection)
            self._append(connection, call, who, "task.receipt", receipt)

        self._store.write(both)

    def reset(self, row: ExecutionRow, original_run_id: str) -> None:
        """A reset run showed itself; once per run. Approvals of its session that were not redeemed are void (threats 6.3)."""
        keys = keys_of(row, row.tenant_id)
        open_approvals = [stored.request for stored in self._approvals.of_session(row.session_id)]
        draft = EventDraft(
            kind="execution.reset", task_id=row.task_id, idempotency_key=f"{row.run_id}/execution.reset",
            payload={
                "workflow_id": row.workflow_id, "run_id": row.run_id, "original_run_id": original_run_id,
                "generation": row.generation,
            },
        )  # fmt: skip

        def together(connection: Connection) -> None:
            self._chain.append(keys, ENGINE, draft, connection=connection)
            for request in open_approvals:
                self._revoke(connection, keys, request)

        self._store.write(together)

    def _revoke(self, connection: Connection, keys: TraceKeys, request: ApprovalRequest) -> None:
        revoked = [
            self._approvals.set_status(request.approval_id, status, "revoked", connection) for status in UNREDEEMED
        ]
        if any(revoked):
            draft = EventDraft(
                kind="approval.revoked", task_id=keys.task_id, idempotency_key=f"{request.approval_id}/approval.revoked",
                payload={"approval_id": request.approval_id, "action_digest": request.action_digest, "code": "RUN_RESET"},
            )  # fmt: skip
            self._chain.append(keys, ENGINE, draft, connection=connection)

    def _append(
        self, connection: Connection | None, call: Call, who: Acting, kind: EventKind, payload: dict[str, Any]
    ) -> None:
        draft = EventDraft(
            kind=kind,
            task_id=who.keys.task_id,
            capability_id=call.capability.id if call.capability else None,
            version=call.capability.version if call.capability else "1",
            idempotency_key=f"{who.attempt_key}/{kind}",
            payload={
                **payload, "phase": call.row.phase if call.row else "none", "workflow_id": who.workflow_id,
                "run_id": who.run_id, "effect_key": who.effect_key, "attempt": who.attempt,
            },
        )  # fmt: skip
        try:
            self._chain.append(who.keys, who.actor, draft, connection=connection)
        except Refused:
            # An operator may reset an activity, and then its attempts count from one again.
            again = draft.model_copy(update={"idempotency_key": f"{draft.idempotency_key}/{time.time_ns()}"})
            self._chain.append(who.keys, who.actor, again, connection=connection)


def _allowed(call: Call) -> dict[str, Any]:
    return {"decision": "allow", "check_no": CHECKS[-1].number, "code": "ALLOW", **_policy_digest(call)}


def _policy_digest(call: Call) -> dict[str, str]:
    return {"policy_digest": call.policy.policy_digest} if call.policy else {}
