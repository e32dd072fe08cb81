"""Reconciling: zero difference after honest use and crashes, and the exact place of whatever somebody changed with plain SQL."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection

from activities.record.ledger import Reserved
from activities.record.store import Store, TenantStore
from schemas.ledger import CLOCK_SKEW_MS
from schemas.reconciliation import Difference, Reconciliation
from tests.record.templates import new_sqlite
from tests.record.test_ledger import HUMAN, RULES, Books, session

DAY_MS = 1_750_000_000_000


def honest(books: Books) -> Books:
    """One of everything: settled, open, voided, overrun, blocked, given back."""
    books.reserve("a", amounts={"micros": 80, "cpu_ms": 100})
    books.settle("a", 30, cpu_ms=40)
    books.reserve("b", 20)
    books.reserve("c", 5)
    books.void("c")
    books.reserve("d", 10**6)
    books.keys = session("second")
    books.reserve("e", 10)
    books.settle("e", 15)
    books.reserve("f", 10)
    books.keys = session("third")
    books.reserve("g", 10)
    books.close()
    books.keys = session("session")
    books.grant("tokens", 77, "more")
    return books


def reconciled(books: Books) -> Reconciliation:
    return books.ledger.reconcile(DAY_MS, HUMAN)


def test_honest_use_has_no_difference(store: Store) -> None:
    books = honest(Books(store.tenant("acme")))
    result = reconciled(books)
    assert result.differences == () and result.consistent and not result.more
    assert (result.tenant_id, result.day) == ("acme", "2025-06-15")
    assert all(one.difference == 0 for one in result.units)
    micros = next(one for one in result.units if one.unit == "micros")
    assert (micros.ledger_open, micros.account_pending) == (20, 20)
    assert result.events > 10 and result.entries > 20 and result.reservations == 6
    kind, payload = [(event.kind, payload) for event, payload in books.chain.read("tenant")][-1]
    assert (kind, payload["consistent"], payload["differences"]) == ("budget.reconciled", True, 0)


def test_an_empty_store_has_no_difference(store: Store) -> None:
    assert reconciled(Books(store.tenant("acme"))).consistent


def test_other_tenants_are_not_looked_at(store: Store) -> None:
    honest(Books(store.tenant("acme")))
    other = Books(store.tenant("other"))
    assert reconciled(other).entries == 0


def test_it_may_run_while_others_write(store: Store) -> None:
    books, stop = Books(store.tenant("acme")), threading.Event()

    def work() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            books.reserve(f"e{n}", 1)
            books.settle(f"e{n}", 0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            assert reconciled(books).differences == ()
    finally:
        stop.set()
        thread.join()


def test_an_erased_payload_is_no_difference(store: Store) -> None:
    """Events whose payload cannot be read are counted; everything else is still compared."""
    books = honest(Books(store.tenant("acme")))
    told = books.chain.read
    books.chain.read = lambda session_id: (  # type: ignore[method-assign, assignment]
        (event, {"erased": True} if event.kind == "budget.settled" else payload) for event, payload in told(session_id)
    )
    result = reconciled(books)
    assert result.consistent and result.events_unread == 2


# --- somebody with the file ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/store.db")
        honest(Books(store.tenant("acme")))
        store.close()
        raw = sqlite3.connect(f"{folder}/store.db")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()
        yield Path(folder, "store.db").read_bytes()


def found_after(sound: bytes, folder: Path, *statements: str) -> list[Difference]:
    (folder / "store.db").write_bytes(sound)
    raw = sqlite3.connect(folder / "store.db")
    for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        assert raw.execute(statement).rowcount >= 1, statement
    raw.commit()
    raw.close()
    store = Store.open(f"sqlite:///{folder}/store.db")
    try:
        result = reconciled(Books(store.tenant("acme")))
        assert not result.consistent
        return list(result.differences)
    finally:
        store.close()


SESSION, ENTRY, HELD = "session:session:micros", "a#1/settle/micros", "a#1/micros"
ACCOUNT = "UPDATE budget_account SET {} WHERE account_id = 'session:session:micros'"
BOOKED = "UPDATE ledger_entry SET {} WHERE ledger_id = 'a#1/settle/micros'"
KEPT = "UPDATE reservation SET {} WHERE pending_id = 'a#1/micros'"


@pytest.mark.parametrize(
    ("change", "code", "what", "place", "expected", "found"),
    [
        (ACCOUNT.format("debits_posted = 31"), "BALANCE_DIFFERS", "debits_posted", SESSION, 30, 31),
        (ACCOUNT.format("credits_posted = 500"), "BALANCE_DIFFERS", "credits_posted", SESSION, 100, 500),
        (ACCOUNT.format("debits_pending = 0"), "BALANCE_DIFFERS", "debits_pending", SESSION, 20, 0),
        (ACCOUNT.format("frozen = 1"), "ACCOUNT_ALTERED", "frozen", SESSION, "False", "True"),
        (
            "UPDATE budget_account SET frozen = 0 WHERE account_id = 'session:second:micros'", "ACCOUNT_ALTERED", "frozen",
            "session:second:micros", "True", "False",
        ),
        (ACCOUNT.format("unit = 'tokens'"), "ACCOUNT_ALTERED", "unit", SESSION, "micros", "tokens"),
        (ACCOUNT.format("parent_account_id = NULL"), "ACCOUNT_ALTERED", "parent_account_id", SESSION, "tenant:micros", "None"),
        (
            ACCOUNT.format("debits_must_not_exceed_credits = 0"), "ACCOUNT_ALTERED", "debits_must_not_exceed_credits", SESSION,
            "True", "False",
        ),
        (ACCOUNT.format("credit_limit = NULL"), "ACCOUNT_ALTERED", "credit_limit", SESSION, ">= 100", "None"),
        (BOOKED.format("amount = 29"), "ENTRY_ALTERED", "amount that its event tells", ENTRY, 30, 29),
        (BOOKED.format("amount = -1"), "ENTRY_ALTERED", "amount", ENTRY, ">= 0", -1),
        (BOOKED.format("kind = 'grant'"), "ENTRY_ALTERED", "kind", ENTRY, "settle", "grant"),
        (BOOKED.format("unit = 'tokens'"), "ENTRY_ALTERED", "unit", ENTRY, "micros", "tokens"),
        (
            BOOKED.format("debit_account_id = 'nobody'"), "ENTRY_ALTERED", "debit_account_id", ENTRY, "an account of micros",
            "none",
        ),
        (
            BOOKED.format("debit_account_id = 'session:second:micros'"), "BALANCE_DIFFERS", "debits_posted",
            "session:second:micros", 40, 10,
        ),
        (BOOKED.format("session_id = 'second'"), "ENTRY_MISSING", "entry that an event tells", ENTRY, 30, None),
        (BOOKED.format("ledger_id = 'x/settle/micros'"), "ENTRY_UNTOLD", "event that tells it", "x/settle/micros", None, None),
        (BOOKED.format("pending_id = 'b#1/micros'"), "RESERVATION_ALTERED", "status", HELD, "open", "settled"),
        (
            "DELETE FROM ledger_entry WHERE ledger_id = 'a#1/settle/micros'", "ENTRY_MISSING", "entry that an event tells", ENTRY,
            30, None,
        ),
        (KEPT.format("amount = 81"), "RESERVATION_ALTERED", "amount", HELD, 80, 81),
        (KEPT.format("settled = 29"), "RESERVATION_ALTERED", "settled", HELD, 30, 29),
        (KEPT.format("overrun = 1"), "RESERVATION_ALTERED", "overrun", HELD, 0, 1),
        (KEPT.format("status = 'voided'"), "RESERVATION_ALTERED", "status", HELD, "settled", "voided"),
        (KEPT.format("status = 'open'"), "RESERVATION_ALTERED", "status", HELD, "settled", "open"),
        (KEPT.format("account_id = 'tenant:micros'"), "RESERVATION_ALTERED", "account_id", HELD, SESSION, "tenant:micros"),
        ("DELETE FROM reservation WHERE pending_id = 'a#1/micros'", "RESERVATION_MISSING", "reservation", ENTRY, HELD, None),
        (
            "UPDATE cost_attribution SET total_cost_micros = 1 WHERE attribution_id = 'a#1'", "COST_DIFFERS", "total_cost_micros",
            "a#1", 30, 1,
        ),
        ("DELETE FROM cost_attribution WHERE attribution_id = 'a#1'", "COST_DIFFERS", "attribution", ENTRY, 30, 0),
        (
            "DELETE FROM event WHERE idempotency_key = 'b#1/budget.reserved'", "ENTRY_UNTOLD", "event that tells it",
            "b#1/reserve/micros", None, None,
        ),
        (
            "DELETE FROM ledger_entry WHERE ledger_id = 'grant/more/grant/tokens'", "BALANCE_DIFFERS", "credits_posted",
            "tenant:tokens", 0, 77,
        ),
        (
            "UPDATE budget_account SET credits_posted = credits_posted + 1 WHERE account_id = 'tenant:micros'",
            "DEBITS_NOT_CREDITS", "posted debits less posted credits", None, 0, -1,
        ),
    ],
)  # fmt: skip
def test_every_change_is_named_where_it_is(
    sound: bytes, tmp_path: Path, change: str, code: str, what: str, place: str | None, expected: Any, found: Any
) -> None:
    differences = found_after(sound, tmp_path, change)
    matching = [
        one for one in differences if (one.code, one.what) == (code, what) and place in (None, one.account_id, one.ledger_id)
    ]
    assert matching, [str(one) for one in differences]
    if expected is not None:
        assert (expected, found) in [(one.expected, one.found) for one in matching]


FORGED = """
    INSERT INTO ledger_entry SELECT 'grant/forged/grant/micros', tenant_id, trace_id, session_id, task_id, capability_id, version,
        debit_account_id, credit_account_id, kind, 500, unit, pending_id, expires_at_ms, token_cost, tool_cost, duration_cost,
        price_table_version, reason, created_at_ms
    FROM ledger_entry WHERE ledger_id = 'grant/first/grant/micros'
