"""The Regression Gate as workflows call it: what is measured, what is absent and why, who answers for what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.acting import Acting
from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.record.store import Store
from activities.verify.activities import RegressionActivities, VerifyActivities
from schemas.canonical import jcs
from schemas.capabilities import JudgeRuns, RegressionInput
from schemas.error import Gen4Error
from schemas.gates import Check, GateReport
from schemas.regression import BenchmarkSample, Finding, ScannedTree, Waiver
from schemas.testing import (
    Coverage,
    Environment,
    EnvironmentLock,
    Outcomes,
    SandboxFacts,
    TestRun,
    Wheel,
    counts_of,
    outcomes_sha256,
)

pytestmark = pytest.mark.usefixtures("admitted")

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
A, B = "tests/t.py::a", "tests/t.py::b"
GREEN: Outcomes = {A: "passed", B: "passed"}
DIGEST = "sha256:" + "0" * 64
SANDBOX = SandboxFacts(backend="bubblewrap", version="0.8.0", profile_sha256="ab" * 32, enforcement={})
MEASURED = ("tests", "coverage", "performance", "security", "dependencies", "licences", "size")


class Bench:
    """Two trees of which nothing got worse, until a test says otherwise."""

    def __init__(self, folder: Path, policy: PolicyPort) -> None:
        self.blobs, self.objects = BlobStore(folder / "blobs", "local"), ObjectStore.open(folder / "objects.git")
        self.chain = EventChain(Store.open(f"sqlite:///{folder / 'store.sqlite'}").tenant("local"))
        self.judging = VerifyActivities(self.blobs, policy)
        self.activities = RegressionActivities(self.blobs, self.objects, policy, self.chain)
        self.base_tree = self.objects.write_tree(EMPTY_TREE, {"a.py": b"x = 1\n"})
        self.head_tree = self.objects.write_tree(EMPTY_TREE, {"a.py": b"x = 2\n"})

    def run(
        self, outcomes: Outcomes = GREEN, covered: int = 90, micros: int = 50_000, cached: bool = False, measured: bool = True
    ) -> TestRun:
        coverage: Coverage = {"a.py": {"lines": list(range(1, 101)), "covered": list(range(1, covered + 1))}}
        return TestRun(
            status="passed", outcomes=self.blobs.put_json(dict(outcomes)), outcomes_sha256=outcomes_sha256(outcomes),
            counts=counts_of(outcomes), exit_code=0, runner="pytest", run_key="1" * 64, sandbox=SANDBOX, cached=cached,
            coverage=self.blobs.put_json(coverage) if measured else None,
            timings=self.blobs.put_json(dict.fromkeys(outcomes, micros)) if measured else None,
        )  # fmt: skip

    def environment(self, *wheels: tuple[str, str, str]) -> Environment:
        lock = EnvironmentLock(
            base_digest=DIGEST, platform="linux", python_version="3.11", profile="1", origin="request",
            wheels=tuple(
                Wheel(name=name, version=version, license=text, sha256="0" * 64, filename=f"{name}.whl")
                for name, version, text in wheels
            ),
        )  # fmt: skip
        return Environment(
            environment_digest=DIGEST, base_digest=DIGEST, lock=self.blobs.put(jcs(lock)), python_version="3.11", platform="linux"
        )

    def scan(self, *findings: Finding, size: int = 1_000, **more: Any) -> ScannedTree:
        listed = self.blobs.put_json([finding.model_dump(mode="json") for finding in findings])
        return ScannedTree(**{"findings": listed, "files": 1, "size_bytes": size, **more})

    def gate(self, base: TestRun | None = None, patched: TestRun | None = None, **changes: Any) -> GateReport:
        before, after = (base or self.run(),) * 3, (patched or self.run(),) * 3
        given: dict[str, Any] = {
            "judged": self.judging.judge_runs(JudgeRuns(base=before, patched=after)), "baseline_commit": "c0" * 20,
            "base_tree": self.base_tree, "result_tree": self.head_tree, "base": before, "patched": after, "in_turn": True,
            "environment": self.environment(("a", "1", "MIT")), "base_scan": self.scan(), "patched_scan": self.scan(),
        }  # fmt: skip
        report = self.activities.regression_gate(RegressionInput(**{**given, **changes}))
        assert all(check.remedy for check in report.checks if check.checked and not check.ok)
        return report


@pytest.fixture
def bench(tmp_path: Path, policy: PolicyPort) -> Iterator[Bench]:
    yield Bench(tmp_path, policy)


def check(report: GateReport, code: str) -> Check:
    return next(check for check in report.checks if check.code == code)


def waiver(metric: str, subject: str = "*", expires_at: str = "2999-01-01T00:00:00Z", owner: str = "alice") -> Waiver:
    return Waiver.model_validate(
        {"id": f"w-{metric}", "metric": metric, "subject": subject, "owner": owner, "reason": "known", "expires_at": expires_at}
    )


FINDING = Finding(tool="bandit", rule="B307", severity="high", path="a.py", line=1, fingerprint="1" * 64, content="2" * 64)


NO_SCANNERS = ScannedTree(findings=None, message="the index has none", scanners_missing=True, files=0, size_bytes=1)


def test_everything_is_measured_and_nothing_got_worse(bench: Bench) -> None:
    report = bench.gate()
    assert (report.verdict, report.codes, tuple(metric.name for metric in report.metrics)) == ("pass", (), MEASURED)
    assert not any(metric.waived or metric.verdict != "pass" for metric in report.metrics)


@pytest.mark.parametrize(
    ("code", "metric", "subject"),
    [
        ("REG_TEST_LOST", "tests", B), ("REG_COVERAGE", "coverage", "*"), ("REG_PERFORMANCE", "performance", "*"),
        ("REG_SECURITY", "security", "1" * 64), ("REG_CONTROL_REMOVED", "security", "codeowners"),
        ("REG_DEPENDENCY", "dependencies", "a"), ("REG_LICENCE", "licences", "b"), ("REG_SIZE", "size", "*"),
    ],
)  # fmt: skip
def test_what_got_worse_fails_with_its_code_alone_unless_waived(bench: Bench, code: str, metric: str, subject: str) -> None:
    samples = tuple(BenchmarkSample(micros=(time,)) for time in (50_000,) * 5)
    slow = tuple(BenchmarkSample(micros=(time,)) for time in (90_000,) * 5)
    changes: dict[str, dict[str, Any]] = {
        "REG_TEST_LOST": {"patched": bench.run({A: "passed", B: "skipped"})},
        "REG_COVERAGE": {"patched": bench.run(covered=70)},
        "REG_PERFORMANCE": {"base_benchmark": samples, "patched_benchmark": slow},
        "REG_SECURITY": {"patched_scan": bench.scan(FINDING)},
        "REG_CONTROL_REMOVED": {"patched_scan": bench.scan(gone=("codeowners", "other.txt"))},
        "REG_DEPENDENCY": {"patched_environment": bench.environment(("a", "0.9", "MIT"))},
        "REG_LICENCE": {"patched_environment": bench.environment(("a", "1", "MIT"), ("b", "1", "AGPL-3.0-only"))},
        "REG_SIZE": {"patched_scan": bench.scan(size=1_000_000)},
    }
    report = bench.gate(**changes[code])
    assert (report.verdict, report.codes) == ("fail", (code,))
    assert [(one.name, one.waived) for one in report.metrics if one.verdict == "fail"] == [(metric, False)]
    waived = bench.gate(**changes[code], waivers=(waiver(metric, subject),))
    assert (waived.verdict, waived.codes) == ("pass", ())
    assert [(one.name, one.waived) for one in waived.metrics if one.verdict == "fail"] == [(metric, True)]
    assert [one.owner for one in waived.waivers] == ["alice"]
    assert "waived: " in check(waived, code).reason


def test_a_test_that_got_slower_in_every_run(bench: Bench) -> None:
    report = bench.gate(patched=bench.run(micros=100_000))
    assert report.codes == ("REG_PERFORMANCE",)
    assert "+100.00 %" in check(report, "REG_PERFORMANCE").actual


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        ({"in_turn": False}, "REG_PERFORMANCE", "did not take turns"),
        ({"environment": None}, "REG_LICENCE", "not given"),
        ({"environment": None}, "REG_DEPENDENCY", "not given"),
        ({"base_scan": None}, "REG_SECURITY", "not scanned"),
        ({"patched_scan": None}, "REG_SIZE", "not scanned"),
        ({"base_scan": ScannedTree(findings=None, message="killed", files=1, size_bytes=1)}, "REG_SECURITY", "killed"),
        ({"patched_scan": NO_SCANNERS}, "REG_SECURITY", "the index"),
    ],
)
def test_what_is_not_measured_is_absent_with_its_reason(bench: Bench, change: dict[str, Any], code: str, why: str) -> None:
    report = bench.gate(**change)
    assert report.verdict == "pass"
    found = check(report, code)
    assert (found.checked, found.ok) == (False, False) and why in found.reason


def test_runs_that_measured_nothing_or_came_from_the_cache(bench: Bench) -> None:
    plain = bench.gate(patched=bench.run(measured=False))
    assert "patched tree measured no coverage" in check(plain, "REG_COVERAGE").reason
    assert "not every run was timed" in check(plain, "REG_PERFORMANCE").reason
    cached = bench.gate(base=bench.run(micros=10), patched=bench.run(micros=9_999_999, cached=True))
    assert (cached.verdict, check(cached, "REG_PERFORMANCE").checked) == ("pass", False)


def test_a_tree_that_its_scanners_cannot_read_while_base_can_be_read(bench: Bench) -> None:
    """Otherwise a patch could switch off what looks at it."""
    report = bench.gate(patched_scan=ScannedTree(findings=None, message="killed at its memory limit", files=1, size_bytes=1_000))
    assert report.codes == ("REG_SECURITY",)


@pytest.mark.parametrize("side", ["base_benchmark", "patched_benchmark"])
def test_a_benchmark_that_was_asked_for_and_fails(bench: Bench, side: str) -> None:
    good = tuple(BenchmarkSample(micros=(50_000,)) for _ in range(5))
    broken = (*good[:4], BenchmarkSample(exit_code=2, message="No such file"))
    report = bench.gate(**{"base_benchmark": good, "patched_benchmark": good, side: broken})
    assert report.codes == ("REG_PERFORMANCE",)
    assert "exit code 2: No such file" in check(report, "REG_PERFORMANCE").actual


def test_an_expired_waiver_is_named_beside_what_it_covered(bench: Bench) -> None:
    report = bench.gate(patched=bench.run(covered=70), waivers=(waiver("coverage", expires_at="2020-01-01T00:00:00Z"),))
    assert (report.verdict, report.codes, report.waivers) == ("fail", ("REG_COVERAGE", "REG_WAIVER_EXPIRED"), ())
    assert "w-coverage of alice, until 2020-01-01T00:00:00Z" in check(report, "REG_WAIVER_EXPIRED").actual


def test_a_waiver_that_covers_nothing_is_reported(bench: Bench) -> None:
    report = bench.gate(waivers=(waiver("coverage", expires_at="2020-01-01T00:00:00Z"), waiver("tests", "no::such")))
    assert (report.verdict, report.waivers) == ("pass", ())
    assert check(report, "REG_WAIVER_EXPIRED").reason == "these cover nothing: w-coverage, w-tests"


def test_a_waiver_without_a_real_owner_is_refused_by_policy(bench: Bench) -> None:
    report = bench.gate(patched=bench.run(covered=70), waivers=(waiver("coverage", owner=" "),))
    assert (report.verdict, report.codes) == ("fail", ("REG_WAIVER_OWNER",))


def test_who_answered_for_what_is_an_event(bench: Bench, admitted: Acting) -> None:
    over = waiver("size", expires_at="2020-01-01T00:00:00Z")
    bench.gate(patched=bench.run(covered=70), waivers=(waiver("coverage"), waiver("tests", "no::such"), over))
    assert [(event.kind, payload) for event, payload in bench.chain.read(admitted.keys.session_id)] == [
        ("waiver.granted", {"id": "w-coverage", "owner": "alice", "reason": "known", "expires_at": "2999-01-01T00:00:00Z"}),
        ("waiver.expired", {"id": "w-size", "owner": "alice", "reason": "known", "expires_at": "2020-01-01T00:00:00Z"}),
    ]


@pytest.mark.parametrize(
    "change", [{"coverage": b'{"a.py":{"lines":"all"}}'}, {"timings": b'{"a":"fast"}'}, {"coverage": b'[1]'}]
)
def test_measures_that_do_not_fit_their_model_are_refused(bench: Bench, change: dict[str, bytes]) -> None:
    broken = bench.run().model_copy(update={name: bench.blobs.put(data) for name, data in change.items()})
    with pytest.raises(Gen4Error) as caught:
        bench.gate(patched=broken)
    assert caught.value.code == "MEASURE_INVALID"


def test_runs_that_disagree_are_no_baseline_and_say_so(bench: Bench) -> None:
    runs = (bench.run(), bench.run({A: "passed", B: "failed"}))
    judged = bench.judging.judge_runs(JudgeRuns(base=runs, patched=runs))
    report = bench.gate(judged=judged)
    assert report.codes == ("REG_BASELINE_MISSING", "REG_METRIC_MISSING")
    assert B in check(report, "REG_BASELINE_MISSING").reason
