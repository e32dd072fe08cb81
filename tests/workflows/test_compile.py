"""Compile as CI starts it: a session of its own, without the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
    assert result.outcome == "failed"
    assert result.codes == ("PATCH_DOES_NOT_APPLY",)


def test_an_unknown_ref_is_named(fabric: Fabric, repository: Make) -> None:
    path = repository()
    handle = fabric.start({"repository": str(path), "ref": "nowhere", "patch": patch_of(path, FIXED)}, kind="Compile")
    assert fabric.result(handle).codes == ("REF_NOT_FOUND",)
    assert fabric.payloads(handle, "session.closed")[0]["outcome"] == "failed"
