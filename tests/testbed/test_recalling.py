"""The run cache as capabilities: what enters, what comes back, what is a miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.acting import Acting
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.run_cache import RunCache
from activities.record.store import Store
from activities.testbed.activities import RunCacheActivities
from activities.testbed.run import run_key
from schemas.capabilities import RecallRuns, RememberRuns, RunTests
from schemas.model import BlobRef
from schemas.testing import (
    Environment,
    Outcomes,
    RunVariant,
    SandboxFacts,
    TestPlan,
    TestRun,
    counts_of,
    outcomes_sha256,
)
from tests.record.templates import new_sqlite

A = "t.py::a"
PASSED: Outcomes = {A: "passed"}
FAILED: Outcomes = {A: "failed"}


def request(tree: str = "a" * 40, **more: Any) -> RunTests:
    environment = Environment(
        environment_digest="sha256:" + "1" * 64, base_digest="sha256:" + "2" * 64, python_version="3.13", platform="linux/amd64",
        lock=BlobRef(sha256="0" * 64, size=1, media_type="application/json"),
    )  # fmt: skip
    return RunTests(**{"tree": tree, "environment": environment, "plan": TestPlan(), "commit_time": 1, "purpose": "base", **more})


class Cached:
    def __init__(self, folder: Path, tenant_id: str) -> None:
        self.blobs = BlobStore(folder / "blobs", tenant_id)
        self.store = Store.open(new_sqlite(folder / "store.db")).tenant(tenant_id)
        self.activities = RunCacheActivities(self.blobs, RunCache(self.store))
        self.tenant_id = tenant_id
        self.receipts = 0

    def run(self, outcomes: Outcomes, of: RunTests | None = None, **more: Any) -> TestRun:
        self.receipts += 1
        return TestRun(
            **{
                "status": "failed", "outcomes": self.blobs.put_json(dict(outcomes)), "counts": counts_of(outcomes),
                "outcomes_sha256": outcomes_sha256(outcomes), "exit_code": 1, "runner": "pytest 9.2.0",
                "run_key": run_key(of or request(), self.tenant_id), "receipt": self.blobs.put(b"%d" % self.receipts),
                "sandbox": SandboxFacts(backend="docker", version="1", profile_sha256="0" * 64, enforcement={}), **more,
            }
        )  # fmt: skip

    def pair(self, outcomes: Outcomes = PASSED, **more: Any) -> tuple[TestRun, ...]:
        return (self.run(outcomes, **more), self.run(outcomes, **more))

    def remember(self, *groups: tuple[TestRun, ...]) -> tuple[int, tuple[str, ...]]:
        remembered = self.activities.remember_runs(RememberRuns(groups=groups))
        return remembered.stored, remembered.conflicts

    def recall(self, *requests: RunTests) -> tuple[tuple[TestRun, ...], ...]:
        return self.activities.recall_runs(RecallRuns(requests=requests or (request(),))).runs

    def lose(self, reference: BlobRef | None) -> None:
        assert reference is not None
        self.blobs.path(reference).unlink()


@pytest.fixture
def cached(tmp_path: Path, admitted: Acting) -> Iterator[Cached]:
    made = Cached(tmp_path, admitted.keys.tenant_id)
    yield made
    made.store.close()


def test_agreed_runs_come_back_marked_for_exactly_the_same_request(cached: Cached) -> None:
    group = cached.pair()
    assert cached.remember(group) == (1, ())
    expected = tuple(run.model_copy(update={"cached": True}) for run in group)
    other_limits = request(limits=request().limits.model_copy(update={"memory_mb": 1}))
    found = cached.recall(request(), request("b" * 40), request(purpose="rerun", ordinal=2), other_limits)
    assert found == (expected, (), expected, ())
    assert cached.recall(request(variant=RunVariant(hash_seed=1))) == ((),)


def test_only_agreed_plain_runs_with_a_real_verdict_enter(cached: Cached) -> None:
    twice = cached.run(PASSED)
    groups = [
        (cached.run(PASSED),),
        (cached.run(PASSED), cached.run(FAILED)),
        (cached.run(PASSED), cached.run(PASSED, request("b" * 40))),
        (twice, twice),
        cached.pair(status="infra_error"),
        cached.pair(codes=("RUN_TIMEOUT",)),
        cached.pair(codes=("TEST_TIMEOUT",)),
        cached.pair(variant=RunVariant(order="reversed")),
        cached.pair(cached=True),
    ]
    assert cached.remember(*groups) == (0, ())
    assert cached.recall() == ((),)


@pytest.mark.parametrize("part", ["outcomes", "receipt", "coverage", "timings"])
def test_a_hit_of_which_a_part_is_gone_is_a_miss_until_it_is_run_again(cached: Cached, part: str) -> None:
    measures = {"coverage": cached.blobs.put(b"{}"), "timings": cached.blobs.put(b"{ }")}
    group = cached.pair(**measures)
    cached.remember(group)
    assert len(cached.recall()[0]) == 2
    cached.lose(getattr(group[1], part))
    assert cached.recall() == ((),)
    again = {"coverage": cached.blobs.put(b"{}"), "timings": cached.blobs.put(b"{ }")}
    assert cached.remember(cached.pair(**again)) == (1, ())
    assert len(cached.recall()[0]) == 2


def test_one_run_of_a_probe_is_enough(cached: Cached) -> None:
    only = RunVariant(only=(A,))
    probe = request("b" * 40, purpose="probe", variant=only)
    kept = cached.run(FAILED, probe, variant=only)
    assert cached.remember((kept,), (cached.run(FAILED, variant=RunVariant(hash_seed=1, only=(A,))),)) == (1, ())
    assert cached.recall(probe) == ((kept.model_copy(update={"cached": True}),),)


def test_a_damaged_entry_is_a_miss(cached: Cached) -> None:
    group = cached.pair()
    cached.remember(group)
    entry = RunCache(cached.store).recall([group[0].run_key])[group[0].run_key]
    cached.blobs.path(entry.agreed.runs).write_bytes(b"[]")
    assert cached.recall() == ((),)


def test_runs_that_were_not_measured_are_no_hit_where_measures_are_asked_for(cached: Cached) -> None:
    cached.remember(cached.pair())
    assert cached.recall(request(measure=True)) == ((),)
    cached.remember(cached.pair(coverage=cached.blobs.put(b"{}")))
    assert [len(found) for found in cached.recall(request(measure=True), request())] == [2, 2]


def test_other_outcomes_are_a_conflict_that_is_told_from_then_on(cached: Cached) -> None:
    cached.remember(cached.pair(PASSED))
    key = run_key(request(), cached.tenant_id)
    assert cached.remember(cached.pair(FAILED)) == (0, (key,))
    recalled = cached.activities.recall_runs(RecallRuns(requests=(request(), request("b" * 40))))
    assert (recalled.runs, recalled.irreproducible) == (((), ()), (key,))
    assert cached.remember(cached.pair(PASSED)) == (0, (key,))
    events = [event.kind for event, _ in EventChain(cached.store).read("session")]
    assert events == ["cache.conflict"]
