"""The Regression Gate from end to end: what was measured is read, compared, and judged by policy.

The report is a function of what the request refers to, by hash, and of which waivers have expired: whoever has the content can
compute it again. The worker's activity does so with its stores, the signer with what it was sent (threats 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from activities.record.objects import Change, ObjectStore
from activities.verify.coverage_metric import ChangedLines, changed_lines, compare_coverage
from activities.verify.findings import compare_findings, not_scanned
from activities.verify.licences import Distribution, compare_dependencies, compare_licences
from activities.verify.measuring import Measured, Tolerances
from activities.verify.performance import benchmark_failed, compare_benchmark, compare_timings
from activities.verify.regression import MetricsPolicy, regression_report, tests_metric
from activities.verify.size import compare_sizes
from schemas.canonical import digest_of, jcs_sha256
from schemas.capabilities import RegressionInput
from schemas.error import Refused
from schemas.gates import GateReport, MetricName
from schemas.model import BlobRef
from schemas.policy import PolicyDecision
from schemas.regression import BenchmarkSample, Finding
from schemas.testing import Coverage, Environment, NodeEnvironmentLock, Outcomes, TestRun, read_lock
from schemas.verdict import Judgement

METRICS = "gen4.metrics"
Read = Callable[[BlobRef], bytes]
"""The bytes of a blob, which are those that it names."""
_COVERAGE: TypeAdapter[Coverage] = TypeAdapter(Coverage)
_TIMINGS: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])
_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)
_FINDINGS: TypeAdapter[list[Finding]] = TypeAdapter(list[Finding])
_LARGEST_FILE = 2 * 1024 * 1024
"""Lines of larger files are not compared."""


class RegressionGate:
    """Compares two trees by what was observed of them; a metric of which one side is missing is absent, with its reason."""

    def __init__(self, objects: ObjectStore, read: Read, decide: MetricsPolicy) -> None:
        self._objects, self._blob, self._decide = objects, read, decide

    def report(self, request: RegressionInput, now: str) -> GateReport:
        """``now``: RFC 3339 UTC in whole seconds. Raises Refused MEASURE_INVALID."""
        judgement = Judgement.model_validate_json(self._blob(request.judged.judgement))
        measured, missing = self._measure(request, judgement)
        return regression_report(
            judgement, request.baseline_commit, measured, self._decide, waivers=request.waivers, now=now, missing=missing,
            message=request.judged.message,
        )  # fmt: skip

    def _measure(self, request: RegressionInput, judgement: Judgement) -> tuple[list[Measured], dict[MetricName, str]]:
        rules = Tolerances.load()
        missing: dict[MetricName, str] = {}
        found = [
            tests_metric(judgement),
            self._coverage(request, rules, missing),
            self._performance(request, rules, missing),
            self._security(request, rules, missing),
            *self._dependencies(request, rules, missing),
            compare_sizes(request.base_scan, request.patched_scan, rules.size),
        ]
        return [one for one in found if one is not None], missing

    # --- coverage ----------------------------------------------------------------------------------------------------

    def _coverage(self, request: RegressionInput, rules: Tolerances, missing: dict[MetricName, str]) -> Measured | None:
        base, patched = self._coverage_of(request.base), self._coverage_of(request.patched)
        if base is None or patched is None:
            missing["coverage"] = f"the runs of the {'base' if base is None else 'patched'} tree measured no coverage"
            return None
        return compare_coverage(base, patched, self._changed_lines(request, patched), rules.coverage)

    def _coverage_of(self, runs: Sequence[TestRun]) -> Coverage | None:
        reference = next((run.coverage for run in runs if run.coverage is not None), None)
        return None if reference is None else self._read(_COVERAGE, reference)

    def _changed_lines(self, request: RegressionInput, measured: Coverage) -> ChangedLines:
        if request.base_tree is None or request.result_tree is None:
            return {}
        changes = self._objects.changes(request.base_tree, request.result_tree)
        compared = [change for change in changes if change.path in measured and change.status in "AM"]
        wanted = {oid for change in compared for oid in _contents(change)}
        contents = dict(self._objects.read_many(sorted(wanted))) if wanted else {}
        lines: dict[str, frozenset[int]] = {change.path: frozenset() for change in changes}
        for change in compared:
            before, after = contents.get(change.old_oid), contents[change.new_oid]
            if len(before or b"") + len(after) <= _LARGEST_FILE:
                lines[change.path] = changed_lines(before, after)
        return lines

    # --- performance -------------------------------------------------------------------------------------------------

    def _performance(self, request: RegressionInput, rules: Tolerances, missing: dict[MetricName, str]) -> Measured | None:
        """Timings of tests and the benchmark, where there is one, are one metric."""
        parts = [
            self._timings(request, rules, missing),
            self._benchmark(request.base_benchmark, request.patched_benchmark, rules, missing),
        ]
        measured = [part for part in parts if part is not None]
        if not measured:
            return None
        summary = "; ".join(part.summary for part in measured)
        return Measured("performance", summary, tuple(one for part in measured for one in part.regressions))

    def _timings(self, request: RegressionInput, rules: Tolerances, missing: dict[MetricName, str]) -> Measured | None:
        runs = (*request.base, *request.patched)
        if not request.in_turn or any(run.cached for run in runs):
            missing["performance"] = "the runs of both trees did not take turns, so their times do not compare"
            return None
        if any(run.timings is None for run in runs):
            missing["performance"] = "not every run was timed"
            return None
        base, patched = ([self._timing_of(run) for run in tree] for tree in (request.base, request.patched))
        found = compare_timings(base, patched, rules.performance)
        if found is None:
            missing["performance"] = f"{len(base)} and {len(patched)} runs are too few to tell a slower tree from chance"
        return found

    def _timing_of(self, run: TestRun) -> dict[str, int]:
        """Of tests that passed: how long a test took to fail says nothing."""
        assert run.timings is not None  # noqa: S101  the caller has looked
        outcomes = self._read(_OUTCOMES, run.outcomes)
        return {test: time for test, time in self._read(_TIMINGS, run.timings).items() if outcomes.get(test) == "passed"}

    def _benchmark(
        self, base: Sequence[BenchmarkSample], patched: Sequence[BenchmarkSample], rules: Tolerances,
        missing: dict[MetricName, str],
    ) -> Measured | None:  # fmt: skip
        """The median of each sandbox is one observation: what is repeated within it shares its luck."""
        if not base and not patched:
            return None
        for name, samples in (("base", base), ("patched", patched)):
            if failed := next((sample for sample in samples if not sample.micros), None):
                return benchmark_failed(f"it fails on the {name} tree with exit code {failed.exit_code}: {failed.message}")
        found = compare_benchmark(_medians(base), _medians(patched), rules.performance)
        if found is None:
            missing["performance"] = f"{len(base)} and {len(patched)} runs of the benchmark are too few"
        return found

    # --- security, dependencies --------------------------------------------------------------------------------------

    def _security(self, request: RegressionInput, rules: Tolerances, missing: dict[MetricName, str]) -> Measured | None:
        base, patched = request.base_scan, request.patched_scan
        if base is None or patched is None:
            missing["security"] = missing["size"] = "the trees were not scanned"
            return None
        if patched.scanners_missing:
            missing["security"] = patched.message
            return None
        if base.findings is None:
            missing["security"] = f"the scan of the base tree came to no end: {base.message}"
            return None
        if patched.findings is None:
            return not_scanned(patched.message)
        before, after = self._read(_FINDINGS, base.findings), self._read(_FINDINGS, patched.findings)
        return compare_findings(before, after, patched.gone, rules.security, rules.controls)

    def _dependencies(
        self, request: RegressionInput, rules: Tolerances, missing: dict[MetricName, str]
    ) -> tuple[Measured, ...]:
        if request.environment is None:
            missing["dependencies"] = missing["licences"] = "the environment was not given"
            return ()
        base = self._distributions(request.environment)
        patched = self._distributions(request.patched_environment) if request.patched_environment else base
        return compare_dependencies(base, patched, rules.dependencies), compare_licences(base, patched, rules.licences)

    def _distributions(self, environment: Environment) -> list[Distribution]:
        lock = read_lock(self._blob(environment.lock))
        found = [Distribution(wheel.name, wheel.version, wheel.license) for wheel in lock.wheels]
        if isinstance(lock, NodeEnvironmentLock):
            found += [Distribution(package.name, package.version, package.license) for package in lock.packages]
        return found

    # -----------------------------------------------------------------------------------------------------------------

    def _read(self, kind: TypeAdapter[Any], reference: BlobRef) -> Any:
        try:
            return kind.validate_json(self._blob(reference))
        except ValidationError as error:
            raise Refused("MEASURE_INVALID", f"a measure {reference.sha256} does not fit its model: {error}") from error


def report_if_allowed(request: RegressionInput, objects: ObjectStore, read: Read, now: str) -> GateReport:
    """The report where policy allows what was measured: for a signer, who has no policy engine and compares the two."""
    return RegressionGate(objects, read, _allowed).report(request, now)


def _allowed(question: Mapping[str, Any]) -> PolicyDecision:
    return PolicyDecision(
        decision="allow", policy_id=METRICS, policy_digest=digest_of(b""), engine_name="", engine_version="",
        input_sha256=jcs_sha256(dict(question)), required_checks=(METRICS,), results=(),
    )  # fmt: skip


def _contents(change: Change) -> tuple[str, ...]:
    return (change.old_oid, change.new_oid) if change.status == "M" else (change.new_oid,)


def _medians(samples: Sequence[BenchmarkSample]) -> list[int]:
    return [sorted(sample.micros)[len(sample.micros) // 2] for sample in samples]
