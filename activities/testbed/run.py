"""Run a plan on a tree in a fresh sandbox and say canonically what came out. It runs; it does not judge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activities.kernel.sandbox.port import Completed, RootFilesystem, SandboxBackend, SandboxProcess
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.testbed.environment import Environments
from activities.testbed.harness import (
    HARNESS_LOCK,
    PINNED,
    collect,
    describe_end,
    harness_version,
    pinned_requirements,
    start,
)
from activities.testbed.protocol import HarnessBroken, Report, read_report
from schemas.canonical import jcs_sha256
from schemas.capabilities import RunTests
from schemas.model import GitId
from schemas.test_paths import is_test_path
from schemas.testing import (
    FAILING,
    Coverage,
    Environment,
    Limits,
    Outcomes,
    RunStatus,
    RunVariant,
    TestPlan,
    TestRun,
    counts_of,
    outcomes_sha256,
)

Heartbeat = Callable[[], None]
MODES = {"pytest": "tests", "node": "node"}
"""Mode of the runner for each runner of tests."""
_WALL_MARGIN_MS = 2_000
"""The supervisor ends a run this much before the sandbox would be killed, so that what it knows still arrives."""
_TAIL_CHARS = 1_500
_ENDINGS = {
    "wall_time": ("RUN_TIMEOUT", "the sandbox was killed at its wall time limit"),
    "memory": ("MEMORY_LIMIT", "the sandbox was killed at its memory limit"),
    "output": ("OUTPUT_LIMIT", "the sandbox was killed at its output limit"),
}


@dataclass(frozen=True)
class Observation:
    """A run as whoever ran it saw it: what a receipt is made of. ``run`` has no receipt yet."""

    run: TestRun
    planted: int
    """Sentinels: tests of the runner's own that had to fail."""
    caught: int
    outcomes: Outcomes
    coverage: Coverage | None = None
    timings: dict[str, int] | None = None


class TestBed:
    """Fresh sandboxes with a tree, an environment and a plan."""

    __test__ = False

    def __init__(
        self,
        home: Home,
        blobs: BlobStore,
        objects: ObjectStore,
        environments: Environments,
        root: RootFilesystem,
        backend: SandboxBackend,
    ) -> None:
        self._home, self._blobs, self._objects = home, blobs, objects
        self._environments, self._root, self._backend = environments, root, backend

    def session(
        self,
        tree: GitId,
        environment: Environment,
        plan: TestPlan,
        limits: Limits,
        mode: str,
        job: dict[str, Any],
        *,
        commit_time: int = 0,
        harness: Path | None = None,
        hash_seed: int = 0,
    ) -> AbstractContextManager[SandboxProcess]:
        """A runner in ``mode`` that has unpacked ``tree``. ``job`` extends the common fields (see :func:`job_of`)."""
        return start(
            self._backend,
            self._root,
            mode=mode,
            job={**job_of(plan, limits), **job},
            limits=limits,
            environment=self._environments.path(environment.environment_digest),
            write_archive=lambda out: self._objects.tar(tree, out),
            source_date_epoch=commit_time,
            harness=harness,
            hash_seed=hash_seed,
        )

    def run(self, request: RunTests, heartbeat: Heartbeat, *, tenant_id: str = "local") -> TestRun:
        """One run of the tests of the plan, see :meth:`observe`."""
        return self.observe(request, heartbeat, tenant_id=tenant_id).run

    def observe(self, request: RunTests, heartbeat: Heartbeat, *, tenant_id: str = "local") -> Observation:
        """One run of the tests of the plan, and what is known of it beside its result.

        Raises:
            InfrastructureError: no sandbox could be started, or there is nothing to measure with. A run that the sandbox did
                not survive is ``infra_error`` only when neither the tree nor a limit can have been the cause.
        """
        traced = request.measure and request.plan.runner == "pytest"  # Node measures by itself
        harness = self._environments.tools(pinned_requirements(HARNESS_LOCK), heartbeat) if traced else None
        with self.session(
            request.tree, request.environment, request.plan, request.limits, MODES[request.plan.runner], variant_job(request),
            commit_time=request.commit_time, harness=harness, hash_seed=request.variant.hash_seed,
        ) as process:  # fmt: skip
            lines = collect(process, heartbeat)
            completed = process.finish()
        # Only now, with every process of the sandbox gone, is what it wrote looked at.
        return self._conclude(request, lines, completed, tenant_id)

    def _conclude(self, request: RunTests, lines: list[bytes], completed: Completed, tenant_id: str) -> Observation:
        try:
            report = read_report(lines)
            codes, message = list(report.codes), report.message
        except HarnessBroken as error:
            report, codes, message = Report(), ["HARNESS_BROKEN"], str(error)
        if not report.ended and not codes:
            code, message = _ENDINGS.get(completed.ending) or ("HARNESS_BROKEN", describe_end(completed))
            codes = [code]
        elif codes and report.tail and not report.outcomes:
            message += "; pytest said: " + report.tail[-_TAIL_CHARS:].strip()
        coverage = self._coverage(report, request.tree)
        run = TestRun(
            status=_status(report, codes, completed),
            codes=tuple(sorted(set(codes))),
            message=message,
            outcomes=self._blobs.put_json(dict(report.outcomes)),
            outcomes_sha256=outcomes_sha256(report.outcomes),
            counts=counts_of(report.outcomes),
            exit_code=report.exit_code,
            runner=report.runner,
            run_key=run_key(request, tenant_id),
            sandbox=self._backend.facts(),
            variant=request.variant,
            coverage=None if coverage is None else self._blobs.put_json(coverage),
            timings=None if report.timings is None else self._blobs.put_json(report.timings),
            network=report.network,
        )
        return Observation(run, report.planted, report.caught, report.outcomes, coverage, report.timings)

    def _coverage(self, report: Report, tree: GitId) -> Coverage | None:
        """What was reported of files that the tree has and that are no tests."""
        if report.coverage is None:
            return None
        files = {entry.path for entry in self._objects.entries(tree) if entry.mode.startswith("100")}
        tests = {nodeid.partition("::")[0] for nodeid in report.outcomes}
        wanted = files - tests
        return {path: found for path, found in report.coverage.items() if path in wanted and not is_test_path(path)}


