"""A home, a real sandbox, and one repair from files to candidates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.explore.recording import Stores
from activities.explore.repairing import Repairing
from activities.explore.tracing import read_spectra, targets_of, trace_job
from activities.record.blobs import BlobStore
from activities.record.cursors import Cursors
from activities.record.objects import ObjectStore
from activities.testbed.environment import Environments
from activities.testbed.run import TestBed
from schemas.candidate import Exploration, Suspect
from schemas.capabilities import Localization, Localize, Repair, RunTests
from schemas.task import TraceKeys
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, Outcomes, TestRun

EXAMPLES = Path(__file__).parent / "examples"
KEYS = TraceKeys(tenant_id="local", trace_id="trace", session_id="session", task_id="task")
LIMITS = Limits(wall_ms=120_000, test_ms=2_000, memory_mb=1_024, disk_mb=256)
IMPATIENT = LIMITS.model_copy(update={"test_ms": 500})
"""For programs that never end: each look at them takes as long as a test may."""
COMMIT_TIME = 1_700_000_000


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@dataclass
class Case:
    """A tree with its baseline and localisation."""

    tree: str
    baseline: TestRun
    outcomes: Outcomes
    localization: Localization
    suspects: list[Suspect]
    named: tuple[str, ...]
    limits: Limits


@dataclass
class Bed:
    blobs: BlobStore
    objects: ObjectStore
    cursors: Cursors
    testbed: TestBed
    environments: Environments
    objects_path: Path
    environment: Environment | None = None
    beats: int = field(default=0)

    def tree(self, files: Mapping[str, bytes]) -> str:
        empty = subprocess.run(
            ["git", "hash-object", "-t", "tree", "-w", "--stdin"],
            input=b"", capture_output=True, check=True, env={"GIT_DIR": str(self.objects_path), "PATH": "/usr/bin:/bin"},
        ).stdout.decode().strip()  # fmt: skip
        return self.objects.write_tree(empty, dict(files))

    def case(self, files: Mapping[str, bytes], named: tuple[str, ...] = (), limits: Limits = LIMITS) -> Case:
        tree = self.tree(files)
        assert self.environment is not None
        run = RunTests(
            tree=tree,
            environment=self.environment,
            plan=parse_test_command(()),
            limits=limits,
            commit_time=COMMIT_TIME,
            purpose="base",
        )
        baseline = self.testbed.run(run, self.beat)
        outcomes: Outcomes = self.blobs.get_json(baseline.outcomes)
        targets = targets_of(outcomes, named)
        job = trace_job(Localize(**self.common(tree, baseline, named, limits)), outcomes, targets)
        with self.testbed.session(tree, self.environment, run.plan, limits, "trace", job, commit_time=COMMIT_TIME) as process:
            suspects, tests = read_spectra(process, targets, outcomes, self.beat)
        ranking = self.blobs.put_json([suspect.model_dump(mode="json") for suspect in suspects])
        localization = Localization(ranking=ranking, suspects=len(suspects), targets=targets, tests=tests)
        return Case(tree, baseline, outcomes, localization, suspects, named, limits)

    def common(self, tree: str, baseline: TestRun, named: tuple[str, ...], limits: Limits = LIMITS) -> dict[str, Any]:
        return {
            "base_tree": tree, "environment": self.environment, "plan": parse_test_command(()), "limits": limits,
            "commit_time": COMMIT_TIME, "baseline": baseline, "named_targets": named,
        }  # fmt: skip

    def request(self, case: Case, keep: int = 3, wall_ms: int = 60_000) -> Repair:
        common = self.common(case.tree, case.baseline, case.named, case.limits)
        return Repair(**common, localization=case.localization, keep=keep, wall_ms=wall_ms)

    def repair(self, case: Case, key: str, heartbeat: Callable[[], None] | None = None, **options: int) -> Exploration:
        stores = Stores(self.blobs, self.objects, self.cursors, self.testbed)
        return Repairing(stores, self.request(case, **options), KEYS, key, heartbeat or self.beat).run()

    def beat(self) -> None:
        self.beats += 1
