"""What an administrator takes away stops a running session at its next step, on a real server; nobody borrows a right."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Interceptor,
    OutboundInterceptor,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    StartWorkflowInput,
)

from activities.control.seeding import ENGINE, ensure_tenant, packaged_roles
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.leases import Leases
from activities.record.store import TenantStore, now_ms
from schemas.error import Refused
from schemas.event import Actor
from schemas.identity import Principal, Role
from schemas.task import UNTRACED, TraceKeys
from tests.kernel.gated import OPERATOR, TENANT, Server, gated
from tests.kernel.test_gate import FETCH, SEAL
from tests.policy.running import RunningOpa
from workers.kernel import open_kernel

ADMIN = Actor(principal_id=OPERATOR, kind="human")


def as_role(directory: Directory, role: Role, *others: Role) -> None:
    """The operator keeps only these roles; somebody else administers."""
    other = Principal(principal_id="other", tenant_id=TENANT, kind="human", issuer="local", subject="other")
    directory.put_principal(other, ADMIN, 1)
    directory.grant("other", "tenant_admin", ADMIN, 1)
    directory.grant(OPERATOR, role, ADMIN, 1)
    for held in set(directory.roles(OPERATOR)) - {role, *others}:
        directory.revoke(OPERATOR, held, ADMIN)


def without_prefixes(directory: Directory) -> None:
    narrow = {"capability_prefixes": ("control.", "forge.fetch_source.")}
    directory.bind_policies([policy.model_copy(update=narrow) for policy in directory.policies()], ADMIN, 1)


def read_only(directory: Directory) -> None:
    narrow = {"allowed_actions": ("none", "read")}
    directory.bind_policies([policy.model_copy(update=narrow) for policy in directory.policies()], ADMIN, 1)


def suspend_the_operator(directory: Directory) -> None:
    as_role(directory, "operator")
    directory.set_principal_status(OPERATOR, "suspended", "left", ADMIN, 1)


CHANGES: dict[str, tuple[Callable[[Directory], Any], str]] = {
    "tenant suspended": (lambda it: it.set_tenant_status("suspended", "", ADMIN, 1), "TENANT_INACTIVE"),
    "principal suspended": (suspend_the_operator, "PRINCIPAL_INACTIVE"),
    "role taken away": (lambda it: as_role(it, "auditor"), "ROLE_UNBOUND"),
    "policy unbound": (lambda it: it.bind_policies([], ADMIN, 1), "POLICY_UNBOUND"),
    "capability beyond the role": (without_prefixes, "CAPABILITY_NOT_LEASED"),
    "side effect beyond the role": (read_only, "ACTION_NOT_LEASED"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_taken_away_counts_at_the_next_step(server: Server, opa: RunningOpa, folder: Path, change: str) -> None:
    take_away, code = CHANGES[change]

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH, {"wait": True}, SEAL)
            session = handle.first_execution_run_id or ""
            await asyncio.to_thread(it.forge.wait)
            take_away(it.kernel.directory)
            await handle.signal("go", [])
            assert (await handle.result())[2]["code"] == code
            assert it.forge.names() == ["fetch"]
            decisions = [payload for event, payload in it.events(session) if event.kind == "gate.decision"]
            assert [(payload["code"], payload["check_no"]) for payload in decisions if payload["code"] != "ALLOW"] == [(code, 1)]

    asyncio.run(scenario())


def test_who_holds_no_role_that_starts_sessions_starts_nothing(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            as_role(it.kernel.directory, "auditor", "release_captain")
            answers = await it.run("Remediation", FETCH)
            assert answers[0]["code"] == "ROLE_UNBOUND" and it.forge.names() == []

    asyncio.run(scenario())


def test_an_implementer_may_fetch_but_not_deliver(server: Server, opa: RunningOpa, folder: Path) -> None:
    deliver = {"approval_id": "a", "action_digest": "sha256:" + "a" * 64, "commit_id": "1" * 40, "expected_head": "0" * 40}

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            as_role(it.kernel.directory, "implementer")
            answers = await it.run("Remediation", FETCH, {"call": "forge.deliver", "args": [{**deliver, "mode": "branch"}]})
            assert "ok" in answers[0] and answers[1]["code"] == "CAPABILITY_NOT_LEASED"
            assert it.forge.names() == ["fetch"]

    asyncio.run(scenario())


def test_where_the_server_authenticates_an_unstamped_start_is_nobodys(server: Server, opa: RunningOpa, folder: Path) -> None:
    """This server stamps nobody: with identities required, what anyone starts on it stays outside."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, identity="server") as it:
            answers = await it.run("Remediation", FETCH)
            assert answers[0]["code"] == "PRINCIPAL_UNKNOWN" and it.forge.names() == []

    asyncio.run(scenario())


