"""A worker's start makes what its tenant needs, once; what an administrator changed stays changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from activities.control.seeding import ensure_tenant, packaged_roles
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.store import Store
from schemas.capabilities import CAPABILITIES
from schemas.error import Refused
from schemas.event import Actor
from schemas.identity import Role, covers
from schemas.task import TENANT_CHAIN
from tests.record.templates import new_sqlite

DIGEST = "sha256:" + "a" * 64
ADMIN = Actor(principal_id="admin", kind="human")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(new_sqlite(tmp_path / "store.db"))
    yield opened
    opened.close()


def seed(store: Store, *, namespace: str = "default", digest: str = DIGEST, uid: int = 1000, tenant: str = "local") -> str:
    return ensure_tenant(store.tenant(tenant), namespace, packaged_roles(), digest, uid, 1_000)


def events(store: Store, tenant: str = "local") -> int:
    return len(list(EventChain(store.tenant(tenant)).read(TENANT_CHAIN)))


def test_a_first_start_makes_people_roles_and_policies(store: Store) -> None:
    assert seed(store) == "operator"
    directory = Directory(store.tenant("local"))
    assert directory.roles("operator") == ("auditor", "operator", "release_captain", "tenant_admin")
    assert {(one.principal_id, one.kind, one.subject) for one in directory.principals()} == {
        ("operator", "human", "1000"), ("gen4", "engine", "gen4"),
    }  # fmt: skip
    assert directory.roles("gen4") == ("operator",)
    assert {policy.role for policy in directory.policies()} == set(get_args(Role))


def test_later_starts_write_nothing(store: Store) -> None:
    seed(store)
    before = events(store)
    threads = [threading.Thread(target=seed, args=(store,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events(store) == before


def test_what_an_administrator_changed_survives_a_restart(store: Store) -> None:
    seed(store)
    directory = Directory(store.tenant("local"))
    directory.revoke("operator", "release_captain", ADMIN)
    directory.set_principal_status("gen4", "suspended", "", ADMIN, 2_000)
    directory.set_tenant_status("suspended", "unpaid", ADMIN, 2_000)
    seed(store)
    tenant, engine = directory.tenant(), directory.principal("gen4")
    assert tenant is not None and engine is not None
    assert (tenant.status, engine.status) == ("suspended", "suspended")
    assert "release_captain" not in directory.roles("operator")


def test_another_policy_is_bound_and_recorded(store: Store) -> None:
    seed(store)
    before = events(store)
    seed(store, digest="sha256:" + "b" * 64)
    assert {policy.policy_digest for policy in Directory(store.tenant("local")).policies()} == {"sha256:" + "b" * 64}
    assert events(store) == before + 1


def test_a_namespace_of_another_tenant_stops_the_start(store: Store) -> None:
    seed(store)
    with pytest.raises(Refused, match="NAMESPACE_TAKEN") as refused:
        seed(store, tenant="other")
    assert not refused.value.retryable
    assert Directory(store.tenant("other")).principals() == []
    seed(store, tenant="other", namespace="other")


def test_a_home_with_another_owner_has_another_operator(store: Store) -> None:
    seed(store, uid=0)
    assert seed(store, uid=1000) == seed(store, uid=1000) == "operator-1000"
    assert seed(store, uid=0) == "operator"


def test_the_operator_reaches_every_capability_and_others_what_their_name_says() -> None:
    roles = packaged_roles()

    def reach(role: Role) -> set[str]:
        policy = roles[role]
        return {
            one.id for one in CAPABILITIES.values()
            if covers(policy.capability_prefixes, one.id) and one.side_effect in policy.allowed_actions
        }  # fmt: skip

    assert reach("operator") == set(CAPABILITIES)
    assert "forge.deliver" not in reach("implementer") | reach("verifier") | reach("reviewer") | reach("localizer")
    assert reach("auditor") == reach("tenant_admin") == set()
    assert reach("release_captain") == {"control.judge_decision", "control.redeem_approval", "forge.deliver"}
