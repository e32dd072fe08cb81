"""Leases: one newest per session, issued again by one of many, and gone at once when they are revoked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from activities.record.chain import EventChain
from activities.record.leases import Leases
from activities.record.store import Store
from schemas.error import Refused
from schemas.event import Actor
from schemas.identity import SessionLease, lease_id
from schemas.task import TraceKeys

TTL = 1_000
BY = Actor(principal_id="admin", kind="human")


def keys(session_id: str = "session", tenant_id: str = "acme") -> TraceKeys:
    return TraceKeys(tenant_id=tenant_id, trace_id="trace", session_id=session_id, task_id="task")


@pytest.fixture
def leases(store: Store) -> Leases:
    return Leases(store.tenant("acme"), ttl_ms=TTL)


def kinds(store: Store, session_id: str = "session") -> list[str]:
    return [event.kind for event, _ in EventChain(store.tenant("acme")).read(session_id)]


WORKERS, EACH = 5, 10


@pytest.fixture
def workers(url: str, store: Store) -> Iterator[list[Leases]]:
    """Several writers on one database, as several worker processes are."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(Store.open(url))) for _ in range(WORKERS)]
        yield [Leases(one.tenant("acme"), ttl_ms=TTL) for one in opened]


def at_once(workers: list[Leases], work: Callable[[Leases, int], SessionLease]) -> list[SessionLease]:
    """Fifty calls that start together; each has a number."""
    results: list[SessionLease] = []
    barrier = threading.Barrier(WORKERS * EACH)

    def run(leases: Leases, number: int) -> None:
        barrier.wait()
        results.append(work(leases, number))

    threads = [threading.Thread(target=run, args=(workers[number % WORKERS], number)) for number in range(WORKERS * EACH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == WORKERS * EACH
    return results


def test_a_session_has_one_lease(store: Store, leases: Leases) -> None:
    assert leases.newest(None, "session") is None
    made = leases.issue(None, keys(), "alice", "operator", 100)
    assert (made.generation, made.issued_at_ms, made.expires_at_ms) == (1, 100, 100 + TTL)
    assert leases.issue(None, keys(), "alice", "operator", 500) == made == leases.newest(None, "session")
    assert kinds(store) == ["lease.issued"]
    with pytest.raises(Refused, match="ID_CONFLICT"):
        leases.issue(None, keys(), "mallory", "operator", 500)


def test_of_fifty_issuers_one_wins(store: Store, leases: Leases, workers: list[Leases]) -> None:
    issued = at_once(workers, lambda mine, number: mine.issue(None, keys(), "alice", "operator", 100 + number))
    assert set(issued) == {leases.newest(None, "session")} and kinds(store) == ["lease.issued"]


def test_of_fifty_reissues_one_wins_and_all_adopt_it(store: Store, leases: Leases, workers: list[Leases]) -> None:
    first = leases.issue(None, keys(), "alice", "operator", 100)
    # Each would make another row: what is adopted is the winner's, not one's own.
    adopted = at_once(workers, lambda mine, number: mine.reissue(None, first, keys(), first.expires_at_ms + number))
    assert set(adopted) == {leases.newest(None, "session")} and adopted[0].generation == 2
    assert kinds(store) == ["lease.issued", "lease.issued"]
    assert list(EventChain(store.tenant("acme")).verify("session")) == []


def test_a_live_lease_is_not_issued_again(leases: Leases) -> None:
    first = leases.issue(None, keys(), "alice", "operator", 100)
    assert leases.reissue(None, first, keys(), first.expires_at_ms - 1) == first
    second = leases.reissue(None, first, keys(), first.expires_at_ms, policy_id="operator2")
    assert (second.generation, second.policy_id, second.principal_id) == (2, "operator2", "alice")
    assert leases.reissue(None, first, keys(), second.expires_at_ms + 9) == second  # the loser, much later
    assert leases.reissue(None, second, keys(), second.expires_at_ms).generation == 3


def test_issuing_joins_a_transaction(store: Store, leases: Leases) -> None:
    def fails(connection: object) -> None:
        leases.issue(connection, keys(), "alice", "operator", 100)  # type: ignore[arg-type]
        raise RuntimeError("later in the same transaction")

    with pytest.raises(RuntimeError, match="later"):
        store.tenant("acme").write(fails)
    assert leases.newest(None, "session") is None and kinds(store) == []


@pytest.mark.parametrize("now_ms", [200, 100 + TTL + 5], ids=["live", "expired"])
def test_a_revoked_lease_never_comes_back(store: Store, leases: Leases, now_ms: int) -> None:
    first = leases.issue(None, keys(), "alice", "operator", 100)
    revoked = leases.revoke(None, session_id="session", reason="stolen laptop", by=BY, now_ms=now_ms)
    assert [(lease.lease_id, lease.revoked_at_ms) for lease in revoked] == [(first.lease_id, now_ms)]
    with pytest.raises(Refused, match=r"LEASE_REVOKED: .*stolen laptop"):
        leases.reissue(None, first, keys(), 100 + TTL + 10)
    assert leases.issue(None, keys(), "alice", "operator", 300) == revoked[0]
    assert leases.revoke(None, session_id="session", reason="again", by=BY, now_ms=900) == []
    assert kinds(store) == ["lease.issued", "lease.revoked"]


@pytest.mark.parametrize(
    ("which", "gone"),
    [
        ({"lease_id": lease_id("a1", 1)}, {"a1"}),
        ({"session_id": "a2"}, {"a2"}),
        ({"principal_id": "alice"}, {"a1", "a2"}),
        ({"principal_id": "alice", "session_id": "b1"}, set()),
        ({"principal_id": "Alice"}, set()),
        ({}, {"a1", "a2", "b1"}),
    ],
)
def test_leases_are_revoked_by_what_they_belong_to(
    store: Store, leases: Leases, which: dict[str, str], gone: set[str]
) -> None:
    for session, principal in (("a1", "alice"), ("a2", "alice"), ("b1", "bob")):
        leases.issue(None, keys(session), principal, "operator", 100)
    foreign = Leases(store.tenant("other"), ttl_ms=TTL)
    kept = foreign.issue(None, keys("a1", "other"), "alice", "operator", 100)
    revoked = leases.revoke(None, reason="", by=BY, now_ms=200, **which)  # type: ignore[arg-type]
    assert {lease.session_id for lease in revoked} == gone
    assert {lease.session_id for lease in leases.all(live_at_ms=201)} == {"a1", "a2", "b1"} - gone
    assert all(kinds(store, session) == ["lease.issued", "lease.revoked"] for session in gone)
    assert foreign.newest(None, "a1") == kept


def test_the_fabrics_own_lease_is_not_revoked(leases: Leases) -> None:
    """Nothing could give its schedules the right to act again; suspending its principal stops them."""
    kept = leases.issue(None, keys("operations"), "gen4", "operator", 100)
    leases.issue(None, keys(), "alice", "operator", 100)
    assert [lease.session_id for lease in leases.revoke(None, reason="all", by=BY, now_ms=200)] == ["session"]
    for which in ({"lease_id": kept.lease_id}, {"session_id": "operations"}, {"principal_id": "gen4"}):
        assert leases.revoke(None, reason="", by=BY, now_ms=200, **which) == []  # type: ignore[arg-type]
    assert leases.newest(None, "operations") == kept


def test_an_older_generation_cannot_be_revoked_in_place_of_the_newest(leases: Leases) -> None:
    first = leases.issue(None, keys(), "alice", "operator", 100)
    second = leases.reissue(None, first, keys(), first.expires_at_ms)
    assert leases.revoke(None, lease_id=first.lease_id, reason="", by=BY, now_ms=3_000) == []
    assert leases.newest(None, "session") == second == leases.all()[0]


def test_revoking_races_with_issuing_again_and_wins(leases: Leases, workers: list[Leases]) -> None:
    later = leases.issue(None, keys(), "alice", "operator", 100).expires_at_ms
    started = threading.Barrier(WORKERS + 1)

    def reissue(mine: Leases) -> None:
        started.wait()
        for step in range(20):
            newest = mine.newest(None, "session")
            assert newest is not None
            with contextlib.suppress(Refused):
                mine.reissue(None, newest, keys(), later + step * TTL)

    threads = [threading.Thread(target=reissue, args=(mine,)) for mine in workers]
    for thread in threads:
        thread.start()
    started.wait()
    leases.revoke(None, session_id="session", reason="now", by=BY, now_ms=later)
    for thread in threads:
        thread.join()
    newest = leases.newest(None, "session")
    assert newest is not None and newest.revoked_at_ms == later


@pytest.mark.parametrize("foreign", ["keys", "lease"])
def test_another_tenants_lease_is_refused(store: Store, leases: Leases, foreign: str) -> None:
    lease = leases.issue(None, keys(), "alice", "operator", 100)
    other = Leases(store.tenant("other"), ttl_ms=TTL)
    assert other.newest(None, "session") is None and other.all() == []
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        other.issue(None, keys(), "alice", "operator", 100)
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        forged = lease.model_copy(update={"tenant_id": "other"}) if foreign == "keys" else lease
        other.reissue(None, forged, keys(), 5_000)


def test_a_lease_that_was_never_recorded_is_not_issued_again(leases: Leases) -> None:
    first = leases.issue(None, keys(), "alice", "operator", 100)
    with pytest.raises(Refused, match="LEASE_MISSING"):
        leases.reissue(None, first.model_copy(update={"generation": 7}), keys(), 5_000)
    with pytest.raises(Refused, match="LEASE_MISMATCH"):
        leases.reissue(None, first, keys("other"), 5_000)
