"""SARIF 2.1.0 of a compile: what was refused and which tests were lost, as code scanners' results are shown. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cli.reports import Report, place_of
from schemas.rejection import RejectedCheck
from schemas.remedies import REMEDIES
from schemas.text import plain

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LOST = "REG_TEST_LOST"
_TEXT = 4_000
_MOST = 5_000
"""Services that read SARIF take no more results of one run."""


def sarif(report: Report, version: str) -> dict[str, Any]:
    """Args:
    version: of gen4.
    """
    lost = [test for test in report.lost if place_of(test) is not None]
    results = [_result(check) for check in report.refused if not (lost and check.code == LOST)]
    results += [_of_lost(test) for test in lost]
    codes = sorted({result["ruleId"] for result in results})
    for result in results:
        result["ruleIndex"] = codes.index(result["ruleId"])
    driver = {"name": "gen4", "semanticVersion": version, "rules": [_rule(code) for code in codes]}
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "results": results[:_MOST],
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": report.exit_code != 3}],
        "automationDetails": {"id": "gen4/compile/"},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": code, "shortDescription": {"text": code}}
    if code in REMEDIES:
        rule["help"] = {"text": REMEDIES[code]}
    return rule


def _result(check: RejectedCheck) -> dict[str, Any]:
    parts = [check.reason or check.code, *(f"{name}: {value}" for name, value in _facts(check) if value)]
    result: dict[str, Any] = {
        "ruleId": plain(check.code),
        "level": "error",
        "message": {"text": " · ".join(plain(part)[:_TEXT] for part in parts)},
        "properties": {"gate": check.gate},
    }
    place = place_of(check.member) or place_of(check.reason)
    if place is not None:
        result["locations"] = [_location(*place)]
    return result


def _facts(check: RejectedCheck) -> tuple[tuple[str, str], ...]:
    return (("expected", check.expected), ("found", check.actual), ("to do", check.remedy))


def _of_lost(test: str) -> dict[str, Any]:
    place = place_of(test)
    result: dict[str, Any] = {
        "ruleId": LOST,
        "level": "error",
        "message": {"text": f"{plain(test)[:_TEXT]} passed before the patch and does not pass now"},
        "partialFingerprints": {"test": plain(test)[:_TEXT]},
        "properties": {"gate": "regression"},
    }
    return result | ({"locations": [_location(*place)]} if place is not None else {})


def _location(path: str, line: int | None) -> dict[str, Any]:
    """GitHub shows no result without a line: one that concerns a whole file stands at its first."""
    artifact = {"uri": quote(path), "uriBaseId": "%SRCROOT%"}
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line or 1}}}
