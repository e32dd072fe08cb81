"""Agreed runs by key: the first ones stay, equal ones refresh them, other ones make the key irreproducible."""

from __future__ import annotations

import multiprocessing
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.record.chain import EventChain
from activities.record.run_cache import AgreedRuns, RunCache
from activities.record.store import Store
from schemas.error import Refused
from schemas.model import BlobRef
from schemas.task import TraceKeys
from tests.record.conftest import ACTOR, KEYS
from tests.record.templates import new_sqlite

KEY = "1" * 64


def agreed(outcomes: str, runs: str = "0", *, key: str = KEY, measured: bool = False) -> AgreedRuns:
    blob = BlobRef(sha256=runs * 64, size=7, media_type="application/json")
    return AgreedRuns(run_key=key, outcomes_sha256=outcomes * 64, runs=blob, measured=measured)


@pytest.fixture
def cache(store: Store) -> RunCache:
    return RunCache(store.tenant("acme"))


def conflicts(store: Store) -> list[dict[str, object]]:
    chain = EventChain(store.tenant("acme"))
    assert chain.verify("session") == []
    return [payload for event, payload in chain.read("session") if event.kind == "cache.conflict"]


def test_what_was_remembered_is_recalled(cache: RunCache) -> None:
    assert cache.recall([KEY]) == {}
    assert cache.remember(KEYS, ACTOR, "e", agreed("a")) == "stored"
    entry = cache.recall([KEY, "2" * 64])[KEY]
    assert (entry.agreed, entry.state) == (agreed("a"), "agreed")


def test_of_equal_outcomes_the_newest_runs_stay_but_measured_ones_rather_than_not(cache: RunCache) -> None:
    for runs, measured, left in (("0", False, "0"), ("1", False, "1"), ("2", True, "2"), ("3", False, "2"), ("4", True, "4")):
        assert cache.remember(KEYS, ACTOR, "e", agreed("a", runs, measured=measured)) == ("stored" if runs == "0" else "known")
        assert cache.recall([KEY])[KEY].agreed.runs.sha256 == left * 64


def test_other_outcomes_make_the_key_irreproducible_for_good_with_one_event(cache: RunCache, store: Store) -> None:
    kept = [cache.remember(KEYS, ACTOR, "e", agreed(outcomes)) for outcomes in "abab"]
    assert kept == ["stored", "conflict", "conflict", "conflict"]
    assert cache.recall([KEY])[KEY].state == "irreproducible"
    assert conflicts(store) == [{"run_key": KEY, "outcomes": ["a" * 64, "b" * 64]}]


def test_keys_of_another_tenant_are_not_there(store: Store, cache: RunCache) -> None:
    cache.remember(KEYS, ACTOR, "e", agreed("a"))
    other = RunCache(store.tenant("other"))
    assert other.recall([KEY]) == {}
    assert other.remember(KEYS.model_copy(update={"tenant_id": "other"}), ACTOR, "e", agreed("b")) == "stored"
    assert cache.recall([KEY])[KEY].state == "agreed"
    with pytest.raises(Refused, match="TENANT_MISMATCH"):
        other.remember(KEYS, ACTOR, "e", agreed("a"))


@pytest.fixture(scope="module")
def one_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        opened = Store.open(new_sqlite(Path(folder) / "store.db"))
        yield opened
        opened.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("12"), st.sampled_from("ab")), max_size=6))
def test_a_key_is_agreed_exactly_while_all_outcomes_were_equal(one_store: Store, found: list[tuple[str, str]]) -> None:
    tenant = f"t{uuid.uuid4()}"
    keys = TraceKeys(tenant_id=tenant, trace_id="trace", session_id="session", task_id="task")
    cache = RunCache(one_store.tenant(tenant))
    for key, outcomes in found:
        cache.remember(keys, ACTOR, "e", agreed(outcomes, key=key * 64))
    for key in {key for key, _ in found}:
        every = {outcomes for one, outcomes in found if one == key}
        assert cache.recall([key * 64])[key * 64].state == ("agreed" if len(every) == 1 else "irreproducible")


ROUNDS = 25


def _remember_all(url: str, outcomes: str, barrier: object, answers: object) -> None:
    store = Store.open(url)
    cache = RunCache(store.tenant("acme"))
    barrier.wait()  # type: ignore[attr-defined]
    kept = [cache.remember(KEYS, ACTOR, f"{outcomes}/{n}", agreed(outcomes, key=f"{n:064x}")) for n in range(ROUNDS)]
    answers.put(kept)  # type: ignore[attr-defined]
    store.close()


@pytest.mark.parametrize("second", ["a", "b"])
def test_two_processes_that_compile_one_key_at_once(url: str, second: str) -> None:
    Store.open(url).close()
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    both = [spawn.Process(target=_remember_all, args=(url, outcomes, barrier, answers)) for outcomes in ("a", second)]
    for process in both:
        process.start()
    kept = [answers.get(timeout=60), answers.get(timeout=60)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    # Whoever came second found what the first one left, for every key.
    assert all(set(pair) == {"stored", "known" if second == "a" else "conflict"} for pair in zip(*kept, strict=True))
    store = Store.open(url)
    assert len(conflicts(store)) == (0 if second == "a" else ROUNDS)
    store.close()
