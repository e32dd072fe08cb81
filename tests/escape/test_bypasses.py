"""Ways round the gate, each tried against a real server: nothing runs, and what was tried is on record."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.service import RPCError

from activities.kernel.admission import Call, known_execution
from activities.kernel.attempt import Attempt
from activities.kernel.inquiry import Inquiry, Questions
from activities.record.approvals import Approvals
from schemas.error import InfrastructureError
from schemas.policy import PolicyDecision
from tests.kernel.gated import TENANT, Gated, Server, gated
from tests.kernel.test_gate import FETCH, SEAL
from tests.kernel.test_gate_release import approve, deliver
from tests.policy.running import RunningOpa

VARIANTS = [
    "forge.Fetch_source", "FORGE.FETCH_SOURCE", " forge.fetch_source", "forge.fetch_source ", "forge.fetch_source\n",
    "forge.fetch_source\x00", "forge.fetch\u200b_source", "forge.fetch_s\u043eurce", "\uff46orge.fetch_source",
    "forge\u2024fetch_source", "forge..fetch_source", "forge/fetch_source", "fetch_source", "gen4.forge.fetch_source",
    "forge.fetch_source;id", "forge.fetch-source", "forge.fetch_sourc\u0065\u0301",
]  # fmt: skip
"""Case, whitespace, Unicode, aliases, another server's prefix."""


