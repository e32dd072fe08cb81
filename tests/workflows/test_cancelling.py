"""Cancellation cleans up, in whatever stage it comes: children end first, nothing stays reserved, leased or asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from activities.record.leases import Leases
from tests.e2e.harness import git
from tests.workflows.harness import FIXED, TENANT, Fabric
from tests.workflows.test_reaper import children, in_stage

Make = Callable[..., Path]
WITHIN_S = 10.0


def assert_nothing_stays(fabric: Fabric, handle: WorkflowHandle[Any, Any]) -> None:
    session_id = handle.first_execution_run_id or ""
    (closed,) = fabric.payloads(handle, "session.closed")
    assert (closed["reason_code"], closed["outcome"]) == ("cancelled", "cancelled")
    assert WorkflowExecutionStatus.RUNNING not in children(fabric, handle)
    lease = Leases(fabric.store.tenant(TENANT)).newest(None, session_id)
    assert lease is not None and lease.revoked_at_ms is not None
    assert [account.account_id for account in fabric.kernel.ledger.balances(session_id) if account.debits_pending] == []
    assert fabric.chain.verify(session_id) == []
    kinds = fabric.kinds(handle)
    # The receipt of the closing itself comes last; nothing else is done for the session any more.
    assert kinds[kinds.index("session.closed") + 1 :] == ["task.receipt"]


def cancel(fabric: Fabric, handle: WorkflowHandle[Any, Any]) -> None:
    began = time.monotonic()
    fabric.run(handle.cancel())
    assert fabric.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert time.monotonic() - began < WITHIN_S


@pytest.mark.parametrize(("stage", "purpose"), [("explore", "explore"), ("compile", "base"), ("compile", "patched")])
def test_while_a_child_runs_the_suite(fabric: Fabric, repository: Make, stage: str, purpose: str) -> None:
    with fabric.held(purpose):
        handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
        fabric.wait(handle, in_stage(stage))
        time.sleep(1)
        cancel(fabric, handle)
    assert_nothing_stays(fabric, handle)
    assert set(children(fabric, handle)) <= {WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.COMPLETED}
    assert WorkflowExecutionStatus.CANCELED in children(fabric, handle)


def test_while_it_waits_for_a_decision(fabric: Fabric, repository: Make) -> None:
    handle = fabric.start({"repository": str(repository()), "goal": "the answer is wrong"})
    fabric.pending(handle)
    cancel(fabric, handle)
    assert_nothing_stays(fabric, handle)
    assert fabric.payloads(handle, "approval.revoked")[0]["status"] == "cancelled"


def test_a_compile_of_ci(fabric: Fabric, repository: Make) -> None:
    path = repository()
    (path / "lib.py").write_bytes(FIXED)
    with fabric.held():
        patch = git(path, "diff") + "\n"
        handle = fabric.start({"repository": str(path), "ref": "main", "patch": patch}, kind="Compile")
        fabric.wait(handle, in_stage("run both"))
        cancel(fabric, handle)
    assert_nothing_stays(fabric, handle)
