"""Intake, transitions, and the list of approvers."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.control.activities import uuid7
from activities.control.approvers import Approvers, add_approver, ensure_operator, new_key
from activities.kernel.repositories import RepositoryRules
from activities.record.home import Home
from activities.record.ledger import Ledger, policy_rules
from schemas.capabilities import OpenSession, RecordTransition
from schemas.error import InputError, Refused
from schemas.limits import RequestedLimits
from schemas.session import IllegalTransition, Signal, State, step
from schemas.testing import Limits
from tests.control.conftest import Desk


def test_opening_freezes_the_settings_and_names_the_requester(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    request = OpenSession(kind="remediation", repository=str(tmp_path / "repo"), ref="HEAD", goal="g")
    context = desk.do(desk.control.open_session, request, "open")
    assert context == desk.do(desk.control.open_session, request, "open")
    assert (context.requester_id, context.keys) == ("operator", desk.keys)
    assert context.approvers_digest == Approvers.load(desk.home.keys).digest
    assert desk.kinds() == ["session.opened", "config.changed"]


def test_opening_gives_the_session_its_budget(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    request = OpenSession(kind="remediation", repository=str(tmp_path / "repo"), ref="HEAD", budget={"micros": 1_000})
    desk.do(desk.control.open_session, request, "open")
    limits = {account.unit: account.credit_limit for account in Ledger(desk.tenant).balances("s")}
    assert limits == {**policy_rules().session_budget, "micros": 1_000}
    other = request.model_copy(update={"budget": {"micros": 2_000}})
    with pytest.raises(Refused, match="ID_CONFLICT"):
        desk.do(desk.control.open_session, other, "open")


def test_opening_completes_the_limits_from_policy_and_refuses_what_is_above_it(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    request = OpenSession(kind="compile", repository=str(tmp_path / "repo"), ref="HEAD", limits=RequestedLimits(memory_mb=4_096))
    context = desk.do(desk.control.open_session, request, "open")
    assert context.config.limits == Limits(memory_mb=4_096)
    above = request.model_copy(update={"limits": RequestedLimits(memory_mb=1 << 20, pids=10_000, cpu_percent=1)})
    told = r"LIMIT_ABOVE_POLICY: memory_mb 1048576 .*; pids 10000 is not within 1 … 1024"
    with pytest.raises(Refused, match=told) as refused:
        desk.do(desk.control.open_session, above, "again")
    assert "cpu_percent" not in refused.value.message
    assert desk.kinds().count("session.opened") == 1


@pytest.mark.parametrize(
    ("repository", "code"),
    [
        ("/", "REPOSITORY_OUTSIDE_ROOTS"), ("/usr/../etc", "REPOSITORY_OUTSIDE_ROOTS"), ("", "REPOSITORY_INVALID"),
        ("relative", "REPOSITORY_INVALID"), ("~/x", "REPOSITORY_INVALID"), ("git@host:x", "REPOSITORY_INVALID"),
        ("ext::sh -c true", "REPOSITORY_INVALID"), ("file:///r", "REPOSITORY_INVALID"), ("http://h/x", "REPOSITORY_INVALID"),
        ("https://[", "REPOSITORY_INVALID"), ("https://h/x", "REPOSITORY_HOST"), ("https:///x", "REPOSITORY_HOST"),
        ("https://token@good.example/x", "REPOSITORY_CREDENTIALS"), ("ssh://git:pw@good.example/x", "REPOSITORY_CREDENTIALS"),
        ("https://good.example.evil.example/x", "REPOSITORY_HOST"), ("/tmp\0/x", "REPOSITORY_INVALID"),
    ],
)  # fmt: skip
def test_only_what_the_operator_admits(repository: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        RepositoryRules.of((tmp_path,), ("Good.example",)).admit(repository)
    assert refused.value.code == code
    assert "pw" not in refused.value.message


def test_what_is_admitted_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "out").symlink_to("/etc")
    rules = RepositoryRules.of((tmp_path,), ("good.example",))
    assert rules.admit(str(tmp_path / "link")).address == str(tmp_path / "real")
    assert rules.admit("ssh://git@GOOD.example/x").protocol == "ssh"
    with pytest.raises(InputError, match="REPOSITORY_OUTSIDE_ROOTS"):
        rules.admit(str(tmp_path / "out"))
    with pytest.raises(InputError, match="REPOSITORY_OUTSIDE_ROOTS"):
        rules.admit(str(tmp_path) + "-sibling")


def test_transitions_and_refusals_are_recorded_once(desk: Desk) -> None:
    records = step(State.EXECUTING, 4, Signal.VERIFY_REJECTED)
    assert not isinstance(records, IllegalTransition)
    for _ in range(2):
        desk.do(desk.control.record_transition, RecordTransition(records=records), "one")
    refused = step(State.INTAKE, 0, Signal.VERIFY_PASSED)
    assert isinstance(refused, IllegalTransition)
    desk.do(desk.control.record_transition, RecordTransition(refused=refused), "two")
    assert desk.kinds() == ["session.transition", "session.transition", "session.transition_refused"]


def test_the_first_start_makes_the_operator_and_later_ones_keep_what_is_there(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    key = ensure_operator(home)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = key.read_bytes()
    (home.keys / "approvers.json").write_text("[]")
    assert ensure_operator(home).read_bytes() == made
    assert Approvers.load(home.keys).principals == (), "an operator who was removed is not added again"


@pytest.mark.parametrize(
    "document",
    [
        "", "{}", "[1]", '[{"principal": "a"}]', '[{"principal": "*", "public_key": "ssh-ed25519 AAAA"}]',
        '[{"principal": "a,b", "public_key": "ssh-ed25519 AAAA"}]', '[{"principal": "a", "public_key": "AAAA"}]',
        '[{"principal": "a", "public_key": "ssh-ed25519 AAAA\\nb ssh-ed25519 BBBB"}]',
        '[{"principal": "a", "public_key": "cert-authority ssh-ed25519 AAAA"}]',
        '[{"principal": "a", "principal": "b", "public_key": "ssh-ed25519 AAAA"}]',
        '[{"principal": "a", "public_key": "ssh-ed25519 AAAA", "role": "admin"}]',
    ],
)  # fmt: skip
def test_a_list_of_approvers_that_could_be_read_two_ways_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "approvers.json").write_text(document)
    with pytest.raises(InputError, match="APPROVERS_INVALID"):
        Approvers.load(tmp_path)


def test_the_digest_is_of_the_set(desk: Desk, tmp_path: Path) -> None:
    keys = desk.home.keys
    before = Approvers.load(keys).digest
    add_approver(desk.home, "second", new_key(tmp_path / "second", comment="second"))
    after = Approvers.load(keys)
    assert after.digest != before
    rows = json.loads((keys / "approvers.json").read_text())
    (keys / "approvers.json").write_text(json.dumps([*reversed(rows), rows[0]]))
    assert Approvers.load(keys).digest == after.digest
    add_approver(desk.home, "second", tmp_path / "second.pub")
    assert Approvers.load(keys).digest == after.digest


@given(st.integers(0, 2**48 - 1))
def test_uuid7_is_one_and_sorts_by_time(time_ms: int) -> None:
    made = uuid7(time_ms)
    assert made[14] == "7" and made[19] in "89ab"
    assert int(made.replace("-", "")[:12], 16) == time_ms
