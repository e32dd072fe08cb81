"""Control: opening and closing sessions, recording what they did, asking for approvals and judging decisions."""

from __future__ import annotations

import json
import os
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from activities.control.approvers import Approvers
from activities.control.ending import Ending
from activities.control.judging import judge_decision
from activities.control.reaping import Reaping
from activities.control.reconciling import Reconciling
from activities.control.requests import residual_risk, rollback_of
from activities.kernel.acting import Acting, acting
from activities.kernel.implementing import implements
from activities.kernel.judging import PolicyPort
from activities.kernel.limiting import session_limits
from activities.kernel.repositories import RepositoryRules
from activities.record.approvals import Approvals, StoredApproval
from activities.record.chain import EventChain
from activities.record.checkpoints import Checkpoints
from activities.record.ledger import Ledger
from activities.record.sessions import Sessions
from activities.record.store import TenantStore, now_ms
from schemas.approval import REFUSALS, ApprovalRequest, Ruling, SignedDecision, refusal
from schemas.canonical import jcs, jcs_sha256
from schemas.capabilities import (
    CLOSE_SESSION,
    EXPIRE_RESERVATIONS,
    FIND_ABANDONED,
    FIND_UNSETTLED,
    JUDGE_DECISION,
    OPEN_SESSION,
    REAP_SESSION,
    RECONCILE_EFFECT,
    RECORD_TRANSITION,
    REDEEM_APPROVAL,
    REQUEST_APPROVAL,
    CloseSession,
    JudgeDecision,
    OpenSession,
    Recorded,
    RecordTransition,
    RedeemApproval,
    Redeemed,
    RequestApproval,
)
from schemas.error import Refused
from schemas.event import Actor, Event, EventDraft, EventKind
from schemas.operations import (
    AbandonedFound,
    Expired,
    ExpireReservations,
    FindAbandoned,
    FindUnsettled,
    Reaped,
    ReapSession,
    Reconciled,
    ReconcileEffect,
    UnsettledFound,
)
from schemas.task import SessionConfig, SessionContext

ENGINE = Actor(principal_id="gen4", kind="engine")


