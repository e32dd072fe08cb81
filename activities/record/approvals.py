"""Approval rows: the request as it was made, and its status, which moves by compare-and-set only (contracts §11)."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from activities.record.store import TenantStore, now_ms
from activities.record.tables import APPROVAL
from activities.record.upserting import insert_or_ignore
from schemas.approval import ApprovalRequest, ApprovalStatus
from schemas.canonical import jcs
from schemas.error import InputError, Refused
from schemas.model import Payload
from schemas.task import TraceKeys

_PREFIX = re.compile(r"(sha256:)?([0-9a-f]{12,64})\Z")


class StoredApproval(Payload):
    """``request.status`` is the current one. ``decision_json``: the whole decision that moved it, as it was received."""

    request: ApprovalRequest
    keys: TraceKeys
    decided_by: str | None = None
    decision_json: str | None = None
    deliver_by_ms: int | None = None
    created_at_ms: int
    updated_at_ms: int


class Approvals:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def put(self, request: ApprovalRequest, keys: TraceKeys, connection: Connection | None = None) -> StoredApproval:
        """Insert a request if its id is new; return what is stored.

        Raises:
            Refused: ID_CONFLICT when the id is taken by another request or session; TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)

        def run(transaction: Connection) -> StoredApproval:
            named = self._mine(APPROVAL.c.approval_id == request.approval_id)
            stored = _first(transaction, named)
            if stored is None and (made := _insert(transaction, request, keys)) is not None:
                return made
            stored = stored or _first(transaction, named)  # None still: the id is another tenant's
            if stored is None or stored.keys != keys or stored.request.model_copy(update={"status": request.status}) != request:
                raise Refused("ID_CONFLICT", f"approval {request.approval_id} is another request", "use a new approval id")
            return stored

        return run(connection) if connection is not None else self._store.write(run)

    def get(self, approval_id: str, connection: Connection | None = None) -> StoredApproval | None:
        """Args: ``connection`` of a running :meth:`Store.write`, to read inside its transaction."""

        def run(transaction: Connection) -> StoredApproval | None:
            return _first(transaction, self._mine(APPROVAL.c.approval_id == approval_id))

        return run(connection) if connection is not None else self._store.read(run)

    def pending(self) -> list[StoredApproval]:
        """All requests that wait for a decision, oldest first."""
        return self._all(APPROVAL.c.status == "pending")

    def of_session(self, session_id: str, connection: Connection | None = None) -> list[StoredApproval]:
        """All requests of a session, whatever their status, oldest first."""
        return self._all(APPROVAL.c.session_id == session_id, connection)

    def find(self, digest_prefix: str) -> list[StoredApproval]:
        """Requests whose action digest starts with the prefix. It finds only: decisions carry all 64 digits (threats 6.2).

        Args:
            digest_prefix: 12 to 64 lower-case hex digits, with or without ``sha256:``.

        Raises:
            InputError: DIGEST_PREFIX.
        """
        match = _PREFIX.match(digest_prefix)
        if match is None:
            raise InputError("DIGEST_PREFIX", "a digest prefix has 12 to 64 lower-case hex digits", "copy more of the digest")
        return self._all(APPROVAL.c.action_digest.startswith("sha256:" + match.group(2)))

    def set_status(
        self,
        approval_id: str,
        expected: ApprovalStatus,
        new: ApprovalStatus,
        connection: Connection | None = None,
        *,
        decided_by: str | None = None,
        decision_json: str | None = None,
        deliver_by_ms: int | None = None,
    ) -> bool:
        """Compare-and-set: True if the status was ``expected`` and is ``new`` now. Arguments left None keep what is stored."""
        given = {"decided_by": decided_by, "decision_json": decision_json, "deliver_by_ms": deliver_by_ms}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        change = (
            APPROVAL.update()
            .where(self._mine(APPROVAL.c.approval_id == approval_id), APPROVAL.c.status == expected)
            .values(status=new, updated_at_ms=now_ms(), **values)
        )

        def run(transaction: Connection) -> bool:
            return transaction.execute(change).rowcount == 1

        return run(connection) if connection is not None else self._store.write(run)

    def _mine(self, wanted: ColumnElement[bool]) -> ColumnElement[bool]:
        return (APPROVAL.c.tenant_id == self._store.tenant_id) & wanted

    def _all(self, wanted: ColumnElement[bool], connection: Connection | None = None) -> list[StoredApproval]:
        query = select(APPROVAL).where(self._mine(wanted)).order_by(APPROVAL.c.created_at_ms, APPROVAL.c.approval_id)

        def run(transaction: Connection) -> list[StoredApproval]:
            return [_stored(row) for row in transaction.execute(query).all()]

        return run(connection) if connection is not None else self._store.read(run)


def _insert(connection: Connection, request: ApprovalRequest, keys: TraceKeys) -> StoredApproval | None:
    time_ms = now_ms()
    values = {
        "approval_id": request.approval_id, "version": "1", "run_id": request.run_id, "action_digest": request.action_digest,
        "status": request.status, "request_json": jcs(request).decode(), "expires_at_ms": request.expires_at_ms,
        "created_at_ms": time_ms, "updated_at_ms": time_ms, **keys.model_dump(),
    }  # fmt: skip
    if not insert_or_ignore(connection, APPROVAL, values):
        return None
    return StoredApproval(request=request, keys=keys, created_at_ms=time_ms, updated_at_ms=time_ms)


def _first(connection: Connection, wanted: ColumnElement[bool]) -> StoredApproval | None:
    row = connection.execute(select(APPROVAL).where(wanted)).first()
    return None if row is None else _stored(row)


def _stored(row: Row[Any]) -> StoredApproval:
    request = ApprovalRequest.model_validate_json(row.request_json).model_copy(update={"status": row.status})
    return StoredApproval(
        request=request,
        keys=TraceKeys.model_validate(dict(row._mapping)),
        decided_by=row.decided_by, decision_json=row.decision_json, deliver_by_ms=row.deliver_by_ms,
        created_at_ms=row.created_at_ms, updated_at_ms=row.updated_at_ms,
    )  # fmt: skip
