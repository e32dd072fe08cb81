"""What people ask of the ledger: movements as they were, and what was spent on what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from sqlalchemy import Connection, and_, func, select, true

from activities.record.store import TenantStore
from activities.record.tables import COST_ATTRIBUTION, LEDGER_ENTRY
from schemas.model import Payload

By = Literal["capability", "role", "model", "task", "session"]
_BY = {
    "capability": COST_ATTRIBUTION.c.capability_id, "role": COST_ATTRIBUTION.c.role, "model": COST_ATTRIBUTION.c.model,
    "task": COST_ATTRIBUTION.c.task_id, "session": COST_ATTRIBUTION.c.session_id,
}  # fmt: skip


class Costs(Payload):
    """``name`` is a capability, a role, a model, a task or a session; empty where there is none."""

    name: str
    calls: int
    tokens: int
    tool_invocations: int
    cpu_ms: int
    duration_ms: int
    egress_bytes: int
    token_cost_micros: int
    tool_cost_micros: int
    duration_cost_micros: int
    total_cost_micros: int


class LedgerReports:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def entries(self, session_id: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest entries of the tenant or of one session, oldest first."""
        row = LEDGER_ENTRY.c
        mine = and_(row.tenant_id == self._store.tenant_id, true() if session_id is None else row.session_id == session_id)
        query = select(LEDGER_ENTRY).where(mine).order_by(row.created_at_ms.desc(), row.ledger_id.desc()).limit(limit)

        def load(connection: Connection) -> list[dict[str, Any]]:
            return [dict(one._mapping) for one in connection.execute(query)]

        return self._store.read(load)[::-1]

    def costs(self, by: By, session_id: str | None = None) -> Iterator[Costs]:
        """Sums of what was attributed, dearest first."""
        row, key = COST_ATTRIBUTION.c, _BY[by]
        sums = {
            "tokens": func.sum(row.prompt_tokens + row.completion_tokens), "calls": func.count(),
            **{name: func.sum(row[name]) for name in Costs.model_fields if name in row},
        }  # fmt: skip
        mine = and_(row.tenant_id == self._store.tenant_id, true() if session_id is None else row.session_id == session_id)
        query = select(key.label("name"), *(value.label(name) for name, value in sums.items())).where(mine).group_by(key)
        found = self._store.read(lambda connection: connection.execute(query).all())
        for one in sorted(found, key=lambda one: (-one.total_cost_micros, one.name or "")):
            yield Costs(name=one.name or "", **{name: int(one._mapping[name]) for name in sums})
