"""The order of the checks: whatever else is wrong with a call, the first check that refuses decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.kernel.admission import CHECKS, Call, first_refusal
from activities.kernel.identity import PHASES
from activities.record.executions import ExecutionRow
from schemas.capabilities import CAPABILITIES, DELIVER, FETCH_SOURCE, FetchSource
from schemas.policy import PolicyDecision, PolicyRule
from schemas.request import ReleaseRequest

ROW = ExecutionRow(
    tenant_id="t", workflow_id="w", run_id="r", first_run_id="r", session_id="r", trace_id="r", task_id="k", principal_id="p",
    phase="control", generation=1, reset=False,
)  # fmt: skip
REQUEST = ReleaseRequest(
    repository="/r", approval_id="a", action_digest="sha256:" + "0" * 64, commit_id="1" * 40, expected_head="2" * 40,
    target_ref="refs/heads/x", mode="branch", session_id="r",
)  # fmt: skip


def decision(verdict: Any) -> PolicyDecision:
    rule = PolicyRule(rule_id="gate.phase", outcome="pass" if verdict == "allow" else "deny", message="why")
    return PolicyDecision(
        decision=verdict, policy_id="gen4.gate", policy_digest="sha256:" + "0" * 64, engine_name="opa", engine_version="1",
        input_sha256="0" * 64, required_checks=("gate.phase",), results=(rule,),
    )  # fmt: skip


GOOD = Call(
    activity_type=DELIVER.id, workflow_type="Remediation", row=ROW, capability=DELIVER, served=True, request=REQUEST,
    policy=decision("allow"), approval=decision("allow"),
)  # fmt: skip

WRONG: dict[str, dict[str, Any]] = {
    "EXECUTION_UNKNOWN": {"row": None},
    "RUN_RESET": {"row": ROW.model_copy(update={"reset": True})},
    "CAP_UNKNOWN": {"capability": None},
    "CAP_NOT_SERVED": {"served": False},
    "INPUT_INVALID": {"request": None},
    "POLICY_DENIED": {"policy": decision("deny")},
    "APPROVAL_REQUIRED": {"approval": decision("deny")},
}
"""One defect per code, in the order of the checks."""


def test_a_call_without_a_defect_passes() -> None:
    assert first_refusal(GOOD) is None


@given(st.sets(st.sampled_from(list(WRONG)), min_size=1))
def test_the_first_defect_decides(defects: set[str]) -> None:
    call = GOOD
    for code in WRONG:
        if code in defects and not (code == "RUN_RESET" and "EXECUTION_UNKNOWN" in defects):
            call = replace(call, **WRONG[code])
    refusal = first_refusal(call)
    assert refusal is not None and refusal.code == next(code for code in WRONG if code in defects)
    assert refusal.message and refusal.remedy


def test_numbers_are_those_of_the_contract_and_ascend() -> None:
    assert [check.number for check in CHECKS] == sorted(check.number for check in CHECKS) == [1, 1, 4, 4, 5, 9]


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
