"""The order of the checks: whatever else is wrong with a call, the first check that refuses decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.admission import CHECKS, RECHECKED, Call, Standing, first_refusal
from activities.kernel.identity import PHASES
from activities.record.executions import ExecutionRow
from schemas.breaker import Admission, BreakerState
from schemas.capabilities import CAPABILITIES, CLOSE_SESSION, DELIVER, FETCH_SOURCE, CloseSession, FetchSource
from schemas.identity import (
    REMEDIES,
    IdentityFacts,
    IdentityRefusal,
    PolicyBinding,
    Principal,
    RoleBinding,
    Tenant,
    issue_lease,
)
from schemas.kill_switch import KillSwitch
from schemas.policy import PolicyDecision, PolicyRule
from schemas.request import ReleaseRequest

NOW = 1_000_000
ROW = ExecutionRow(
    tenant_id="t", workflow_id="w", run_id="r", first_run_id="r", session_id="r", trace_id="r", task_id="k", principal_id="p",
    phase="control", generation=1, reset=False,
)  # fmt: skip
REQUEST = ReleaseRequest(
    repository="/r", approval_id="a", action_digest="sha256:" + "0" * 64, commit_id="1" * 40, expected_head="2" * 40,
    target_ref="refs/heads/x", mode="branch", session_id="r",
)  # fmt: skip
FACTS = IdentityFacts(
    tenant=Tenant(tenant_id="t", name="t"),
    principal=Principal(principal_id="p", tenant_id="t", kind="human", issuer="local", subject="0"),
    binding=RoleBinding(tenant_id="t", principal_id="p", role="operator", granted_by="gen4"),
    policy=PolicyBinding(
        policy_id="operator", tenant_id="t", role="operator", allowed_actions=("none", "read", "write", "irreversible"),
        capability_prefixes=("forge.", "control."), path_tier_max="T2", autonomy_tier="A1", max_memory_mb=1, max_tokens=1,
        policy_digest="sha256:" + "0" * 64,
    ),
    lease=issue_lease("t", "r", "p", "operator", NOW),
)  # fmt: skip
KILL = KillSwitch(scope="session", tenant_id="t", target="r", active=True, epoch=1, reason="drill", changed_by="p")


def breaker(number: int, decision: Any) -> dict[int, Admission]:
    state = BreakerState(scope_key=f"t:{number}", phase="open", threshold=1, cooldown_ms=1000, failure_count=1, last_reason="X")
    return {number: Admission(decision=decision, state=state, retry_after_ms=700)}


STANDING = Standing(identity=FACTS, kill=None, breakers={}, now_ms=NOW)


def decision(verdict: Any) -> PolicyDecision:
    rule = PolicyRule(rule_id="gate.phase", outcome="pass" if verdict == "allow" else "deny", message="why")
    return PolicyDecision(
        decision=verdict, policy_id="gen4.gate", policy_digest="sha256:" + "0" * 64, engine_name="opa", engine_version="1",
        input_sha256="0" * 64, required_checks=("gate.phase",), results=(rule,),
    )  # fmt: skip


GOOD = Call(
    activity_type=DELIVER.id, workflow_type="Remediation", row=ROW, standing=STANDING, capability=DELIVER, served=True,
    catalogued=True, request=REQUEST, policy=decision("allow"), approval=decision("allow"),
)  # fmt: skip

WRONG: dict[str, dict[str, Any]] = {
    "SCHEDULE_UNREGISTERED": {"starter_error": IdentityRefusal("SCHEDULE_UNREGISTERED", "no owner", "register it")},
    "EXECUTION_UNKNOWN": {"row": None},
    "RUN_RESET": {"row": ROW.model_copy(update={"reset": True})},
    "LEASE_MISSING": {"identity": FACTS.model_copy(update={"lease": None})},
    "KILL_SWITCH": {"kill": KILL},
    "CAP_UNKNOWN": {"capability": None},
    "CAP_NOT_SERVED": {"served": False},
    "CAP_DIGEST_CHANGED": {"catalogued": False},
    "INPUT_INVALID": {"request": None},
    "POLICY_DENIED": {"policy": decision("deny")},
    "LIMIT_ABOVE_POLICY": {"limit_error": ("LIMIT_ABOVE_POLICY", "too much")},
    "BREAKER_OPEN": {"breakers": breaker(7, "refused")},
    "APPROVAL_REQUIRED": {"approval": decision("deny")},
    "CANDIDATE_POLICY_DENIED": {"candidate": decision("deny"), "candidate_enforced": True},
}
"""One defect per code, in the order of the checks."""


def with_defect(call: Call, code: str) -> Call:
    change = dict(WRONG[code])
    of_standing = {name: change.pop(name) for name in ("identity", "kill", "breakers") if name in change}
    standing = replace(call.standing or STANDING, **of_standing)
    return replace(call, standing=standing, **change)


def test_a_call_without_a_defect_passes() -> None:
    assert first_refusal(GOOD) is None


@given(st.sets(st.sampled_from(list(WRONG)), min_size=1))
def test_the_first_defect_decides(defects: set[str]) -> None:
    call = GOOD
    for code in WRONG:
        if code in defects and not (code == "RUN_RESET" and "EXECUTION_UNKNOWN" in defects):
            call = with_defect(call, code)
    if "KILL_SWITCH" in defects and first_refusal(call, CHECKS[:2]) is None:
        defects = defects - {"LEASE_MISSING"}  # no lease is issued while a switch is on: the switch is the reason
    refusal = first_refusal(call)
    assert refusal is not None and refusal.code == next(code for code in WRONG if code in defects)
    assert refusal.message and refusal.remedy


def test_numbers_are_those_of_the_contract_and_ascend() -> None:
    assert [check.number for check in CHECKS] == sorted(check.number for check in CHECKS) == [1, 1, 1, 2, 4, 4, 5, 6, 7, 8, 9, 11]


def test_the_transaction_that_begins_an_effect_looks_again_at_lease_switches_and_breakers() -> None:
    assert [check.number for check in RECHECKED] == [1, 2, 7, 8]


@pytest.mark.parametrize("code", ["LEASE_MISSING", "KILL_SWITCH", "BREAKER_OPEN"])
def test_what_records_and_cleans_up_is_not_held_back(code: str) -> None:
    request = CloseSession(reason_code="kill_switch")
    close = replace(GOOD, activity_type=CLOSE_SESSION.id, capability=CLOSE_SESSION, request=request)
    assert first_refusal(with_defect(close, code)) is None
    assert first_refusal(with_defect(close, "RUN_RESET")) is not None


def test_only_a_breaker_says_when_to_come_back_and_only_an_approval_asks_for_one() -> None:
    for code in WRONG:
        refusal = first_refusal(with_defect(GOOD, code))
        assert refusal is not None
        assert (refusal.retry_after_ms is not None) == (code == "BREAKER_OPEN")
        assert (refusal.decision == "requires_approval") == (code == "APPROVAL_REQUIRED")


@pytest.mark.parametrize("answer", ["allow", "probe"])
def test_a_probe_may_pass(answer: str) -> None:
    assert first_refusal(replace(GOOD, standing=replace(STANDING, breakers=breaker(8, answer)))) is None


def test_a_candidate_that_is_only_watched_refuses_nothing() -> None:
    assert first_refusal(replace(GOOD, candidate=decision("deny"), candidate_enforced=False)) is None


def test_no_candidate_lets_through_what_the_active_policy_denies() -> None:
    call = replace(GOOD, policy=decision("deny"), candidate=decision("allow"), candidate_enforced=True)
    assert (first_refusal(call) or GOOD) != GOOD and getattr(first_refusal(call), "code", "") == "POLICY_DENIED"


def test_every_identity_code_has_a_remedy() -> None:
    assert all(REMEDIES.values())


@given(st.sampled_from(sorted(PHASES)) | st.text() | st.none())
def test_the_type_of_the_workflow_must_be_that_of_its_row(workflow_type: str | None) -> None:
    refusal = first_refusal(replace(GOOD, workflow_type=workflow_type))
    assert (refusal is None) == (workflow_type == "Remediation")


@given(st.sampled_from(sorted(CAPABILITIES)) | st.text())
def test_identifiers_are_byte_equal_or_unknown(name: str) -> None:
    refusal = first_refusal(replace(GOOD, activity_type=name))
    assert (refusal is None) == (name == DELIVER.id)


def test_an_input_of_another_capability_is_invalid() -> None:
    refusal = first_refusal(replace(GOOD, request=FetchSource(repository="/r", ref="main")))
    assert refusal is not None and refusal.code == "INPUT_INVALID"


@pytest.mark.parametrize(
    "call, code", [(replace(GOOD, policy=None), "POLICY_DENIED"), (replace(GOOD, approval=None), "APPROVAL_REQUIRED")]
)
def test_a_policy_that_was_not_asked_denies(call: Call, code: str) -> None:
    refusal = first_refusal(call)
    assert refusal is not None and refusal.code == code


def test_only_what_is_irreversible_needs_an_approval() -> None:
    request = FetchSource(repository="/r", ref="main")
    fetch = replace(GOOD, activity_type=FETCH_SOURCE.id, capability=FETCH_SOURCE, request=request)
    assert first_refusal(replace(fetch, approval=None)) is None
