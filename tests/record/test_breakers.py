"""The shared row of a breaker: seen by all workers, written only when something changes, and every phase an event."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from activities.record.breakers import Breakers
from activities.record.chain import EventChain
from activities.record.store import Store, TenantStore
from schemas.breaker import BreakerKind, BreakerRule, BreakerState
from schemas.error import InputError, Refused
from schemas.event import Actor
from schemas.task import TENANT_CHAIN

THRESHOLDS: Mapping[BreakerKind, BreakerRule] = {
    "tool": BreakerRule(threshold=3, cooldown_ms=180_000),
    "server": BreakerRule(threshold=2, cooldown_ms=300_000),
}
TOOL, SERVER = "acme:tool:testbed.run_tests", "acme:server:sandbox"


@pytest.fixture
def tenant(store: Store) -> TenantStore:
    return store.tenant("acme")


@pytest.fixture
def breakers(tenant: TenantStore) -> Breakers:
    return Breakers(tenant, THRESHOLDS)


def fail(store: TenantStore, breakers: Breakers, scope: str, times: int, now_ms: int = 0) -> BreakerState | None:
    def run(connection: Connection) -> BreakerState | None:
        return [breakers.settle(connection, scope, f"a{number}", False, "X", now_ms) for number in range(times)][-1]

    return store.write(run)


def changes(store: TenantStore) -> list[dict[str, Any]]:
    return [payload for event, payload in EventChain(store).read(TENANT_CHAIN) if event.kind == "breaker.changed"]


def test_what_never_failed_is_admitted_and_leaves_no_row(tenant: TenantStore, breakers: Breakers) -> None:
    def run(connection: Connection) -> str:
        decision = breakers.admit(connection, TOOL, "a", 0).decision
        assert breakers.settle(connection, TOOL, "a", True, "", 1) is None
        assert breakers.settle(connection, TOOL, "a", None, "", 1) is None
        return decision

    assert tenant.write(run) == "allow"
    assert breakers.all() == []


def test_each_kind_of_scope_opens_at_its_own_threshold(tenant: TenantStore, breakers: Breakers) -> None:
    fail(tenant, breakers, TOOL, 2)
    fail(tenant, breakers, SERVER, 2)
    assert {state.scope_key: state.phase for state in breakers.all()} == {TOOL: "closed", SERVER: "open"}


def test_an_outage_is_told_by_its_events(tenant: TenantStore, breakers: Breakers) -> None:
    fail(tenant, breakers, SERVER, 2, now_ms=1_000)

    def recover(connection: Connection) -> None:
        assert breakers.admit(connection, SERVER, "early", 2_000).decision == "refused"
        assert breakers.admit(connection, SERVER, "probe", 301_000).decision == "probe"
        breakers.settle(connection, SERVER, "probe", False, "SANDBOX_START_FAILED", 302_000)
        assert breakers.admit(connection, SERVER, "probe2", 602_000).decision == "probe"
        breakers.settle(connection, SERVER, "probe2", True, "", 603_000)

    tenant.write(recover)
    told = changes(tenant)
    assert [(one["from"], one["to"]) for one in told] == [
        ("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("open", "half_open"), ("half_open", "closed"),
    ]  # fmt: skip
    assert told[-1]["mttr_ms"] == 602_000
    assert breakers.recoveries() == [(SERVER, 1_000, 602_000)]
    assert EventChain(tenant).verify(TENANT_CHAIN) == []


def test_a_clean_success_writes_nothing_and_a_success_after_failures_forgets_them(
    tenant: TenantStore, breakers: Breakers
) -> None:
    fail(tenant, breakers, TOOL, 2)
    changed = tenant.write(lambda connection: breakers.settle(connection, TOOL, "b", True, "", 5))
    assert changed is not None and changed.failure_count == 0
    assert tenant.write(lambda connection: breakers.settle(connection, TOOL, "c", True, "", 6)) is None
    assert changes(tenant) == []


def test_a_refusal_rolls_the_probe_back_with_its_transaction(tenant: TenantStore, breakers: Breakers) -> None:
    fail(tenant, breakers, SERVER, 2)

    def refused(connection: Connection) -> None:
        assert breakers.admit(connection, SERVER, "probe", 300_000).decision == "probe"
        raise Refused("BUDGET", "no money")

    with pytest.raises(Refused):
        tenant.write(refused)
    assert breakers.all()[0].phase == "open"


def test_an_operator_resets_it_under_his_name_and_with_the_thresholds_of_now(tenant: TenantStore, breakers: Breakers) -> None:
    fail(tenant, breakers, TOOL, 3)
    stricter = Breakers(tenant, {"tool": BreakerRule(threshold=1, cooldown_ms=5)})
    state = stricter.reset(TOOL, "the disk was full", Actor(principal_id="ann", kind="human"), 99)
    assert (state.phase, state.threshold, state.cooldown_ms) == ("closed", 1, 5)
    event = [event for event, _ in EventChain(tenant).read(TENANT_CHAIN)][-1]
    assert event.actor.principal_id == "ann"
    assert changes(tenant)[-1]["reason"] == "the disk was full"


def test_a_scope_that_never_failed_cannot_be_reset(breakers: Breakers) -> None:
    with pytest.raises(InputError, match="BREAKER_UNKNOWN"):
        breakers.reset(TOOL, "why", Actor(principal_id="ann", kind="human"), 0)


def test_another_tenants_breaker_can_be_neither_asked_nor_settled(store: Store, breakers: Breakers) -> None:
    other = store.tenant("globex")
    fail(store.tenant("acme"), breakers, TOOL, 3)
    theirs = Breakers(other, THRESHOLDS)
    assert theirs.all() == []
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        other.write(lambda connection: theirs.admit(connection, TOOL, "a", 0))
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        other.write(lambda connection: theirs.settle(connection, TOOL, "a", False, "X", 0))


_WORKER = """
import json, sys, time
from activities.record.breakers import Breakers
from activities.record.store import Store
from schemas.breaker import BreakerRule
url, name, begin = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = Store.open(url).tenant("acme")
breakers = Breakers(store, {"server": BreakerRule(threshold=4, cooldown_ms=1)})
scope = "acme:server:sandbox"
time.sleep(max(0, begin - time.time()))
store.write(lambda connection: breakers.settle(connection, scope, name, False, "X", 1_000))
while breakers.all()[0].phase == "closed":
    time.sleep(0.01)
