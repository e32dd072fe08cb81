"""What the gate writes: its decision, the reservation, the state of the effect and the receipt, each set in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from activities.kernel.acting import Acting
from activities.kernel.admission import CHECKS, RECHECKED, Call, Refusal, first_refusal
from activities.kernel.estimating import bounds_of
from activities.kernel.identity import keys_of
from activities.kernel.kernel import Kernel
from activities.kernel.outcome import MESSAGE_CHARS, Outcome, blames, leaves_receipt
from activities.kernel.standing import scopes, server_of
from activities.record.effects import StoredReceipt
from activities.record.executions import ExecutionRow
from activities.record.ledger import BudgetBlocked
from activities.record.store import now_ms
from schemas.approval import ApprovalRequest, ApprovalStatus
from schemas.capability import Capability
from schemas.error import Refused
from schemas.event import Actor, EventDraft, EventKind
from schemas.ledger import Usage
from schemas.tariff import upper_bound
from schemas.task import TraceKeys

UNREDEEMED: tuple[ApprovalStatus, ...] = ("pending", "approved")
ENGINE = Actor(principal_id="gen4", kind="engine")
SKEW_MS = 300_000
"""How far clocks of workers and store may be apart: a reservation outlives the attempt's deadline by this much."""


class Recording:
    """Blocking; every method raises InfrastructureError when the store is down."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # --- before ------------------------------------------------------------------------------------------------------

    def refused(self, call: Call, who: Acting, refusal: Refusal) -> None:
        self._append(None, call, who, "gate.decision", _refusal(call, refusal))

    def begin(
        self, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow
    ) -> StoredReceipt | Refusal | None:
        """Before an attempt runs: once more whatever may have changed since the checks, then reserve, in one transaction.

        Returns:
            The receipt of the effect if an earlier attempt completed it: it must not be repeated. A refusal if it may not
            begin now; it is recorded. None: go on.
        """

        def together(connection: Connection) -> StoredReceipt | Refusal | None:
            stored = self._kernel.effects.get(who.effect_key, connection)
            if stored is not None and stored.outcome == "succeeded":
                payload = {"outcome": stored.outcome, "stored": True, "done_by": stored.attempt_key}
                self._append(connection, call, who, "task.receipt", payload)
                return stored
            held = self._hold(connection, call, capability, who, row)
            if held is not None:
                self._leave_breakers(connection, call, capability, who, row)
                self._append(connection, call, who, "gate.decision", _refusal(call, held))
                return held
            if leaves_receipt(capability):  # a probe that changes nothing is begun too, and leaves nothing to reconcile
                self._kernel.effects.begin(who, capability.id, connection)
            self._append(connection, call, who, "gate.decision", _allowed(call))
            return None

        return self._kernel.store.write(together)

    def _hold(
        self, connection: Connection, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow
    ) -> Refusal | None:
        """Checks 1, 2, 7, 8 again on the transaction's own view; a probe's place and the budget are taken here."""
        kernel, time_ms = self._kernel, now_ms()
        server = server_of(capability, call.request)
        standing = kernel.standings.load(connection, row, capability, server, who.attempt_key, time_ms)
        for number, scope in scopes(row.tenant_id, capability, server).items():
            if standing.breakers[number].decision == "probe":
                standing.breakers[number] = kernel.breakers.admit(connection, scope, who.attempt_key, time_ms)
        refusal = self._superseded(connection, capability, row) or first_refusal(replace(call, standing=standing), RECHECKED)
        if refusal is not None and refusal.code == "LEASE_EXPIRED":
            return refusal._replace(retry_after_ms=1)  # it was live at the checks; the next attempt renews it
        if refusal is not None or not capability.metered:
            return refusal
        timeout_ms = round(capability.timeout.total_seconds() * 1000)
        amounts = upper_bound(kernel.pricing, bounds_of(capability, call.request, kernel.policies.limits))
        reserved = kernel.ledger.reserve(
            connection, who.keys, effect_key=who.effect_key, capability_id=capability.id, amounts=amounts,
            generation=who.generation, expires_at_ms=time_ms + timeout_ms + SKEW_MS, now_ms=time_ms,
        )  # fmt: skip
        if not isinstance(reserved, BudgetBlocked):
            return None
        message = f"{reserved.unit}: {reserved.needed} needed, {reserved.available} available on {reserved.account_id}"
        later = None if reserved.retry_at_ms is None else max(reserved.retry_at_ms - time_ms, 1)
        return Refusal(10, reserved.code, message, reserved.remedy, retry_after_ms=later)

    def _superseded(
        self, connection: Connection, capability: Capability[Any, Any], row: ExecutionRow
    ) -> Refusal | None:
        """An attempt of a run that was reset meanwhile begins nothing more: the new run's generation fences it."""
        if capability.containment or row.phase == "operations" or not self._kernel.executions.superseded(connection, row):
            return None
        return Refusal(1, "RUN_RESET", "the run was reset while it went on; a newer one took its place", "start a new one")

    def _leave_breakers(
        self, connection: Connection, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow
    ) -> None:
        """A probe that a later check holds back does not run: its place is free again."""
        for scope in scopes(row.tenant_id, capability, server_of(capability, call.request)).values():
            self._kernel.breakers.settle(connection, scope, who.attempt_key, None, "", now_ms())

    def require_standing(
        self, call: Call, capability: Capability[Any, Any], row: ExecutionRow, attempt_key: str
    ) -> None:
        """For a running activity, right before a step that cannot be undone.

        Raises:
            Refused: the first of checks 1 and 2 that no longer passes.
        """
        kernel, server = self._kernel, server_of(capability, call.request)

        def look(connection: Connection) -> Refusal | None:
            standing = kernel.standings.load(connection, row, capability, server, attempt_key, now_ms())
            now = replace(call, standing=replace(standing, breakers={}))
            return self._superseded(connection, capability, row) or first_refusal(now, RECHECKED)

        refusal = kernel.store.read(look)
        if refusal is not None and refusal.code == "LEASE_EXPIRED" and self.renew_lease(row):
            refusal = kernel.store.read(look)
        if refusal is not None:
            raise Refused(refusal.code, refusal.message, refusal.remedy)

    # --- after -------------------------------------------------------------------------------------------------------

    def settle(
        self, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, outcome: Outcome, latency_ms: int,
        usage: Usage,
    ) -> int:  # fmt: skip
        """After an attempt, however it ended: receipt, cost and breakers at once.

        Returns:
            How many attempts of this effect failed by its own fault so far, this one included.
        """
        receipt = {**outcome.receipt, "latency_ms": latency_ms}
        if usage != Usage():
            receipt["usage"] = usage.model_dump(mode="json", exclude_defaults=True)

        def together(connection: Connection) -> int:
            self._settle_breakers(connection, call, capability, who, row, outcome)
            if not leaves_receipt(capability):
                self._append(connection, call, who, "task.receipt", {**_allowed(call), **receipt})
                return who.attempt if outcome.own_fault else 0
            kept = self._kernel.effects.finish(
                who, capability.id, outcome.name, outcome.result_json, connection, own_fault=outcome.own_fault
            )
            if capability.metered:
                self._kernel.ledger.settle(
                    connection, who.keys, effect_key=who.effect_key, capability_id=capability.id, role=who.role, usage=usage,
                    tariff=self._kernel.pricing, now_ms=now_ms(),
                )  # fmt: skip
            self._append(connection, call, who, "task.receipt", receipt)
            return kept.failures

        return self._kernel.store.write(together)

    def _settle_breakers(
        self, connection: Connection, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        """A failure counts once an effect, however often it is tried again: one bad input opens nothing for the others."""
        time_ms = now_ms()
        before = call.standing.breakers if call.standing else {}
        for number, scope in scopes(row.tenant_id, capability, server_of(capability, call.request)).items():
            ok, probing = blames(number, outcome), number in before and before[number].decision == "probe"
            said = None if ok is False and who.attempt > 1 and not probing else ok
            if said is not False and not probing and number in before and before[number].state.clean:
                continue  # a success changes nothing where nothing has failed
            generation = before[number].state.generation if number in before else None
            self._kernel.breakers.settle(
                connection, scope, who.attempt_key, said, outcome.code, time_ms, generation=generation
            )

    # --- runs --------------------------------------------------------------------------------------------------------

    def keep(
        self, row: ExecutionRow, original_run_id: str, look: Callable[[Connection, ExecutionRow], None] | None = None
    ) -> ExecutionRow:
        """Record a run that shows itself for the first time, with the lease of its session.

        Args:
            look: at how the run stands now, in the same transaction.
        """
        keys = keys_of(row, row.tenant_id)

        def together(connection: Connection) -> ExecutionRow:
            kept = self._kernel.executions.put(row, connection)
            if original_run_id != row.run_id:
                self._reset(connection, row, keys, original_run_id)
            self._kernel.standings.renew_lease(connection, kept, keys, now_ms())
            if look is not None:
                look(connection, kept)
            return kept

        return self._kernel.store.write(together)

    def renew_lease(self, row: ExecutionRow) -> bool:
        keys = keys_of(row, row.tenant_id)
        return self._kernel.store.write(
            lambda connection: self._kernel.standings.renew_lease(connection, row, keys, now_ms())
        )

    def _reset(self, connection: Connection, row: ExecutionRow, keys: TraceKeys, original_run_id: str) -> None:
        """Approvals of the session that were not redeemed are void (threats 6.3)."""
        draft = EventDraft(
            kind="execution.reset", task_id=row.task_id, idempotency_key=f"{row.run_id}/execution.reset",
            payload={
                "workflow_id": row.workflow_id, "run_id": row.run_id, "original_run_id": original_run_id,
                "generation": row.generation,
            },
        )  # fmt: skip
        self._kernel.chain.append(keys, ENGINE, draft, connection=connection)
        for stored in self._kernel.approvals.of_session(row.session_id, connection):
            self._revoke(connection, keys, stored.request)

    def _revoke(self, connection: Connection, keys: TraceKeys, request: ApprovalRequest) -> None:
        revoked = [
            self._kernel.approvals.set_status(request.approval_id, status, "revoked", connection) for status in UNREDEEMED
        ]
        if any(revoked):
            draft = EventDraft(
                kind="approval.revoked", task_id=keys.task_id, idempotency_key=f"{request.approval_id}/approval.revoked",
                payload={"approval_id": request.approval_id, "action_digest": request.action_digest, "code": "RUN_RESET"},
            )  # fmt: skip
            self._kernel.chain.append(keys, ENGINE, draft, connection=connection)

    # --- events ------------------------------------------------------------------------------------------------------

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
                **payload, "phase": call.row.phase if call.row else "none", "role": who.role, "workflow_id": who.workflow_id,
                "run_id": who.run_id, "effect_key": who.effect_key, "attempt": who.attempt,
            },
        )  # fmt: skip
        try:
            self._kernel.chain.append(who.keys, who.actor, draft, connection=connection)
        except Refused:
            # An operator may reset an activity, and then its attempts count from one again.
            again = draft.model_copy(update={"idempotency_key": f"{draft.idempotency_key}/{time.time_ns()}"})
            self._kernel.chain.append(who.keys, who.actor, again, connection=connection)


def _allowed(call: Call) -> dict[str, Any]:
    return {"decision": "allow", "check_no": CHECKS[-1].number, "code": "ALLOW", **_under(call)}


def _refusal(call: Call, refusal: Refusal) -> dict[str, Any]:
    return {
        "decision": refusal.decision, "check_no": refusal.check_no, "code": refusal.code,
        "reason": refusal.message[:MESSAGE_CHARS], "activity_type": call.activity_type[:MESSAGE_CHARS], **_under(call),
    }  # fmt: skip


def _under(call: Call) -> dict[str, Any]:
    """Under which policy and lease, and what a candidate policy would have refused."""
    lease = call.standing.identity.lease if call.standing else None
    refused = [rule.rule_id for rule in call.candidate.denials] if call.candidate else []
    return {
        **({"policy_digest": call.policy.policy_digest} if call.policy else {}),
        **({"lease_generation": lease.generation} if lease else {}),
        **({"would_block": refused, "candidate_enforced": call.candidate_enforced} if refused else {}),
    }
