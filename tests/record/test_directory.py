"""Tenants, principals and bindings: made once, changed on record, and seen by their own tenant alone."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import Connection

from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.leases import Leases
from activities.record.store import Store
from schemas.error import InputError, Refused
from schemas.event import Actor
from schemas.identity import IdentityRefusal, PolicyBinding, Principal, Role, Starter, Tenant
from schemas.task import TENANT_CHAIN, TraceKeys

BY = Actor(principal_id="uid:1000", kind="human")
KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")


def tenant(tenant_id: str = "acme", **changes: Any) -> Tenant:
    return Tenant(tenant_id=tenant_id, name=tenant_id).model_copy(update=changes)


def principal(principal_id: str = "alice", tenant_id: str = "acme", **changes: Any) -> Principal:
    made = Principal(
        principal_id=principal_id, tenant_id=tenant_id, kind="human", issuer="https://id.example", subject=f"sub-{principal_id}"
    )
    return made.model_copy(update=changes)


def policy(role: Role = "operator", tenant_id: str = "acme", **changes: Any) -> PolicyBinding:
    made = PolicyBinding(
        policy_id=role, tenant_id=tenant_id, role=role, allowed_actions=("none", "read"), capability_prefixes=("explore.",),
        path_tier_max="T2", autonomy_tier="A1", max_memory_mb=2048, max_tokens=16_000, policy_digest="sha256:" + "a" * 64,
    )  # fmt: skip
    return made.model_copy(update=changes)


@pytest.fixture
def directory(store: Store) -> Directory:
    made = Directory(store.tenant("acme"))
    made.put_tenant(tenant(), BY, 1)
    return made


def changes(store: Store) -> list[dict[str, Any]]:
    """What the tenant's chain says was changed."""
    return [payload for event, payload in EventChain(store.tenant("acme")).read(TENANT_CHAIN) if event.kind == "config.changed"]


def test_every_change_is_on_record_once(store: Store, directory: Directory) -> None:
    for _ in range(2):  # the second time nothing changes
        directory.put_tenant(tenant(), BY, 2)
        directory.put_principal(principal(), BY, 2)
        directory.grant("alice", "operator", BY, 2)
        directory.bind_policies([policy()], BY, 2)
        directory.bind_namespace("acme-production", BY, 2)
        directory.own_schedule("reaper", "alice", BY, 2)
    assert [change["what"] for change in changes(store)] == ["tenant", "principal", "role", "policies", "namespace", "schedule"]
    assert EventChain(store.tenant("acme")).verify(TENANT_CHAIN) == []
    directory.set_principal_status("alice", "suspended", "left the team", BY, 3)
    directory.revoke("alice", "operator", BY)
    assert changes(store)[-2]["after"] == {"status": "suspended", "reason": "left the team"}
    assert changes(store)[-1] == {"what": "role", "name": "alice", "before": {"role": "operator"}, "after": None}


def test_what_is_suspended_stays_so_when_it_is_put_again(directory: Directory) -> None:
    directory.put_principal(principal(), BY, 2)
    directory.set_principal_status("alice", "suspended", "", BY, 3)
    directory.set_tenant_status("suspended", "", BY, 3)
    assert directory.put_principal(principal(), BY, 4)[0].status == "suspended"
    assert directory.put_tenant(tenant(), BY, 4).status == "suspended"
    assert directory.set_tenant_status("active", "", BY, 5) == directory.tenant() == tenant()


def test_one_id_is_one_principal(directory: Directory) -> None:
    directory.put_principal(principal(), BY, 2)
    for other in (principal(subject="other"), principal(kind="agent"), principal("bob", subject="sub-alice")):
        with pytest.raises(Refused, match="ID_CONFLICT"):
            directory.put_principal(other, BY, 3)
    assert directory.principals() == [principal()]
    with pytest.raises(Refused, match="ID_CONFLICT"):
        directory.put_tenant(tenant(name="another"), BY, 3)


@pytest.mark.parametrize(
    "other", ["Alice", "alice ", " alice", "ALICE", "alic\u0435", "alice\u200b", "a\u0301lice", "", "alice\x00"]
)
def test_ids_are_found_byte_by_byte(directory: Directory, other: str) -> None:
    directory.put_principal(principal(issuer="Issuer", subject="alice"), BY, 2)
    assert directory.principal_by("Issuer", other) is None and directory.principal_by("issuer", "alice") is None
    if "\x00" not in other:
        assert directory.principal(other) is None and directory.facts(None, other, "operator").principal is None


