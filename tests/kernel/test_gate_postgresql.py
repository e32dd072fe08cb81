"""The gate on PostgreSQL, which is killed between any two of its steps: nothing is lost, done twice or charged twice."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from activities.kernel.acting import Acting
from activities.record.chain import EventChain
from activities.record.effects import Effects
from activities.record.ledger import Ledger
from activities.record.store import now_ms
from tests.kernel.gated import TENANT, Forge, Server, gated
from tests.kernel.test_gate import FETCH, SEAL
from tests.policy.running import RunningOpa
from tests.record.postgres import Postgres, running_postgres


class Outage:
    """Kills the server in the middle of the first call and starts it again a moment later."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._starting: threading.Thread | None = None

    def __call__(self, name: str, who: Acting) -> None:
        if name == "seal" and self._starting is None:
            self._server.kill()
            self._starting = threading.Thread(target=self._start)
            self._starting.start()

    def _start(self) -> None:
        time.sleep(1.5)
        self._server.start()

    def wait(self) -> None:
        assert self._starting is not None
        self._starting.join(60)


@pytest.mark.parametrize("killed", [False, True])
def test_effects_survive_the_death_of_the_store(server: Server, opa: RunningOpa, folder: Path, killed: bool) -> None:
    async def scenario() -> None:
        with running_postgres() as postgres:
            outage = Outage(postgres)
            forge = Forge(trouble=outage) if killed else Forge()
            url = postgres.url(postgres.database())
            async with gated(server, folder, opa.engine, forge, url=url) as it:
                handle = await it.start("Remediation", FETCH, SEAL, FETCH)
                results = await asyncio.wait_for(handle.result(), timeout=120)
                assert ["ok" in result for result in results] == [True, True, True]
                if killed:
                    outage.wait()
                tenant, session = it.store.tenant(TENANT), handle.first_execution_run_id or ""
                [seal] = {who.effect_key for name, who in it.forge.calls if name == "seal"}
                stored = Effects(tenant).get(seal)
                assert stored is not None and stored.outcome == "succeeded" and Effects(tenant).count(seal) == 1
                assert list(EventChain(tenant).verify(session)) == list(EventChain(tenant).verify("tenant")) == []
                assert Ledger(tenant).reconcile(now_ms()).differences == ()

    asyncio.run(scenario())


def test_a_store_that_dies_again_and_again_between_any_steps(server: Server, opa: RunningOpa, folder: Path) -> None:
    async def scenario() -> None:
        with running_postgres() as postgres:
            url = postgres.url(postgres.database())
            async with gated(server, folder, opa.engine, url=url) as it:
                handles = [await it.start("Remediation", SEAL, FETCH, SEAL, FETCH) for _ in range(6)]
                for pause in (0.15, 0.4, 0.9):
                    await asyncio.sleep(pause)
                    await asyncio.to_thread(postgres.kill)
                    await asyncio.to_thread(postgres.start)
                for handle in handles:
                    results = await asyncio.wait_for(handle.result(), timeout=120)
                    assert ["ok" in result for result in results] == [True] * 4
                tenant = it.store.tenant(TENANT)
                effects = {who.effect_key for name, who in it.forge.calls if name == "seal"}
                assert len(effects) == 12 and all(Effects(tenant).count(key) == 1 for key in effects)
                chain = EventChain(tenant)
                assert all(list(chain.verify(session)) == [] for session in chain.sessions())
                assert Ledger(tenant).reconcile(now_ms()).differences == ()

    asyncio.run(scenario())