"""


def test_money_that_is_moved_in_every_table_but_in_no_event_is_found(sound: bytes, tmp_path: Path) -> None:
    differences = found_after(
        sound, tmp_path, FORGED,
        "UPDATE budget_account SET credits_posted = credits_posted + 500 WHERE account_id = 'tenant:micros'",
        "UPDATE budget_account SET debits_posted = debits_posted + 500 WHERE account_id = 'source:micros'",
    )  # fmt: skip
    assert [(one.code, one.ledger_id) for one in differences] == [("ENTRY_UNTOLD", "grant/forged/grant/micros")]


def test_differences_are_told_up_to_a_number(sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.record.reconciling.MOST_DIFFERENCES", 3)
    assert len(found_after(sound, tmp_path, "UPDATE ledger_entry SET amount = amount + 1")) == 3


def test_a_chain_that_cannot_be_read_is_a_difference(sound: bytes, tmp_path: Path) -> None:
    differences = found_after(sound, tmp_path, "UPDATE event SET kind = 'nonsense' WHERE seq = 2 AND session_id = 'session'")
    assert [(one.code, one.found, one.session_id) for one in differences] == [("EVENT_UNREADABLE", "CHAIN_ALTERED", "session")]


# --- every order of events, with crashes between any two steps -------------------------------------------------------


class Crash(Exception):
    """The process dies here: nothing of the transaction is kept."""


class _Losing:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def write(self, function: Callable[[Connection], Any]) -> Any:
        def run(connection: Connection) -> Any:
            function(connection)
            raise Crash

        return self._store.write(run)


class StoredBooks(RuleBasedStateMachine):
    """The repository under the rules of the pure machine; a crash rolls back, a retry repeats, what was said is said once."""

    effects: Bundle[str] = Bundle("effects")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store.open(new_sqlite(Path(self.folder.name) / "store.db"))
        self.books = Books(self.store.tenant("acme"), RULES.model_copy(update={"session_window": {"micros": 250}}))
        self.count = 0

    def teardown(self) -> None:
        assert reconciled(self.books).differences == ()
        self.store.close()
        self.folder.cleanup()

    def crashing(self, act: Callable[[], Any]) -> None:
        """The act is done, and lost before it is committed."""
        kept = self.books.store
        self.books.store = _Losing(kept)  # type: ignore[assignment]
        try:
            act()
        except Crash:
            pass
        finally:
            self.books.store = kept

    @rule(target=effects, name=st.sampled_from(["a", "b"]), micros=st.integers(0, 120), cpu=st.integers(0, 50))
    def reserve(self, name: str, micros: int, cpu: int) -> str:
        self.count += 1
        effect = f"{name}{self.count}"
        self.act_reserve(effect, micros, cpu)
        return effect

    @rule(effect=effects, micros=st.integers(0, 120))
    def reserve_again(self, effect: str, micros: int) -> None:
        self.act_reserve(effect, micros, 0)

    def act_reserve(self, effect: str, micros: int, cpu: int) -> None:
        keys = session(effect[0])
        amounts = {"micros": micros, "cpu_ms": cpu}
        self.crashing(lambda: self.books.reserve(effect, keys=keys, amounts=amounts))
        first = self.books.reserve(effect, keys=keys, amounts=amounts)
        again = self.books.reserve(effect, keys=keys, amounts=amounts)
        if isinstance(first, Reserved) and first.amounts:
            assert isinstance(again, Reserved) and again.resumed and again.base == first.base

    @rule(effect=effects, micros=st.integers(0, 140), cpu=st.integers(0, 60))
    def settle(self, effect: str, micros: int, cpu: int) -> None:
        keys = session(effect[0])
        self.crashing(lambda: self.books.settle(effect, micros, keys, cpu_ms=cpu))
        self.books.settle(effect, micros, keys, cpu_ms=cpu)
        spent = self.spent()
        self.books.settle(effect, micros, keys, cpu_ms=cpu)
        assert self.spent() == spent

    @rule(effect=effects)
    def void(self, effect: str) -> None:
        self.books.void(effect)

    @rule(name=st.sampled_from(["a", "b"]))
    def close(self, name: str) -> None:
        self.crashing(lambda: self.books.close(session(name)))
        self.books.close(session(name))

    @rule(ms=st.sampled_from([1, 1_000, CLOCK_SKEW_MS + 1_000]))
    def wait_and_expire(self, ms: int) -> None:
        self.books.now += ms
        self.books.expire()

    def spent(self) -> int:
        return sum(one.credits_posted for name, one in self.books.accounts().items() if name.startswith("task:"))

    @invariant()
    def sound(self) -> None:
        assert self.books.wrong() == []


TestStoredBooks = StoredBooks.TestCase
TestStoredBooks.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_entries(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/store.db")
    books = Books(store.tenant("acme"), RULES.model_copy(update={"session_budget": {"micros": 10**9}}))
    books.grant("micros", 10**9, "plenty")

    def fill(first: int, last: int) -> None:
        def together(connection: Connection) -> None:
            for n in range(first, last):
                books.ledger.reserve(
                    connection, books.keys, effect_key=f"m{n}", capability_id="x", amounts={"micros": 1}, generation=1,
                    expires_at_ms=10**13, now_ms=1,
                )  # fmt: skip
                books.ledger.void(connection, books.keys, effect_key=f"m{n}", reason="", now_ms=1)

        books.store.write(together)

    def peak() -> int:
        tracemalloc.start()
        assert reconciled(books).consistent
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    fill(0, 600)
    few = peak()
    fill(600, 2_400)
    assert peak() < 1.5 * few
    store.close()