@pytest.mark.parametrize(
    "odd",
    [
        {"principal_id": ""}, {"principal_id": "al ice"}, {"principal_id": "alic\u0435"}, {"principal_id": "a" * 257},
        {"principal_id": "alice\n"}, {"subject": ""}, {"subject": " x"}, {"subject": "x\u200b"}, {"subject": "x" * 513},
        {"issuer": "a\x1b[31m"},
    ],
)  # fmt: skip
def test_odd_ids_are_not_registered(directory: Directory, odd: dict[str, str]) -> None:
    with pytest.raises(InputError, match="PRINCIPAL_INVALID"):
        directory.put_principal(principal(**odd), BY, 2)
    assert directory.principals() == []


@pytest.mark.parametrize("odd", ["*", "../acme", ".", "a/b", "a b", "t\u00e9nant", "acme\n", "x" * 64 + "y"])
def test_odd_tenants_are_not_registered(store: Store, odd: str) -> None:
    with pytest.raises(InputError, match="TENANT_INVALID"):
        Directory(store.tenant(odd)).put_tenant(tenant(odd), BY, 1)


def test_a_namespace_belongs_to_one_tenant(store: Store, directory: Directory) -> None:
    directory.bind_namespace("shared", BY, 2)
    other = Directory(store.tenant("other"))
    with pytest.raises(Refused, match="NAMESPACE_TAKEN"):
        other.bind_namespace("shared", BY, 3)
    other.bind_namespace("Shared", BY, 3)
    directory.bind_namespace("shared", BY, 4)


def test_a_tenant_sees_only_its_own(store: Store, directory: Directory) -> None:
    directory.put_principal(principal(), BY, 2)
    directory.grant("alice", "operator", BY, 2)
    directory.bind_policies([policy()], BY, 2)
    directory.own_schedule("reaper", "alice", BY, 2)
    Leases(store.tenant("acme")).issue(None, KEYS, "alice", "operator", 2)
    other = Directory(store.tenant("other"))
    other.put_tenant(tenant("other"), BY, 2)
    assert (other.principals(), other.policies(), other.roles("alice")) == ([], [], ())
    assert (other.principal("alice"), other.principal_by("https://id.example", "sub-alice")) == (None, None)
    assert other.schedule_owner("reaper") is None
    seen = other.facts(None, "alice", "operator", "session")
    assert (seen.tenant, seen.principal, seen.binding, seen.policy, seen.lease) == (tenant("other"), None, None, None, None)
    other.put_principal(principal("alice", "other", subject="another alice"), BY, 3)
    assert directory.principal("alice") == principal()
    for foreign in (
        lambda: directory.put_principal(principal("mallory", "other"), BY, 3),
        lambda: directory.put_tenant(tenant("other"), BY, 3),
        lambda: directory.bind_policies([policy(tenant_id="other")], BY, 3),
    ):
        with pytest.raises(Refused, match="TENANT_MISMATCH"):
            foreign()


def test_facts_are_everything_at_once(store: Store, directory: Directory) -> None:
    directory.put_principal(principal(), BY, 2)
    directory.grant("alice", "operator", BY, 2)
    directory.bind_policies([policy(), policy("auditor")], BY, 2)
    leases = Leases(store.tenant("acme"))
    first = leases.issue(None, KEYS, "alice", "operator", 2)
    newest = leases.reissue(None, first, KEYS, first.expires_at_ms)
    facts = directory.facts(None, "alice", "operator", "session")
    assert (facts.tenant, facts.principal, facts.policy, facts.lease) == (tenant(), principal(), policy(), newest)
    assert facts.binding is not None and facts.binding.granted_by == BY.principal_id
    assert directory.facts(None, "alice", "verifier").binding is None
    assert directory.facts(None, "alice", "auditor").policy == policy("auditor")
    assert store.read(lambda connection: directory.facts(connection, "alice", "operator")).lease is None
    assert Directory(store.tenant("nobody")).facts(None, "alice", "operator").tenant is None


def test_policies_follow_what_is_bound(store: Store, directory: Directory) -> None:
    assert directory.bind_policies([policy(), policy("auditor")], BY, 2)
    assert not directory.bind_policies([policy("auditor"), policy()], BY, 3)
    changed = policy(policy_digest="sha256:" + "b" * 64, capability_prefixes=())
    assert directory.bind_policies([changed], BY, 4)
    assert directory.policies() == [changed]
    assert changes(store)[-1]["after"] == {"roles": ["operator"], "policy_digests": [changed.policy_digest]}


