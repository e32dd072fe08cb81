"""The test bed's capabilities: prepare an environment, run tests."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from temporalio import activity
from temporalio.exceptions import CancelledError

from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.record.blobs import BlobStore
from activities.record.run_cache import RunCache
from activities.testbed.environment import Environments
from activities.testbed.recalling import Recalling
from activities.testbed.remote_runs import RemoteRuns
from activities.testbed.run import TestBed
from activities.testbed.scans import Scans
from schemas.capabilities import (
    FIND_OTHER,
    PREPARE_ENVIRONMENT,
    RECALL_RUNS,
    REMEMBER_RUNS,
    RUN_BENCHMARK,
    RUN_TESTS,
    SCAN_TREE,
    FindOther,
    OtherExecutor,
    PrepareEnvironment,
    RecalledRuns,
    RecallRuns,
    RememberedRuns,
    RememberRuns,
    RunTests,
)
from schemas.capability import executor_tag, queue_of
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.testing import Environment, TestRun

_BEAT_S = 1.0


class TestbedActivities:
    """Both block for long and run in worker threads; a cancellation leaves the sandbox's context, which kills it.

    ``runs``: who runs tests; only an executor's runs have receipts.
    """

    __test__ = False

    def __init__(self, environments: Environments, runs: RemoteRuns | TestBed) -> None:
        self._environments = environments
        self._runs = runs

    @implements(PREPARE_ENVIRONMENT)
    def prepare_environment(self, request: PrepareEnvironment) -> Environment:
        with beating():
            return self._environments.prepare(request.base_tree, request.requirements, stop_if_cancelled, request.runner)

    @implements(RUN_TESTS)
    def run_tests(self, request: RunTests) -> TestRun:
        with beating():
            return self._runs.run(request, stop_if_cancelled, tenant_id=acting().keys.tenant_id)


class RunCacheActivities:
    """Which runs need not be run again, and which are worth keeping."""

    def __init__(self, blobs: BlobStore, cache: RunCache) -> None:
        self._recalling = Recalling(blobs, cache)

    @implements(RECALL_RUNS)
    def recall_runs(self, request: RecallRuns) -> RecalledRuns:
        return self._recalling.recall(request)

    @implements(REMEMBER_RUNS)
    def remember_runs(self, request: RememberRuns) -> RememberedRuns:
        return self._recalling.remember(request)


class PlacementActivities:
    """Where a run may go besides the executor that has run it. ``polling``: tags of the executors whose workers polled lately."""

    def __init__(self, polling: Callable[[], Collection[str]]) -> None:
        self._polling = polling

    @implements(FIND_OTHER)
    def find_other(self, request: FindOther) -> OtherExecutor:
        known = {executor_tag(executor) for executor in request.executors}
        others = sorted(set(self._polling()) - known)
        return OtherExecutor(queue=f"{queue_of(RUN_TESTS.pool)}.{others[0]}" if others else None)


class ComparingActivities:
    """What is compared between two trees besides their tests; an executor makes it, with receipts."""

    def __init__(self, scans: Scans, runs: RemoteRuns) -> None:
        self._scans, self._runs = scans, runs

    @implements(SCAN_TREE)
    def scan_tree(self, request: ScanTree) -> ScannedTree:
        with beating():
            return self._scans.scan(request, stop_if_cancelled)

    @implements(RUN_BENCHMARK)
    def run_benchmark(self, request: RunBenchmark) -> BenchmarkSample:
        with beating():
            return self._runs.benchmark(request, stop_if_cancelled, tenant_id=acting().keys.tenant_id)


def stop_if_cancelled() -> None:
    """Raises CancelledError once the workflow has asked for the end, or the worker is shutting down for good."""
    if activity.is_cancelled():
        raise CancelledError("the activity was cancelled")


@contextmanager
def beating() -> Iterator[None]:
    """Tell the server about every second that this attempt lives, also while a single step of it takes long."""
    done = threading.Event()
    context = contextvars.copy_context()

    def beat() -> None:
        while not done.wait(_BEAT_S):
            context.run(activity.heartbeat)

    thread = threading.Thread(target=beat, name="testbed-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
