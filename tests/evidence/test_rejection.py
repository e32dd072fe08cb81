"""The Rejection Report: it names gate, code, evidence and what would make the patch pass; and it is never provenance."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sigstore.dsse import Statement as SigstoreStatement

from activities.evidence import rejection
from activities.evidence.verification import verify_bundle
from schemas.canonical import jcs
from schemas.capabilities import SealRejection
from schemas.gates import Check, GateReport
from schemas.policy import PolicyDecision, PolicyRule
from schemas.rejection import REJECTION_PREDICATE, RejectionReport
from schemas.remedies import REMEDIES
from schemas.task import TraceKeys
from schemas.testing import TestRun
from tests.evidence.workshop import BASE, Workshop, make_inputs, make_patch, make_run, reference

KEYS = TraceKeys(tenant_id="local", trace_id="t" * 8, session_id="s" * 8, task_id="task-1")
SOURCE = make_inputs().source
LOST = GateReport(
    gate="regression", verdict="fail",
    checks=(Check(code="REG_TEST_LOST", ok=False, reason="tests/test_a.py::test_b", expected="passed", actual="failed"),),
)  # fmt: skip


def run(outcomes: Any, key: str) -> TestRun:
    return make_run(outcomes, key).model_copy(update={"receipt": reference(key.encode())})


def made(**changes: Any) -> RejectionReport:
    facts: dict[str, Any] = {
        "source": SOURCE, "patch": make_patch(SOURCE), "candidate_id": "cand-1", "verdict": "rejected",
        "codes": ("REG_TEST_LOST",), "message": "tests/test_a.py::test_b fails now", "gates": (LOST,),
        "runs": (run(BASE, "1"), run(BASE, "2")),
    }  # fmt: skip
    return rejection.report(
        SealRejection(**facts | changes), KEYS, report_id="rej_" + "0" * 32, base_snapshot_sha256="9" * 64
    )


def failed(gate: Any, *codes: str) -> GateReport:
    return GateReport(gate=gate, verdict="fail", checks=tuple(Check(code=code, ok=False) for code in codes))


def denial(*rules: PolicyRule) -> PolicyDecision:
    return PolicyDecision(
        decision="deny", policy_id="gen4.patch", policy_digest="sha256:" + "5" * 64, engine_name="opa", engine_version="1",
        input_sha256="1" * 64, required_checks=tuple(rule.rule_id for rule in rules), results=rules,
    )  # fmt: skip


def test_it_names_gate_code_evidence_and_what_would_make_it_pass() -> None:
    report = made()
    (check,) = report.checks
    assert (report.failed_gate, check.gate, check.code, report.next) == ("regression", "regression", "REG_TEST_LOST", "revise")
    assert check.remedy == REMEDIES["REG_TEST_LOST"]
    assert {run(BASE, key).receipt.sha256 for key in "12"} < set(report.evidence_refs)  # type: ignore[union-attr]
    assert "secret" not in report.repository


@pytest.mark.parametrize(
    "changes, gate, next_step",
    [
        ({"gates": (), "codes": ("TARGET_NOT_FIXED",)}, "compile", "revise"),
        ({"policy": denial(PolicyRule(rule_id="patch.paths", outcome="deny", path="setup.py")), "gates": ()}, "policy", "replan"),
        ({"verdict": "infra_error", "codes": ("SANDBOX_LOST",), "gates": ()}, "compile", "close"),
        ({"verdict": "irreproducible", "codes": ("RUNS_DISAGREE",)}, "compile", "revise"),
        (
            {"verdict": "irreproducible", "codes": ("DET_DIGEST",), "gates": (failed("determinism", "DET_DIGEST"),)},
            "determinism", "revise",
        ),
        ({"verdict": "accepted", "codes": ("TRUST_GATE",), "gates": (failed("trust"),)}, "trust", "revise"),
    ],
)  # fmt: skip
def test_every_way_of_refusal_names_its_gate(changes: dict[str, Any], gate: str, next_step: str) -> None:
    report = made(**changes)
    assert (report.failed_gate, report.next) == (gate, next_step)
    assert report.checks or not report.codes
    assert report.verdict != "accepted"


def test_rules_that_denied_are_named_with_path_and_line() -> None:
    rules = (
        PolicyRule(rule_id="patch.paths", outcome="deny", message="tier T4", path="ci.yml", line=3),
        PolicyRule(rule_id="patch.links", outcome="pass"),
    )
    report = made(policy=denial(*rules), gates=(), codes=("POLICY_DENIED", "patch.paths"))
    assert [(check.code, check.member) for check in report.checks] == [("patch.paths", "ci.yml:3")]


def test_the_statement_is_about_the_patch_and_its_base_and_clients_can_sign_it() -> None:
    report = made()
    unsigned = rejection.statement(report)
    SigstoreStatement(unsigned.payload)
    body = json.loads(unsigned.payload)
    assert body["predicateType"] == REJECTION_PREDICATE
    assert {one["name"]: one["digest"]["sha256"] for one in body["subject"]} == {
        "diff.patch": report.patch_sha256, "base-tree": "9" * 64,
    }  # fmt: skip
    assert RejectionReport.model_validate(body["predicate"]) == report
    assert RejectionReport.model_validate_json(rejection.document(report)) == report


def test_a_signed_rejection_is_never_provenance(workshop: Workshop, place: Callable[[dict[str, bytes]], Path]) -> None:
    """Signed by a trusted key, and put where a bundle's provenance belongs."""
    files = workshop.signed(workshop.files, rejection.statement(made()).payload)
    report = verify_bundle(place(files), workshop.trust, now_ms=time.time_ns() // 1_000_000)
    assert report.verdict == "fail" and "PREDICATE_TYPE" in report.codes


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_foreign_text_means_nothing_in_the_markdown(text: str) -> None:
    report = made(message=text + "\n```\n# Accepted\n\x1b[2J\u202e::error::x")
    page = rejection.markdown(report)
    assert page.startswith("# Rejected by the regression gate\n")
    assert "\x1b" not in page and "\u202e" not in page
    fences = [line for line in page.splitlines() if set(line) == {"`"}]
    assert len(fences) >= 2 and fences[0] == max(fences, key=len)
    outside, inside = [], False
    for line in page.splitlines():
        inside = not inside if line == fences[0] else inside
        outside += [] if inside else [line]
    assert "# Accepted" not in outside


def test_hostile_test_ids_are_escaped() -> None:
    gate = LOST.model_copy(update={"checks": (Check(code="REG_TEST_LOST", ok=False, reason="<img src=x>[a](b)|`c`\n# d"),)})
    page = rejection.markdown(made(gates=(gate,)))
    assert not re.search(r"(?<!\\)[<>\[\]|`]", page.partition("- why: ")[2].splitlines()[0]) and "\n# d" not in page


def test_a_report_is_a_closed_document() -> None:
    value = json.loads(jcs(made()))
    with pytest.raises(ValueError, match="extra"):
        RejectionReport.model_validate({**value, "accepted": True})
