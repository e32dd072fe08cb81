"""Known bugs, one each: the simulator must find every one of them. A bug is a pure function or a piece of glue that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from activities.kernel import admission
from activities.kernel.admission import CHECKS, RECHECKED
from activities.record.approvals import StoredApproval
from activities.record.executions import ExecutionRow
from schemas import breaker, identity, ledger
from schemas.approval import precheck
from schemas.breaker import Admission
from schemas.error import Refused
from schemas.ledger import Account, Posting
from tests.simulator.cores import Cores
from tests.simulator.kernel import Kernel
from tests.simulator.rows import Transaction


@dataclass(frozen=True)
class Mutant:
    """``finds``: a part of what the simulator says when it meets the bug."""

    finds: str
    cores: Cores = field(default_factory=Cores)
    kernel: type[Kernel] = Kernel
    trouble: tuple[str, str, str] | None = None
    """Where to look for a bug that shows rarely: the kind of fault, while what runs, at which step of it."""


def _without(checks: tuple[admission.Check, ...], *judges: Callable[..., Any]) -> tuple[admission.Check, ...]:
    return tuple(check for check in checks if check.judge not in judges)


def _admit_all(state: Any, probe_id: str, now_ms: int) -> Admission:
    return Admission.model_construct(decision="allow", state=state, retry_after_ms=0)


def _admit_every_probe(state: Any, probe_id: str, now_ms: int) -> Admission:
    return breaker.admit(state.model_copy(update={"probe_id": None, "probe_until_ms": None}), probe_id, now_ms)


def _admit_never_again(state: Any, probe_id: str, now_ms: int) -> Admission:
    admission = breaker.admit(state, probe_id, now_ms)
    if state.phase == "closed":
        return admission
    return Admission.model_construct(decision="refused", state=state, retry_after_ms=180_000)


def _settle_again(account: Account, task: Account, excess: Account, held: Any, used: int, base: str) -> Posting:
    return ledger.settle(account, task, excess, held.model_copy(update={"status": "open"}), used, base)


def _settle_all_that_was_used(account: Account, task: Account, excess: Account, held: Any, used: int, base: str) -> Posting:
    wide = held.model_copy(update={"amount": max(used, held.amount)})
    posting = ledger.settle(account, task, excess, wide, used, base)
    ended = tuple(one.model_copy(update={"amount": held.amount}) for one in posting.reservations)
    return posting.model_copy(update={"reservations": ended})


def _settle_keeps_the_rest(account: Account, task: Account, excess: Account, held: Any, used: int, base: str) -> Posting:
    posting = ledger.settle(account, task, excess, held, used, base)
    rest = [one.model_copy(update={"debits_pending": account.debits_pending}) for one in posting.accounts[:1]]
    return posting.model_copy(update={"accounts": (*rest, *posting.accounts[1:])})


def _draw_more_than_there_is(session: Account, tenant: Account, windows: Any, **asked: Any) -> Any:
    drawn = ledger.draw(session, tenant.model_copy(update={"debits_must_not_exceed_credits": False}), windows, **asked)
    if not isinstance(drawn, tuple):
        return drawn
    posting, changed = drawn
    accounts = tuple(one.model_copy(update={"debits_must_not_exceed_credits": True}) for one in posting.accounts)
    return posting.model_copy(update={"accounts": accounts}), changed


def _half_a_transfer(debit: Account, credit: Account, amount: int, ledger_id: str, reason: str = "") -> Any:
    posting = ledger.transfer(debit, credit, amount, ledger_id, reason)
    return posting.model_copy(update={"accounts": posting.accounts[1:]}) if isinstance(posting, Posting) else posting


def _reissue_what_was_revoked(lease: Any, now_ms: int) -> bool:
    return bool(identity.needs_reissue(lease.model_copy(update={"revoked_at_ms": None}), now_ms) or lease.revoked_at_ms)


def _reissue_anyway(lease: Any, now_ms: int) -> Any:
    return identity.reissue_lease(lease.model_copy(update={"revoked_at_ms": None}), now_ms)


def _any_digest(request: Any, decision: Any, now_ms: int) -> Any:
    return precheck(request, decision.model_copy(update={"action_digest": request.action_digest}), now_ms)


class ReservesNothing(Kernel):
    def reserve(self, *_: Any) -> None:
        return None


class ForgetsReceipts(Kernel):
    def find_effect(self, tx: Transaction, effect_key: str) -> None:
        return None


class RedeemsAgain(Kernel):
    def redeem(self, tx: Transaction, who: Any, approval_id: str, policy_digest: str, now_ms: int) -> None:
        stored = self.find_approval(tx, approval_id)
        if stored is None:
            raise Refused("UNKNOWN_APPROVAL", "")
        payload = {"approval_id": approval_id, "action_digest": stored.request.action_digest}
        self._set_status(tx, stored, "redeemed", deliver_by_ms=now_ms + 600_000)
        tx.append(who.keys.session_id, "approval.redeemed", f"{who.attempt_key}/approval.redeemed", payload, now_ms)


class ReissuesWithoutLooking(Kernel):
    def may_reissue(self, newest: Any, seen: Any, now_ms: int) -> bool:
        return bool(identity.needs_reissue(seen, now_ms))


class PushesWithoutLooking(Kernel):
    def stopped(self, tx: Transaction, row: ExecutionRow, capability_id: str) -> str:
        return ""


class SeesOtherTenants(Kernel):
    def find_approval(self, tx: Transaction, approval_id: str) -> StoredApproval | None:
        every = tx._rows.tables["approval"].items()
        return super().find_approval(tx, approval_id) or next((row for key, row in every if key[1] == approval_id), None)

    def _belongs(self, stored: StoredApproval, who: Any) -> None:
        return None


class LetsResetRunsGoOn(Kernel):
    def newest_generation(self, tx: Transaction, session_id: str) -> int:
        return 0


class ClosesWithoutVoiding(Kernel):
    def void_session(self, tx: Transaction, session_id: str, now_ms: int) -> None:
        return None


class AcceptsForgeries(Kernel):
    def judge(self, tx: Transaction, who: Any, approval_id: str, signed: Any, forged: bool, *more: Any) -> str:
        if forged:
            stored = self.find_approval(tx, approval_id)
            if stored is not None and stored.request.status == "pending":
                self._set_status(tx, stored, "approved", decision_json=who.effect_key)
                digest = stored.request.action_digest
                payload = {"approval_id": approval_id, "action_digest": digest, "sent_digest": digest, "forged": True}
                tx.append(who.keys.session_id, "approval.decided", f"{who.effect_key}/d", {**payload, "status": "approved"}, 0)
                return "approved"
        return super().judge(tx, who, approval_id, signed, forged, *more)


MUTANTS: dict[str, Mutant] = {
    "settles twice": Mutant("", Cores(settle=_settle_again)),
    "settles more than was reserved": Mutant("", Cores(settle=_settle_all_that_was_used)),
    "keeps the rest": Mutant("", Cores(settle=_settle_keeps_the_rest)),
    "credits without a debit": Mutant("debits are not credits", Cores(transfer=_half_a_transfer)),
    "draws more than there is": Mutant("available", Cores(draw=_draw_more_than_there_is)),
    "reserves nothing": Mutant("nothing is reserved", kernel=ReservesNothing),
    "never voids": Mutant("reservations that never end", kernel=ClosesWithoutVoiding),
    "expires too early": Mutant("expires", Cores(may_expire=lambda held, now_ms, fenced: held.status == "open")),
    "expires what may go on": Mutant(
        "may go on", Cores(may_expire=lambda held, now_ms, fenced: held.status == "open" and held.expires_at_ms <= now_ms),
        trouble=("pause", "testbed.run_tests", "tests run"),
    ),
    "pays again for what is done": Mutant("is done again", kernel=ForgetsReceipts),
    "an open breaker admits": Mutant("is not its probe", Cores(admit=_admit_all)),
    "two probes": Mutant("second probe", Cores(admit=_admit_every_probe)),
    "a breaker stays open": Mutant("does not end", Cores(admit=_admit_never_again)),
    "the switch is looked at too early": Mutant(
        "is off", Cores(rechecked=_without(RECHECKED, admission.not_killed))
    ),
    "the push does not look at the switch": Mutant(
        "the push of", kernel=PushesWithoutLooking, trouble=("kill", "forge.deliver", "before the push")
    ),
    "the lease is looked at too early": Mutant("runs", Cores(rechecked=_without(RECHECKED, admission.entitled))),
    "a revoked lease comes back": Mutant(
        "revoked lease", Cores(needs_reissue=_reissue_what_was_revoked, reissue_lease=_reissue_anyway)
    ),
    "two re-issues at once": Mutant("is live, and another one is issued", kernel=ReissuesWithoutLooking),
    "a reset run goes on": Mutant("reset run", Cores(checks=_without(CHECKS, admission.not_reset))),
    "the run before a reset goes on": Mutant("fenced generation", kernel=LetsResetRunsGoOn),
    "an approval is used again": Mutant("is redeemed twice", kernel=RedeemsAgain),
    "any digest is approved": Mutant("another action", Cores(precheck=_any_digest)),
    "a forged decision counts": Mutant("forged", kernel=AcceptsForgeries),
    "tenants see each other": Mutant("belongs to", kernel=SeesOtherTenants),
    "nobody asks for an approval": Mutant(
        "redeemed",
        Cores(checks=_without(CHECKS, admission.redeemed), refuse_unapproved=lambda *_: None, refuse_late=lambda *_, **__: None),
        trouble=("impatience", "", ""),
    ),
}  # fmt: skip
