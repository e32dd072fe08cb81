"""The gate on a real server: who may act, what is refused before anything runs, and what is recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from activities.kernel.acting import Acting
from activities.record.chain import EventChain
from activities.record.effects import Effects
from activities.record.executions import ExecutionRows
from schemas.capabilities import SealedCommit
from schemas.error import InfrastructureError, InputError, Refused
from tests.kernel.gated import OPERATOR, TENANT, Forge, Gated, Server, gated
from tests.policy.running import RunningOpa

FETCH: dict[str, Any] = {"call": "forge.fetch_source", "args": [{"repository": "/r", "ref": "main"}]}
SOURCE = {"repository": "/r", "ref": "main", "base_commit": "1" * 40, "base_tree": "2" * 40, "commit_time": 1}
BUNDLE = {"directory": "/b", "bundle_digest": "sha256:" + "4" * 64, "stamp_id": "s", "stamp_sha256": "5" * 64}
SEAL_ARGUMENT = {
    "source": SOURCE, "result_tree": "6" * 40, "bundle": BUNDLE, "goal": "g", "explorer": "e", "mode": "branch", "target": None,
}  # fmt: skip
SEAL: dict[str, Any] = {"call": "forge.seal_commit", "args": [SEAL_ARGUMENT]}


def test_a_read_runs_and_is_one_event(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH)
            assert (await handle.result())[0]["ok"]["base_tree"] == "2" * 40
            session = handle.first_execution_run_id or ""
            [(event, payload)] = it.events(session)
            assert (event.kind, event.capability_id, payload["outcome"]) == ("task.receipt", "forge.fetch_source", "succeeded")
            assert (payload["decision"], payload["phase"]) == ("allow", "control")
            assert payload["policy_digest"] == opa.bundle.digest

    asyncio.run(scenario())


def test_implementations_learn_who_acts_in_their_own_thread(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH)
            await handle.result()
            [(_, who)] = it.forge.calls
            session = handle.first_execution_run_id
            assert (who.keys.tenant_id, who.keys.session_id, who.phase) == (TENANT, session, "control")
            assert (who.workflow_id, who.run_id, who.attempt, who.actor.principal_id) == (handle.id, session, 1, OPERATOR)
            assert who.effect_key.startswith(f"{handle.id}/{session}/") and who.attempt_key.endswith("/1")
            assert it.forge.threads and threading.get_ident() not in it.forge.threads

    asyncio.run(scenario())


def test_a_write_is_decision_receipt_and_one_effect(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", SEAL)
            await handle.result()
            assert it.kinds(handle.first_execution_run_id or "") == ["gate.decision", "task.receipt"]
            assert Effects(it.store.tenant(TENANT)).count(it.forge.calls[0][1].effect_key) == 1

    asyncio.run(scenario())


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a name that nobody registered": ("Remediation", {"call": "forge.push", "args": [{}]}, "CAP_UNKNOWN"),
    "a name in another spelling": ("Remediation", {"call": "forge.Deliver", "args": [{}]}, "CAP_UNKNOWN"),
    "a capability of another pool": ("Remediation", {"call": "control.open_session", "args": [{}]}, "CAP_NOT_SERVED"),
    "an unknown name without arguments": ("Remediation", {"call": "x", "args": []}, "CAP_UNKNOWN"),
    "an argument that is no JSON": ("Remediation", {"call": "forge.fetch_source", "args": ["broken"]}, "INPUT_INVALID"),
    "an argument of another shape": ("Remediation", {"call": "forge.fetch_source", "args": [[1]]}, "INPUT_INVALID"),
    "a missing field": ("Remediation", {"call": "forge.fetch_source", "args": [{"ref": "x"}]}, "INPUT_INVALID"),
    "no argument": ("Remediation", {"call": "forge.fetch_source", "args": []}, "INPUT_INVALID"),
    "two arguments": ("Remediation", {"call": "forge.fetch_source", "args": [{}, {}]}, "INPUT_INVALID"),
    "two broken arguments": ("Remediation", {"call": "forge.fetch_source", "args": ["broken", "broken"]}, "INPUT_INVALID"),
    "broken and unknown": ("Remediation", {"call": "x", "args": ["broken"]}, "CAP_UNKNOWN"),
    "a capability of another phase": ("Compile", SEAL, "POLICY_DENIED"),
    "a phase that no person may start": ("Explore", FETCH, "POLICY_DENIED"),
    "a workflow type that is not ours": ("Strange", FETCH, "EXECUTION_UNKNOWN"),
    "a workflow type in another spelling": ("remediation", FETCH, "EXECUTION_UNKNOWN"),
    "a local activity": ("Remediation", {**FETCH, "local": True}, "EXECUTION_UNKNOWN"),
    "a strange type and a strange name": ("Strange", {"call": "x", "args": []}, "EXECUTION_UNKNOWN"),
}


def test_refusals_are_final_events_and_run_nothing(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def one(it: Gated, kind: str, step: dict[str, Any], code: str) -> None:
        handle = await it.start(kind, step)
        [answer] = await handle.result()
        assert (answer["code"], answer["final"]) == (code, True), answer
        assert answer["details"][0]["code"] == code and answer["details"][0]["remedy"]
        session = (handle.first_execution_run_id or "") if code != "EXECUTION_UNKNOWN" else "untraced"
        mine = [payload for _, payload in it.events(session) if payload["workflow_id"] == handle.id]
        assert [(payload["decision"], payload["code"]) for payload in mine] == [("blocked", code)]

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            await asyncio.gather(*(one(it, *case) for case in REFUSALS.values()))
            assert it.forge.calls == []

    asyncio.run(scenario())


def test_children_act_in_the_session_of_their_root_in_a_phase_of_their_own(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            # Remediation calls nothing itself: its row is made from the server's record when the child asks.
            handle = await it.start("Remediation", {"child": "Compile", "steps": [FETCH, SEAL]})
            [[fetched, sealed]] = await handle.result()
            assert "ok" in fetched and sealed["code"] == "POLICY_DENIED"
            [(_, who)] = it.forge.calls
            assert (who.keys.session_id, who.phase) == (handle.first_execution_run_id, "compile")
            assert who.workflow_id != handle.id
            grandchild = await it.run("Remediation", {"child": "Explore", "steps": [{"child": "Compile", "steps": [FETCH]}]})
            assert grandchild[0][0][0]["code"] == "POLICY_DENIED"
            stranger = await it.run("Strange", {"child": "Compile", "steps": [FETCH]})
            assert stranger[0][0]["code"] == "EXECUTION_UNKNOWN"

    asyncio.run(scenario())


def test_a_continued_run_stays_in_its_session_and_its_effects_are_its_own(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", SEAL, {"continue": [{"continue": [SEAL]}]})
            await handle.result()
            (_, first), (_, second) = it.forge.calls
            assert first.keys == second.keys and first.run_id != second.run_id
            assert first.effect_key != second.effect_key
            row = ExecutionRows(it.store.tenant(TENANT)).get(handle.id, second.run_id)
            assert row is not None and (row.reset, row.generation) == (False, 1)

    asyncio.run(scenario())


def test_a_reset_run_and_everything_after_it_is_refused(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", {"wait": True}, FETCH, {"child": "Compile", "steps": [FETCH]})
            await handle.signal("go", [])
            assert "ok" in (await handle.result())[1]
            run_id = await it.reset(handle)  # the server gives the new run the signals of the old
            again = it.client.get_workflow_handle(handle.id, run_id=run_id)
            _, answer, [child] = await again.result()
            assert (answer["code"], answer["final"], child["code"]) == ("RUN_RESET", True, "RUN_RESET")
            session = handle.first_execution_run_id or ""
            assert it.forge.names() == ["fetch", "fetch"]
            assert it.kinds(session).count("execution.reset") == 1
            row = ExecutionRows(it.store.tenant(TENANT)).get(handle.id, run_id)
            assert row is not None and (row.session_id, row.reset, row.generation) == (session, True, 2)

    asyncio.run(scenario())


def test_a_run_continued_by_a_reset_run_is_refused(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", {"wait": True}, {"continue": [FETCH]})
            await handle.signal("go", [])
            assert "ok" in (await handle.result())[0]
            run_id = await it.reset(handle)  # the server gives the new run the signals of the old
            again = it.client.get_workflow_handle(handle.id, run_id=run_id)
            assert (await again.result(follow_runs=True))[0]["code"] == "RUN_RESET"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error, code, final",
    [
        (Refused("TARGET_CHANGED", "moved", "start again"), "TARGET_CHANGED", True),
        (InputError("REF_UNKNOWN", "no such ref", "name one"), "REF_UNKNOWN", True),
    ],
)
def test_typed_errors_keep_code_message_and_remedy(
    server: Server, opa: RunningOpa, folder: Path, error: Refused | InputError, code: str, final: bool
) -> None:
    def trouble(name: str, who: Acting) -> None:
        raise error

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=trouble)) as it:
            handle = await it.start("Remediation", SEAL)
            [answer] = await handle.result()
            assert (answer["code"], answer["final"]) == (code, final)
            assert answer["details"] == [{"code": code, "message": error.message, "remedy": error.remedy}]
            _, (_, receipt) = it.events(handle.first_execution_run_id or "")
            assert (receipt["outcome"], receipt["error"]["code"]) == ("failed", code)

    asyncio.run(scenario())


def test_an_outage_inside_an_activity_is_tried_again_and_stays_one_effect(server: Server, opa: RunningOpa, folder: Path) -> None:
    def trouble(name: str, who: Acting) -> None:
        if who.attempt < 3:
            raise InfrastructureError("DISK_FULL", "no space left")

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=trouble)) as it:
            handle = await it.start("Remediation", SEAL)
            assert "ok" in (await handle.result())[0]
            keys = {who.effect_key for _, who in it.forge.calls}
            assert len(it.forge.calls) == 3 and len(keys) == 1
            stored = Effects(it.store.tenant(TENANT)).get(keys.pop())
            assert stored is not None and (stored.outcome, stored.attempts) == ("succeeded", 3)
            events = it.events(handle.first_execution_run_id or "")
            outcomes = [payload["outcome"] for event, payload in events if event.kind == "task.receipt"]
            assert outcomes == ["unknown", "unknown", "succeeded"]

    asyncio.run(scenario())


def test_an_unforeseen_error_becomes_final(server: Server, opa: RunningOpa, folder: Path) -> None:
    def trouble(name: str, who: Acting) -> None:
        raise ZeroDivisionError("a defect")

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=trouble)) as it:
            [answer] = await it.run("Remediation", FETCH)
            assert (answer["code"], answer["final"]) == ("UNEXPECTED", True) and "a defect" in answer["message"]
            assert len(it.forge.calls) == 5

    asyncio.run(scenario())


def test_a_finished_effect_is_returned_not_repeated(server: Server, opa: RunningOpa, folder: Path) -> None:
    """The worker did the work and recorded it, but the server never heard: the next attempt must not do it again."""

    async def scenario() -> None:
        forge = Forge()
        async with gated(server, folder, opa.engine, forge) as it:

            def lose_the_answer(name: str, who: Acting) -> None:
                # What a worker records that dies before it can answer.
                done = SealedCommit(commit_id="9" * 40, target_ref="refs/heads/first", expected_head="0" * 40)
                Effects(it.store.tenant(TENANT)).finish(who, "forge.seal_commit", "succeeded", done.model_dump_json())
                raise InfrastructureError("WORKER_DIED", "killed")

            forge.trouble = lose_the_answer
            handle = await it.start("Remediation", SEAL)
            [answer] = await handle.result()
            assert answer["ok"]["target_ref"] == "refs/heads/first"
            assert len(forge.calls) == 1
            last = it.events(handle.first_execution_run_id or "")[-1][1]
            assert last["stored"] is True and last["done_by"].endswith("/1") and last["attempt"] == 2

    asyncio.run(scenario())


def test_while_opa_is_down_nothing_runs_and_then_it_goes_on(server: Server, folder: Path) -> None:
    async def scenario(opa: RunningOpa) -> None:
        async with gated(server, folder, opa.engine) as it:
            opa.stop()
            handle = await it.start("Remediation", FETCH)
            failure = await _pending_failure(handle)
            assert failure == "POLICY_UNAVAILABLE" and it.forge.calls == []
            await asyncio.to_thread(opa.start)
            assert "ok" in (await asyncio.wait_for(handle.result(), 30))[0]
            assert len(it.forge.calls) == 1

    with RunningOpa(folder) as opa:
        asyncio.run(scenario(opa))


def test_while_the_store_is_down_nothing_runs(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            it.store.close()
            handle = await it.start("Remediation", FETCH)
            assert (await _pending_failure(handle)).startswith("STORE_")
            assert it.forge.calls == []
            await handle.terminate()

    asyncio.run(scenario())


async def _pending_failure(handle: Any) -> str:
    for _ in range(200):
        pending = (await handle.describe()).raw_description.pending_activities
        if pending and pending[0].attempt >= 2 and pending[0].last_failure.message:
            return str(pending[0].last_failure.application_failure_info.type)
        await asyncio.sleep(0.1)
    raise AssertionError("the activity never failed")


def test_a_cancelled_effect_is_unknown_and_stays_cancelled(server: Server, opa: RunningOpa, folder: Path) -> None:
    begun = threading.Event()

    def until_told(name: str, who: Acting) -> None:
        begun.set()
        for _ in range(300):
            activity.heartbeat()
            time.sleep(0.1)

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=until_told)) as it:
            handle = await it.start("Remediation", SEAL)
            assert await asyncio.to_thread(begun.wait, 20)
            await handle.cancel()
            with pytest.raises(WorkflowFailureError) as caught:
                await asyncio.wait_for(handle.result(), 30)
            assert isinstance(caught.value.cause, CancelledError)
            _, (_, receipt) = it.events(handle.first_execution_run_id or "")
            assert (receipt["outcome"], receipt["error"]["code"]) == ("unknown", "CANCELLED")
            stored = Effects(it.store.tenant(TENANT)).get(it.forge.calls[0][1].effect_key)
            assert stored is not None and stored.outcome == "unknown"

    asyncio.run(scenario())


def test_the_chain_of_a_busy_session_is_whole(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", *[FETCH, SEAL, {"child": "Compile", "steps": [FETCH, SEAL]}] * 3)
            await handle.result()
            chain, session = EventChain(it.store.tenant(TENANT)), handle.first_execution_run_id or ""
            assert chain.verify(session) == []
            assert it.kinds(session).count("task.receipt") == 9 and it.kinds(session).count("gate.decision") == 6

    asyncio.run(scenario())
