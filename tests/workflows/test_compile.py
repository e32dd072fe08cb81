"""Compile as CI starts it: a session of its own, without the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.capability import executor_tag
from schemas.session import State
from tests.e2e.harness import git
from tests.workflows.harness import FIXED, LIB, Fabric

Make = Callable[..., Path]


def patch_of(path: Path, content: bytes, name: str = LIB) -> str:
    (path / name).write_bytes(content)
    git(path, "add", "-N", name)
    diff = git(path, "diff") + "\n"
    git(path, "reset", "-q", "--hard")
    return diff


def test_an_accepted_patch_becomes_a_bundle_and_nothing_else(fabric: Fabric, repository: Make) -> None:
    path = repository()
    handle = fabric.start({"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED)}, kind="Compile")
    result = fabric.result(handle)
    assert result.rejection is None and result.outcome is None
    assert (result.state, result.fix) == (State.CLOSED, "complete")
    assert result.bundle and result.bundle_digest and result.trust
    assert git(path, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    kinds = fabric.kinds(handle)
    assert "session.transition" not in kinds
    assert kinds.count("session.opened") == kinds.count("session.closed") == 1
    assert fabric.payloads(handle, "session.closed")[0]["reason_code"] == "compiled"


@pytest.mark.parametrize(
    ("content", "name", "stage", "code"),
    [
        (b"answer = 0\n", LIB, "compile", "NOTHING_FIXED"),
        (FIXED + b"# LOSES\n", LIB, "regression gate", "REG_TEST_LOST"),
        (FIXED + b"# FLAKY\n", LIB, "determinism gate", "DET_DIGEST"),
        (b"x = 1\n", "conftest.py", "compile", "POLICY_DENIED"),
    ],
)
def test_a_rejected_patch_names_gate_and_code(
    fabric: Fabric, repository: Make, content: bytes, name: str, stage: str, code: str
) -> None:
    path = repository()
    result = fabric.result(
        fabric.start({"repository": str(path), "ref": "main", "patch": patch_of(path, content, name)}, kind="Compile")
    )
    assert result.rejection is not None and result.outcome == "rejected"
    assert (result.rejection.stage, code in result.rejection.codes) == (stage, True), result.rejection
    assert result.bundle is None and result.rejection.remedy


def test_a_patch_that_does_not_apply_is_a_reason_not_a_crash(fabric: Fabric, repository: Make) -> None:
    path = repository()
    patch = patch_of(path, FIXED).replace("answer = 41", "answer = 40")
    result = fabric.result(fabric.start({"repository": str(path), "ref": "main", "patch": patch}, kind="Compile"))
    assert result.outcome == "rejected"
    assert result.codes == ("PATCH_DOES_NOT_APPLY",)
    assert result.rejection is not None and result.rejection.report == str(fabric.home.bundles / "rejection")


def test_a_patch_that_is_refused_is_so_where_no_environment_can_be_prepared_either(fabric: Fabric, repository: Make) -> None:
    path = repository(b"answer = 41  # NEWER\n")
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, b"x = 1\n", "conftest.py")}
    result = fabric.result(fabric.start(request, kind="Compile"))
    assert result.outcome == "rejected" and "POLICY_DENIED" in result.codes
    allowed = {**request, "patch": patch_of(path, FIXED)}
    assert fabric.result(fabric.start(allowed, kind="Compile")).codes == ("PYTHON_TOO_OLD",)


def test_an_unknown_ref_is_named(fabric: Fabric, repository: Make) -> None:
    path = repository()
    handle = fabric.start({"repository": str(path), "ref": "nowhere", "patch": patch_of(path, FIXED)}, kind="Compile")
    assert fabric.result(handle).codes == ("REF_NOT_FOUND",)
    assert fabric.payloads(handle, "session.closed")[0]["outcome"] == "failed"


def test_a_refused_patch_gets_a_signed_report(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# LOSES\n")}
    result = fabric.result(fabric.start(request, kind="Compile"))
    assert result.rejection is not None and result.rejection.report == str(fabric.home.bundles / "rejection")


def test_a_refusal_stands_without_a_signer(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, b"answer = 0\n")}
    fabric.notary.absent = True
    try:
        result = fabric.result(fabric.start(request, kind="Compile"))
    finally:
        fabric.notary.absent = False
    assert result.rejection is not None and result.rejection.report is None
    assert "NOTHING_FIXED" in result.codes


def test_the_second_compile_of_equal_trees_runs_nothing(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# cached\n")}
    assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    ran = len(fabric.bed.runs)
    assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    assert len(fabric.bed.runs) == ran
    assert fabric.result(fabric.start({**request, "cache": False}, kind="Compile")).rejection is None
    assert len(fabric.bed.runs) > ran


def test_a_flake_that_the_patch_brings_is_found_in_another_order(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# ORDERED\n")}
    result = fabric.result(fabric.start(request, kind="Compile"))
    assert result.outcome == "rejected" and result.codes == ("FLAKE_INTRODUCED",)
    assert "order" in (result.rejection.message if result.rejection else "")


@pytest.mark.parametrize(
    ("polling", "isolation"), [("other", "other_worker"), ("gone", "fresh_sandbox"), ("first", "fresh_sandbox")]
)
def test_the_rerun_goes_to_another_executor_where_there_is_one(
    fabric: Fabric, repository: Make, polling: str, isolation: str
) -> None:
    path = repository()
    before = len(fabric.notary.sealed)
    fabric.executors = {executor_tag("first"), executor_tag(polling)}
    try:
        patch = patch_of(path, FIXED + f"# {polling}\n".encode())
        request = {"repository": str(path), "ref": "main", "patch": patch, "cache": False}
        assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    finally:
        fabric.executors = {executor_tag("first")}
    (sealed,) = fabric.notary.sealed[before:]
    assert sealed.isolation == isolation
    assert {run.executor for run in sealed.rerun_runs} == {"other" if isolation == "other_worker" else "first"}


def test_agreed_runs_that_contradict_those_of_an_earlier_compile_prove_nothing(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# MOODY\n")}
    assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    fabric.bed.mood = True
    try:
        result = fabric.result(fabric.start({**request, "cache": False}, kind="Compile"))
    finally:
        fabric.bed.mood = False
    assert result.codes == ("CACHE_CONFLICT",) and result.outcome == "rejected"
    assert fabric.result(fabric.start(request, kind="Compile")).codes == ("CACHE_CONFLICT",)


def test_a_base_that_contradicts_itself_is_run_anew_and_judged_by_that(fabric: Fabric, repository: Make) -> None:
    path = repository(lib=b"answer = 41\n# MOODY\n")
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED)}
    assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    fabric.bed.mood = True
    try:
        fabric.result(fabric.start({**request, "cache": False}, kind="Compile"))
    finally:
        fabric.bed.mood = False
    assert fabric.result(fabric.start(request, kind="Compile")).rejection is None


def test_times_are_compared_only_of_runs_that_this_compile_made_side_by_side(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# timed\n"), "runs": 3}
    before = len(fabric.notary.sealed)
    for _ in range(2):
        assert fabric.result(fabric.start(request, kind="Compile")).rejection is None
    made, recalled = fabric.notary.sealed[before:]
    assert [len(runs) for runs in (made.base_runs, made.patched_runs, recalled.base_runs)] == [3, 3, 3]
    assert (made.in_turn, recalled.in_turn) == (True, False)


def test_fewer_runs_in_the_cache_than_asked_for_are_none(fabric: Fabric, repository: Make) -> None:
    path = repository()
    request = {"repository": str(path), "ref": "main", "patch": patch_of(path, FIXED + b"# two, then three\n")}
    before = len(fabric.notary.sealed)
    for wanted in ({}, {"runs": 3}):
        assert fabric.result(fabric.start({**request, **wanted}, kind="Compile")).rejection is None
    assert [len(sealed.patched_runs) for sealed in fabric.notary.sealed[before:]] == [2, 3]


def test_a_slower_benchmark_is_refused_and_a_steady_one_is_evidence(fabric: Fabric, repository: Make) -> None:
    path = repository()
    before = len(fabric.notary.sealed)
    request = {"repository": str(path), "ref": "main", "benchmark": ["python", "bench.py"], "benchmark_runs": 3}
    steady = {**request, "patch": patch_of(path, FIXED + b"# steady\n")}
    assert fabric.result(fabric.start(steady, kind="Compile")).rejection is None
    (sealed,) = fabric.notary.sealed[before:]
    assert (len(sealed.base_benchmark), len(sealed.patched_benchmark)) == (3, 3)
    slow = {**request, "patch": patch_of(path, FIXED + b"# SLOW\n")}
    for executed in (True, False):  # the second time the gate refuses while the re-run is under way
        ran = len(fabric.bed.runs)
        result = fabric.result(fabric.start(slow, kind="Compile"))
        assert (result.outcome, result.codes) == ("rejected", ("REG_PERFORMANCE",))
        assert (len(fabric.bed.runs) > ran) is executed
    assert len(fabric.notary.sealed) == before + 1
