"""Test executions of a Compile against the same ones by bare ``docker run``, and a Compile whose runs are all cached.

    python -m bench.compile [--rounds N] [--tests N] [--cached N] [--only executions|cached]

Executions: the same tree, environment, root filesystem and one CPU on both sides, coverage measured on both, nothing cached,
everything warm; rounds alternate. Ours plant sentinels, time every test and sign nothing here. Cached: a real fabric in a
throw-away home; one Compile fills the cache, then equal ones are started through a Temporal client and waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from activities.kernel.sandbox.backends import BACKENDS
from activities.kernel.sandbox.engine import docker_engine
from activities.testbed.harness import PINNED
from activities.testbed.run import TestBed
from bench.bed import Bed, open_bed
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Limits
from workers.client import connect
from workers.toolchain import cache_directory

EXECUTIONS_TARGET = 1.3
CACHED_TARGET_S = 1.0
COMMIT_TIME = 1_700_000_000
DOCKER_GROUP = 20010
"""Of the socket of an engine that is started for this."""
BUSY = """
def collatz(n):
    steps = 0
    while n != 1:
        if n % 2:
            n = 3 * n + 1
        else:
            n //= 2
        steps += 1
    return steps
"""
TESTS = """
import pytest
from busy.numbers import collatz

@pytest.mark.parametrize("start", range(1, {count}))
def test_ends(start):
    for n in range(start, start + 25):
        assert collatz(n) >= 0
