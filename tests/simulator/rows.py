"""The store of the simulation: tables of immutable values, transactions that commit whole or not at all, one tenant each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from schemas.event import GENESIS, Event, EventKind, event_hash

TABLES = (
    "execution", "lease", "kill", "breaker", "approval", "effect", "account", "reservation", "entry", "window", "session",
    "tenant", "principal", "binding", "policy", "repository",
)  # fmt: skip
EVERYWHERE = "*"
"""Tenant of rows that concern all."""

Key = tuple[Any, ...]


@dataclass
class Rows:
    """What is committed. Every key begins with the tenant that owns the row."""

    tables: dict[str, dict[Key, Any]] = field(default_factory=lambda: {name: {} for name in TABLES})
    chains: dict[tuple[str, str], list[Event]] = field(default_factory=dict)
    payloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By event id."""
    keys: set[tuple[str, str]] = field(default_factory=set)
    """(tenant, idempotency key) of every event."""
    fresh: list[Event] = field(default_factory=list)
    """Events that the invariants have not seen yet."""
    touched: set[tuple[str, Key]] = field(default_factory=set)
    """Rows that changed since the invariants looked."""

    def of(self, table: str, tenant_id: str) -> Iterator[Any]:
        return (row for key, row in self.tables[table].items() if key[0] == tenant_id)


class Transaction:
    """One tenant's view of the store; reads see its own writes. Nothing of it is kept unless :meth:`commit` is called."""

    def __init__(self, rows: Rows, tenant_id: str) -> None:
        self._rows = rows
        self.tenant_id = tenant_id
        self._changed: dict[tuple[str, Key], Any] = {}
        self._events: list[tuple[Event, dict[str, Any]]] = []

    def get(self, table: str, *key: Any) -> Any:
        whole = (self.tenant_id, *key)
        if (table, whole) in self._changed:
            return self._changed[table, whole]
        return self._rows.tables[table].get(whole)

    def put(self, table: str, value: Any, *key: Any) -> None:
        self._changed[table, (self.tenant_id, *key)] = value

    def all(self, table: str) -> list[Any]:
        mine = {key: row for key, row in self._rows.tables[table].items() if key[0] == self.tenant_id}
        mine |= {key: row for (name, key), row in self._changed.items() if name == table}
        return list(mine.values())

    def append(self, session_id: str, kind: EventKind, idempotency_key: str, payload: dict[str, Any], at_ms: int) -> None:
        """A key that is recorded already writes nothing: the same act came again."""
        if (self.tenant_id, idempotency_key) in self._rows.keys or idempotency_key in self._own_keys():
            return
        chain = self._rows.chains.get((self.tenant_id, session_id), [])
        mine = [event for event, _ in self._events if event.session_id == session_id]
        last = mine[-1] if mine else (chain[-1] if chain else None)
        body: dict[str, Any] = {
            "event_id": f"{self.tenant_id}/{session_id}/{len(chain) + len(mine) + 1}", "tenant_id": self.tenant_id,
            "trace_id": session_id, "session_id": session_id, "task_id": None, "capability_id": None, "version": "1",
            "seq": len(chain) + len(mine) + 1, "kind": kind, "actor": {"principal_id": "sim", "kind": "engine"},
            "idempotency_key": idempotency_key, "payload_commitment": GENESIS, "recorded_at_ms": at_ms,
            "prev_hash": last.hash if last else GENESIS,
        }  # fmt: skip
        self._events.append((Event.model_construct(**body, hash=event_hash(body)), payload))

    def commit(self) -> None:
        for (table, key), value in self._changed.items():
            self._rows.tables[table][key] = value
        self._rows.touched.update(self._changed)
        for event, payload in self._events:
            self._rows.chains.setdefault((event.tenant_id, event.session_id), []).append(event)
            self._rows.payloads[event.event_id] = payload
            self._rows.keys.add((event.tenant_id, event.idempotency_key))
            self._rows.fresh.append(event)

    def _own_keys(self) -> set[str]:
        return {event.idempotency_key for event, _ in self._events}
