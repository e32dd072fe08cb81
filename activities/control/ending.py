"""The end of a session: nothing that was asked, reserved or leased stays open, however the session came to its end."""

from __future__ import annotations

from sqlalchemy import Connection

from activities.record.approvals import Approvals, StoredApproval
from activities.record.chain import EventChain
from activities.record.leases import Leases
from activities.record.ledger import Ledger
from activities.record.store import TenantStore
from schemas.approval import ApprovalStatus
from schemas.event import Actor, EventDraft, EventKind
from schemas.model import Payload
from schemas.task import TraceKeys

_OPEN: tuple[ApprovalStatus, ...] = ("pending", "approved")


class Ended(Payload):
    """How much was open."""

    approvals: int
    voided: int
    revoked: int


class Ending:
    def __init__(self, store: TenantStore, chain: EventChain) -> None:
        self._chain = chain
        self._approvals = Approvals(store)
        self._leases = Leases(store, chain)
        self._ledger = Ledger(store)

    def end(
        self, connection: Connection, keys: TraceKeys, *, by: Actor, reason: str, effect_key: str, now_ms: int,
        expired_approval_id: str | None = None,
    ) -> Ended:  # fmt: skip
        """Inside the transaction that closes the session.

        Args:
            expired_approval_id: the request that ran out, if that is why; other open ones are cancelled or revoked.
        """
        of_session = self._approvals.of_session(keys.session_id, connection)
        ended = [self._end_request(connection, stored, by, effect_key, expired_approval_id) for stored in of_session]
        voided = self._ledger.void_session(connection, keys, reason, now_ms)
        revoked = self._leases.revoke(connection, reason=reason, by=by, now_ms=now_ms, session_id=keys.session_id)
        return Ended(approvals=sum(ended), voided=voided, revoked=len(revoked))

    def _end_request(
        self, connection: Connection, stored: StoredApproval, by: Actor, effect_key: str, expired_id: str | None
    ) -> bool:
        request = stored.request
        if request.status not in _OPEN:
            return False
        kind: EventKind = "approval.revoked"
        status: ApprovalStatus = "cancelled" if request.status == "pending" else "revoked"
        if request.approval_id == expired_id:
            kind, status = "approval.expired", "expired"
        if not self._approvals.set_status(request.approval_id, request.status, status, connection):
            return False
        draft = EventDraft(
            kind=kind, idempotency_key=f"{effect_key}/{kind}/{request.approval_id}",
            payload={"approval_id": request.approval_id, "action_digest": request.action_digest, "status": status},
        )  # fmt: skip
        self._chain.append(stored.keys, by, draft, connection=connection)
        return True
