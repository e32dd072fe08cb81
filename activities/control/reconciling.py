"""Effects that nobody observed are settled by what they left behind; nothing is repeated (contracts §2, RunReceipt).

A delivery is read back from its target. Whatever else our activities write is a record in the store or an object under its own
digest: either the effect's own event is there, or doing the work again changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from activities.control.executions import Executions
from activities.record.approvals import Approvals, StoredApproval
from activities.record.chain import EventChain
from activities.record.executions import ExecutionRows
from activities.record.ledger import Ledger
from activities.record.store import TenantStore, now_ms
from activities.record.unsettled import UnsettledEffect, UnsettledEffects
from schemas.capabilities import DELIVER
from schemas.event import Actor, EventDraft
from schemas.ledger import Usage
from schemas.operations import Observed, Reconciled, Unsettled, UnsettledFound, may_be_attempted
from schemas.request import ReleaseResult, ReleaseSummary
from schemas.tariff import Pricing

ENGINE = Actor(principal_id="gen4", kind="engine")
QUIET_MS = 30_000
"""An attempt whose workflow has ended hears of it within seconds; what was touched later is looked at by the next run."""


class _Verdict(NamedTuple):
    outcome: Literal["succeeded", "failed"]
    code: str
    result_json: str | None
    observed: dict[str, Any]


PAGES = 20
"""So many pages of unsettled effects are looked through in one run."""


class Reconciling:
    """Args:
    pricing: of what metered capabilities use.
    """

    def __init__(
        self, store: TenantStore, executions: Executions, pricing: Pricing, clock: Callable[[], int] = now_ms,
        quiet_ms: int = QUIET_MS,
    ) -> None:  # fmt: skip
        self._store = store
        self._effects = UnsettledEffects(store)
        self._rows = ExecutionRows(store)
        self._approvals = Approvals(store)
        self._chain = EventChain(store)
        self._ledger = Ledger(store)
        self._executions = executions
        self._pricing = pricing
        self._clock = clock
        self._quiet_ms = quiet_ms

    def find(self, limit: int) -> UnsettledFound:
        """Effects that no attempt can settle any more, by the server's own record of their runs."""
        before, final, waiting = self._clock() - self._quiet_ms, list[UnsettledEffect](), 0
        last: UnsettledEffect | None = None
        for _ in range(PAGES):  # what waits for its workflow must not hide what does not
            page = self._effects.before(before, limit, last)
            settleable = [effect for effect in page if self._is_final(effect)]
            final, waiting = [*final, *settleable], waiting + len(page) - len(settleable)
            if len(page) < limit or len(final) >= limit:
                break
            last = page[-1]
        return UnsettledFound(effects=tuple(self._unsettled(effect) for effect in final[:limit]), waiting=waiting)

    def reconcile(self, effect_key: str, observed: Observed | None) -> Reconciled:
        """Settle one effect, with its reservation, unless an attempt came before us."""
        effect = self._effects.get(effect_key)
        if effect is None or not self._is_final(effect):
            return Reconciled(effect_key=effect_key, code="SETTLED_BY_ITSELF")
        verdict = self._verdict(effect, observed)
        if verdict is None:
            self._effects.touch(effect, self._clock())
            return Reconciled(effect_key=effect_key, code="TARGET_UNREACHABLE")
        now = self._clock()

        def settle(connection: Connection) -> bool:
            if not self._effects.settle(connection, effect, verdict.outcome, verdict.result_json, now):
                return False
            self._settle_reservation(connection, effect, now)
            payload = {
                "effect_key": effect.effect_key, "attempt_key": effect.attempt_key, "was": effect.outcome,
                "outcome": verdict.outcome, "code": verdict.code, "observed": verdict.observed,
            }  # fmt: skip
            draft = EventDraft(
                kind="task.reconciled", capability_id=effect.capability_id, payload=payload,
                idempotency_key=f"{effect.attempt_key}/{effect.updated_at_ms}/task.reconciled",
            )  # fmt: skip
            self._chain.append(effect.keys, ENGINE, draft, connection=connection)
            return True

        if not self._store.write(settle):
            return Reconciled(effect_key=effect_key, code="SETTLED_BY_ITSELF")
        return Reconciled(effect_key=effect_key, outcome=verdict.outcome, code=verdict.code)

    # -----------------------------------------------------------------------------------------------------------------

    def _is_final(self, effect: UnsettledEffect) -> bool:
        workflow_id, run_id, activity_id = effect.run
        run = self._executions.describe(workflow_id, run_id)
        if effect.outcome == "started" and run is not None and run.running:
            return False  # its attempt may still be at work, in a worker that the server has given up
        return not may_be_attempted(run, activity_id)

    def _unsettled(self, effect: UnsettledEffect) -> Unsettled:
        approval = self._approval_of(effect)
        return Unsettled(
            effect_key=effect.effect_key, capability_id=effect.capability_id, session_id=effect.keys.session_id,
            approval_id=approval.request.approval_id if approval else None,
        )  # fmt: skip

    def _verdict(self, effect: UnsettledEffect, observed: Observed | None) -> _Verdict | None:
        if effect.capability_id == DELIVER.id:
            return self._delivery(effect, observed)
        records = self._effects.records_of(effect)
        if records:
            return _Verdict("succeeded", "RECORDED", None, {"events": records[:100]})
        return _Verdict("failed", "NOT_OBSERVED", None, {"events": []})

    def _delivery(self, effect: UnsettledEffect, observed: Observed | None) -> _Verdict | None:
        approval = self._approval_of(effect)
        if approval is None:
            return _Verdict("failed", "NOT_APPROVED", None, {})  # a delivery starts by finding its redeemed approval
        if observed is None or observed.state == "unreachable":
            return None
        seen = observed.model_dump(mode="json", include={"state", "ref", "head"})
        if observed.state == "absent":
            return _Verdict("failed", "NOT_DELIVERED", None, seen)
        action = approval.request.action
        release = ReleaseSummary(mode=action.mode, ref=action.target_ref, commit=action.commit_id)
        return _Verdict("succeeded", "DELIVERED", ReleaseResult(release=release, redeemed=True).model_dump_json(), seen)

    def _approval_of(self, effect: UnsettledEffect) -> StoredApproval | None:
        """What the delivery was allowed by: the approval that its own run redeemed."""
        if effect.capability_id != DELIVER.id:
            return None
        workflow_id, run_id, _ = effect.run
        of_session = self._approvals.of_session(effect.keys.session_id)
        redeemed = (stored for stored in of_session if stored.request.status == "redeemed")
        return next((stored for stored in redeemed if _redeemed_by(stored).startswith(f"{workflow_id}/{run_id}/")), None)

    def _settle_reservation(self, connection: Connection, effect: UnsettledEffect, now: int) -> None:
        """Nobody measured what the attempt used, so it is charged what was held back for it."""
        held = self._effects.held_by(connection, effect)
        if not held:
            return
        row = self._rows.get(*effect.run[:2], connection)
        usage = Usage(cpu_ms=held.get("cpu_ms", 0), wall_ms=held.get("wall_ms", 0), egress_bytes=held.get("egress_bytes", 0))
        self._ledger.settle(
            connection, effect.keys, effect_key=effect.effect_key, capability_id=effect.capability_id,
            role=row.role if row else "operator", usage=usage, tariff=self._pricing, now_ms=now,
        )  # fmt: skip


def _redeemed_by(stored: StoredApproval) -> str:
    decision = json.loads(stored.decision_json) if stored.decision_json else {}
    return str(decision.get("redeemed_by", ""))
