"""Of everything that can be wrong with who acts, the first in the contract's order decides, and nothing is normalised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import (
    LEASE_TTL_MS,
    REMEDIES,
    IdentityFacts,
    IdentityRefusal,
    PolicyBinding,
    Principal,
    RoleBinding,
    Starter,
    Tenant,
    Wanted,
    covers,
    issue_lease,
    judge_bearer,
    judge_holder,
    judge_identity,
    judge_starter,
    needs_reissue,
    principal_of,
    reissue_lease,
)

NOW = 1_000_000
WANTED = Wanted(
    tenant_id="acme", session_id="session", principal_id="alice", role="operator", capability_id="explore.repair",
    side_effect="write", generation=1, memory_mb=2048, tokens=100,
)  # fmt: skip
GOOD: dict[str, Any] = {
    "tenant": Tenant(tenant_id="acme", name="Acme"),
    "principal": Principal(principal_id="alice", tenant_id="acme", kind="human", issuer="local", subject="1000"),
    "binding": RoleBinding(tenant_id="acme", principal_id="alice", role="operator", granted_by="admin"),
    "policy": PolicyBinding(
        policy_id="operator", tenant_id="acme", role="operator", allowed_actions=("none", "read", "write"),
        capability_prefixes=("control.open_session", "explore."), path_tier_max="T2", autonomy_tier="A1", max_memory_mb=2048,
        max_tokens=100, policy_digest="sha256:" + "a" * 64,
    ),
    "lease": issue_lease("acme", "session", "alice", "operator", NOW - 1),
}  # fmt: skip

FAULTS: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "TENANT_INACTIVE",
        [{"tenant": None}, {"tenant.status": "suspended"}, {"tenant.status": "closed"}, {"tenant.tenant_id": "b"}],
    ),
    ("PRINCIPAL_UNKNOWN", [{"principal": None}, {"principal.principal_id": "bob"}]),
    ("PRINCIPAL_INACTIVE", [{"principal.status": "suspended"}, {"principal.status": "closed"}]),
    ("PRINCIPAL_FOREIGN", [{"principal.tenant_id": "b"}]),
    ("ROLE_UNBOUND", [{"binding": None}, {"binding.tenant_id": "b"}, {"binding.principal_id": "bob"}]),
    ("POLICY_UNBOUND", [{"policy": None}, {"policy.tenant_id": "b"}]),
    ("ROLE_MISMATCH", [{"policy.role": "verifier"}, {"binding.role": "auditor"}]),
    ("LEASE_MISSING", [{"lease": None}]),
    ("LEASE_REVOKED", [{"lease.revoked_at_ms": NOW - 1}, {"lease.revoked_at_ms": NOW + 9}]),
    ("LEASE_EXPIRED", [{"lease.expires_at_ms": NOW}, {"lease.expires_at_ms": 0}]),
    ("LEASE_STALE", [{"lease.generation": 2}, {"lease.generation": 0}]),
    (
        "LEASE_MISMATCH",
        [{f"lease.{name}": "x"} for name in ("tenant_id", "session_id", "principal_id", "policy_id")],
    ),
    ("CAPABILITY_NOT_LEASED", [{"policy.capability_prefixes": ()}, {"policy.capability_prefixes": ("explore.rep", "Explore.")}]),
    ("ACTION_NOT_LEASED", [{"policy.allowed_actions": ()}, {"policy.allowed_actions": ("Write", "read")}]),
    ("MEMORY_ABOVE_POLICY", [{"policy.max_memory_mb": 2047}]),
    ("TOKENS_ABOVE_POLICY", [{"policy.max_tokens": 99}]),
]
"""In the order of contracts §3; each with the facts that break it, and nothing else."""


def broken(*changes: dict[str, Any]) -> IdentityFacts:
    """Good facts with parts or fields of parts changed. What is missing stays missing."""
    parts = dict(GOOD)
    for change in changes:
        for path, value in change.items():
            name, _, field = path.partition(".")
            if not field:
                parts[name] = value
            elif parts[name] is not None:
                parts[name] = parts[name].model_copy(update={field: value})
    return IdentityFacts(**parts)


def test_good_facts_pass() -> None:
    assert judge_identity(broken(), WANTED, NOW) is judge_bearer(broken(), WANTED, NOW) is None
    assert judge_holder(broken(), WANTED) is None


@pytest.mark.parametrize(("code", "change"), [(code, change) for code, changes in FAULTS for change in changes], ids=str)
def test_each_broken_fact_has_its_code_and_a_remedy(code: str, change: dict[str, Any]) -> None:
    refused = judge_identity(broken(change), WANTED, NOW)
    assert refused is not None and refused.code == code and refused.message and refused.remedy == REMEDIES[code]


@given(st.data())
def test_of_several_broken_facts_the_first_decides(data: st.DataObject) -> None:
    chosen = sorted(data.draw(st.sets(st.integers(0, len(FAULTS) - 1), min_size=1)))
    # A row that is missing hides what is wrong in it, so missing rows are taken where they come first only.
    changes = [data.draw(st.sampled_from(FAULTS[chosen[0]][1]))]
    for number in chosen[1:]:
        within = [change for change in FAULTS[number][1] if not _touches(change, changes) and None not in change.values()]
        changes += [data.draw(st.sampled_from(within))] if within else []
    refused = judge_identity(broken(*changes), WANTED, NOW)
    assert refused is not None and refused.code == FAULTS[chosen[0]][0]


def _touches(change: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    """A later fault must not repair the first one by overwriting its field."""
    return any(path in other or path.partition(".")[0] in other for other in others for path in change)


def test_parts_judge_their_part_alone() -> None:
    for code, changes in FAULTS:
        of_lease, of_call = code.startswith("LEASE_"), code.endswith(("NOT_LEASED", "ABOVE_POLICY"))
        for change in changes:
            holder = judge_holder(broken(change), WANTED)
            assert (holder.code if holder else None) == (None if of_lease or of_call else code)
            bearer = judge_bearer(broken(change), WANTED, NOW)
            assert (bearer.code if bearer else None) == (None if of_call else code)


@pytest.mark.parametrize("field", ["tenant_id", "session_id", "principal_id", "role", "side_effect"])
@given(
    suffix=st.sampled_from([" ", "\u200b", "\n", "\x00", "\u0301", "/", "."]), upper=st.booleans(), front=st.booleans()
)
def test_a_variant_of_an_id_is_another_id(field: str, suffix: str, upper: bool, front: bool) -> None:
    good = getattr(WANTED, field)
    variant = good.upper() if upper else suffix + good if front else good + suffix
    assert judge_identity(broken(), WANTED.model_copy(update={field: variant}), NOW) is not None


@pytest.mark.parametrize(
    "id",
    [
        "EXPLORE.repair", "Explore.repair", " explore.repair", "explore\u2024repair", "explore", "\ufeffexplore.repair",
        "control.open_session2", "control.",
    ],
)  # fmt: skip
def test_a_variant_of_a_capability_is_not_covered(id: str) -> None:
    refused = judge_identity(broken(), WANTED.model_copy(update={"capability_id": id}), NOW)
    assert refused is not None and refused.code == "CAPABILITY_NOT_LEASED"


@given(st.text(max_size=12), st.lists(st.text(max_size=6)))
def test_nothing_covers_everything(id: str, prefixes: list[str]) -> None:
    assert not covers((), id) and not covers(("", "."), "explore.repair")
    if covers(tuple(prefixes), id):
        assert any(id == prefix or (prefix.endswith(".") and id.startswith(prefix)) for prefix in prefixes)


# --- leases ----------------------------------------------------------------------------------------------------------


@given(now=st.integers(0, 2**48), waits=st.lists(st.integers(0, 3 * LEASE_TTL_MS), max_size=8))
def test_a_lease_is_issued_again_only_when_it_expired_and_fences_the_one_before(now: int, waits: list[int]) -> None:
    lease = issue_lease("acme", "session", "alice", "operator", now)
    seen = {lease.lease_id}
    for wait in waits:
        now += wait
        if not needs_reissue(lease, now):
            assert judge_identity(broken({"lease": lease}), WANTED.model_copy(update={"generation": None}), now) is None
            continue
        held, lease = lease, reissue_lease(lease, now)
        assert (lease.generation, lease.expires_at_ms) == (held.generation + 1, now + LEASE_TTL_MS)
        assert lease.lease_id not in seen and not needs_reissue(lease, now)
        seen.add(lease.lease_id)
        stale = judge_identity(broken({"lease": lease}), WANTED.model_copy(update={"generation": held.generation}), now)
        assert stale is not None and stale.code == "LEASE_STALE"


def test_a_revoked_lease_is_never_issued_again() -> None:
    lease = GOOD["lease"].model_copy(update={"revoked_at_ms": NOW})
    assert not needs_reissue(lease, NOW + 10 * LEASE_TTL_MS)
    with pytest.raises(ValueError, match="revoked"):
        reissue_lease(lease, NOW)


# --- whose run it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "scheduled_by", "mode", "expected"),
    [
        (("", ""), "", "embedded", Starter(kind="operator")),
        (("", ""), "reaper", "embedded", Starter(kind="schedule", name="reaper")),
        (("jwt", "alice"), "", "server", Starter(kind="stamped", name="alice")),
        (("jwt", "alice"), "reaper", "server", Starter(kind="stamped", name="alice")),  # nobody borrows a schedule's owner
        (("temporal", "internal"), "reaper", "server", Starter(kind="schedule", name="reaper")),
        (("temporal", "internal"), "", "server", None),
        (("", ""), "", "server", None),
        (("", ""), "reaper", "server", None),
        (("jwt", ""), "", "server", None),
        (("JWT", "alice"), "", "server", None),
        (("mtls", "alice"), "", "server", None),
    ],
)
def test_who_started_a_run(stamp: tuple[str, str], scheduled_by: str, mode: Any, expected: Starter | None) -> None:
    found = principal_of(*stamp, scheduled_by, mode)
    if expected is not None:
        assert found == expected
    else:
        assert isinstance(found, IdentityRefusal) and found.code == "PRINCIPAL_UNKNOWN"


@given(st.text(), st.text(), st.text())
def test_a_server_start_is_never_the_local_operators(kind: str, name: str, scheduled_by: str) -> None:
    found = principal_of(kind, name, scheduled_by, "server")
    assert isinstance(found, IdentityRefusal) or found.kind != "operator"


def test_the_fabric_itself_starts_only_its_own_operations() -> None:
    engine = GOOD["principal"].model_copy(update={"kind": "engine"})
    for phase in ("control", "explore", "compile", "release"):
        refused = judge_starter(engine, phase)
        assert refused is not None and refused.code == "ROLE_MISMATCH"
        assert judge_starter(GOOD["principal"], phase) is judge_starter(None, phase) is None
    assert judge_starter(engine, "operations") is None