"""
BUG = "\n\ndef half(n):\n    return n // 3\n"
BUG_TEST = "from busy.numbers import half\n\ndef test_half():\n    assert half(8) == 4\n"


def write_project(folder: Path, tests: int) -> Path:
    """A package whose tests keep a core busy; one of them fails."""
    for name, text in {
        "busy/__init__.py": "", "busy/numbers.py": BUSY + BUG, "tests/test_numbers.py": TESTS.format(count=tests + 1),
        "tests/test_half.py": BUG_TEST, "requirements-test.txt": "pytest\ncoverage\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def executions(rounds: int, tests: int) -> dict[str, Any]:
    """Seconds of one execution on either side, and the ratio of the medians."""
    with docker_engine(cache_directory(), DOCKER_GROUP) as host, tempfile.TemporaryDirectory(prefix="gen4-bench-") as name:
        os.environ["DOCKER_HOST"] = host
        with open_bed() as bed:
            folder = write_project(Path(name) / "project", tests)
            Path(name).chmod(0o755)
            tree, plan, limits = bed.tree_of(folder), parse_test_command(()), Limits()
            environment = bed.environments.prepare(tree, ("pytest", "coverage"), lambda: None)
            request = RunTests(
                tree=tree, environment=environment, plan=plan, limits=limits, commit_time=COMMIT_TIME, purpose="base",
                measure=True,
            )  # fmt: skip
            docker = TestBed(bed.home, bed.blobs, bed.objects, bed.environments, bed.root, BACKENDS["docker"]())
            image = _image(bed, host)
            argv = _docker_run(image, folder, bed.environments.path(environment.environment_digest))
            ours: list[float] = []
            bare: list[float] = []
            for number in range(rounds + 1):
                took = _timed(lambda: _run_ours(docker, request)), _timed(lambda: _run_bare(argv, host))
                if number:  # the first of each warms up
                    ours.append(took[0])
                    bare.append(took[1])
    ratio = statistics.median(ours) / statistics.median(bare)
    return {
        "tests": tests, "rounds": rounds, "ours_s": _rounded(ours), "docker_run_s": _rounded(bare), "ratio": round(ratio, 3),
        "target": EXECUTIONS_TARGET, "met": ratio <= EXECUTIONS_TARGET,
    }  # fmt: skip


def _run_ours(testbed: TestBed, request: RunTests) -> None:
    observed = testbed.observe(request, lambda: None)
    if observed.run.status != "failed" or observed.coverage is None or observed.caught == 0:
        raise SystemExit(f"not the run that is measured: {observed.run.status} {observed.run.codes} {observed.run.message}")


def _run_bare(argv: list[str], host: str) -> None:
    done = subprocess.run(argv, env={**os.environ, "DOCKER_HOST": host}, capture_output=True, text=True, check=False)
    if done.returncode != 1 or "1 failed" not in done.stdout:
        raise SystemExit(f"docker run: {done.returncode} {done.stdout[-500:]} {done.stderr[-500:]}")


def _docker_run(image: str, folder: Path, environment: Path) -> list[str]:
    variables = {**PINNED, "PYTHONPATH": "/work:/env", "COVERAGE_FILE": "/tmp/coverage"}
    return [
        "docker", "run", "--rm", "--network", "none", "--cpus", "1", "--user", "10001:10001", "--workdir", "/work",
        "--mount", f"type=bind,src={folder},dst=/work,readonly", "--mount", f"type=bind,src={environment},dst=/env,readonly",
        *(word for name, value in variables.items() for word in ("--env", f"{name}={value}")),
        image, "python3", "-m", "coverage", "run", "--source", "/work", "-m", "pytest", "-q", "-p", "no:cacheprovider",
    ]  # fmt: skip


def _image(bed: Bed, host: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": host}
    done = subprocess.run(
        ["docker", "import", str(bed.root.tar), "gen4-bench-base"], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def cached(times: int, tests: int) -> dict[str, Any]:
    """Seconds from start to result of Compiles whose runs are all in the cache."""
    with _fabric() as (gen4, environment, folder):
        project = write_project(folder / "project", tests)
        git = ["git", "-C", str(project), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
            subprocess.run([*git, *words], check=True)
        source = project / "busy/numbers.py"
        source.write_text(source.read_text().replace("n // 3", "n // 2"))
        patch = subprocess.run([*git, "diff"], check=True, capture_output=True, text=True).stdout
        request = {"repository": str(project), "ref": "main", "patch": patch}
        status = json.loads(subprocess.run([*gen4, "status", "--json"], env=environment, check=True, capture_output=True).stdout)
        took = asyncio.run(_compiles(status["temporal_address"], request, times))
    median = statistics.median(took[1:])
    return {
        "first_s": round(took[0], 2), "cached_s": _rounded(took[1:]), "median_s": round(median, 3), "target_s": CACHED_TARGET_S,
        "met": median <= CACHED_TARGET_S,
    }  # fmt: skip


async def _compiles(address: str, request: dict[str, Any], times: int) -> list[float]:
    client = await connect(address, "default")
    took = []
    for number in range(times + 1):
        began = time.perf_counter()
        handle = await client.start_workflow("Compile", request, id=f"bench-compile-{number}", task_queue="gen4")
        result: Any = await handle.result()
        took.append(time.perf_counter() - began)
        if not result.get("bundle"):
            raise SystemExit(f"not accepted: {result}")
    return took


@contextmanager
def _fabric() -> Iterator[tuple[list[str], dict[str, str], Path]]:
    folder = Path(tempfile.mkdtemp(prefix="gen4-bench-"))
    gen4 = [sys.executable, "-m", "cli.main"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEN4_") or name == "GEN4_CACHE"}
    environment = {**kept, "GEN4_HOME": str(folder / "home"), "GEN4_REPOSITORY_ROOTS": str(folder)}
    try:
        subprocess.run([*gen4, "up", "--json"], env=environment, check=True, stdout=subprocess.DEVNULL)
        yield gen4, environment, folder
    finally:
        subprocess.run([*gen4, "down"], env=environment, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tests", type=int, default=1_500)
    parser.add_argument("--cached", type=int, default=5)
    parser.add_argument("--only", choices=("executions", "cached"))
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only != "cached":
        result["executions"] = executions(options.rounds, options.tests)
    if options.only != "executions":
        result["cached"] = cached(options.cached, options.tests)
    print(json.dumps(result, indent=2))
    return 0 if all(part["met"] for part in result.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
