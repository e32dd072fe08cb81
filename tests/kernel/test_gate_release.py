"""Nothing irreversible without a redeemed approval of exactly this action, in time (threats 6.7)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.acting import Acting
from activities.record.approvals import Approvals
from schemas.approval import Action, ApprovalRequest
from schemas.error import InfrastructureError
from schemas.task import TraceKeys
from tests.kernel.gated import TENANT, Forge, Gated, Server, gated
from tests.policy.running import RunningOpa

MINUTE = 60_000
FETCH: dict[str, Any] = {"call": "forge.fetch_source", "args": [{"repository": "/r", "ref": "main"}]}


def action(session_id: str) -> Action:
    return Action(
        repository="/r", target_ref="refs/heads/gen4/x", expected_head="0" * 40, commit_id="3" * 40, result_tree="6" * 40,
        bundle_digest="sha256:" + "4" * 64, stamp_sha256="5" * 64, policy_digest="sha256:" + "7" * 64,
        approvers_digest="sha256:" + "8" * 64, tenant_id=TENANT, session_id=session_id, mode="branch", revert="delete-branch",
    )  # fmt: skip


def deliver(session_id: str, changes: dict[str, Any]) -> dict[str, Any]:
    wanted = action(session_id)
    argument = {
        "repository": wanted.repository, "approval_id": "a1", "action_digest": wanted.digest, "commit_id": wanted.commit_id,
        "expected_head": wanted.expected_head, "target_ref": wanted.target_ref, "mode": "branch", "session_id": session_id,
    }  # fmt: skip
    return {"call": "forge.deliver", "args": [{**argument, **changes}]}


def approve(it: Gated, session_id: str, *, redeem: bool = True, deliver_in_ms: int = 10 * MINUTE) -> None:
    wanted, now = action(session_id), time.time_ns() // 1_000_000
    request = ApprovalRequest(
        approval_id="a1", action=wanted, action_digest=wanted.digest, stamp_id="s", fix="complete", requester_id="r",
        eligible_approvers=("c",), run_id=session_id, nonce="n", requested_at_ms=now, expires_at_ms=now + 60 * MINUTE,
        rollback="delete-branch",
    )  # fmt: skip
    approvals = Approvals(it.store.tenant(TENANT))
    approvals.put(request, TraceKeys(tenant_id=TENANT, trace_id="t", session_id=session_id, task_id="k"))
    assert approvals.set_status("a1", "pending", "approved")
    if redeem:
        assert approvals.set_status("a1", "approved", "redeemed", deliver_by_ms=now + deliver_in_ms)


async def outcome(it: Gated, approval: dict[str, Any] | None, changes: dict[str, Any]) -> dict[str, Any]:
    parent = await it.start("Remediation", {"wait": True})  # so that the session is known before anything is asked
    session_id = parent.first_execution_run_id or ""
    if approval is not None:
        approve(it, session_id, **approval)
    await parent.signal("go", [{"child": "Release", "steps": [deliver(session_id, changes)]}])
    [[_, [answer]]] = [await asyncio.wait_for(parent.result(), 60)]
    return dict(answer)


def test_an_approved_action_is_delivered(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            answer = await outcome(it, {}, {})
            assert answer["ok"]["release"]["commit"] == "3" * 40 and it.forge.names() == ["deliver"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "approval, changes, rule",
    [
        (None, {}, "not asked"),
        ({"redeem": False}, {}, "release.redeemed"),
        ({"deliver_in_ms": -1}, {}, "release.in_time"),
        ({}, {"commit_id": "9" * 40}, "release.action: commit_id"),
        ({}, {"target_ref": "refs/heads/main"}, "release.action: target_ref"),
        ({}, {"action_digest": "sha256:" + "0" * 64}, "release.digest"),
        ({}, {"session_id": "other"}, "release.session"),
        ({}, {"approval_id": "a2"}, "not asked"),
    ],
)
def test_anything_else_is_refused(
    server: Server, opa: RunningOpa, folder: Path, approval: dict[str, Any] | None, changes: dict[str, Any], rule: str
) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            answer = await outcome(it, approval, changes)
            assert (answer["code"], answer["final"]) == ("APPROVAL_REQUIRED", True)
            assert rule in answer["message"] and it.forge.calls == []

    asyncio.run(scenario())


def test_a_delivery_that_began_in_time_may_read_back_what_it_did(server: Server, opa: RunningOpa, folder: Path) -> None:
    """The worker died after the push and came back too late for a new one: it must learn that it had delivered."""

    def dies(name: str, who: Acting) -> None:
        if who.attempt == 1:
            time.sleep(1.5)
            raise InfrastructureError("WORKER_DIED", "killed")

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=dies)) as it:
            answer = await outcome(it, {"deliver_in_ms": 1_000}, {})
            assert "ok" in answer and it.forge.names() == ["deliver", "deliver"]

    asyncio.run(scenario())


def test_a_reset_revokes_what_was_approved_and_not_redeemed(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", {"wait": True}, FETCH)
            session = handle.first_execution_run_id or ""
            approve(it, session, redeem=False)
            await handle.signal("go", [])
            await handle.result()
            await it.client.get_workflow_handle(handle.id, run_id=await it.reset(handle)).result()
            (stored,) = Approvals(it.store.tenant(TENANT)).of_session(session)
            assert stored.request.status == "revoked"
            assert Approvals(it.store.tenant(TENANT)).pending() == []
            assert it.kinds(session).count("approval.revoked") == 1

    asyncio.run(scenario())
