"""Who turned which switch, what it covers, and that nobody reaches another tenant with it."""

from __future__ import annotations

import pytest

from activities.record.chain import EventChain
from activities.record.kill_switches import KillSwitches
from activities.record.store import Store, TenantStore
from schemas.error import InputError
from schemas.event import Actor
from schemas.kill_switch import EVERYONE, KillScope, KillSwitch
from schemas.task import TENANT_CHAIN

ANN = Actor(principal_id="ann", kind="human")
CALL = ("session-1", "testbed.run_tests")


@pytest.fixture
def tenant(store: Store) -> TenantStore:
    return store.tenant("acme")


@pytest.fixture
def switches(tenant: TenantStore) -> KillSwitches:
    return KillSwitches(tenant)


def covering(store: TenantStore, *call: str) -> KillSwitch | None:
    session_id, capability_id = call or CALL
    return store.read(lambda connection: KillSwitches(store).covering(connection, session_id, capability_id))


@pytest.mark.parametrize(
    ("scope", "target", "spared"),
    [
        ("session", "session-1", ("session-2", "testbed.run_tests")),
        ("capability", "testbed.run_tests", ("session-1", "forge.deliver")),
        ("tenant", "", None),
        ("everything", "", None),
    ],
)
def test_a_switch_covers_what_it_names_and_nothing_else(
    tenant: TenantStore, switches: KillSwitches, scope: KillScope, target: str, spared: tuple[str, str] | None
) -> None:
    assert covering(tenant) is None
    switch = switches.set(scope, target, True, "leak", ANN, 1)
    assert covering(tenant) == switch
    assert switch.covers("acme", *CALL)
    if spared is not None:
        assert covering(tenant, *spared) is None
        assert not switch.covers("acme", *spared)
    off = switches.set(scope, target, False, "mended", ANN, 2)
    assert covering(tenant) is None
    assert not off.covers("acme", *CALL)


def test_the_widest_switch_is_named(tenant: TenantStore, switches: KillSwitches) -> None:
    switches.set("session", "session-1", True, "narrow", ANN, 1)
    switches.set("tenant", "", True, "wide", ANN, 1)
    found = covering(tenant)
    assert found is not None and found.reason == "wide"


def test_another_tenants_switch_is_invisible_and_covers_nothing(store: Store, switches: KillSwitches) -> None:
    other = store.tenant("globex")
    switches.set("tenant", "", True, "ours", ANN, 1)
    switch = switches.set("session", "session-1", True, "ours", ANN, 1)
    assert covering(other) is None
    assert KillSwitches(other).active() == []
    assert not switch.covers("globex", *CALL)


def test_everything_means_every_tenant(store: Store, switches: KillSwitches) -> None:
    switch = switches.set("everything", "", True, "host compromised", ANN, 1)
    other = store.tenant("globex")
    assert covering(other) == switch
    assert KillSwitches(other).active() == [switch]
    assert switch.tenant_id == EVERYONE and switch.covers("globex", *CALL)


def test_every_change_is_an_event_with_actor_reason_and_epoch(tenant: TenantStore, switches: KillSwitches) -> None:
    switches.set("tenant", "", True, "leak", ANN, 10)
    switches.set("tenant", "", True, "said twice", ANN, 11)
    switches.set("tenant", "", False, "mended", Actor(principal_id="bob", kind="human"), 12)
    told = [
        (event.actor.principal_id, payload["active"], payload["reason"], payload["epoch"])
        for event, payload in EventChain(tenant).read(TENANT_CHAIN)
        if event.kind == "killswitch.changed"
    ]
    assert told == [("ann", True, "leak", 1), ("bob", False, "mended", 2)]


@pytest.mark.parametrize(("scope", "target"), [("session", ""), ("capability", ""), ("tenant", "x"), ("everything", "x")])
def test_a_target_is_named_exactly_where_there_is_one(switches: KillSwitches, scope: KillScope, target: str) -> None:
    with pytest.raises(InputError, match="KILL_TARGET"):
        switches.set(scope, target, True, "why", ANN, 1)


def test_a_switch_is_not_turned_without_a_reason(switches: KillSwitches) -> None:
    with pytest.raises(InputError, match="KILL_REASON"):
        switches.set("tenant", "", True, "  ", ANN, 1)


def test_targets_are_compared_byte_by_byte(tenant: TenantStore, switches: KillSwitches) -> None:
    switches.set("capability", "Testbed.run_tests", True, "why", ANN, 1)
    assert covering(tenant) is None
