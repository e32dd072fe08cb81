"""Determinism Gate: equal members pass, the first that differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.verify.activities import VerifyActivities
from activities.verify.determinism import determinism_report
from schemas.canonical import digest_of, jcs
from schemas.capabilities import DeterminismInput, Members
from schemas.evidence import CHECKSUMS, SBOM, STABLE_MEMBERS, TEST_RESULTS

pytestmark = pytest.mark.usefixtures("admitted")

MEMBERS = {name: name.encode() + b"\nsecond line\n" for name in STABLE_MEMBERS} | {
    TEST_RESULTS: jcs({"suites": [{"name": "base", "outcomes": {"a": "passed", "b": "failed"}}], "commands": []})
}


def test_equal_members_of_two_runs_pass() -> None:
    report = determinism_report(MEMBERS, dict(MEMBERS), 2)
    assert (report.verdict, report.codes) == ("pass", ())


@pytest.mark.parametrize("runs", [0, 1])
def test_too_few_runs(runs: int) -> None:
    report = determinism_report(MEMBERS, MEMBERS, runs)
    assert (report.verdict, report.codes) == ("fail", ("DET_RUNS",))


@pytest.mark.parametrize("name", STABLE_MEMBERS)
def test_the_first_member_that_differs_is_named(name: str) -> None:
    later = STABLE_MEMBERS[STABLE_MEMBERS.index(name) :]
    changed = jcs({"suites": [], "commands": [1]})
    rerun = {**MEMBERS, **{other: changed if other == TEST_RESULTS else MEMBERS[other] + b"x\n" for other in later}}
    report = determinism_report(MEMBERS, rerun, 2)
    check = report.checks[-1]
    assert (report.codes, check.member, check.expected) == (("DET_DIGEST",), name, digest_of(MEMBERS[name]))
    assert check.reason and check.remedy


def test_the_first_test_that_differs_is_named() -> None:
    other = jcs({"suites": [{"name": "base", "outcomes": {"a": "passed", "c": "failed"}}], "commands": []})
    check = determinism_report(MEMBERS, {**MEMBERS, TEST_RESULTS: other}, 2).checks[-1]
    assert check.reason == "base b: failed, then missing"


@pytest.mark.parametrize("name", STABLE_MEMBERS)
def test_a_missing_member_differs(name: str) -> None:
    rest = {key: data for key, data in MEMBERS.items() if key != name}
    for first, rerun in ((rest, MEMBERS), (MEMBERS, rest)):
        check = determinism_report(first, rerun, 2).checks[-1]
        assert (check.ok, check.member, check.reason) == (False, name, "missing on one side")


def test_an_extra_member_differs() -> None:
    check = determinism_report(MEMBERS, {**MEMBERS, "note": b""}, 2).checks[-1]
    assert (check.ok, check.member) == (False, "note")


def test_the_activity_compares_the_bytes_and_not_the_digests_it_is_told(tmp_path: Path, policy: PolicyPort) -> None:
    blobs = BlobStore(tmp_path, "local")
    activities = VerifyActivities(blobs, policy)

    def stored(members: dict[str, bytes]) -> Members:
        references = {name: blobs.put(data) for name, data in members.items()}
        return Members(blobs=references, bundle_digest=digest_of(MEMBERS[CHECKSUMS]))

    first, same, other = stored(MEMBERS), stored(MEMBERS), stored({**MEMBERS, SBOM: b"{}"})
    verdicts = [
        activities.determinism_gate(DeterminismInput(first=first, rerun=rerun, runs=2, isolation="fresh_sandbox")).verdict
        for rerun in (same, other)
    ]
    assert verdicts == ["pass", "fail"]
