"""Rows that give authority, changed past their events: each is named."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from activities.control.seeding import ensure_tenant, packaged_roles
from activities.record.authority import Authority
from activities.record.directory import Directory
from activities.record.leases import Leases
from schemas.event import Actor
from tests.control.conftest import POLICY, Desk

ADMIN = Actor(principal_id="operator", kind="human")


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """People, a live lease, a revoked one, and approvals in several states."""
    ensure_tenant(desk.tenant, "default", packaged_roles(), POLICY, 0, 1)
    directory, leases = Directory(desk.tenant), Leases(desk.tenant)
    directory.grant("gen4", "auditor", ADMIN, 2)
    directory.revoke("gen4", "auditor", ADMIN)
    leases.issue(None, desk.keys, "operator", "operator", 3)
    other = desk.keys.model_copy(update={"session_id": "other"})
    leases.issue(None, other, "operator", "operator", 3)
    leases.revoke(None, reason="left", by=ADMIN, now_ms=4, session_id="other")
    asked = desk.ask()
    desk.judge(asked, desk.signed(asked))
    desk.redeem(asked)
    desk.ask(commit_id="3" * 40)
    return desk


def unfounded(desk: Desk) -> list[tuple[str, str, str]]:
    return [(one.code, one.table, one.what) for one in Authority(desk.tenant).unfounded()]


def test_what_nobody_changed_is_founded(desk: Desk) -> None:
    assert unfounded(desk) == []


@pytest.mark.parametrize(
    "change, expected",
    [
        ("UPDATE session_lease SET expires_at_ms = 9e15 WHERE generation = 1", ("ROW_ALTERED", "session_lease", "expires_at_ms")),
        ("UPDATE session_lease SET principal_id = 'x' WHERE session_id = 's'", ("ROW_ALTERED", "session_lease", "principal_id")),
        ("UPDATE session_lease SET revoked_at_ms = NULL", ("ROW_ALTERED", "session_lease", "revoked_at_ms")),
        ("DELETE FROM session_lease WHERE session_id = 's'", ("ROW_MISSING", "session_lease", "")),
        ("UPDATE session_lease SET lease_id = 'forged' WHERE session_id = 's'", ("ROW_UNRECORDED", "session_lease", "")),
        ("UPDATE role_binding SET role = 'tenant_admin' WHERE principal_id = 'gen4'", ("ROW_UNRECORDED", "role_binding", "")),
        ("DELETE FROM role_binding WHERE role = 'auditor'", ("ROW_MISSING", "role_binding", "")),
        ("UPDATE principal SET subject = '1' WHERE principal_id = 'operator'", ("ROW_ALTERED", "principal", "subject")),
        ("UPDATE principal SET principal_id = 'mallory' WHERE principal_id = 'gen4'", ("ROW_UNRECORDED", "principal", "")),
        ("UPDATE approval SET status = 'approved' WHERE status = 'redeemed'", ("ROW_ALTERED", "approval", "status")),
        ("UPDATE approval SET status = 'approved' WHERE status = 'pending'", ("ROW_ALTERED", "approval", "status")),
        ("DELETE FROM approval WHERE status = 'pending'", ("ROW_MISSING", "approval", "")),
    ],
)  # fmt: skip
def test_a_row_changed_with_plain_sql_is_named(desk: Desk, change: str, expected: tuple[str, str, str]) -> None:
    assert desk.store.write(lambda connection: connection.execute(text(change)).rowcount) >= 1
    assert expected in unfounded(desk)
