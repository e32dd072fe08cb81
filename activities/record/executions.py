"""Execution rows: which session, phase and person a workflow run belongs to (design "The gate")."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from activities.record.store import TenantStore, now_ms
from activities.record.tables import EXECUTION
from activities.record.upserting import insert_or_ignore
from schemas.error import Refused
from schemas.identity import Role
from schemas.model import Payload
from schemas.task import Phase


class ExecutionRow(Payload):
    """Made once, from the server's record of the start; never changed."""

    tenant_id: str
    workflow_id: str
    run_id: str
    first_run_id: str
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    session_id: str
    trace_id: str
    task_id: str
    principal_id: str
    phase: Phase
    role: Role = "operator"
    generation: int
    reset: bool


class ExecutionRows:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def get(self, workflow_id: str, run_id: str, connection: Connection | None = None) -> ExecutionRow | None:
        def run(transaction: Connection) -> ExecutionRow | None:
            return _find(transaction, self._store.tenant_id, workflow_id, run_id)

        return run(connection) if connection is not None else self._store.read(run)

    def put(self, row: ExecutionRow, connection: Connection | None = None) -> ExecutionRow:
        """Insert if absent and return what is stored.

        Raises:
            Refused: ID_CONFLICT when the run is recorded with other facts; TENANT_MISMATCH.
        """
        self._store.require(row.tenant_id)

        def run(transaction: Connection) -> ExecutionRow:
            if insert_or_ignore(transaction, EXECUTION, {**row.model_dump(), "version": "1", "created_at_ms": now_ms()}):
                return row
            stored = _find(transaction, row.tenant_id, row.workflow_id, row.run_id)
            if stored != row:
                raise Refused("ID_CONFLICT", f"run {row.run_id} of {row.workflow_id} is recorded with other facts")
            return stored

        return run(connection) if connection is not None else self._store.write(run)

    def superseded(self, connection: Connection, row: ExecutionRow) -> bool:
        """A reset run of the session showed itself after this one: its generation fences what came before."""
        found = {"tenant": self._store.tenant_id, "session": row.session_id, "generation": row.generation}
        return connection.execute(_LATER, found).first() is not None

    def session_of(self, id: str) -> str | None:
        """The session of a workflow id (of its latest run), or ``id`` itself if it names a session."""
        named = (EXECUTION.c.workflow_id == id) | (EXECUTION.c.session_id == id)
        mine = select(EXECUTION.c.session_id).where(EXECUTION.c.tenant_id == self._store.tenant_id, named)
        query = mine.order_by(EXECUTION.c.created_at_ms.desc())
        found: str | None = self._store.read(lambda connection: connection.execute(query.limit(1)).scalar_one_or_none())
        return found

    def of_session(self, session_id: str) -> list[ExecutionRow]:
        """All runs of a session, oldest first."""
        query = (
            select(EXECUTION)
            .where(EXECUTION.c.tenant_id == self._store.tenant_id, EXECUTION.c.session_id == session_id)
            .order_by(EXECUTION.c.created_at_ms)
        )
        return [_row(row) for row in self._store.read(lambda connection: connection.execute(query).all())]


_ONE = select(EXECUTION).where(
    EXECUTION.c.tenant_id == bindparam("tenant"),
    EXECUTION.c.workflow_id == bindparam("workflow"),
    EXECUTION.c.run_id == bindparam("run"),
)
"""Asked before every call: making it anew each time costs more than running it."""


_LATER = select(EXECUTION.c.run_id).where(
    EXECUTION.c.tenant_id == bindparam("tenant"),
    EXECUTION.c.session_id == bindparam("session"),
    EXECUTION.c.generation > bindparam("generation"),
).limit(1)


def _find(connection: Connection, tenant_id: str, workflow_id: str, run_id: str) -> ExecutionRow | None:
    row = connection.execute(_ONE, {"tenant": tenant_id, "workflow": workflow_id, "run": run_id}).first()
    return None if row is None else _row(row)


def _row(row: Row[Any]) -> ExecutionRow:
    return ExecutionRow.model_validate(dict(row._mapping))