def test_nobody_locks_everybody_out(directory: Directory) -> None:
    for name in ("alice", "bob"):
        directory.put_principal(principal(name), BY, 2)
        directory.grant(name, "tenant_admin", BY, 2)
    directory.set_principal_status("bob", "suspended", "", BY, 3)
    for last in (
        lambda: directory.revoke("alice", "tenant_admin", BY),
        lambda: directory.set_principal_status("alice", "suspended", "", BY, 4),
    ):
        with pytest.raises(Refused, match="LAST_ADMIN"):
            last()
    directory.set_principal_status("bob", "active", "", BY, 5)
    assert directory.revoke("alice", "tenant_admin", BY) and not directory.revoke("alice", "tenant_admin", BY)


def test_what_is_unknown_or_closed_is_refused(directory: Directory) -> None:
    for unknown in (
        lambda: directory.grant("nobody", "operator", BY, 2),
        lambda: directory.revoke("nobody", "operator", BY),
        lambda: directory.set_principal_status("nobody", "active", "", BY, 2),
        lambda: directory.own_schedule("s", "nobody", BY, 2),
    ):
        with pytest.raises(Refused, match="PRINCIPAL_UNKNOWN"):
            unknown()
    directory.put_principal(principal(), BY, 2)
    directory.set_principal_status("alice", "closed", "", BY, 3)
    with pytest.raises(Refused, match="PRINCIPAL_INACTIVE"):
        directory.set_principal_status("alice", "active", "", BY, 4)
    directory.set_tenant_status("closed", "", BY, 5)
    with pytest.raises(Refused, match="TENANT_INACTIVE"):
        directory.set_tenant_status("active", "", BY, 6)


def test_who_started_a_run_is_looked_up(directory: Directory) -> None:
    directory.put_principal(principal("robot", issuer="temporal", subject="robot@example.org"), BY, 2)
    directory.own_schedule("gen4-reaper", "robot", BY, 2)
    assert directory.resolve(Starter(kind="operator"), "operator") == "operator"
    assert directory.resolve(Starter(kind="stamped", name="robot@example.org"), "operator") == "robot"
    assert directory.resolve(Starter(kind="schedule", name="gen4-reaper"), "operator") == "robot"
    for starter, code in (
        (Starter(kind="stamped", name="Robot@example.org"), "PRINCIPAL_UNKNOWN"),
        (Starter(kind="schedule", name="gen4-Reaper"), "SCHEDULE_UNREGISTERED"),
    ):
        refused = directory.resolve(starter, "operator")
        assert isinstance(refused, IdentityRefusal) and refused.code == code
    with pytest.raises(Refused, match="ID_CONFLICT"):
        directory.put_principal(principal("bob"), BY, 3)
        directory.own_schedule("gen4-reaper", "bob", BY, 3)


def test_workers_that_start_together_write_once(store: Store, url: str) -> None:
    results: list[bool] = []
    barrier = threading.Barrier(6)

    def start(opened: Store) -> None:
        mine = Directory(opened.tenant("acme"))

        def run(connection: Connection) -> bool:
            mine.put_tenant(tenant(), BY, 1, connection)
            _, new = mine.put_principal(principal(), BY, 1, connection)
            mine.grant("alice", "operator", BY, 1, connection)
            mine.bind_namespace("production", BY, 1, connection)
            mine.own_schedule("reaper", "alice", BY, 1, connection)
            mine.bind_policies([policy(), policy("auditor")], BY, 1, connection)
            return new

        barrier.wait()
        results.append(opened.tenant("acme").write(run))

    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(contextlib.closing(Store.open(url))) for _ in range(6)]
        threads = [threading.Thread(target=start, args=(opened,)) for opened in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [False] * 5 + [True]
    assert sorted(change["what"] for change in changes(store)) == [
        "namespace", "policies", "principal", "role", "schedule", "tenant",
    ]  # fmt: skip


def test_of_two_administrators_who_remove_each_other_one_stays(directory: Directory, url: str) -> None:
    for name in ("alice", "bob"):
        directory.put_principal(principal(name), BY, 2)
        directory.grant(name, "tenant_admin", BY, 2)
    barrier, codes = threading.Barrier(2), list[str]()

    def remove(opened: Store, name: str) -> None:
        barrier.wait()
        try:
            Directory(opened.tenant("acme")).revoke(name, "tenant_admin", BY)
        except Refused as refused:
            codes.append(refused.code)

    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(contextlib.closing(Store.open(url))) for _ in range(2)]
        threads = [threading.Thread(target=remove, args=pair) for pair in zip(stores, ("alice", "bob"), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == ["LAST_ADMIN"]