decisions = [
    store.write(lambda connection: breakers.admit(connection, scope, f"{name}/{i}", 2_000 + i, probe_ms=10_000)).decision
    for i in range(20)
]
print(json.dumps(decisions))
"""


def test_of_four_processes_that_share_an_outage_exactly_one_gets_the_probe(store: Store, url: str) -> None:
    begin = str(time.time() + 2)
    command = [sys.executable, "-c", _WORKER, url]
    root = str(Path(__file__).parents[2])
    workers = [
        subprocess.Popen([*command, f"w{number}", begin], stdout=subprocess.PIPE, text=True, cwd=root) for number in range(4)
    ]
    decisions = [one for worker in workers for one in json.loads(worker.communicate(timeout=60)[0])]
    assert sorted(set(decisions)) == ["probe", "refused"]
    assert decisions.count("probe") == 1
    told = changes(store.tenant("acme"))
    assert [one["to"] for one in told] == ["open", "half_open"]


def test_a_row_of_the_wrong_shape_is_noticed(tenant: TenantStore, breakers: Breakers) -> None:
    fail(tenant, breakers, TOOL, 1)
    tenant.write(lambda connection: connection.execute(text("UPDATE breaker SET phase = 'ajar'")))
    with pytest.raises(ValueError, match="phase"):
        breakers.all()
