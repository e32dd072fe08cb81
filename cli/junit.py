"""JUnit XML of a compile: a case for each gate and refused check, then the tests of the patched tree. Pure."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cli.reports import Report
from schemas.rejection import RejectedCheck
from schemas.testing import TestOutcome
from schemas.text import plain

_TEXT = 4_000


def junit(report: Report) -> bytes:
    root = Element("testsuites", name="gen4 compile")
    gates = SubElement(root, "testsuite", name="gates")
    for name, verdict in report.gates.items():
        if not any(check.gate == name for check in report.refused):
            _verdict(_case(gates, "gen4.gates", name), verdict)
    for check in report.refused:
        _refused(_case(gates, f"gen4.gates.{check.gate}", f"{check.code} {check.member}".strip()), check, report.exit_code == 3)
    tests = SubElement(root, "testsuite", name="patched tree")
    for nodeid, outcome in sorted(report.tests.items()):
        path, _, name = nodeid.partition("::")
        case = _case(tests, path.removesuffix(".py").replace("/", "."), name or path)
        case.set("file", plain(path))
        _outcome(case, outcome, nodeid in report.lost)
    for suite in (gates, tests):
        suite.set("tests", str(len(suite)))
        for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(plural, str(len(suite.findall(f"*/{kind}"))))
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: Element, group: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=plain(group), name=plain(name))


def _verdict(case: Element, verdict: str) -> None:
    if verdict != "pass":
        SubElement(case, "failure" if verdict == "fail" else "error", message=plain(verdict))


def _refused(case: Element, check: RejectedCheck, infrastructure: bool) -> None:
    kind = "error" if infrastructure else "failure"
    found = SubElement(case, kind, type=plain(check.code), message=plain(check.reason or check.code)[:_TEXT])
    facts = (("expected", check.expected), ("found", check.actual), ("to do", check.remedy))
    found.text = "\n".join(f"{name}: {plain(value)[:_TEXT]}" for name, value in facts if value)


def _outcome(case: Element, outcome: TestOutcome, lost: bool) -> None:
    if outcome == "failed":
        SubElement(case, "failure", message="passed before the patch, does not pass now" if lost else "fails")
    elif outcome == "error":
        SubElement(case, "error", message="could not be run")
    elif outcome == "skipped":
        SubElement(case, "skipped")
    elif outcome == "xfailed":
        SubElement(case, "skipped", message="failed, as its author expects")
