"""Whether the rows that give authority (leases, roles, principals, approvals) are what their events say.

The gate believes these rows. Whoever changes one with plain SQL leaves no event; this compares, session by session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Column, Table, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import APPROVAL, PRINCIPAL, ROLE_BINDING, SESSION_LEASE
from schemas.model import Payload
from schemas.task import TENANT_CHAIN

_LEASE = ("session_id", "principal_id", "policy_id", "generation", "issued_at_ms", "expires_at_ms", "revoked_at_ms")
_PRINCIPAL = ("kind", "issuer", "subject", "status")
_DECIDED = {"approve": "approved", "reject": "rejected"}

Told = Sequence[tuple[str, dict[str, Any]]]
"""Kind and payload of each event, in order."""
Facts = dict[str, dict[str, Any]]
"""By row, what its columns must hold."""


class Unfounded(Payload):
    """A row that its events do not account for: altered, gone, or never recorded."""

    code: Literal["ROW_ALTERED", "ROW_MISSING", "ROW_UNRECORDED"]
    table: str
    row: str
    what: str = ""
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        said = f": {self.what} is {self.found}, its events say {self.expected}" if self.what else ""
        return f"{self.code} {self.table} {self.row}{said}"


class Authority:
    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)

    def unfounded(self) -> Iterator[Unfounded]:
        """Every row that does not follow from the chains. One session's events are held at a time."""
        leases, approvals = set[str](), set[str]()
        for session_id in self._chain.sessions():
            events = [(event.kind, payload) for event, payload in self._chain.read(session_id)]
            if session_id == TENANT_CHAIN:
                yield from self._people(events)
            expected = _leases(events)
            leases |= expected.keys()
            yield from _compared("session_lease", expected, self._rows(SESSION_LEASE, "lease_id", session_id))
            asked = _approvals(events)
            approvals |= asked.keys()
            yield from _compared("approval", asked, self._rows(APPROVAL, "approval_id", session_id))
        yield from self._unrecorded(SESSION_LEASE, "lease_id", leases)
        yield from self._unrecorded(APPROVAL, "approval_id", approvals)

    def _people(self, events: Told) -> Iterator[Unfounded]:
        principals, roles = _principals(events), _roles(events)
        yield from _compared("principal", principals, self._rows(PRINCIPAL, "principal_id"))
        yield from self._unrecorded(PRINCIPAL, "principal_id", set(principals))
        held = {f"{row['principal_id']}/{row['role']}" for row in self._all(ROLE_BINDING)}
        for row in sorted(held - roles):
            yield Unfounded(code="ROW_UNRECORDED", table="role_binding", row=row)
        for row in sorted(roles - held):
            yield Unfounded(code="ROW_MISSING", table="role_binding", row=row)

    def _rows(self, table: Table, key: str, session_id: str | None = None) -> Facts:
        return {str(row[key]): row for row in self._all(table, session_id)}

    def _all(self, table: Table, session_id: str | None = None) -> list[dict[str, Any]]:
        mine: Column[str] = table.c.tenant_id
        query = select(table).where(mine == self._store.tenant_id)
        if session_id is not None:
            query = query.where(table.c.session_id == session_id)
        return self._store.read(lambda connection: [dict(row._mapping) for row in connection.execute(query).all()])

    def _unrecorded(self, table: Table, key: str, recorded: set[str]) -> Iterator[Unfounded]:
        query = select(table.c[key]).where(table.c.tenant_id == self._store.tenant_id)
        for found in self._store.read(lambda connection: list(connection.execute(query).scalars())):
            if found not in recorded:
                yield Unfounded(code="ROW_UNRECORDED", table=table.name, row=str(found))


def _compared(table: str, expected: Facts, found: Facts) -> Iterator[Unfounded]:
    for id, facts in expected.items():
        row = found.get(id)
        if row is None:
            yield Unfounded(code="ROW_MISSING", table=table, row=id)
            continue
        for what, value in facts.items():
            if row[what] != value:
                yield Unfounded(
                    code="ROW_ALTERED", table=table, row=id, what=what, expected=str(value), found=str(row[what])
                )


def _leases(events: Told) -> Facts:
    """A later event of a lease replaces the earlier one: issued, then perhaps revoked."""
    told = [payload for kind, payload in events if kind in ("lease.issued", "lease.revoked") and "lease_id" in payload]
    return {str(payload["lease_id"]): {name: payload.get(name) for name in _LEASE} for payload in told}


def _approvals(events: Told) -> Facts:
    found: Facts = {}
    for kind, payload in events:
        id = str(payload.get("approval_id", ""))
        if kind == "approval.requested":
            found[id] = {"action_digest": payload["action_digest"], "run_id": payload["run_id"], "status": "pending"}
        elif id in found and (status := _status(kind, payload)) is not None:
            found[id]["status"] = status
    return found


def _status(kind: str, payload: Mapping[str, Any]) -> str | None:
    match kind:
        case "approval.decided":
            return _DECIDED.get(str(payload["ruling"]["kind"]))
        case "approval.redeemed":
            return "redeemed"
        case "approval.expired":
            return "expired"
        case "approval.revoked":
            return str(payload.get("status", "revoked"))
    return None


def _principals(events: Told) -> Facts:
    found: Facts = {}
    for payload in _changes(events, "principal"):
        after = payload["after"] or {}
        known = found.setdefault(str(payload["name"]), {})
        known.update({name: after[name] for name in _PRINCIPAL if name in after})
    return found


def _roles(events: Told) -> set[str]:
    held: set[str] = set()
    for payload in _changes(events, "role"):
        before, after = payload["before"], payload["after"]
        if before:
            held.discard(f"{payload['name']}/{before['role']}")
        if after:
            held.add(f"{payload['name']}/{after['role']}")
    return held


def _changes(events: Told, what: str) -> Iterator[dict[str, Any]]:
    return (payload for kind, payload in events if kind == "config.changed" and payload.get("what") == what)
