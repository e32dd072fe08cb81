"""The activities beat while they work and kill their sandbox when they are cancelled."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from temporalio.exceptions import CancelledError
from temporalio.testing import ActivityEnvironment

from activities.kernel.acting import Acting, as_acting
from activities.testbed.activities import TestbedActivities
from schemas.capabilities import PREPARE_ENVIRONMENT, RUN_TESTS, PrepareEnvironment, RunTests
from schemas.event import Actor
from schemas.task import TraceKeys
from schemas.test_command import parse_test_command
from schemas.testing import Environment, Limits, TestRun

pytestmark = pytest.mark.usefixtures("admitted")

WHO = Acting(
    keys=TraceKeys(tenant_id="t", trace_id="0" * 32, session_id="s", task_id="k"),
    actor=Actor(kind="engine", principal_id="p"),
    phase="compile",
    workflow_id="w",
    run_id="r",
    effect_key="e",
    attempt_key="a",
    attempt=1,
)


@pytest.fixture
def activities(bed: Any) -> TestbedActivities:
    return TestbedActivities(bed.environments, bed.testbed)


def request(bed: Any, plain: Environment, source: str) -> RunTests:
    tree = bed.tree({"test_a.py": source})
    limits = Limits(wall_ms=60_000, test_ms=60_000)
    return RunTests(tree=tree, environment=plain, plan=parse_test_command(()), limits=limits, commit_time=1, purpose="base")


def run_tests(activities: TestbedActivities, asked: RunTests) -> TestRun:
    with as_acting(WHO):
        return activities.run_tests(asked)


def test_every_capability_of_the_test_bed_is_marked(activities: TestbedActivities) -> None:
    marked = {getattr(getattr(activities, name), "__capability__", None) for name in dir(activities)} - {None}
    assert marked == {PREPARE_ENVIRONMENT, RUN_TESTS}


def test_an_activity_beats_about_every_second(activities: TestbedActivities, bed: Any, plain: Environment) -> None:
    beats: list[float] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: beats.append(time.monotonic())
    run = environment.run(run_tests, activities, request(bed, plain, "import time\ndef test_a(): time.sleep(3)\n"))
    assert run.status == "passed" and len(beats) >= 3
    assert environment.run(activities.prepare_environment, PrepareEnvironment(base_tree=bed.tree({"README": ""}))) == plain


def test_a_cancelled_activity_kills_its_sandbox_at_once(activities: TestbedActivities, bed: Any, plain: Environment) -> None:
    environment = ActivityEnvironment()
    asked = request(bed, plain, "import time\ndef test_a(): time.sleep(55)\n")
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(environment.run, run_tests, activities, asked)
        threading.Timer(2.0, environment.cancel).start()
        with pytest.raises(CancelledError):
            running.result(timeout=30)
    assert time.monotonic() - began < 10