def job_of(plan: TestPlan, limits: Limits) -> dict[str, Any]:
    """What every mode gets: ``python_path, env, pytest_args, test_ms, wall_ms`` (beside ``work`` and ``environment``)."""
    return {
        "python_path": list(plan.python_path),
        "env": dict(plan.env),
        "pytest_args": list(plan.pytest_args),
        "node_args": list(plan.node_args),
        "test_ms": limits.test_ms,
        "wall_ms": max(limits.wall_ms - _WALL_MARGIN_MS, limits.wall_ms // 2),
    }


def variant_job(request: RunTests) -> dict[str, Any]:
    """What mode ``tests`` gets beside that: ``order, hash_seed, clock, only, measure``."""
    variant = request.variant
    stands_at = request.commit_time if request.plan.frozen_clock else None
    return {
        "order": variant.order,
        "hash_seed": variant.hash_seed,
        "clock": stands_at if variant.clock is None else variant.clock,
        "only": list(variant.only),
        "measure": request.measure,
    }


def _command(plan: TestPlan) -> list[str]:
    return ["node", "--test", *plan.node_args] if plan.runner == "node" else ["python", "-m", "pytest", *plan.pytest_args]


def run_key(request: RunTests, tenant_id: str, harness: str | None = None) -> str:
    """Identity of a run's raw outcomes (contracts §10): same key, same input. ``harness``: its version, if not ours."""
    variables = {**PINNED, **request.plan.env, "PYTHONPATH": ":".join(request.plan.python_path)}
    # Absent where they are as always, so that they change no key but their own runs'.
    variant = {} if request.variant == RunVariant() else {"variant": request.variant.model_dump(mode="json")}
    clock = {"frozen_clock": True} if request.plan.frozen_clock else {}
    return jcs_sha256(
        {
            "tenant_id": tenant_id,
            "tree": request.tree,
            "environment_digest": request.environment.environment_digest,
            "platform": request.environment.platform,
            "commands": [_command(request.plan)],
            "env": {**variables, "SOURCE_DATE_EPOCH": str(request.commit_time)},
            "limits": request.limits.model_dump(mode="json"),
            "harness_version": harness or harness_version(),
            **variant,
            **clock,
        }
    )


def _status(report: Report, codes: list[str], completed: Completed) -> RunStatus:
    if not report.ended and completed.ending == "killed":
        return "infra_error"
    outcomes = set(report.outcomes.values())
    return "failed" if codes or outcomes & FAILING or outcomes <= {"skipped"} else "passed"
