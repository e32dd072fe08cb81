"""Leases of sessions: the right to act for a while, one row per generation, the newest counts (contracts §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import SESSION_LEASE
from activities.record.upserting import insert_or_ignore
from schemas.error import Refused
from schemas.event import Actor, EventDraft
from schemas.identity import LEASE_TTL_MS, REMEDIES, SessionLease, issue_lease, needs_reissue, reissue_lease
from schemas.task import TraceKeys

ENGINE = Actor(principal_id="gen4", kind="engine")
"""Leases are issued by the fabric itself, in the name of whoever holds them."""
REASON_CHARS = 256

_NEWEST = (
    select(SESSION_LEASE)
    .where(SESSION_LEASE.c.tenant_id == bindparam("tenant"), SESSION_LEASE.c.session_id == bindparam("session"))
    .order_by(SESSION_LEASE.c.generation.desc())
    .limit(1)
)
_NEWEST_LOCKED = _NEWEST.with_for_update()


class Leases:
    """Args:
    chain: where issuing and revoking are recorded; default: the tenant's own.
    """

    def __init__(self, store: TenantStore, chain: EventChain | None = None, ttl_ms: int = LEASE_TTL_MS) -> None:
        self._store = store
        self._chain = chain or EventChain(store)
        self._ttl_ms = ttl_ms
        self._mine = store.tenant_id

    def newest(self, connection: Connection | None, session_id: str) -> SessionLease | None:
        def run(transaction: Connection) -> SessionLease | None:
            row = self._newest(transaction, session_id)
            return None if row is None else _lease(row)

        return run(connection) if connection is not None else self._store.read(run)

    def issue(
        self, connection: Connection | None, keys: TraceKeys, principal_id: str, policy_id: str, now_ms: int
    ) -> SessionLease:
        """The session's first lease, or the newest that it has, whatever became of that.

        Raises:
            Refused: ID_CONFLICT when the session's lease is another principal's; TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)

        def run(transaction: Connection) -> SessionLease:
            newest = self.newest(transaction, keys.session_id)
            if newest is None:
                first = issue_lease(self._mine, keys.session_id, principal_id, policy_id, now_ms, self._ttl_ms)
                newest = self._insert(transaction, keys, first)
            if newest.principal_id != principal_id:
                raise Refused("ID_CONFLICT", f"the lease of session {keys.session_id} is another principal's")
            return newest

        return run(connection) if connection is not None else self._store.write(run)

    def reissue(
        self, connection: Connection | None, lease: SessionLease, keys: TraceKeys, now_ms: int, policy_id: str | None = None
    ) -> SessionLease:
        """The next generation after ``lease``. Of several at once one makes it; the others get the winner's.

        Args:
            lease: the newest as the caller saw it.
            policy_id: of the role's present policy; default: the one of ``lease``.

        Raises:
            Refused: LEASE_REVOKED; LEASE_MISSING for a lease that is not stored; LEASE_MISMATCH, TENANT_MISMATCH.
        """
        self._store.require(lease.tenant_id)
        self._store.require(keys.tenant_id)
        if lease.session_id != keys.session_id:
            raise Refused("LEASE_MISMATCH", f"lease {lease.lease_id} is another session's", REMEDIES["LEASE_MISMATCH"])

        def run(transaction: Connection) -> SessionLease:
            row = self._newest(transaction, lease.session_id, lock=True)  # a revocation waits, or is seen
            newest = None if row is None else _lease(row)
            if newest is None or newest.generation < lease.generation:
                raise Refused("LEASE_MISSING", f"lease {lease.lease_id} is not recorded", REMEDIES["LEASE_MISSING"])
            if newest.revoked_at_ms is not None:
                raise Refused("LEASE_REVOKED", f"the lease was revoked: {newest.revoked_reason}", REMEDIES["LEASE_REVOKED"])
            if newest.generation > lease.generation or not needs_reissue(newest, now_ms):
                return newest
            wanted = newest.model_copy(update={"policy_id": policy_id or newest.policy_id})
            return self._insert(transaction, keys, reissue_lease(wanted, now_ms, self._ttl_ms))

        return run(connection) if connection is not None else self._store.write(run)

    def revoke(
        self, connection: Connection | None, *, reason: str, by: Actor, now_ms: int,
        lease_id: str | None = None, session_id: str | None = None, principal_id: str | None = None,
    ) -> list[SessionLease]:
        """Revoke at once the newest lease of every session that matches all that is given; nothing given: of the whole tenant.

        An expired lease is revoked too, so that it is never issued again. The fabric's own lease is not: its one session could
        not be started anew; it stops while its principal is suspended. Returns the leases that were not revoked before.
        """  # fmt: skip
        given = {"lease_id": lease_id, "session_id": session_id, "principal_id": principal_id}
        which = and_(*(SESSION_LEASE.c[name] == value for name, value in given.items() if value is not None), _newest_only())
        foreign = SESSION_LEASE.c.principal_id != ENGINE.principal_id
        open_ones = and_(SESSION_LEASE.c.tenant_id == self._mine, SESSION_LEASE.c.revoked_at_ms.is_(None), foreign, which)

        def run(transaction: Connection) -> list[SessionLease]:
            revoked: list[SessionLease] = []
            while rows := transaction.execute(select(SESSION_LEASE).where(open_ones).with_for_update()).all():
                # Again, for a generation that was issued while we waited for the lock.
                revoked += [self._revoke_one(transaction, row, reason[:REASON_CHARS], by, now_ms) for row in rows]
            return revoked

        return run(connection) if connection is not None else self._store.write(run)

    def all(self, *, live_at_ms: int | None = None) -> list[SessionLease]:
        """The newest lease of each session, latest first.

        Args:
            live_at_ms: only those neither revoked nor expired then.
        """
        which = and_(SESSION_LEASE.c.tenant_id == self._mine, _newest_only())
        if live_at_ms is not None:
            which = and_(which, SESSION_LEASE.c.revoked_at_ms.is_(None), SESSION_LEASE.c.expires_at_ms > live_at_ms)
        query = select(SESSION_LEASE).where(which).order_by(SESSION_LEASE.c.issued_at_ms.desc())
        rows: Sequence[Row[Any]] = self._store.read(lambda connection: connection.execute(query).all())
        return [_lease(row) for row in rows]

    def _newest(self, connection: Connection, session_id: str, *, lock: bool = False) -> Row[Any] | None:
        return connection.execute(_NEWEST_LOCKED if lock else _NEWEST, {"tenant": self._mine, "session": session_id}).first()

    def _insert(self, connection: Connection, keys: TraceKeys, lease: SessionLease) -> SessionLease:
        """The unique generation decides who wins; the loser adopts."""
        values = {**keys.model_dump(), **lease.model_dump(), "capability_id": None, "version": "1"}
        if not insert_or_ignore(connection, SESSION_LEASE, values):
            winner = self.newest(connection, lease.session_id)
            if winner is None or winner.generation < lease.generation:
                raise Refused("ID_CONFLICT", f"lease id {lease.lease_id} is taken", REMEDIES["LEASE_MISSING"])
            return winner
        payload = lease.model_dump(mode="json", exclude_none=True)
        draft = EventDraft(kind="lease.issued", idempotency_key=f"{lease.lease_id}/lease.issued", payload=payload)
        self._chain.append(keys, ENGINE, draft, connection=connection)
        return lease

    def _revoke_one(self, connection: Connection, row: Row[Any], reason: str, by: Actor, now_ms: int) -> SessionLease:
        this = and_(SESSION_LEASE.c.tenant_id == self._mine, SESSION_LEASE.c.lease_id == row.lease_id)
        connection.execute(SESSION_LEASE.update().where(this).values(revoked_at_ms=now_ms, revoked_reason=reason))
        revoked = _lease(row).model_copy(update={"revoked_at_ms": now_ms, "revoked_reason": reason})
        keys = TraceKeys.model_validate(dict(row._mapping))
        payload = revoked.model_dump(mode="json", exclude_none=True)
        draft = EventDraft(kind="lease.revoked", idempotency_key=f"{revoked.lease_id}/lease.revoked", payload=payload)
        self._chain.append(keys, by, draft, connection=connection)
        return revoked


def _newest_only() -> ColumnElement[bool]:
    later = SESSION_LEASE.alias()
    newest = select(func.max(later.c.generation)).where(
        later.c.tenant_id == SESSION_LEASE.c.tenant_id, later.c.session_id == SESSION_LEASE.c.session_id
    )
    return SESSION_LEASE.c.generation == newest.scalar_subquery()


def _lease(row: Row[Any]) -> SessionLease:
    return SessionLease.model_validate(dict(row._mapping))
