"""What ``activities/kernel/recording.py`` and the repositories do in transactions, over the simulated store: glue, no rules.

Every rule is a function of :class:`Cores`. A method here is one transaction, or a part of one; which transactions there are,
and in which order an attempt makes them, is the product's own order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from activities.kernel.acting import Acting
from activities.kernel.admission import Call, Refusal, Standing, first_refusal
from activities.kernel.identity import Started, predecessor
from activities.kernel.outcome import Outcome, leaves_receipt
from activities.kernel.standing import lacks_lease, scopes
from activities.record.approvals import StoredApproval
from activities.record.executions import ExecutionRow
from schemas import breaker, ledger
from schemas.approval import ApprovalRequest, SignedDecision, refusal
from schemas.approval import Refusal as DoorRefusal
from schemas.breaker import BreakerRule, BreakerState
from schemas.capability import Capability
from schemas.error import Refused
from schemas.event import EventKind
from schemas.identity import IdentityFacts, SessionLease
from schemas.kill_switch import EVERYONE, KillSwitch
from schemas.ledger import Account, Posting, Reservation, Shortage, Unit
from tests.simulator.cores import Cores
from tests.simulator.rows import Transaction

UNITS: tuple[Unit, ...] = ("micros", "cpu_ms")
SKEW_MS = 300_000
RULE = BreakerRule(threshold=2, cooldown_ms=180_000)
STEP: dict[Unit, int] = {"micros": 150, "cpu_ms": 1_500}
SESSION_LIMIT: dict[Unit, int] = {"micros": 400, "cpu_ms": 4_000}
WINDOW_MS = 3_600_000
WINDOW: dict[Unit, int] = {"micros": 300, "cpu_ms": 3_000}


class Kernel:
    """One tenant's kernel. ``policy_digest`` is that of the bundle which the policy engine holds now."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores

    # --- who acts ----------------------------------------------------------------------------------------------------

    def keep(self, tx: Transaction, started: Started, tenant_id: str, principal_id: str, now_ms: int) -> ExecutionRow | None:
        """The row of a run that shows itself for the first time, with the lease of its session."""
        known: ExecutionRow | None = tx.get("execution", started.workflow_id, started.run_id)
        if known is not None:
            return known
        before = predecessor(started)
        if before is None:
            row: ExecutionRow | None = self.cores.root_row(started, tenant_id, principal_id, "operator")
        else:
            source = tx.get("execution", *before)
            row = self.cores.heir_row(started, source) if source else None
        if row is None:
            return None
        tx.put("execution", row, started.workflow_id, started.run_id)
        if started.original_run_id != started.run_id:
            self._reset(tx, row, now_ms)
        self.renew_lease(tx, row, now_ms)
        return row

    def _reset(self, tx: Transaction, row: ExecutionRow, now_ms: int) -> None:
        tx.append(row.session_id, "execution.reset", f"{row.run_id}/execution.reset", {"generation": row.generation}, now_ms)
        for stored in tx.all("approval"):
            if stored.keys.session_id == row.session_id and stored.request.status in ("pending", "approved"):
                self._set_status(tx, stored, "revoked")
                payload = {"approval_id": stored.request.approval_id}
                tx.append(row.session_id, "approval.revoked", f"{stored.request.approval_id}/approval.revoked", payload, now_ms)

    def standing(
        self, tx: Transaction, row: ExecutionRow, capability: Capability[Any, Any] | None, server: str, probe_id: str, now_ms: int
    ) -> Standing:
        return Standing(
            identity=self._facts(tx, row), kill=self.covering(tx, row.session_id, capability.id if capability else ""),
            breakers={
                number: self.cores.admit(self._breaker(tx, scope), probe_id, now_ms)
                for number, scope in scopes(row.tenant_id, capability, server).items()
            },
            now_ms=now_ms,
        )  # fmt: skip

    def _facts(self, tx: Transaction, row: ExecutionRow) -> IdentityFacts:
        return IdentityFacts.model_construct(
            tenant=tx.get("tenant"), principal=tx.get("principal", row.principal_id),
            binding=tx.get("binding", row.principal_id, row.role), policy=tx.get("policy", row.role),
            lease=self.newest_lease(tx, row.session_id),
        )  # fmt: skip

    def newest_lease(self, tx: Transaction, session_id: str) -> SessionLease | None:
        mine = [lease for lease in tx.all("lease") if lease.session_id == session_id]
        return max(mine, key=lambda lease: lease.generation, default=None)

    def renew_lease(self, tx: Transaction, row: ExecutionRow, now_ms: int, seen: SessionLease | None = None) -> None:
        """Args: ``seen``: the lease that was found wanting, outside of this transaction; another may have been issued since."""
        facts = self._facts(tx, row)
        if facts.policy is None or self.covering(tx, row.session_id, "") is not None:
            return
        newest = self.newest_lease(tx, row.session_id)
        if newest is None:
            made = self.cores.issue_lease(row.tenant_id, row.session_id, row.principal_id, facts.policy.policy_id, now_ms)
        elif self.may_reissue(newest, seen or newest, now_ms):
            made = self.cores.reissue_lease(newest, now_ms)
        else:
            return
        tx.put("lease", made, made.session_id, made.generation)
        payload = {"generation": made.generation, "principal_id": made.principal_id, "expires_at_ms": made.expires_at_ms}
        tx.append(row.session_id, "lease.issued", f"{made.lease_id}/lease.issued", payload, now_ms)

    def may_reissue(self, newest: SessionLease, seen: SessionLease, now_ms: int) -> bool:
        """Compare-and-set: who comes second finds the winner's and adopts it."""
        return bool(newest.generation == seen.generation and self.cores.needs_reissue(newest, now_ms))

    def lacks_lease(self, standing: Standing) -> bool:
        return lacks_lease(standing)

    def revoke_lease(self, tx: Transaction, session_id: str, reason: str, now_ms: int) -> None:
        lease = self.newest_lease(tx, session_id)
        if lease is None or lease.revoked_at_ms is not None:
            return
        revoked = lease.model_copy(update={"revoked_at_ms": now_ms, "revoked_reason": reason})
        tx.put("lease", revoked, session_id, lease.generation)
        tx.append(session_id, "lease.revoked", f"{lease.lease_id}/lease.revoked", {"generation": lease.generation}, now_ms)

    # --- switches and breakers ---------------------------------------------------------------------------------------

    def covering(self, tx: Transaction, session_id: str, capability_id: str) -> KillSwitch | None:
        """Switches for everything lie in every tenant's rows, as a copy: the simulation needs no fourth kind of reading."""
        found = [kill for kill in tx.all("kill") if self.cores.covers(kill, tx.tenant_id, session_id, capability_id)]
        return found[0] if found else None

    def stopped(self, tx: Transaction, row: ExecutionRow, capability_id: str) -> str:
        """Looked at again right before something irreversible: the code of what forbids it now."""
        if self.covering(tx, row.session_id, capability_id) is not None:
            return "KILL_SWITCH"
        lease = self.newest_lease(tx, row.session_id)
        return "LEASE_REVOKED" if lease is None or lease.revoked_at_ms is not None else ""

    def turn(self, tx: Transaction, scope: Any, target: str, active: bool, now_ms: int) -> None:
        known: KillSwitch | None = tx.get("kill", scope, target)
        if known is not None and known.active == active:
            return
        epoch = known.epoch + 1 if known else 1
        switch = KillSwitch.model_construct(
            scope=scope, tenant_id=EVERYONE if scope == "everything" else tx.tenant_id, target=target, active=active,
            epoch=epoch, reason="sim", changed_by="sim",
        )  # fmt: skip
        tx.put("kill", switch, scope, target)
        tx.append("tenant", "killswitch.changed", f"kill/{scope}/{target}/{epoch}", {"active": active}, now_ms)

    def _breaker(self, tx: Transaction, scope: str) -> BreakerState:
        known: BreakerState | None = tx.get("breaker", scope)
        return known or breaker.fresh(scope, RULE)

    def _keep_breaker(self, tx: Transaction, before: BreakerState, after: BreakerState, now_ms: int) -> None:
        if after == before:
            return
        tx.put("breaker", after, after.scope_key)
        if after.generation != before.generation:
            payload = {"scope_key": after.scope_key, "from": before.phase, "to": after.phase, "at_ms": now_ms}
            tx.append("tenant", "breaker.changed", f"{after.scope_key}/{after.generation}", payload, now_ms)

    # --- one attempt -------------------------------------------------------------------------------------------------

    def refused(self, tx: Transaction, who: Acting, refused: Refusal, now_ms: int) -> None:
        self._receipt(tx, who, "gate.decision", {"decision": refused.decision, "code": refused.code}, now_ms)

    def begin(
        self, tx: Transaction, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, server: str,
        now_ms: int,
    ) -> str | Refusal | None:  # fmt: skip
        """The stored result of an earlier attempt, why it may not begin, or None: go on."""
        stored = self.find_effect(tx, who.effect_key)
        if stored is not None and stored["outcome"] == "succeeded":
            self._receipt(tx, who, "task.receipt", {"outcome": "succeeded", "stored": True}, now_ms)
            return str(stored["result"])
        held = self._hold(tx, call, capability, who, row, server, now_ms)
        if held is not None:
            self.refused(tx, who, held, now_ms)
            return held
        failures = stored["failures"] if stored else 0
        started = {"tenant_id": who.keys.tenant_id, "outcome": "started", "result": "", "failures": failures}
        tx.put("effect", started, who.effect_key)
        self._receipt(tx, who, "gate.decision", {"decision": "allow"}, now_ms)
        return None

    def find_effect(self, tx: Transaction, effect_key: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = tx.get("effect", effect_key)
        return found

    def _hold(
        self, tx: Transaction, call: Call, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, server: str,
        now_ms: int,
    ) -> Refusal | None:  # fmt: skip
        standing = self.standing(tx, row, capability, server, who.attempt_key, now_ms)
        refused = first_refusal(replace(call, standing=standing), self.cores.rechecked)
        if refused is None and not capability.containment and self.newest_generation(tx, row.session_id) > row.generation:
            refused = Refusal(1, "RUN_RESET", "a newer run took its place", "")
        if refused is not None and refused.code == "LEASE_EXPIRED":
            return refused._replace(retry_after_ms=1)  # it was live at the checks; the next attempt renews it
        if refused is not None:
            return refused
        if capability.metered:
            amounts: dict[Unit, int] = {"micros": 100, "cpu_ms": 1_000}
            expires_at_ms = now_ms + round(capability.timeout.total_seconds() * 1000) + SKEW_MS
            short = self.reserve(tx, who, amounts, expires_at_ms, now_ms)
            if short is not None:
                return Refusal(10, "BUDGET_EXHAUSTED", short.code, "grant more")
        for number, scope in scopes(row.tenant_id, capability, server).items():
            if standing.breakers[number].decision == "probe":
                self._keep_breaker(tx, self._breaker(tx, scope), standing.breakers[number].state, now_ms)
        return None

    def settle(
        self, tx: Transaction, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, server: str, outcome: Outcome,
        used: Mapping[Unit, int], now_ms: int,
    ) -> int:  # fmt: skip
        """Receipt, cost and breakers at once; returns how many attempts failed by their own fault."""
        for number, scope in scopes(row.tenant_id, capability, server).items():
            self._settle_breaker(tx, scope, who.attempt_key, self.cores.blames(number, outcome), outcome.code, now_ms)
        if not leaves_receipt(capability):
            self._receipt(tx, who, "task.receipt", {"decision": "allow", "outcome": outcome.name}, now_ms)
            return 0
        known = tx.get("effect", who.effect_key)
        if known["outcome"] != "succeeded":
            failures = known["failures"] + outcome.own_fault
            result = outcome.message if outcome.error is None else ""
            changed = {**known, "outcome": outcome.name, "result": result, "failures": failures}
            tx.put("effect", changed, who.effect_key)
            known = changed
        if capability.metered:
            self.settle_budget(tx, who, used, now_ms)
        self._receipt(tx, who, "task.receipt", {"outcome": outcome.name}, now_ms)
        return int(known["failures"])

    def _settle_breaker(self, tx: Transaction, scope: str, probe_id: str, ok: bool | None, reason: str, now_ms: int) -> None:
        before = self._breaker(tx, scope)
        match ok:
            case True:
                after = self.cores.succeeded(before, probe_id, now_ms)
            case False:
                after = self.cores.failed(before, probe_id, reason, now_ms)
            case None:
                after = self.cores.abandoned(before, probe_id)
        self._keep_breaker(tx, before, after, now_ms)

    def _receipt(self, tx: Transaction, who: Acting, kind: EventKind, payload: dict[str, Any], now_ms: int) -> None:
        body = {**payload, "effect_key": who.effect_key, "attempt_key": who.attempt_key}
        tx.append(who.keys.session_id, kind, f"{who.attempt_key}/{kind}", body, now_ms)

    # --- budget ------------------------------------------------------------------------------------------------------

    def grant(self, tx: Transaction, amounts: Mapping[Unit, int], grant_id: str) -> None:
        for unit, amount in amounts.items():
            outside = Account.model_construct(
                account_id=ledger.source_account(unit), tenant_id=tx.tenant_id, parent_account_id=None, unit=unit,
                debits_must_not_exceed_credits=False,
            )  # fmt: skip
            source = tx.get("account", outside.account_id) or outside
            tenant = self._account(tx, ledger.tenant_account(unit), unit, None)
            moved = self.cores.transfer(source, tenant, amount, f"grant/{grant_id}/grant/{unit}")
            self._apply(tx, moved, "tenant")

    def reserve(
        self, tx: Transaction, who: Acting, amounts: Mapping[Unit, int], expires_at_ms: int, now_ms: int
    ) -> Shortage | None:
        """None: reserved, now or by an earlier attempt."""
        session_id, effect_key = who.keys.session_id, who.effect_key
        mine = [held for held in tx.all("reservation") if held.effect_key == effect_key]
        if any(held.status == "open" for held in mine):
            return None
        base = f"{effect_key}#{len(mine) // len(amounts) + 1}"
        for unit, amount in amounts.items():
            short = self._top_up(tx, session_id, unit, amount, base, now_ms)
            if short is not None:
                tx.append(session_id, "budget.blocked", f"{base}/{who.attempt_key}/budget.blocked", {"unit": unit}, now_ms)
                return short
        for unit, amount in amounts.items():
            account = self._account(tx, ledger.session_account(session_id, unit), unit, ledger.tenant_account(unit))
            wanted = Reservation.model_construct(
                pending_id=ledger.pending_id(base, unit), effect_key=effect_key, account_id=account.account_id, unit=unit,
                amount=amount, status="open", settled=0, generation=who.generation, expires_at_ms=expires_at_ms,
            )  # fmt: skip
            held = self.cores.reserve(account, ledger.task_account(session_id, "task", unit), wanted, base)
            if isinstance(held, Shortage):
                raise AssertionError("topped up, and still short")
            self._apply(tx, held, session_id)
        tx.append(session_id, "budget.reserved", f"{base}/budget.reserved", {"effect_key": effect_key}, now_ms)
        return None

    def _top_up(
        self, tx: Transaction, session_id: str, unit: Unit, amount: int, base: str, now_ms: int
    ) -> Shortage | None:
        session = self._account(
            tx, ledger.session_account(session_id, unit), unit, ledger.tenant_account(unit), SESSION_LIMIT[unit]
        )
        if not session.frozen and session.available >= amount:
            return None
        tenant = self._account(tx, ledger.tenant_account(unit), unit, None)
        now_window = ledger.window_at(session.account_id, WINDOW[unit], WINDOW_MS, now_ms)
        window = tx.get("window", now_window.window_id) or now_window
        drawn = self.cores.draw(
            session, tenant, (window,), wanted=amount, step=STEP[unit], ledger_id=f"{base}/draw/{len(tx.all('entry'))}/{unit}"
        )
        if isinstance(drawn, Shortage):
            return drawn
        posting, windows = drawn
        self._apply(tx, posting, session_id)
        for changed in windows:
            tx.put("window", changed, changed.window_id)
        return None

    def settle_budget(self, tx: Transaction, who: Acting, used: Mapping[Unit, int], now_ms: int) -> None:
        session_id = who.keys.session_id
        mine = [held for held in tx.all("reservation") if held.effect_key == who.effect_key]
        if not mine:
            return
        for held in mine[-len(UNITS) :]:
            account = self._account(tx, held.account_id, held.unit, ledger.tenant_account(held.unit))
            task = self._account(tx, ledger.task_account(session_id, "task", held.unit), held.unit, account.account_id, free=True)
            excess = self._account(tx, ledger.excess_account(held.unit), held.unit, None, free=True)
            base = held.pending_id.rpartition("/")[0]
            self._apply(tx, self.cores.settle(account, task, excess, held, used.get(held.unit, 0), base), session_id)
        tx.append(session_id, "budget.settled", f"{mine[-1].pending_id}/budget.settled", {"effect_key": who.effect_key}, now_ms)

    def expire(self, tx: Transaction, now_ms: int) -> None:
        for held in tx.all("reservation"):
            session_id = held.account_id.split(":")[1]
            if self.cores.may_expire(held, now_ms, fenced=self._fenced(tx, session_id, held.generation, now_ms)):
                self._release(tx, held, session_id, "expire", now_ms)

    def newest_generation(self, tx: Transaction, session_id: str) -> int:
        return max((row.generation for row in tx.all("execution") if row.session_id == session_id), default=0)

    def _fenced(self, tx: Transaction, session_id: str, generation: int, now_ms: int) -> bool:
        """Whoever holds it can act no more: a newer generation runs, or the session has no live lease."""
        lease = self.newest_lease(tx, session_id)
        live = lease is not None and lease.revoked_at_ms is None and now_ms < lease.expires_at_ms
        return not live or self.newest_generation(tx, session_id) > generation

    def void_session(self, tx: Transaction, session_id: str, now_ms: int) -> None:
        for held in tx.all("reservation"):
            if held.status == "open" and held.account_id.split(":")[1] == session_id:
                self._release(tx, held, session_id, "void", now_ms)

    def _release(self, tx: Transaction, held: Reservation, session_id: str, kind: Any, now_ms: int) -> None:
        account = self._account(tx, held.account_id, held.unit, ledger.tenant_account(held.unit))
        base = held.pending_id.rpartition("/")[0]
        task = ledger.task_account(session_id, "task", held.unit)
        self._apply(tx, self.cores.release(account, task, held, kind, base, "sim"), session_id)
        ended: EventKind = "budget.voided" if kind == "void" else "budget.expired"
        tx.append(session_id, ended, f"{held.pending_id}/{ended}", {"effect_key": held.effect_key}, now_ms)

    def _account(
        self, tx: Transaction, account_id: str, unit: Unit, parent: str | None, limit: int | None = None, *, free: bool = False
    ) -> Account:
        known: Account | None = tx.get("account", account_id)
        return known or Account.model_construct(
            account_id=account_id, tenant_id=tx.tenant_id, parent_account_id=parent, unit=unit, credit_limit=limit,
            debits_must_not_exceed_credits=not free,
        )  # fmt: skip

    def _apply(self, tx: Transaction, posting: Posting, session_id: str) -> None:
        for account in posting.accounts:
            tx.put("account", account, account.account_id)
        for held in posting.reservations:
            tx.put("reservation", held, held.pending_id)
        for entry in posting.entries:
            if tx.get("entry", entry.ledger_id) is not None:
                raise AssertionError(f"two entries have the id {entry.ledger_id}")
            tx.put("entry", entry, entry.ledger_id)

    # --- approvals ---------------------------------------------------------------------------------------------------

    def request_approval(self, tx: Transaction, who: Acting, request: ApprovalRequest, now_ms: int) -> str:
        for stored in tx.all("approval"):
            if (stored.keys.session_id, stored.request.run_id) == (who.keys.session_id, who.run_id):
                return str(stored.request.approval_id)  # an earlier attempt came this far
        made = StoredApproval.model_construct(
            request=request, keys=who.keys, decided_by=None, decision_json=None, deliver_by_ms=None, created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )  # fmt: skip
        tx.put("approval", made, request.approval_id)
        payload = {"approval_id": request.approval_id, "action_digest": request.action_digest}
        tx.append(who.keys.session_id, "approval.requested", f"{who.effect_key}/approval.requested", payload, now_ms)
        return request.approval_id

    def find_approval(self, tx: Transaction, approval_id: str) -> StoredApproval | None:
        found: StoredApproval | None = tx.get("approval", approval_id)
        return found

    def judge(
        self, tx: Transaction, who: Acting, approval_id: str, signed: SignedDecision, forged: bool, policy_digest: str,
        now_ms: int,
    ) -> str:  # fmt: skip
        """``approved``, ``rejected``, or the code of the refusal."""
        stored = self.find_approval(tx, approval_id)
        if stored is None or signed.decision is None:
            return "UNKNOWN_APPROVAL"
        if stored.decision_json == who.effect_key:
            return stored.request.status  # this very call, begun before
        refused = (
            self._belongs(stored, who) or self.cores.precheck(stored.request, signed.decision, now_ms)
            or (refusal("POLICY_CHANGED", "") if stored.request.action.policy_digest != policy_digest else None)
            or (refusal("BAD_SIGNATURE", "") if forged else None)
        )  # fmt: skip
        session_id = who.keys.session_id
        sent = {"sent_digest": signed.decision.action_digest, "forged": forged}
        payload = {"approval_id": approval_id, "action_digest": stored.request.action_digest, **sent}
        if refused is not None:
            code = {"code": refused.code}
            tx.append(session_id, "approval.refused", f"{who.attempt_key}/approval.refused", payload | code, now_ms)
            return str(refused.code)
        status = "approved" if signed.kind == "approve" else "rejected"
        self._set_status(tx, stored, status, decision_json=who.effect_key)
        key = f"{who.effect_key}/approval.decided"
        tx.append(session_id, "approval.decided", key, {**payload, "status": status, "run_id": who.run_id}, now_ms)
        return status

    def _belongs(self, stored: StoredApproval, who: Acting) -> DoorRefusal | None:
        if (stored.keys.tenant_id, stored.keys.session_id) != (who.keys.tenant_id, who.keys.session_id):
            return refusal("UNKNOWN_APPROVAL", "")
        return refusal("RUN_RESET", "") if stored.request.run_id != who.run_id else None

    def redeem(self, tx: Transaction, who: Acting, approval_id: str, policy_digest: str, now_ms: int) -> None:
        """Single use. Raises Refused."""
        stored = self.find_approval(tx, approval_id)
        if stored is None or stored.keys.session_id != who.keys.session_id:
            raise Refused("UNKNOWN_APPROVAL", "")
        if stored.deliver_by_ms is not None and stored.decision_json == f"redeemed:{who.effect_key}":
            return
        if stored.request.status != "approved":
            raise Refused("ALREADY_FINAL", "")
        if now_ms >= stored.request.expires_at_ms:
            raise Refused("EXPIRED", "")
        if stored.request.action.policy_digest != policy_digest:
            raise Refused("POLICY_CHANGED", "")
        self._set_status(tx, stored, "redeemed", decision_json=f"redeemed:{who.effect_key}", deliver_by_ms=now_ms + 600_000)
        payload = {"approval_id": approval_id, "action_digest": stored.request.action_digest}
        tx.append(who.keys.session_id, "approval.redeemed", f"{who.effect_key}/approval.redeemed", payload, now_ms)

    def _set_status(self, tx: Transaction, stored: StoredApproval, status: Any, **changes: Any) -> None:
        request = stored.request.model_copy(update={"status": status})
        tx.put("approval", stored.model_copy(update={"request": request, **changes}), request.approval_id)

    # --- the end -----------------------------------------------------------------------------------------------------

    def leaves_something(self, tx: Transaction, session_id: str) -> bool:
        """An attempt that nobody waits for any more may have left something after the session was closed."""
        lease = self.newest_lease(tx, session_id)
        held = (one.account_id.split(":")[1] for one in tx.all("reservation") if one.status == "open")
        asked = (one.keys.session_id for one in tx.all("approval") if one.request.status in ("pending", "approved"))
        live = lease is not None and lease.revoked_at_ms is None
        return live or session_id in held or session_id in asked or not (tx.get("session", session_id) or {}).get("closed")

    def close(self, tx: Transaction, session_id: str, reason: str, now_ms: int) -> None:
        """What was held is let go, what was asked is cancelled, the right to act ends; then it is closed."""
        self.void_session(tx, session_id, now_ms)
        for stored in tx.all("approval"):
            if stored.keys.session_id == session_id and stored.request.status in ("pending", "approved"):
                self._set_status(tx, stored, "cancelled" if stored.request.status == "pending" else "revoked")
        self.revoke_lease(tx, session_id, reason, now_ms)
        tx.put("session", {"tenant_id": tx.tenant_id, "closed": reason}, session_id)
        tx.append(session_id, "session.closed", f"{session_id}/session.closed", {"reason": reason}, now_ms)
