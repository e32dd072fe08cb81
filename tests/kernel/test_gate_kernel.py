"""What the gate asks of the kernel on a real server: leases, switches, breakers, budgets, schedules, a candidate policy."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Schedule, ScheduleActionStartWorkflow, ScheduleSpec

from activities.kernel.acting import Acting
from activities.kernel.implementing import implements
from activities.kernel.metering import metering
from activities.kernel.rollout import Rollout
from activities.record.effects import Effects
from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from activities.record.ledger import Ledger
from activities.record.store import TenantStore, now_ms
from activities.record.tables import SESSION_LEASE
from activities.record.unsettled import UnsettledEffects
from schemas.candidate import Exploration
from schemas.capabilities import (
    LOCALIZE,
    PREPARE_ENVIRONMENT,
    REPAIR,
    RUN_BENCHMARK,
    RUN_TESTS,
    SCAN_TREE,
    Localization,
    Localize,
    PrepareEnvironment,
    Repair,
    RunTests,
)
from schemas.error import InfrastructureError, Refused
from schemas.event import Actor
from schemas.policy import PolicyDecision
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.task import TraceKeys
from schemas.testing import Environment, TestRun
from tests.kernel.gated import OPERATOR, TENANT, Forge, Server, gated
from tests.kernel.test_admission import decision
from tests.kernel.test_gate import FETCH, SEAL
from tests.policy.running import RunningOpa

ADMIN = Actor(principal_id=OPERATOR, kind="human")
PREPARE: dict[str, Any] = {"call": "testbed.prepare_environment", "args": [{"base_tree": "1" * 40}]}


@dataclass
class Bed:
    """The adaptive pool, played: each run counts as 40 ms of CPU time."""

    calls: list[str] = field(default_factory=list)
    trouble: Any = None

    @implements(PREPARE_ENVIRONMENT)
    def prepare(self, request: PrepareEnvironment) -> Environment:
        self.calls.append("prepare")
        metering().cpu(40)
        if self.trouble is not None:
            raise self.trouble
        return Environment(
            environment_digest="sha256:" + "1" * 64, base_digest="sha256:" + "2" * 64,
            lock={"sha256": "3" * 64, "size": 1}, python_version="3.11", platform="linux",
        )  # fmt: skip

    @implements(RUN_TESTS)
    def run(self, request: RunTests) -> TestRun:
        raise NotImplementedError

    @implements(LOCALIZE)
    def localize(self, request: Localize) -> Localization:
        raise NotImplementedError

    @implements(REPAIR)
    def repair(self, request: Repair) -> Exploration:
        raise NotImplementedError

    @implements(SCAN_TREE)
    def scan(self, request: ScanTree) -> ScannedTree:
        raise NotImplementedError

    @implements(RUN_BENCHMARK)
    def benchmark(self, request: RunBenchmark) -> BenchmarkSample:
        raise NotImplementedError


@dataclass
class Says:
    """A candidate policy version."""

    answer: str
    policy_digest: str = "sha256:" + "9" * 64

    def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
        if self.answer == "down":
            raise InfrastructureError("POLICY_UNAVAILABLE", "nobody answers")
        return decision(self.answer)


def mine(it: Any) -> TenantStore:
    store: TenantStore = it.store.tenant(TENANT)
    return store


def age(store: TenantStore, session: str) -> None:
    """As after a wait of a day."""
    change = update(SESSION_LEASE).where(SESSION_LEASE.c.tenant_id == TENANT, SESSION_LEASE.c.session_id == session)
    store.write(lambda connection: connection.execute(change.values(expires_at_ms=1)))


def test_a_session_acts_under_a_lease_that_is_issued_again_after_a_wait(
    server: Server, opa: RunningOpa, folder: Path
) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH, {"wait": True}, FETCH)
            session = handle.first_execution_run_id or ""
            await asyncio.to_thread(it.forge.wait)
            age(mine(it), session)
            await handle.signal("go", [])
            assert "ok" in (await handle.result())[2]
            kinds = [event.kind for event, _ in it.chain(session)]
            assert kinds == ["lease.issued", "task.receipt", "lease.issued", "task.receipt"]
            assert [payload["lease_generation"] for _, payload in it.events(session)] == [1, 2]

    asyncio.run(scenario())


def test_a_revoked_lease_never_comes_back(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", FETCH, {"wait": True}, FETCH, SEAL)
            session = handle.first_execution_run_id or ""
            await asyncio.to_thread(it.forge.wait)
            Leases(mine(it)).revoke(None, reason="left the company", by=ADMIN, now_ms=now_ms(), session_id=session)
            age(mine(it), session)
            await handle.signal("go", [])
            result = await handle.result()
            assert [answer["code"] for answer in result[2:]] == ["LEASE_REVOKED", "LEASE_REVOKED"]
            assert it.forge.names() == ["fetch"]

    asyncio.run(scenario())


@pytest.mark.parametrize("scope", ["session", "tenant", "capability", "everything"])
def test_a_kill_switch_stops_what_it_covers_and_nothing_else(
    server: Server, opa: RunningOpa, folder: Path, scope: Any
) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            handle = await it.start("Remediation", {"wait": True}, FETCH, SEAL)
            session = handle.first_execution_run_id or ""
            target = {"session": session, "capability": "forge.fetch_source"}.get(scope, "")
            switches = KillSwitches(mine(it))
            switches.set(scope, target, True, "drill", ADMIN, now_ms())
            await handle.signal("go", [])
            _, fetched, sealed = await handle.result()
            assert (fetched["code"], fetched["final"]) == ("KILL_SWITCH", True)
            assert ("ok" in sealed) == (scope == "capability")
            other = (await it.run("Remediation", FETCH))[0]
            assert ("ok" in other) == (scope == "session")
            switches.set(scope, target, False, "drill over", ADMIN, now_ms())
            assert "ok" in (await it.run("Remediation", FETCH))[0]

    asyncio.run(scenario())


def test_a_switch_that_falls_between_the_check_and_the_effect_stops_it(
    server: Server, opa: RunningOpa, folder: Path
) -> None:
    """The policy is asked after the first look at the switches; here it takes so long that somebody pulls one."""

    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            engine = opa.engine

            class Slow:
                policy_digest = engine.policy_digest

                def decide(self, package: str, question: Mapping[str, Any]) -> PolicyDecision:
                    KillSwitches(mine(it)).set("tenant", "", True, "now", ADMIN, now_ms())
                    return engine.decide(package, question)

            async with gated(server, folder, Slow()) as slow:
                [answer] = await slow.run("Remediation", SEAL)
                assert answer["code"] == "KILL_SWITCH" and slow.forge.calls == []

    asyncio.run(scenario())


def test_a_schedule_without_an_owner_starts_nothing(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine) as it:
            for owned in (False, True):
                id = f"nightly-{uuid.uuid4()}"
                if owned:
                    from activities.record.directory import Directory

                    Directory(mine(it)).own_schedule(id, OPERATOR, ADMIN, now_ms())
                action = ScheduleActionStartWorkflow("Remediation", [FETCH], id=id, task_queue=it.queue)
                schedule = await it.client.create_schedule(id, Schedule(action=action, spec=ScheduleSpec()))
                await schedule.trigger()
                started: list[Any] = []
                while not started:
                    started = (await schedule.describe()).info.recent_actions
                    await asyncio.sleep(0.1)
                workflow = started[0].action.workflow_id
                [answer] = await asyncio.wait_for(it.client.get_workflow_handle(workflow).result(), 30)
                assert ("ok" in answer) == owned
                if not owned:
                    assert (answer["code"], answer["final"]) == ("SCHEDULE_UNREGISTERED", True)
                await schedule.delete()

    asyncio.run(scenario())


def test_a_metered_call_reserves_before_and_pays_after_what_it_used(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        bed = Bed()
        async with gated(server, folder, opa.engine, bed=bed) as it:
            handle = await it.start("Compile", PREPARE)
            assert "ok" in (await handle.result())[0]
            session = handle.first_execution_run_id or ""
            kinds = it.kinds(session)
            assert [kind for kind in kinds if kind.startswith("budget.")] == ["budget.reserved", "budget.settled"]
            assert kinds.index("budget.reserved") < kinds.index("gate.decision") < kinds.index("budget.settled")
            accounts = {account.account_id: account for account in Ledger(mine(it)).balances(session)}
            spent = [account for id, account in accounts.items() if session in id and id.endswith("cpu_ms")]
            assert any(account.debits_posted == 40 and account.debits_pending == 0 for account in spent), accounts

    asyncio.run(scenario())


def test_without_budget_nothing_runs(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        bed = Bed()
        async with gated(server, folder, opa.engine, bed=bed) as it:
            handle = await it.start("Compile", {"wait": True}, PREPARE)
            session = handle.first_execution_run_id or ""
            keys = TraceKeys(
                tenant_id=TENANT, trace_id=session.replace("-", ""), session_id=session, task_id=session.replace("-", "")[-12:]
            )
            mine(it).write(lambda connection: Ledger(mine(it)).open_session(connection, keys, {"cpu_ms": 1}, now_ms()))
            await handle.signal("go", [])
            _, answer = await handle.result()
            assert (answer["code"], answer["final"]) == ("BUDGET_EXHAUSTED", True) and bed.calls == []
            assert "budget.blocked" in it.kinds(session)

    asyncio.run(scenario())


def test_a_finished_effect_is_neither_repeated_nor_paid_again(server: Server, opa: RunningOpa, folder: Path) -> None:
    """The receipt is stored; then the worker dies before the server hears of it, and another attempt comes."""

    async def scenario() -> None:
        bed = Bed()
        async with gated(server, folder, opa.engine, bed=bed) as it:
            handle = await it.start("Compile", PREPARE)
            assert "ok" in (await handle.result())[0]
            session = handle.first_execution_run_id or ""
            effects = [payload["effect_key"] for event, payload in it.events(session) if event.kind == "task.receipt"]
            stored = Effects(mine(it)).get(effects[0])
            assert stored is not None and stored.outcome == "succeeded"
            from sqlalchemy import select

            from activities.record.tables import RESERVATION

            rows = mine(it).read(lambda connection: connection.execute(select(RESERVATION)).all())
            assert {row.status for row in rows} == {"settled"}

    asyncio.run(scenario())


def test_a_probe_that_the_budget_holds_back_keeps_nobody_waiting(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, bed=Bed(), cooldown_ms=1) as it:
            breakers, scope = it.kernel.breakers, f"{TENANT}:server:sandbox"
            for number in range(2):
                mine(it).write(partial(breakers.settle, scope_key=scope, probe_id=f"a{number}", ok=False, reason="X", now_ms=1))
            handle = await it.start("Compile", {"wait": True}, PREPARE)
            session = handle.first_execution_run_id or ""
            keys = TraceKeys(
                tenant_id=TENANT, trace_id=session.replace("-", ""), session_id=session, task_id=session.replace("-", "")[-12:]
            )
            mine(it).write(lambda connection: Ledger(mine(it)).open_session(connection, keys, {"cpu_ms": 1}, now_ms()))
            await handle.signal("go", [])
            assert (await handle.result())[1]["code"] == "BUDGET_EXHAUSTED"
            [state] = breakers.all()
            assert (state.phase, state.probe_id) == ("half_open", None)

    asyncio.run(scenario())


def test_an_outage_opens_the_breaker_of_its_server_and_one_probe_closes_it(
    server: Server, opa: RunningOpa, folder: Path
) -> None:
    async def scenario() -> None:
        bed = Bed(trouble=InfrastructureError("SANDBOX_START_FAILED", "no cgroup"))
        async with gated(server, folder, opa.engine, bed=bed, cooldown_ms=1_500) as it:
            first, second = [await it.start("Compile", PREPARE) for _ in range(2)]
            deadline = time.monotonic() + 30
            while it.kernel.breakers.all() == [] or it.kernel.breakers.all()[0].phase != "open":
                assert time.monotonic() < deadline, it.kernel.breakers.all()
                await asyncio.sleep(0.05)
            ran = len(bed.calls)
            third = await it.start("Compile", PREPARE)
            await asyncio.sleep(0.5)
            assert len(bed.calls) == ran, "nothing runs while it is open"
            refused = it.events(third.first_execution_run_id or "")
            assert [payload["code"] for _, payload in refused] == ["BREAKER_OPEN"]
            bed.trouble = None
            for handle in (first, second, third):
                assert "ok" in (await asyncio.wait_for(handle.result(), 60))[0]
            changes = [payload for event, payload in it.chain("tenant") if event.kind == "breaker.changed"]
            assert [change["to"] if "to" in change else change["after"]["phase"] for change in changes][-1] == "closed"

    asyncio.run(scenario())


def test_a_failure_that_names_a_file_of_no_utf8_is_recorded_and_final(server: Server, opa: RunningOpa, folder: Path) -> None:
    def trouble(name: str, who: Acting) -> None:
        raise Refused("TREE_NAME", "no UTF-8: \udcff")

    async def scenario() -> None:
        async with gated(server, folder, opa.engine, Forge(trouble=trouble)) as it:
            handle = await it.start("Remediation", FETCH)
            assert (await asyncio.wait_for(handle.result(), 20))[0]["code"] == "TREE_NAME"
            [(_, payload)] = it.events(handle.first_execution_run_id or "")
            assert payload["error"]["message"] == "no UTF-8: \\udcff"

    asyncio.run(scenario())


def test_a_probe_that_changes_nothing_leaves_no_effect_to_be_reconciled(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, cooldown_ms=1) as it:
            breakers, scope = it.kernel.breakers, f"{TENANT}:tool:forge.fetch_source"
            for number in range(4):
                mine(it).write(partial(breakers.settle, scope_key=scope, probe_id=f"a{number}", ok=False, reason="X", now_ms=1))
            handle = await it.start("Remediation", FETCH)
            assert "ok" in (await handle.result())[0]
            assert [state.phase for state in breakers.all()] == ["closed"]
            assert UnsettledEffects(mine(it)).before(now_ms() + 1, 10) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("mode, answer, runs", [
    ("shadow", "deny", True), ("shadow", "down", True), ("full", "deny", False), ("full", "allow", True),
])  # fmt: skip
def test_a_candidate_policy_is_watched_or_enforced(
    server: Server, opa: RunningOpa, folder: Path, mode: Any, answer: str, runs: bool
) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, rollout=Rollout(Says(answer), mode)) as it:
            handle = await it.start("Remediation", FETCH)
            [result] = await handle.result()
            assert ("ok" in result) == runs
            [(_, payload)] = it.events(handle.first_execution_run_id or "")
            if not runs:
                assert result["code"] == "CANDIDATE_POLICY_DENIED"
            if answer == "deny":
                assert payload["would_block"] == ["gate.phase"]

    asyncio.run(scenario())


def test_right_before_the_push_lease_and_switches_are_read_again(server: Server, opa: RunningOpa, folder: Path) -> None:
    from activities.kernel.rechecking import recheck

    async def scenario() -> None:
        codes: list[str] = []

        def pulled_meanwhile(name: str, who: Acting) -> None:
            recheck()
            KillSwitches(mine(it)).set("session", who.keys.session_id, True, "stop", ADMIN, now_ms())
            with pytest.raises(Refused) as caught:
                recheck()
            codes.append(caught.value.code)

        async with gated(server, folder, opa.engine, Forge(trouble=pulled_meanwhile)) as it:
            await it.run("Remediation", FETCH)
            assert codes == ["KILL_SWITCH"]

    asyncio.run(scenario())


def test_a_capability_that_is_not_what_the_catalogue_lists_is_refused(
    server: Server, opa: RunningOpa, folder: Path
) -> None:
    async def scenario() -> None:
        async with gated(server, folder, opa.engine, catalogue={"forge.fetch_source": "0" * 64}) as it:
            answers = await it.run("Remediation", FETCH, SEAL)
            assert [answer["code"] for answer in answers] == ["CAP_DIGEST_CHANGED"] * 2

    asyncio.run(scenario())