def test_no_other_spelling_of_a_name_is_that_name(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", *({**FETCH, "call": name} for name in VARIANTS))
            answers = await asyncio.wait_for(handle.result(), 60)
            assert [answer.get("code") for answer in answers] == ["CAP_UNKNOWN"] * len(VARIANTS)
            assert it.forge.calls == []
            recorded = [payload["code"] for _, payload in it.events(handle.first_execution_run_id or "")]
            assert recorded == ["CAP_UNKNOWN"] * len(VARIANTS)

    asyncio.run(scenario())


def test_no_other_spelling_of_a_workflow_is_that_workflow(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            for kind in ("remediation", "REMEDIATION", "Remediation ", "Remediati\u043en", "Rem\u200bediation", "gen4.Release"):
                [answer] = await it.run(kind, FETCH)
                assert (answer["code"], answer["final"]) == ("EXECUTION_UNKNOWN", True), kind
            assert it.forge.calls == []

    asyncio.run(scenario())


def test_the_server_of_this_version_starts_no_activity_by_itself(server: Server, opa: RunningOpa, folder: Path) -> None:
    """A later one may; the next test is about what the gate says then."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            with pytest.raises(RPCError, match="StartActivityExecution"):
                await it.client.start_activity(
                    "forge.fetch_source", {"repository": "/r", "ref": "main"}, id=str(uuid.uuid4()), task_queue=it.queue,
                    start_to_close_timeout=timedelta(seconds=10),
                )  # fmt: skip
            assert it.forge.calls == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "change",
    [
        {"workflow_id": "", "run_id": ""}, {"workflow_id": ""}, {"run_id": ""}, {"is_local": True}, {"namespace": "another"},
        {"workflow_type": None},
    ],
)  # fmt: skip
def test_an_activity_that_no_run_of_ours_scheduled_is_nobodys(
    server: Server, opa: RunningOpa, folder: Path, change: dict[str, Any]
) -> None:
    """Alone, local, from another namespace: the store is not even asked whose it might be."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            parent = await it.start("Remediation", {"wait": True}, FETCH)
            await parent.signal("go", [])
            await parent.result()
            run_id = parent.first_execution_run_id or ""
            whole = Attempt("forge.fetch_source", "Remediation", "default", parent.id, run_id, "9", 1)
            attempt = replace(whole, **change)

            async def nobody(workflow_id: str, run_id: str) -> None:
                return None

            inquiry = Inquiry(it.kernel, Questions(it.kernel), attempt, "default", nobody)
            call = await inquiry.gather(Call(attempt.activity_type, attempt.workflow_type), "execution")
            refusal = known_execution(call)
            assert refusal is not None and refusal.code == "EXECUTION_UNKNOWN"

    asyncio.run(scenario())


def test_signal_with_start_is_a_start_like_any_other(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            for kind, code in (("Strange", "EXECUTION_UNKNOWN"), ("Release", "POLICY_DENIED"), ("Explore", "POLICY_DENIED")):
                handle = await it.client.start_workflow(
                    kind, [{"wait": True}, SEAL], id=str(uuid.uuid4()), task_queue=it.queue, start_signal="go",
                    start_signal_args=[[]],
                )  # fmt: skip
                _, answer = await asyncio.wait_for(handle.result(), 30)
                assert (answer["code"], answer["final"]) == (code, True)
            assert it.forge.calls == []

    asyncio.run(scenario())


def test_a_forged_child_has_no_parent_of_ours(server: Server, opa: RunningOpa, folder: Path) -> None:
    """A workflow id that looks like a child's, and memos and headers that name a session: the server's record says otherwise."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            parent = await it.start("Remediation", {"wait": True}, FETCH)
            forged = await it.client.start_workflow(
                "Release", [SEAL, {**SEAL, "call": "forge.deliver"}], id=f"{parent.id}/Release/1", task_queue=it.queue,
                memo={"session_id": parent.first_execution_run_id, "tenant_id": TENANT},
            )  # fmt: skip
            answers = await asyncio.wait_for(forged.result(), 30)
            assert {answer["code"] for answer in answers} <= {"POLICY_DENIED", "INPUT_INVALID"} and it.forge.calls == []
            assert it.events(parent.first_execution_run_id or "") == [], "it wrote into the session that it named"
            await parent.terminate()

    asyncio.run(scenario())


def test_the_run_before_a_reset_begins_nothing_more(server: Server, opa: RunningOpa, folder: Path) -> None:
    """Its attempt passed the checks already; while the policy is asked, the run is reset and the new run shows itself."""

    async def scenario() -> None:
        asked, go_on = threading.Event(), threading.Event()

        class Slow:
            policy_digest = opa.engine.policy_digest

            def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
                if question.get("capability") == "forge.seal_commit" and not asked.is_set():
                    asked.set()
                    assert go_on.wait(30)
                return opa.engine.decide(package, question)

        async with gated(server, folder, Slow()) as it:
            handle = await it.start("Remediation", SEAL)
            assert await asyncio.to_thread(asked.wait, 20)
            run_id = await it.reset(handle)
            again = it.client.get_workflow_handle(handle.id, run_id=run_id)
            [answer] = await asyncio.wait_for(again.result(), 30)
            assert answer["code"] == "RUN_RESET"
            go_on.set()
            session = handle.first_execution_run_id or ""
            codes: list[str] = []
            for _ in range(100):
                codes = [payload["code"] for event, payload in it.events(session) if event.kind == "gate.decision"]
                if len(codes) == 2:
                    break
                await asyncio.sleep(0.1)
            assert codes == ["RUN_RESET", "RUN_RESET"] and it.forge.calls == []

    asyncio.run(scenario())


def test_a_reset_run_cannot_use_the_approval_again(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            parent = await it.start("Remediation", {"wait": True})
            session = parent.first_execution_run_id or ""
            approve(it, session, redeem=False)
            await parent.signal("go", [FETCH, {"child": "Release", "steps": [deliver(session, {})]}])
            await asyncio.wait_for(parent.result(), 60)
            run_id = await it.reset(parent)
            again = it.client.get_workflow_handle(parent.id, run_id=run_id)
            answers = await asyncio.wait_for(again.result(), 60)
            assert answers[1]["code"] == "RUN_RESET" and answers[2][0]["code"] == "RUN_RESET"
            stored = Approvals(it.store.tenant(TENANT)).get("a1")
            assert stored is not None and stored.request.status == "revoked"
            assert "deliver" not in it.forge.names()

    asyncio.run(scenario())


def test_another_tenants_approval_is_none(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            parent = await it.start("Remediation", {"wait": True})
            session = parent.first_execution_run_id or ""
            other = Gated(it.client, it.queue, _As(it, "other"), it.forge, it.kernel)  # type: ignore[arg-type]
            with pytest.raises(Exception, match="TENANT_MISMATCH"):
                approve(other, session)
            await parent.signal("go", [{"child": "Release", "steps": [deliver(session, {})]}])
            [_, [answer]] = await asyncio.wait_for(parent.result(), 60)
            assert answer["code"] == "APPROVAL_REQUIRED" and it.forge.calls == []

    asyncio.run(scenario())


class _As:
    """A store that answers for another tenant, whatever tenant is asked for."""

    def __init__(self, it: Gated, tenant_id: str) -> None:
        self._store, self._tenant_id = it.store, tenant_id

    def tenant(self, _: str) -> Any:
        return self._store.tenant(self._tenant_id)


@pytest.mark.parametrize("engine", ["broken", "empty", "slow and then down"])
def test_an_engine_that_does_not_say_yes_says_no(server: Server, opa: RunningOpa, folder: Path, engine: str) -> None:
    class Engine:
        policy_digest = opa.engine.policy_digest

        def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
            decided = opa.engine.decide(package, question)
            match engine:
                case "empty":
                    return decided.model_copy(update={"decision": "deny", "results": (), "required_checks": ()})
                case "broken":
                    raise ValueError("not JSON")
                case _:
                    raise InfrastructureError("POLICY_UNAVAILABLE", "no answer in time")

    async def scenario() -> None:
        async with gated(server, folder, Engine()) as it:
            handle = await it.start("Remediation", FETCH)
            if engine == "empty":
                [answer] = await asyncio.wait_for(handle.result(), 30)
                assert answer["code"] == "POLICY_DENIED"
            else:
                await asyncio.sleep(1.5)
                [pending] = (await handle.describe()).raw_description.pending_activities
                assert pending.last_failure.application_failure_info.type == "POLICY_UNAVAILABLE" and pending.attempt > 1
                await handle.terminate()
            assert it.forge.calls == []

    asyncio.run(scenario())


def test_no_variable_and_no_mode_opens_the_gate(
    server: Server, opa: RunningOpa, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("MODE", "GATE_MODE", "GATE", "POLICY", "ALLOW_ALL", "DISABLE_GATE", "DEBUG", "PERMISSIVE", "SHADOW", "ENV", "BYPASS")
    for name in names:
        monkeypatch.setenv(f"GEN4_{name}", "shadow")
        monkeypatch.setenv(name, "1")

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            [unknown] = await it.run("Remediation", {**FETCH, "call": "forge.push"})
            [phase] = await it.run("Compile", SEAL)
            assert (unknown["code"], phase["code"]) == ("CAP_UNKNOWN", "POLICY_DENIED") and it.forge.calls == []

    asyncio.run(scenario())


def test_a_full_disk_runs_nothing(
    server: Server, opa: RunningOpa, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be recorded does not run: the decision could not be written, so there is none."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            [first] = await it.run("Remediation", FETCH)
            assert "ok" in first
            done = len(it.forge.calls)

            def full(*_: object, **__: object) -> Any:
                raise InfrastructureError("STORE_UNAVAILABLE", "database or disk is full")

            handle = await it.start("Remediation", {"wait": True}, SEAL)
            monkeypatch.setattr(type(it.store.tenant(TENANT)), "write", full)
            await handle.signal("go", [])
            await asyncio.sleep(2)
            monkeypatch.undo()
            assert len(it.forge.calls) == done
            assert "ok" in (await asyncio.wait_for(handle.result(), 30))[1], "and then it goes on"

    asyncio.run(scenario())


def test_a_batch_of_resets_and_terminations_leaves_the_sessions_fenced(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handles = [await it.start("Remediation", {"wait": True}, FETCH) for _ in range(3)]
            for handle in handles:
                await handle.signal("go", [])
                await handle.result()
            runs = [await it.reset(handle) for handle in handles]
            for handle, run_id in zip(handles, runs, strict=True):
                answers = await asyncio.wait_for(it.client.get_workflow_handle(handle.id, run_id=run_id).result(), 30)
                assert answers[1]["code"] == "RUN_RESET"
            assert it.forge.names() == ["fetch"] * 3

    asyncio.run(scenario())


def test_an_id_that_is_used_again_is_another_session(server: Server, opa: RunningOpa, folder: Path) -> None:
    """Nothing of the first carries over to a workflow that is started under the same id."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            id = str(uuid.uuid4())
            sessions = []
            for _ in range(2):
                handle = await it.client.start_workflow("Remediation", [FETCH], id=id, task_queue=it.queue)
                await asyncio.wait_for(handle.result(), 30)
                sessions.append(handle.first_execution_run_id)
            assert len({who.keys.session_id for _, who in it.forge.calls}) == 2 == len(set(sessions))

    asyncio.run(scenario())


def test_an_approval_whose_time_is_over_delivers_nothing(server: Server, opa: RunningOpa, folder: Path) -> None:

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            parent = await it.start("Remediation", {"wait": True})
            session = parent.first_execution_run_id or ""
            approve(it, session, deliver_in_ms=-1)
            await parent.signal("go", [{"child": "Release", "steps": [deliver(session, {})]}])
            [_, [answer]] = await asyncio.wait_for(parent.result(), 60)
            assert answer["code"] == "APPROVAL_REQUIRED" and "release.in_time" in answer["message"] and it.forge.calls == []

    asyncio.run(scenario())

