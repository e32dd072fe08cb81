"""The watch over the repositories' statements knows a bad one; tests/record/conftest.py applies it to all tests here."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from activities.record.store import Store
from activities.record.tables import CURSOR, EVENT, EVENT_PAYLOAD
from tests.record.statements import flaw

JOINED = "SELECT event.seq FROM event JOIN event_payload ON event.event_id = event_payload.event_id"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM event", "SELECT event.tenant_id FROM event WHERE event.seq = 1",
        f"{JOINED} WHERE event.tenant_id = ?",
        "UPDATE approval SET tenant_id = ? WHERE approval.approval_id = ?", "DELETE FROM cursor WHERE cursor.cursor_key = ?",
        "INSERT INTO cursor (cursor_key) VALUES (?)", "SELECT 1 FROM cursor AS c WHERE d.tenant_id = ?",
        "SELECT 1 FROM cursor WHERE cursor.tenant_id = ? AND EXISTS (SELECT 1 FROM effect WHERE effect.effect_key = 'x')",
    ],
)  # fmt: skip
def test_statements_that_reach_other_tenants(statement: str) -> None:
    assert flaw(statement) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1", "SELECT version_num FROM alembic_version", "SELECT count(*) FROM event WHERE tenant_id = ?",
        f"{JOINED} AND event_payload.tenant_id = event.tenant_id WHERE event.tenant_id = ?",
        "UPDATE approval SET status = ? WHERE approval.tenant_id = ? AND approval.approval_id = ?",
        "INSERT INTO cursor (cursor_key, tenant_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        "SELECT 1 FROM cursor AS c WHERE c.tenant_id = ?",
    ],
)  # fmt: skip
def test_statements_of_one_tenant(statement: str) -> None:
    assert flaw(statement) is None


def test_what_sqlalchemy_writes_is_understood(store: Store) -> None:
    dialect = store._database.writer.dialect
    alone = select(EVENT.c.seq).join(EVENT_PAYLOAD, EVENT.c.event_id == EVENT_PAYLOAD.c.event_id)
    both = alone.where(EVENT.c.tenant_id == "a", EVENT_PAYLOAD.c.tenant_id == "a")
    update = CURSOR.update().values(value_json="{}")
    for statement, sound in ((alone, False), (both, True), (update, False), (update.where(CURSOR.c.tenant_id == "a"), True)):
        written = " ".join(str(statement.compile(dialect=dialect)).split())
        assert (flaw(written) is None) == sound
