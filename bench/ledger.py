"""What the ledger costs beside its own rows, and how much memory reconciling takes.

    python -m bench.ledger [--rounds N] [--pairs N] [--entries N]

``sqlite``, ``postgresql``: 16 threads reserve and settle three units, each in a session of its own, all through one store.
``bare`` writes the very rows that this left behind, event chain included, in the same grouped transactions, with the driver's
own statements: no reading, no deciding, no hashing. Both alternate in one run; ``ratio`` is ledger over bare, pairs a second.
``memory``: the most that Python allocates while reconciling N and 4N entries.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, select

from activities.record.chain import EventChain
from activities.record.ledger import Ledger
from activities.record.reconciling import Reconciler
from activities.record.store import Store, TenantStore
from activities.record.tables import BUDGET_ACCOUNT, COST_ATTRIBUTION, EVENT, EVENT_PAYLOAD, LEDGER_ENTRY, RESERVATION
from schemas.ledger import LedgerRules, Usage
from schemas.tariff import Tariff
from schemas.task import TraceKeys
from tests.record.postgres import running_postgres

TARGET = 0.5
MEMORY_TARGET = 1.5
WRITERS = 16
PLENTY = 10**15
RULES = LedgerRules(
    tenant_grants={"micros": PLENTY, "cpu_ms": PLENTY, "wall_ms": PLENTY},
    session_budget={"micros": PLENTY, "cpu_ms": PLENTY, "wall_ms": PLENTY},
    allotment_step={"micros": 10**12, "cpu_ms": 10**12, "wall_ms": 10**12},
    window_ms=3_600_000, session_window={}, tenant_window={},
)  # fmt: skip
TARIFF = Tariff(number=1, cpu_micros_per_s=11, wall_micros_per_s=3, egress_micros_per_mib=88, tool_call_micros=10)
AMOUNTS: Any = {"micros": 100_000, "cpu_ms": 600_000, "wall_ms": 600_000}
FAR_MS = 10**13
CHANGED = ("debits_pending", "debits_posted", "credits_posted", "frozen", "updated_at_ms")
ENDED = ("status", "settled", "overrun", "updated_at_ms")
Write = Callable[[Connection], None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=50, help="per round and thread")
    parser.add_argument("--entries", type=int, default=20_000)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with stores() as urls:
        for name, url in urls.items():
            result[name] = throughput(url, options.rounds, options.pairs)
        result["memory"] = memory(urls["sqlite"](), options.entries)
    result["met"] = all(part["met"] for part in result.values())
    print(json.dumps(result, indent=2))
    return 0 if result["met"] else 1


def throughput(url: Callable[[], str], rounds: int, pairs: int) -> dict[str, Any]:
    """Both arms, alternating; each has a database of its own that grows alike."""
    ledger_store, bare_store = Store.open(url()), Store.open(url())
    books, bare = ledger_store.tenant("bench"), bare_store.tenant("bench")
    rates: dict[str, list[float]] = {"ledger": [], "bare": []}
    try:
        ledger = Ledger(books, rules=RULES)
        for writer in range(WRITERS):
            books.write(lambda connection, writer=writer: ledger.open_session(connection, keys(writer), {}, 1))
        accounts, opened = rows_of(books, BUDGET_ACCOUNT), rows_of(books, EVENT)
        bare.write(lambda connection: insert(connection, BUDGET_ACCOUNT, accounts))
        bare.write(lambda connection: insert(connection, EVENT, opened))
        for number in range(rounds):
            names = [[f"w{writer}-{number}-{n}" for n in range(pairs)] for writer in range(WRITERS)]
            acts = [[act for name in mine for act in pair(ledger, writer, name)] for writer, mine in enumerate(names)]
            rates["ledger"].append(together(books, acts) / 2)
            written = Written(books)
            copies = [[act for name in mine for act in written.pair(writer, name)] for writer, mine in enumerate(names)]
            rates["bare"].append(together(bare, copies) / 2)
    finally:
        ledger_store.close()
        bare_store.close()
    ratio = statistics.median(one / other for one, other in zip(rates["ledger"], rates["bare"], strict=True))
    return {
        **{f"{arm}_pairs_per_s": round(statistics.median(measured)) for arm, measured in rates.items()},
        "ratio": round(ratio, 2), "target": TARGET, "met": ratio >= TARGET, "writers": WRITERS,
    }  # fmt: skip


def pair(ledger: Ledger, writer: int, name: str) -> Iterator[Write]:
    """Reserve, then settle: two transactions, as the gate has them."""

    def reserve(connection: Connection) -> None:
        ledger.reserve(
            connection, keys(writer), effect_key=name, capability_id="testbed.run_tests", amounts=AMOUNTS, generation=1,
            expires_at_ms=FAR_MS, now_ms=2,
        )  # fmt: skip

    def settle(connection: Connection) -> None:
        ledger.settle(
            connection, keys(writer), effect_key=name, capability_id="testbed.run_tests", role="verifier", tariff=TARIFF,
            usage=Usage(cpu_ms=12_345, wall_ms=23_456, tool_calls=1), now_ms=3,
        )  # fmt: skip

    yield reserve
    yield settle


class Written:
    """The rows that the ledger left, by what wrote them."""

    def __init__(self, store: TenantStore) -> None:
        self._reservations = grouped(rows_of(store, RESERVATION), lambda row: row["effect_key"])
        self._entries = grouped(rows_of(store, LEDGER_ENTRY), lambda row: row["ledger_id"].rpartition("/")[0])
        self._costs = grouped(rows_of(store, COST_ATTRIBUTION), lambda row: row["attribution_id"])
        self._events = grouped(rows_of(store, EVENT), lambda row: row["idempotency_key"])
        self._payloads = grouped(rows_of(store, EVENT_PAYLOAD), lambda row: row["event_id"])
        self._accounts = grouped(rows_of(store, BUDGET_ACCOUNT), lambda row: row["session_id"])

    def pair(self, writer: int, name: str) -> Iterator[Write]:
        base = f"{name}#1"
        accounts = self._accounts[keys(writer).session_id]
        sessions = [row for row in accounts if row["account_id"].startswith("session:") and row["unit"] in AMOUNTS]
        tasks = [row for row in accounts if row["account_id"].startswith("task:")]
        held, events = self._reservations[name], self._events

        def told(connection: Connection, kind: str) -> None:
            (event,) = events[f"{base}/{kind}"]
            insert(connection, EVENT, [event])
            insert(connection, EVENT_PAYLOAD, self._payloads[event["event_id"]])

        def reserve(connection: Connection) -> None:
            update(connection, BUDGET_ACCOUNT, sessions, CHANGED, "account_id")
            insert(connection, RESERVATION, held)
            insert(connection, LEDGER_ENTRY, self._entries[f"{base}/reserve"])
            told(connection, "budget.reserved")

        def settle(connection: Connection) -> None:
            update(connection, BUDGET_ACCOUNT, [*sessions, *tasks], CHANGED, "account_id")
            update(connection, RESERVATION, held, ENDED, "pending_id")
            insert(connection, LEDGER_ENTRY, self._entries[f"{base}/settle"])
            insert(connection, COST_ATTRIBUTION, self._costs[base])
            told(connection, "budget.settled")

        yield reserve
        yield settle


def together(store: TenantStore, acts: list[list[Write]]) -> float:
    """Transactions a second, by one thread for each list."""
    failures: list[BaseException] = []
    ready = threading.Barrier(len(acts) + 1)

    def work(mine: list[Write]) -> None:
        ready.wait()
        try:
            for act in mine:
                store.write(act)
        except BaseException as error:  # noqa: BLE001  told below, on the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in acts]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    return sum(map(len, acts)) / seconds


def memory(url: str, entries: int) -> dict[str, Any]:
    store = Store.open(url)
    tenant = store.tenant("bench")
    ledger = Ledger(tenant, rules=RULES)
    peaks, done = [], 0
    try:
        for wanted in (entries, 4 * entries):
            while done < wanted:
                done += fill(tenant, ledger, done)
            tracemalloc.start()
            result = Reconciler(tenant, EventChain(tenant)).run(1)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            if not result.consistent:
                raise AssertionError([str(one) for one in result.differences[:3]])
    finally:
        store.close()
    growth = peaks[1] / peaks[0]
    return {
        "entries": [entries, 4 * entries], "peak_mib": [round(peak / 2**20, 1) for peak in peaks], "growth": round(growth, 2),
        "target": MEMORY_TARGET, "met": growth <= MEMORY_TARGET,
    }  # fmt: skip


def fill(store: TenantStore, ledger: Ledger, first: int, effects: int = 500) -> int:
    """Six entries an effect, in ten sessions."""

    def act(connection: Connection) -> None:
        for n in range(effects):
            for write in pair(ledger, n % 10, f"m{first}-{n}"):
                write(connection)

    store.write(act)
    return 6 * effects


def rows_of(store: TenantStore, table: Table) -> list[dict[str, Any]]:
    query = select(table).where(table.c.tenant_id == store.tenant_id)
    return store.read(lambda connection: [dict(row._mapping) for row in connection.execute(query)])


def grouped(rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    names = [column.name for column in table.columns]
    marks = ", ".join([_mark(connection)] * len(names))
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  names from the schema
    connection.exec_driver_sql(statement, [tuple(row[name] for name in names) for row in rows])


def update(connection: Connection, table: Table, rows: list[dict[str, Any]], names: tuple[str, ...], key: str) -> None:
    mark = _mark(connection)
    changes = ", ".join(f"{name} = {mark}" for name in names)
    statement = f"UPDATE {table.name} SET {changes} WHERE tenant_id = {mark} AND {key} = {mark}"  # noqa: S608  the same
    connection.exec_driver_sql(statement, [(*(row[name] for name in names), row["tenant_id"], row[key]) for row in rows])


def _mark(connection: Connection) -> str:
    return "?" if connection.dialect.name == "sqlite" else "%s"


def keys(writer: int) -> TraceKeys:
    return TraceKeys(tenant_id="bench", trace_id=f"trace-{writer}", session_id=f"session-{writer}", task_id="task")


@contextmanager
def stores() -> Iterator[dict[str, Callable[[], str]]]:
    """Each call gives the address of a new, empty database."""
    with tempfile.TemporaryDirectory(prefix="gen4-bench-") as folder, running_postgres() as server:
        count = iter(range(1_000))
        yield {
            "sqlite": lambda: f"sqlite:///{folder}/{next(count)}.db", "postgresql": lambda: server.url(server.database()),
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
