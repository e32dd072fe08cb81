"""Determinism Gate: equal members pass, the first that differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.verify.activities import VerifyActivities
from activities.verify.determinism import Rerun, determinism_report, executions
from schemas.canonical import digest_of, jcs
from schemas.capabilities import DeterminismInput, Members
from schemas.evidence import CHECKSUMS, SBOM, STABLE_MEMBERS, TEST_RESULTS
from schemas.model import BlobRef
from schemas.policy import PolicyDecision
from schemas.testing import Environment, RunStatus, SandboxFacts, TestRun

TWICE = Rerun(runs=2)
pytestmark = pytest.mark.usefixtures("admitted")

MEMBERS = {name: name.encode() + b"\nsecond line\n" for name in STABLE_MEMBERS} | {
    TEST_RESULTS: jcs({"suites": [{"name": "base", "outcomes": {"a": "passed", "b": "failed"}}], "commands": []})
}


def test_equal_members_of_two_runs_pass() -> None:
    report = determinism_report(MEMBERS, dict(MEMBERS), TWICE)
    assert (report.verdict, report.codes) == ("pass", ())


@pytest.mark.parametrize("runs", [0, 1])
def test_too_few_runs(runs: int) -> None:
    report = determinism_report(MEMBERS, MEMBERS, Rerun(runs))
    assert (report.verdict, report.codes) == ("fail", ("DET_RUNS",))


@pytest.mark.parametrize("name", STABLE_MEMBERS)
def test_the_first_member_that_differs_is_named(name: str) -> None:
    later = STABLE_MEMBERS[STABLE_MEMBERS.index(name) :]
    changed = jcs({"suites": [], "commands": [1]})
    rerun = {**MEMBERS, **{other: changed if other == TEST_RESULTS else MEMBERS[other] + b"x\n" for other in later}}
    report = determinism_report(MEMBERS, rerun, TWICE)
    check = report.checks[-1]
    assert (report.codes, check.member, check.expected) == (("DET_DIGEST",), name, digest_of(MEMBERS[name]))
    assert check.reason and check.remedy


def test_the_first_test_that_differs_is_named() -> None:
    other = jcs({"suites": [{"name": "base", "outcomes": {"a": "passed", "c": "failed"}}], "commands": []})
    check = determinism_report(MEMBERS, {**MEMBERS, TEST_RESULTS: other}, TWICE).checks[-1]
    assert check.reason == "base b: failed, then missing"


@pytest.mark.parametrize("name", STABLE_MEMBERS)
def test_a_missing_member_differs(name: str) -> None:
    rest = {key: data for key, data in MEMBERS.items() if key != name}
    for first, rerun in ((rest, MEMBERS), (MEMBERS, rest)):
        check = determinism_report(first, rerun, TWICE).checks[-1]
        assert (check.ok, check.member, check.reason) == (False, name, "missing on one side")


def test_an_extra_member_differs() -> None:
    check = determinism_report(MEMBERS, {**MEMBERS, "note": b""}, TWICE).checks[-1]
    assert (check.ok, check.member) == (False, "note")


def run(
    key: str, receipt: str | None = None, *, cached: bool = False, status: RunStatus = "passed", codes: tuple[str, ...] = ()
) -> TestRun:
    ref = BlobRef(sha256=receipt * 64, size=1, media_type="application/json") if receipt else None
    return TestRun(
        status=status, codes=codes, outcomes=BlobRef(sha256="0" * 64, size=1, media_type="application/json"), counts={},
        outcomes_sha256="0" * 64, exit_code=0, runner="pytest 9.2.0", run_key=key * 64, receipt=ref, cached=cached,
        sandbox=SandboxFacts(backend="docker", version="1", profile_sha256="0" * 64, enforcement={}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], 0),
        ([run("a", "1"), run("a", "2"), run("b", "3"), run("b", "4")], 2),
        ([run("a", "1"), run("a", "2"), run("b", "3"), run("b", "3")], 1),
        ([run("a", "1", cached=True), run("a", "2", cached=True)], 2),
        ([run("a", cached=True), run("a", cached=True)], 0),
        ([run("a"), run("a"), run("a")], 3),
    ],
)
def test_executions_are_counted_by_receipts(runs: list[TestRun], expected: int) -> None:
    assert executions(runs) == expected


def test_a_rerun_that_the_machine_failed_is_inconclusive() -> None:
    report = determinism_report(MEMBERS, {}, Rerun(2, again=[run("a", "1"), run("a", status="infra_error", codes=("GONE",))]))
    assert (report.verdict, report.codes, report.checks[0].reason) == ("inconclusive", ("DET_INFRA",), "GONE")


def environment(digest: str, platform: str = "linux/amd64") -> Environment:
    return Environment(
        environment_digest="sha256:" + digest * 64, base_digest="sha256:" + "0" * 64, python_version="3.13", platform=platform,
        lock=BlobRef(sha256="0" * 64, size=1, media_type="application/json"),
    )  # fmt: skip


@pytest.mark.parametrize("other", [environment("b"), environment("a", "linux/arm64")])
def test_another_environment_proves_nothing(other: Environment) -> None:
    same = determinism_report(MEMBERS, MEMBERS, Rerun(2, environment=environment("a"), rerun_environment=environment("a")))
    assert same.verdict == "pass" and all(check.checked for check in same.checks)
    report = determinism_report(MEMBERS, MEMBERS, Rerun(2, environment=environment("a"), rerun_environment=other))
    assert (report.verdict, report.codes) == ("fail", ("DET_ENVIRONMENT",))


def test_a_recalled_rerun_is_taken_or_not_as_the_policy_says(policy: PolicyPort) -> None:
    def ask(reused: bool) -> PolicyDecision:
        return policy.decide("gen4.determinism", {"reused": reused})

    assert determinism_report(MEMBERS, MEMBERS, Rerun(2, reused=True), ask).verdict == "pass"
    report = determinism_report(MEMBERS, MEMBERS, Rerun(2, reused=True), lambda reused: policy.decide("gen4.determinism", {}))
    assert (report.verdict, report.codes) == ("fail", ("DET_CACHE_ONLY",))
    assert "--no-cache" in next(check.remedy for check in report.checks if not check.ok)


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
    once = DeterminismInput(
        first=first, rerun=same, runs=2, isolation="fresh_sandbox", first_runs=(run("a", "1"), run("a", "1", cached=True))
    )
    assert activities.determinism_gate(once).codes == ("DET_RUNS",)
