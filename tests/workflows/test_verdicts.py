"""What a refusal tells people to do."""

from __future__ import annotations

from schemas.capabilities import CompileResult
from schemas.gates import Check, GateReport
from schemas.remedies import REMEDIES
from workflows.verdicts import remedy_of

CHECK = Check(code="REG_BASELINE_MISSING", ok=False, reason="RUNS_DISAGREE", remedy="make the tests run on both trees")
GATE = GateReport(gate="regression", verdict="fail", checks=(CHECK,))


def remedy(*codes: str) -> str:
    return remedy_of(CompileResult(verdict="rejected", codes=codes, gates=(GATE,)))


def test_the_remedy_is_of_the_first_code_and_not_of_what_followed_from_it() -> None:
    assert remedy("RUNS_DISAGREE") == REMEDIES["RUNS_DISAGREE"]
    assert remedy("REG_BASELINE_MISSING", "RUNS_DISAGREE") == CHECK.remedy
    assert remedy("ENVIRONMENT_CHANGED", "NOTHING_FIXED") == CHECK.remedy