class Claims(Interceptor):
    """A client that says in headers who it is."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        class Outbound(OutboundInterceptor):
            async def start_workflow(self, input: StartWorkflowInput) -> Any:
                forged = Payload(metadata={"encoding": b"json/plain"}, data=b'"other"')
                named = ("principal", "tenant_id", "session_id", "lease_id", "temporal-principal-name", "temporal-principal-type")
                input.headers = {**input.headers, **dict.fromkeys(named, forged)}
                return await super().start_workflow(input)

        return Outbound(next)


def test_headers_arguments_and_ids_name_nobody(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, identity="server") as it:
            config = it.client.config()
            config["interceptors"] = [Claims()]
            forging = type(it.client)(**config)
            directory = it.kernel.directory
            victim = Principal(principal_id="victim", tenant_id=TENANT, kind="human", issuer="temporal", subject="victim")
            directory.put_principal(victim, ADMIN, 1)
            directory.grant("victim", "operator", ADMIN, 1)
            handle = await forging.start_workflow(
                "Remediation", [FETCH], id=f"victim-{uuid.uuid4()}", task_queue=it.queue, memo={"principal": "victim"}
            )
            assert (await handle.result())[0]["code"] == "PRINCIPAL_UNKNOWN" and it.forge.names() == []

    asyncio.run(scenario())


def test_a_namespace_is_not_shared_by_tenants(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            with pytest.raises(Refused, match="NAMESPACE_TAKEN"):
                open_kernel(it.store.tenant("hostile"), opa.engine, it.kernel.catalogue, "default")
            hostile = it.store.tenant("hostile")
            assert Directory(hostile).principals() == []
            answers = await it.run("Remediation", FETCH)
            assert "ok" in answers[0]

    asyncio.run(scenario())


def test_a_hostile_tenant_reaches_nothing_of_another(server: Server, opa: RunningOpa, folder: Path) -> None:
    """It has a store of its own share, knows every id of the other tenant, and uses the same names."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH, {"wait": True}, SEAL)
            session = handle.first_execution_run_id or ""
            await asyncio.to_thread(it.forge.wait)
            attack(it.store.tenant("hostile"), session, it.chain(session))
            before = it.chain(session)
            await handle.signal("go", [])
            assert "ok" in (await handle.result())[2], "nothing that the other did stopped it"
            assert it.chain(session)[: len(before)] == before

    asyncio.run(scenario())


def attack(hostile: TenantStore, session: str, theirs: list[Any]) -> None:
    ensure_tenant(hostile, "hostile", packaged_roles(), "sha256:" + "0" * 64, 1, 1)
    leases, directory, chain = Leases(hostile), Directory(hostile), EventChain(hostile)
    assert leases.newest(None, session) is None and leases.all() == []
    assert leases.revoke(None, reason="", by=ADMIN, now_ms=now_ms(), session_id=session) == []
    assert leases.revoke(None, reason="", by=ADMIN, now_ms=now_ms()) == []
    directory.set_principal_status("gen4", "suspended", "", ADMIN, 1)
    directory.set_tenant_status("suspended", "", ADMIN, 1)
    assert list(chain.read(session)) == [] and session not in chain.sessions() and theirs
    stolen = TraceKeys(tenant_id=TENANT, trace_id="t", session_id=session, task_id="t")
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        leases.issue(None, stolen, OPERATOR, "operator", 1)
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        chain.append(stolen, ADMIN)


def test_a_refusal_of_a_start_is_on_record(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, identity="server") as it:
            await it.run("Remediation", FETCH)
            decisions = [payload for event, payload in it.chain(UNTRACED) if event.kind == "gate.decision"]
            assert [payload["code"] for payload in decisions] == ["PRINCIPAL_UNKNOWN"]

    asyncio.run(scenario())


def test_a_rewritten_schedule_of_the_fabric_starts_no_session(server: Server, opa: RunningOpa, folder: Path) -> None:
    """Whoever may write to the namespace may replace the reaper's schedule; it gets none of the fabric's right by that."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            id = f"gen4-reaper-{uuid.uuid4()}"
            it.kernel.directory.own_schedule(id, ENGINE.principal_id, ENGINE, now_ms())
            action = ScheduleActionStartWorkflow("Remediation", [FETCH], id=id, task_queue=it.queue)
            schedule = await it.client.create_schedule(id, Schedule(action=action, spec=ScheduleSpec()))
            await schedule.trigger()
            started: list[Any] = []
            while not started:
                started = list((await schedule.describe()).info.recent_actions)
                await asyncio.sleep(0.1)
            await schedule.delete()
            run = started[0].action
            assert isinstance(run, ScheduleActionExecutionStartWorkflow)
            [answer] = await asyncio.wait_for(it.client.get_workflow_handle(run.workflow_id).result(), 30)
            assert answer["code"] == "ROLE_MISMATCH" and it.forge.names() == []

    asyncio.run(scenario())