class ControlActivities:
    """Args:
    keys: the home's keys folder; the list of approvers is read from it anew each time.
    config: what workflows may know of the settings; frozen into each session.
    """

    def __init__(
        self, store: TenantStore, keys: Path, policy: PolicyPort, repositories: RepositoryRules, config: SessionConfig,
        clock: Callable[[], int] = now_ms,
    ) -> None:  # fmt: skip
        self._store = store
        self._chain = EventChain(store)
        self._approvals = Approvals(store)
        self._checkpoints = Checkpoints(store)
        self._sessions = Sessions(store, self._chain)
        self._ledger = Ledger(store, self._chain)
        self._ending = Ending(store, self._chain)
        self._keys = keys
        self._policy = policy
        self._repositories = repositories
        self._config = config
        self._clock = clock

    # --- sessions ----------------------------------------------------------------------------------------------------

    @implements(OPEN_SESSION)
    def open_session(self, request: OpenSession) -> SessionContext:
        """Raises InputError for a repository that the operator does not admit, and for limits above policy."""
        who = acting()
        self._repositories.admit(request.repository)
        config = self._config.model_copy(update={"limits": session_limits(request.limits)})
        context = SessionContext(
            keys=who.keys, requester_id=who.actor.principal_id, config=config,
            config_digest="sha256:" + jcs_sha256(config), approvers_digest=Approvers.load(self._keys).digest,
        )  # fmt: skip
        payload = {**request.model_dump(mode="json"), **context.model_dump(mode="json", exclude={"keys"})}
        def together(connection: Connection) -> None:
            self._chain.append(who.keys, who.actor, _draft(who, "session.opened", payload), connection=connection)
            self._ledger.open_session(connection, who.keys, request.budget or {}, self._clock())

        self._store.write(together)
        return context

    @implements(RECORD_TRANSITION)
    def record_transition(self, request: RecordTransition) -> Recorded:
        who = acting()
        drafts = [
            _draft(
                who, "session.transition", {**record.model_dump(mode="json"), "codes": list(request.codes)}, str(record.state_seq)
            )
            for record in request.records
        ]
        if request.refused is not None:
            drafts.append(_draft(who, "session.transition_refused", request.refused.model_dump(mode="json")))
        return _last(self._chain.append(who.keys, ENGINE, *drafts))

    @implements(CLOSE_SESSION)
    def close_session(self, request: CloseSession) -> Recorded:
        """Nothing that was asked, reserved or leased stays open; a session that was reaped meanwhile stays as it was closed."""
        who = acting()

        def run(connection: Connection) -> Recorded:
            if (closed := self._sessions.closed(connection, who.keys.session_id)) is not None:
                return Recorded(seq=closed)
            self._ending.end(
                connection, who.keys, by=ENGINE, reason=request.reason_code, effect_key=who.effect_key, now_ms=self._clock(),
                expired_approval_id=request.expired_approval_id,
            )  # fmt: skip
            payload = request.model_dump(mode="json", exclude_none=True)
            return _last(self._chain.append(who.keys, ENGINE, _draft(who, "session.closed", payload), connection=connection))

        return self._store.write(run)

    # --- approvals ---------------------------------------------------------------------------------------------------

    @implements(REQUEST_APPROVAL)
    def request_approval(self, request: RequestApproval) -> ApprovalRequest:
        """Raises:
        Refused: POLICY_CHANGED, NO_APPROVERS, ACTION_FOREIGN.
        """
        who = acting()
        approvers = Approvers.load(self._keys)
        self._refuse_unaskable(request, who, approvers)
        digest = request.action.digest
        for stored in self._approvals.of_session(who.keys.session_id):
            if (stored.request.run_id, stored.request.action_digest) == (who.run_id, digest):
                return stored.request  # an earlier attempt came this far
        asked_ms = self._clock()
        pending = ApprovalRequest(
            approval_id=uuid7(asked_ms), action=request.action, action_digest=digest, stamp_id=request.stamp_id, fix=request.fix,
            requester_id=who.actor.principal_id, eligible_approvers=approvers.principals, run_id=who.run_id,
            nonce=secrets.token_hex(16), requested_at_ms=asked_ms, expires_at_ms=asked_ms + request.expiry_ms,
            rollback=rollback_of(request.action), residual_risk=residual_risk(request.fix, "single_operator"),
            checkpoint=self._checkpoints.last(who.keys.session_id),
        )  # fmt: skip

        def run(connection: Connection) -> None:
            self._approvals.put(pending, who.keys, connection)
            draft = _draft(who, "approval.requested", pending.model_dump(mode="json"))
            self._chain.append(who.keys, who.actor, draft, connection=connection)

        self._store.write(run)
        return pending

    def _refuse_unaskable(self, request: RequestApproval, who: Acting, approvers: Approvers) -> None:
        action = request.action
        if (action.tenant_id, action.session_id) != (who.keys.tenant_id, who.keys.session_id):
            raise Refused("ACTION_FOREIGN", "the action belongs to another session", "start a new remediation")
        if not approvers.principals:
            raise Refused("NO_APPROVERS", "the configuration names no approver", "list one in keys/approvers.json of the home")
        if (action.policy_digest, action.approvers_digest) != (self._policy.policy_digest, approvers.digest):
            raise Refused("POLICY_CHANGED", "policy or approvers changed since intake", REFUSALS["POLICY_CHANGED"])

    @implements(JUDGE_DECISION)
    def judge_decision(self, request: JudgeDecision) -> Ruling:
        """A decision counts at most once; each that does not is an event with its code."""
        who = acting()
        stored = self._approvals.get(request.approval_id)
        if stored is None:
            raise Refused("UNKNOWN_APPROVAL", "no such request is stored", REFUSALS["UNKNOWN_APPROVAL"])
        if (earlier := _decided(stored)) and earlier["decision_id"] == who.effect_key:
            return Ruling.model_validate(earlier["ruling"])  # this very call, begun before
        ruling = judge_decision(
            stored, request.signed, who, now_ms=self._clock(), policy_digest=self._policy.policy_digest,
            approvers=Approvers.load(self._keys),
        )  # fmt: skip
        return self._store.write(lambda connection: self._settle(connection, who, stored, request.signed, ruling))

    def _settle(
        self, connection: Connection, who: Acting, stored: StoredApproval, signed: SignedDecision, ruling: Ruling
    ) -> Ruling:
        """Compare-and-set, so that of two decisions at once one wins; state and event in one transaction."""
        request = stored.request
        if ruling.accepted:
            record = {
                "decision_id": who.effect_key,
                "ruling": ruling.model_dump(mode="json"),
                "signed": signed.model_dump(mode="json"),
            }
            moved = self._approvals.set_status(
                request.approval_id, "pending", "approved" if ruling.kind == "approve" else "rejected", connection,
                decided_by=ruling.approver_id, decision_json=jcs(record).decode(),
            )  # fmt: skip
            if not moved:
                ruling = Ruling(accepted=False, kind=ruling.kind, refusal=refusal("ALREADY_FINAL", "another decision came first"))
        payload = {
            "approval_id": request.approval_id, "action_digest": request.action_digest, "decision_id": who.effect_key,
            "signed": signed.model_dump(mode="json", exclude_none=True),
            "ruling": ruling.model_dump(mode="json", exclude_none=True),
        }  # fmt: skip
        kind: EventKind = "approval.decided" if ruling.accepted else "approval.refused"
        actor = Actor(principal_id=ruling.approver_id, kind="human") if ruling.approver_id else ENGINE
        self._chain.append(who.keys, actor, _draft(who, kind, payload, who.attempt_key), connection=connection)
        return ruling

    @implements(REDEEM_APPROVAL)
    def redeem_approval(self, request: RedeemApproval) -> Redeemed:
        """Single use, by compare-and-set.

        Raises:
            Refused: UNKNOWN_APPROVAL, DIGEST_MISMATCH, ALREADY_FINAL, EXPIRED, POLICY_CHANGED.
        """
        who = acting()

        def run(connection: Connection) -> Redeemed:
            stored = self._approvals.get(request.approval_id, connection)
            if stored is None or stored.keys.session_id != who.keys.session_id:
                raise Refused("UNKNOWN_APPROVAL", "no such request in this session", REFUSALS["UNKNOWN_APPROVAL"])
            decided = _decided(stored)
            if stored.deliver_by_ms is not None and decided and decided.get("redeemed_by") == who.effect_key:
                return Redeemed(deliver_by_ms=stored.deliver_by_ms)  # this very call, begun before
            now = self._clock()
            self._refuse_unredeemable(stored, request, now)
            deliver_by = now + request.deliver_within_ms
            self._approvals.set_status(
                request.approval_id, "approved", "redeemed", connection, deliver_by_ms=deliver_by,
                decision_json=jcs({**(decided or {}), "redeemed_by": who.effect_key}).decode(),
            )  # fmt: skip
            payload = {"approval_id": request.approval_id, "action_digest": request.action_digest, "deliver_by_ms": deliver_by}
            self._chain.append(who.keys, ENGINE, _draft(who, "approval.redeemed", payload), connection=connection)
            return Redeemed(deliver_by_ms=deliver_by)

        return self._store.write(run)

    def _refuse_unredeemable(self, stored: StoredApproval, request: RedeemApproval, now: int) -> None:
        asked = stored.request
        if request.action_digest != asked.action_digest or asked.action.digest != asked.action_digest:
            code, message = "DIGEST_MISMATCH", "the action is not the approved one"
        elif asked.status != "approved":
            code, message = "ALREADY_FINAL", f"the request is {asked.status}, not approved"
        elif now >= asked.expires_at_ms:
            code, message = "EXPIRED", "the approval expired before it was used"
        elif (asked.action.policy_digest, asked.action.approvers_digest) != (
            self._policy.policy_digest,
            Approvers.load(self._keys).digest,
        ):
            code, message = "POLICY_CHANGED", "policy or approvers changed since the approval"
        else:
            return
        raise Refused(code, message, REFUSALS[code])


