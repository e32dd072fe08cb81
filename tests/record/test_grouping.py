"""Writes that wait share one transaction; what fails takes back nothing but itself; what is acknowledged stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from activities.record.chain import EventChain
from activities.record.effects import Effects
from activities.record.store import BATCH, Store
from schemas.error import InfrastructureError, InputError
from schemas.event import Actor, EventDraft
from schemas.task import TraceKeys
from tests.record.conftest import on_postgresql
from tests.record.postgres import running_postgres
from tests.record.test_rows import Call
from tests.record.test_store import add, count

ROOT = Path(__file__).parents[2]


class Held:
    """A store whose writer is kept busy until ``go``, so that what is written meanwhile becomes one group."""

    def __init__(self, url: str) -> None:
        self.sizes: list[int] = []
        self.store = Store.open(url, on_commit=lambda size, seconds: self.sizes.append(size))
        self._gate, self._busy = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(BATCH * 2)
        self._first = self._pool.submit(self.store.write, self._wait)
        assert self._busy.wait(10)

    def _wait(self, _connection: Connection) -> None:
        self._busy.set()
        assert self._gate.wait(10)

    def write(self, function: Callable[[Connection], Any]) -> Future[Any]:
        queued = self.store._jobs.qsize()
        future = self._pool.submit(self.store.write, function)
        while self.store._jobs.qsize() == queued:
            pass  # in the queue, and in this order
        return future

    def go(self) -> None:
        self._gate.set()
        self._first.result(10)


@pytest.fixture
def held(url: str) -> Iterator[Held]:
    made = Held(url)
    yield made
    made._gate.set()
    made.store.close()


def test_writes_that_wait_share_one_commit(held: Held) -> None:
    futures = [held.write(lambda connection, n=n: add(connection, f"k{n}") or n) for n in range(BATCH + 6)]
    held.go()
    assert [future.result(10) for future in futures] == list(range(BATCH + 6))
    assert held.sizes == [1, BATCH, 6] and count(held.store) == BATCH + 6


def test_a_failing_write_takes_back_only_itself(held: Held) -> None:
    def fail(connection: Connection) -> None:
        add(connection, "mistake")
        raise ValueError("mistake")

    def misspell(connection: Connection) -> None:
        add(connection, "misspelt")
        connection.execute(text("SELEC 1"))

    good = [held.write(lambda connection: add(connection, "a"))]
    bad = {
        ValueError: held.write(fail),
        IntegrityError: held.write(lambda connection: add(connection, "a")),
        InfrastructureError: held.write(misspell),
        KeyboardInterrupt: held.write(lambda connection: (_ for _ in ()).throw(KeyboardInterrupt)),
    }
    good.append(held.write(lambda connection: add(connection, "b")))
    held.go()
    for future in good:
        future.result(10)
    for kind, future in bad.items():
        assert isinstance(future.exception(10), kind)
    assert count(held.store) == 2


def test_when_the_commit_fails_nothing_was_written_and_all_are_told(held: Held) -> None:
    def refuse(_connection: Connection) -> None:
        event.remove(held.store._database.writer, "commit", refuse)
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    futures = [held.write(lambda connection, n=n: add(connection, f"k{n}")) for n in range(5)]
    event.listen(held.store._database.writer, "commit", lambda connection: None)  # the first write's own
    held._gate.set()
    held._first.result(10)
    for future in futures:
        future.result(10)
    event.listen(held.store._database.writer, "commit", refuse)
    with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
        held.store.write(lambda connection: add(connection, "alone"))
    assert count(held.store) == 5


def test_when_the_commit_of_a_group_fails_all_of_it_is_told(held: Held) -> None:
    commits = []

    def refuse_second(_connection: Connection) -> None:
        commits.append(1)
        if len(commits) == 2:
            raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    event.listen(held.store._database.writer, "commit", refuse_second)
    futures = [held.write(lambda connection, n=n: add(connection, f"k{n}")) for n in range(5)]
    held.go()
    for future in futures:
        failure = future.exception(10)
        assert isinstance(failure, InfrastructureError) and failure.code == "STORE_UNAVAILABLE"
    assert count(held.store) == 0
    held.store.write(lambda connection: add(connection, "afterwards"))
    assert count(held.store) == 1


def test_a_transaction_that_the_database_gives_up_costs_only_the_culprit(held: Held) -> None:
    """SQLite, when the disk is full, and a mistaken ROLLBACK take the whole transaction; the others are written again."""
    good = [held.write(lambda connection: add(connection, "a"))]
    bad = held.write(lambda connection: connection.exec_driver_sql("ROLLBACK"))
    good.append(held.write(lambda connection: add(connection, "b")))
    held.go()
    for future in good:
        future.result(10)
    bad.exception(10)
    assert count(held.store) == 2


def test_a_listener_that_fails_disturbs_nobody(url: str) -> None:
    def fail(size: int, seconds: float) -> None:
        raise ValueError("mistake")

    store = Store.open(url, on_commit=fail)
    store.write(lambda connection: add(connection, "a"))
    store.write(lambda connection: add(connection, "b"))
    assert count(store) == 2
    store.close()


def test_what_is_queued_when_the_store_closes_is_written(held: Held) -> None:
    futures = [held.write(lambda connection, n=n: add(connection, f"k{n}")) for n in range(5)]
    closing = threading.Thread(target=held.store.close)
    closing.start()
    held.go()
    closing.join(10)
    assert [future.exception(10) for future in futures] == [None] * 5


# --- several processes on PostgreSQL --------------------------------------------------------------------------------------


@on_postgresql
def test_stores_that_append_to_the_same_chains_in_opposite_order_all_succeed(url: str) -> None:
    stores = [Store.open(url) for _ in range(3)]
    actor = Actor(principal_id="p", kind="engine")

    def append(store: Store, name: str, session: str) -> None:
        keys = TraceKeys(tenant_id="acme", trace_id=session, session_id=session, task_id="t")
        EventChain(store.tenant("acme")).append(keys, actor, EventDraft(kind="task.started", idempotency_key=name, payload={}))

    with ThreadPoolExecutor(48) as pool:
        made = [
            pool.submit(append, store, f"{place}-{session}-{n}", f"s{session if place % 2 else 3 - session}")
            for n in range(20) for place, store in enumerate(stores) for session in range(4)
        ]  # fmt: skip
        for future in made:
            future.result(60)
    chain = EventChain(stores[0].tenant("acme"))
    assert [len(list(chain.read(f"s{n}"))) for n in range(4)] == [60] * 4
    assert all(list(chain.verify(f"s{n}")) == [] for n in range(4))
    for store in stores:
        store.close()


@on_postgresql
def test_of_two_processes_that_make_the_same_row_both_find_it(url: str) -> None:
    stores = [Store.open(url) for _ in range(2)]
    for n in range(20):
        barrier = threading.Barrier(2)

        def begin(store: Store, n: int = n, barrier: threading.Barrier = barrier) -> object:
            barrier.wait(10)
            return Effects(store.tenant("acme")).begin(Call(effect_key=f"e{n}"), "forge.deliver")

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(begin, stores)) == [None, None]
        stored = Effects(stores[0].tenant("acme")).get(f"e{n}")
        assert stored is not None and stored.attempts == 2
    for store in stores:
        store.close()


@on_postgresql
def test_a_value_that_does_not_fit_is_not_an_outage(url: str) -> None:
    store = Store.open(url)
    with pytest.raises(InputError, match="STORE_VALUE"):
        store.write(lambda connection: add(connection, "k" * 600))
    store.close()


# --- killed in the middle ---------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from activities.record.chain import EventChain
from activities.record.store import Store
from schemas.error import Gen4Error
from schemas.event import Actor, EventDraft
from schemas.task import TraceKeys
chain, actor, lock = EventChain(Store.open(sys.argv[1]).tenant("acme")), Actor(principal_id="p", kind="engine"), threading.Lock()
def work(session):
    keys = TraceKeys(tenant_id="acme", trace_id=session, session_id=session, task_id="t")
    for n in range(100_000):
        try:
            chain.append(keys, actor, EventDraft(kind="task.started", idempotency_key=f"{session}-{n}", payload={"n": n}))
        except Gen4Error as error:
            with lock:
                return print(f"failed {error.code}", flush=True)
        with lock:
            print(f"{session}-{n}", flush=True)
threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def _write_until(url: str, lines: int) -> tuple[subprocess.Popen[str], list[str]]:
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    return running, [running.stdout.readline().strip() for _ in range(lines)]


def _check_nothing_is_lost(url: str, acknowledged: list[str]) -> None:
    store = Store.open(url)
    chain = EventChain(store.tenant("acme"))
    kept = {item.idempotency_key for session in chain.sessions() for item, _ in chain.read(session)}
    assert len(acknowledged) > 100 and set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + 8  # what was written, and whose caller was killed before it heard
    assert all(list(chain.verify(session)) == [] for session in chain.sessions())
    store.close()


@pytest.mark.parametrize("lines", [120, 333])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(url: str, lines: int) -> None:
    running, acknowledged = _write_until(url, lines)
    running.send_signal(signal.SIGKILL)
    assert running.stdout is not None
    acknowledged += [line.strip() for line in running.stdout.read().splitlines() if line.count("-")]
    running.wait()
    _check_nothing_is_lost(url, acknowledged)


def test_a_killed_postgresql_loses_nothing_that_was_acknowledged() -> None:
    with running_postgres() as server:
        url = server.url(server.database())
        running, acknowledged = _write_until(url, 200)
        server.kill()
        assert running.stdout is not None
        rest = running.stdout.read().splitlines()
        running.wait(60)
        assert [line for line in rest if line.startswith("failed")] == ["failed STORE_UNAVAILABLE"] * 8
        acknowledged += [line for line in rest if not line.startswith("failed")]
        server.start()
        _check_nothing_is_lost(url, acknowledged)


def test_a_store_that_outlives_its_postgresql_goes_on() -> None:
    with running_postgres() as server:
        store = Store.open(server.url(server.database()))
        store.write(lambda connection: add(connection, "a"))
        server.kill()
        with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
            store.write(lambda connection: add(connection, "b"))
        with pytest.raises(InfrastructureError, match="STORE_UNAVAILABLE"):
            count(store)
        server.start()
        store.write(lambda connection: add(connection, "c"))
        assert count(store) == 2
        store.close()
