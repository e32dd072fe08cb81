"""What must hold after every step. This reads committed rows and events only, and keeps its own books.

The rules of the product are not asked here: each invariant is written once more, in another way.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from activities.kernel.acting import Acting
from activities.record.executions import ExecutionRow
from schemas.capability import Capability
from schemas.event import GENESIS, event_hash
from tests.simulator.rows import Rows

SKEW_MS = 300_000
ENDED = {"settle": "settled", "void": "voided", "expire": "expired"}
MOVING = ("grant", "settle", "overrun")


class Violation(Exception):
    """An invariant does not hold."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


class Monitor:
    """Called after every step, when an attempt begins, and when something is done outside."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._last: dict[tuple[str, str], tuple[int, str]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._allowed: set[str] = set()
        self._leases: dict[tuple[str, str], tuple[int, int, bool]] = {}
        """By (tenant, session): generation of the newest, when it expires, whether it was revoked."""
        self._decided: dict[str, dict[str, Any]] = {}
        self._redeemed: set[str] = set()
        self._ends: set[str] = set()
        self._moved: dict[tuple[str, str, str], int] = defaultdict(int)
        """(tenant, account, side): what entries moved."""
        self.delivered: dict[str, str] = {}
        """By approval: digest of what was pushed."""
        self.probing: dict[str, str] = {}
        """By breaker scope: the attempt that is its probe and still runs."""
        self.running: dict[str, Acting] = {}
        """By attempt key: what runs now."""

    # --- after every step --------------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> None:
        self._events(now_ms)
        touched, self._rows.touched = self._rows.touched, set()
        if touched:
            self._tenants(touched)
            self._ledger(touched, now_ms)

    def _events(self, now_ms: int) -> None:
        fresh, self._rows.fresh = self._rows.fresh, []
        for event in fresh:
            where = (event.tenant_id, event.session_id)
            seq, head = self._last.get(where, (0, GENESIS))
            require(event.seq == seq + 1, f"chain {where} goes from {seq} to {event.seq}")
            require(event.prev_hash == head, f"chain {where} is broken before {event.seq}")
            require(event.hash == event_hash(event.__dict__), f"event {event.event_id} is not what its hash says")
            self._last[where] = (event.seq, event.hash)
            key = (event.tenant_id, event.idempotency_key)
            require(key not in self._seen, f"two events with key {key}")
            self._seen.add(key)
            self._meaning(event.kind, where, self._rows.payloads[event.event_id], now_ms)

    def _meaning(self, kind: str, session: tuple[str, str], payload: dict[str, Any], now_ms: int) -> None:
        match kind:
            case "gate.decision" if payload["decision"] == "allow":
                self._allowed.add(payload["attempt_key"])
            case "lease.issued":
                generation, until_ms, revoked = self._leases.get(session, (0, 0, False))
                require(payload["generation"] == generation + 1, f"lease {payload['generation']} follows lease {generation}")
                require(not revoked, f"{session}: a revoked lease is issued again")
                require(until_ms <= now_ms + SKEW_MS, f"{session}: lease {generation} is live, and another one is issued")
                self._leases[session] = (generation + 1, payload["expires_at_ms"], False)
            case "lease.revoked":
                self._leases[session] = (*self._leases[session][:2], True)
            case "approval.decided":
                require(payload["approval_id"] not in self._decided, f"approval {payload['approval_id']} is decided twice")
                require(payload["sent_digest"] == payload["action_digest"], "decided is another action than was asked")
                require(not payload["forged"], "a forged decision counts")
                self._decided[payload["approval_id"]] = payload
            case "approval.redeemed":
                decided = self._decided.get(payload["approval_id"], {})
                require(decided.get("status") == "approved", "redeemed without an approval")
                require(payload["approval_id"] not in self._redeemed, f"approval {payload['approval_id']} is redeemed twice")
                self._redeemed.add(payload["approval_id"])
            case _:
                pass

    def _tenants(self, touched: set[tuple[str, Any]]) -> None:
        for table, key in touched:
            row = self._rows.tables[table][key]
            keys = getattr(row, "keys", None)
            owner = row["tenant_id"] if isinstance(row, dict) else getattr(keys, "tenant_id", getattr(row, "tenant_id", key[0]))
            require(owner in (key[0], "*"), f"{table} {key} belongs to {owner}")

    def _ledger(self, touched: set[tuple[str, Any]], now_ms: int) -> None:
        accounts, entries = self._rows.tables["account"], self._rows.tables["entry"]
        for table, key in touched:
            if table != "entry":
                continue
            tenant_id, entry = key[0], entries[key]
            if entry.kind in ENDED:
                require(entry.pending_id not in self._ends, f"reservation {entry.pending_id} ends twice")
                self._ends.add(entry.pending_id)
            if entry.kind == "expire":
                self._expired(tenant_id, self._rows.tables["reservation"][tenant_id, entry.pending_id], now_ms)
            if entry.kind in MOVING:
                self._moved[tenant_id, entry.debit_account_id, "out"] += entry.amount
                self._moved[tenant_id, entry.credit_account_id, "in"] += entry.amount
        for table, key in touched:
            if table == "account":
                account = accounts[key]
                moved = (self._moved[*key, "out"], self._moved[*key, "in"])
                require((account.debits_posted, account.credits_posted) == moved, f"{key}: {account} but entries say {moved}")
                require(account.debits_pending >= 0, f"{key} holds less than nothing")
                if account.debits_must_not_exceed_credits:
                    require(account.available >= 0, f"{key} has {account.available} available")
            elif table == "reservation":
                held = self._rows.tables["reservation"][key]
                require(0 <= held.settled <= held.amount, f"{held.pending_id}: {held.settled} of {held.amount} settled")
                require((held.status == "open") == (held.pending_id not in self._ends), f"{held.pending_id} is {held.status}")
        if any(table in ("account", "reservation") for table, _ in touched):
            self._sums()

    def _expired(self, tenant_id: str, held: Any, now_ms: int) -> None:
        require(now_ms >= held.expires_at_ms, f"{held.pending_id} expires before its time")
        for attempt_key, who in self.running.items():
            if who.effect_key == held.effect_key and who.keys.tenant_id == tenant_id:
                generation, until_ms, revoked = self._leases[tenant_id, who.keys.session_id]
                runs = [run.generation for key, run in self._rows.tables["execution"].items() if key[0] == tenant_id
                        and run.session_id == who.keys.session_id]  # fmt: skip
                fenced = revoked or until_ms <= now_ms or max(runs) > who.generation
                require(fenced, f"{held.pending_id} expires while {attempt_key} runs and may go on, lease {generation}")

    def _sums(self) -> None:
        debits: dict[tuple[str, str], int] = defaultdict(int)
        pending: dict[tuple[str, str], int] = defaultdict(int)
        for (tenant_id, account_id), account in self._rows.tables["account"].items():
            debits[tenant_id, account.unit] += account.debits_posted - account.credits_posted
            pending[tenant_id, account_id] = account.debits_pending
        require(not any(debits.values()), f"debits are not credits: {dict(debits)}")
        for (tenant_id, _), held in self._rows.tables["reservation"].items():
            if held.status == "open":
                pending[tenant_id, held.account_id] -= held.amount
        require(not any(pending.values()), f"held back is not what is reserved: {dict(pending)}")

    # --- when an attempt begins --------------------------------------------------------------------------------------

    def before(self, who: Acting, scopes: dict[int, str]) -> tuple[Any, dict[str, Any]]:
        """The effect and the breakers as they are committed right before an attempt begins."""
        tables, tenant_id = self._rows.tables, who.keys.tenant_id
        breakers = {scope: tables["breaker"].get((tenant_id, scope)) for scope in scopes.values()}
        return tables["effect"].get((tenant_id, who.effect_key)), breakers

    def began(
        self, who: Acting, row: ExecutionRow, capability: Capability[Any, Any], before: tuple[Any, dict[str, Any]], now_ms: int,
        clock_ms: int,
    ) -> None:  # fmt: skip
        """Args: ``clock_ms``: what the worker takes for ``now_ms``."""
        self._events(now_ms)
        tenant_id, (effect, breakers) = row.tenant_id, before
        self.running[who.attempt_key] = who
        require(effect is None or effect["outcome"] != "succeeded", f"{who.effect_key} succeeded, and is done again")
        require(who.attempt_key in self._allowed, f"{who.attempt_key} runs without a decision to allow it")
        require(not row.reset, f"{who.attempt_key} runs in a reset run")
        runs = [run for key, run in self._rows.tables["execution"].items() if key[0] == tenant_id]
        later = [run for run in runs if run.session_id == row.session_id and run.generation > row.generation]
        require(capability.containment or not later, f"{who.attempt_key} runs under a fenced generation")
        if capability.containment:
            return
        self._switched_off(row, capability.id, who.attempt_key)
        self._entitled(row, now_ms, who.attempt_key)
        if capability.metered:
            held = [one for key, one in self._rows.tables["reservation"].items() if key[0] == tenant_id]
            mine = [one for one in held if one.effect_key == who.effect_key and one.status == "open"]
            require(len(mine) > 0, f"{who.attempt_key} runs and nothing is reserved for it")
        for scope, state in breakers.items():
            self._probe(scope, state, self._rows.tables["breaker"].get((tenant_id, scope)), who.attempt_key, clock_ms)

    def ended(self, attempt_key: str) -> None:
        """The attempt runs no more: it ended, or its worker died."""
        self.running.pop(attempt_key, None)
        for scope in [scope for scope, probe in self.probing.items() if probe == attempt_key]:
            del self.probing[scope]

    def _switched_off(self, row: ExecutionRow, capability_id: str, what: str) -> None:
        for key, kill in self._rows.tables["kill"].items():
            covers = {
                "everything": True, "tenant": True, "session": kill.target == row.session_id,
                "capability": kill.target == capability_id,
            }[kill.scope]  # fmt: skip
            require(not (key[0] == row.tenant_id and kill.active and covers), f"{what} runs though {kill.scope} is off")

    def _entitled(self, row: ExecutionRow, now_ms: int, what: str) -> None:
        tables, tenant_id = self._rows.tables, row.tenant_id
        leases = [lease for key, lease in tables["lease"].items() if key[:2] == (tenant_id, row.session_id)]
        newest = max(leases, key=lambda lease: lease.generation, default=None)
        require(newest is not None and newest.revoked_at_ms is None, f"{what} runs without a lease")
        require(newest is not None and now_ms < newest.expires_at_ms + SKEW_MS, f"{what} runs under an expired lease")
        require(tables["tenant"][tenant_id,].status == "active", f"{what} runs for a suspended tenant")
        require(tables["principal"][tenant_id, row.principal_id].status == "active", f"{what} runs for a suspended principal")

    def _probe(self, scope: str, before: Any, after: Any, attempt_key: str, clock_ms: int) -> None:
        if before is None or before.phase == "closed":
            return
        require(after.probe_id == attempt_key, f"{attempt_key} runs though {scope} is {before.phase}, and is not its probe")
        other = before.probe_id if before.probe_id != attempt_key else None
        if before.phase == "half_open" and other in self.probing.values():
            back = max(0, before.opened_at_ms - clock_ms)
            require(before.probe_until_ms - back <= clock_ms, f"{attempt_key} is a second probe of {scope}")
        if before.phase == "open":
            back = max(0, before.opened_at_ms - clock_ms)
            require(before.opened_at_ms - back + before.cooldown_ms <= clock_ms, f"{scope} is tried before its cooldown")
        self.probing[scope] = attempt_key

    # --- when something is done outside ------------------------------------------------------------------------------

    def pushed(self, row: ExecutionRow, approval_id: str, digest: str) -> None:
        """A commit reached a repository of somebody else."""
        self._switched_off(row, "forge.deliver", f"the push of {approval_id}")
        require(approval_id in self._redeemed, f"{approval_id} is pushed and was not redeemed")
        require(self._decided[approval_id]["action_digest"] == digest, f"{approval_id}: another action than the approved one")
        require(approval_id not in self.delivered, f"{approval_id} is used twice")
        self.delivered[approval_id] = digest

    # --- at the end --------------------------------------------------------------------------------------------------

    def over(self) -> None:
        """Faults are off and every session has ended."""
        open_ones = [one.pending_id for one in self._rows.tables["reservation"].values() if one.status == "open"]
        require(not open_ones, f"reservations that never end: {open_ones}")
        leases = sorted(self._rows.tables["lease"].values(), key=lambda lease: lease.generation)
        newest = {lease.session_id: lease for lease in leases}
        live = [lease.lease_id for lease in newest.values() if lease.revoked_at_ms is None]
        require(not live, f"leases of ended sessions that were not revoked: {live}")
        waiting = [one.request.approval_id for one in self._rows.tables["approval"].values() if one.request.status == "pending"]
        require(not waiting, f"approvals that nobody waits for: {waiting}")