class OperationsActivities:
    """What the fabric's own schedules do."""

    def __init__(self, reaping: Reaping, reconciling: Reconciling) -> None:
        self._reaping = reaping
        self._reconciling = reconciling

    @implements(FIND_ABANDONED)
    def find_abandoned(self, request: FindAbandoned) -> AbandonedFound:
        return self._reaping.find(request.after, request.limit)

    @implements(REAP_SESSION)
    def reap_session(self, request: ReapSession) -> Reaped:
        return self._reaping.reap(request.session_id, acting().effect_key)

    @implements(EXPIRE_RESERVATIONS)
    def expire_reservations(self, request: ExpireReservations) -> Expired:
        return Expired(reservations=self._reaping.expire())

    @implements(FIND_UNSETTLED)
    def find_unsettled(self, request: FindUnsettled) -> UnsettledFound:
        return self._reconciling.find(request.limit)

    @implements(RECONCILE_EFFECT)
    def reconcile_effect(self, request: ReconcileEffect) -> Reconciled:
        return self._reconciling.reconcile(request.effect_key, request.observed)


def uuid7(time_ms: int) -> str:
    """RFC 9562 version 7: 48 bits of UTC milliseconds, the rest random."""
    value = (time_ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def _draft(who: Acting, kind: EventKind, payload: dict[str, Any], part: str = "") -> EventDraft:
    return EventDraft(kind=kind, idempotency_key="/".join(word for word in (who.effect_key, kind, part) if word), payload=payload)


def _decided(stored: StoredApproval) -> dict[str, Any] | None:
    return json.loads(stored.decision_json) if stored.decision_json else None


def _last(events: tuple[Event, ...]) -> Recorded:
    return Recorded(seq=events[-1].seq if events else 0)
