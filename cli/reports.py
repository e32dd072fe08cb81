"""What a compile came to, read from the bundle or the Rejection Report, for all the forms in which CI wants it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from activities.evidence.reading import read_stamp
from schemas.canonical import strict_json
from schemas.error import InfrastructureError
from schemas.evidence import STAMP, TEST_RESULTS, TestResults, TestResults2
from schemas.rejection import REPORT, RejectedCheck, RejectionReport
from schemas.request import SessionResult
from schemas.stamp import AnyStamp
from schemas.testing import Outcomes
from schemas.verdict import Verdict

T = TypeVar("T")
_PLACE = re.compile(r"(?P<path>[^\s:*?<>|\"\\]+?)(?::(?P<line>[0-9]{1,7}))?(?:::.*)?", re.DOTALL)


@dataclass(frozen=True)
class Report:
    """``tests``: outcomes of the patched tree, where they are known; ``lost``: of them, those that passed before."""

    workflow_id: str
    verdict: Verdict
    message: str = ""
    refused: tuple[RejectedCheck, ...] = ()
    tests: Outcomes = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    gates: dict[str, str] = field(default_factory=dict)
    stamp: AnyStamp | None = None
    rejection: RejectionReport | None = None

    @property
    def exit_code(self) -> int:
        return {"accepted": 0, "infra_error": 3}.get(self.verdict, 1)


def read_report(result: SessionResult) -> Report:
    """From the files that the result names; what a refused patch did not get, the result itself tells. Of a session that failed
    before there was a verdict nothing is said about the change, whoever is to blame.

    Raises:
        InfrastructureError: REPORT_UNREADABLE.
    """
    refused = result.rejection
    if refused is None:
        return _accepted(result, Path(result.bundle or ""))
    if refused.report is not None:
        return _rejected(result, Path(refused.report))
    first, *others = refused.codes or ("UNEXPECTED",)
    checks = (  # one message, and one remedy, for all of them
        RejectedCheck(gate="compile", code=first, reason=refused.message, remedy=refused.remedy),
        *(RejectedCheck(gate="compile", code=code) for code in others),
    )
    undecided = refused.infrastructure or result.outcome == "failed"
    return Report(
        workflow_id=result.workflow_id, verdict="infra_error" if undecided else "rejected", message=refused.message,
        refused=checks,
    )  # fmt: skip


def place_of(text: str) -> tuple[str, int | None] | None:
    """File and line that a check's member, or a test id, names: ``a/b.py:3``, ``a/b.py::test``. None for anything else."""
    found = _PLACE.fullmatch(text)
    if found is None or found["path"].startswith("/") or ".." in found["path"].split("/"):
        return None
    if "." not in found["path"] and "/" not in found["path"]:
        return None
    return found["path"], int(found["line"]) if found["line"] else None


def _accepted(result: SessionResult, bundle: Path) -> Report:
    stamp = _read(bundle / STAMP, read_stamp)
    results = _read(bundle / TEST_RESULTS, _results)
    gates = stamp.gates
    return Report(
        workflow_id=result.workflow_id, verdict="accepted", stamp=stamp, tests=dict(results.suites[1].outcomes),
        gates={"regression": gates.regression.verdict, "determinism": gates.determinism.verdict, "trust": "pass"},
    )  # fmt: skip


def _rejected(result: SessionResult, folder: Path) -> Report:
    report = _read(folder / REPORT, _report)
    outcomes: Outcomes = {}
    if report.tests is not None:
        outcomes |= dict.fromkeys((*report.tests.pass_to_pass, *report.tests.fail_to_pass), "passed")
        outcomes |= dict.fromkeys((*report.tests.still_failing, *report.tests.lost), "failed")
    return Report(
        workflow_id=result.workflow_id, verdict=report.verdict, message=report.message, refused=report.checks, tests=outcomes,
        lost=report.tests.lost if report.tests is not None else (), gates=dict(report.gates), rejection=report,
    )  # fmt: skip


def _results(data: bytes) -> TestResults:
    document = strict_json(data)
    return (TestResults2 if "schema_version" in document else TestResults).model_validate_json(data)


def _report(data: bytes) -> RejectionReport:
    strict_json(data)
    return RejectionReport.model_validate_json(data)


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InfrastructureError("REPORT_UNREADABLE", f"{path}: {error}", "look on the machine that compiled it") from error
