"""The ledger in a store: what a session may spend, what becomes of what it reserved, and that nobody spends a thing twice."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from activities.record.chain import EventChain
from activities.record.ledger import ENGINE, BudgetBlocked, Ledger, Reserved, Settled, policy_rules
from activities.record.store import Store, TenantStore
from activities.record.tables import BUDGET_ACCOUNT, COST_ATTRIBUTION, EXECUTION, LEDGER_ENTRY, RESERVATION, SESSION_LEASE
from schemas.error import InputError, Refused
from schemas.event import Actor
from schemas.ledger import CLOCK_SKEW_MS, UNITS, Account, Entry, LedgerRules, Reservation, Unit, Usage, violations
from schemas.tariff import Tariff
from schemas.task import TraceKeys, tenant_keys

RULES = LedgerRules(
    tenant_grants={"micros": 1_000, "cpu_ms": 10_000}, session_budget={"micros": 300, "cpu_ms": 5_000},
    allotment_step={"micros": 100, "cpu_ms": 1_000}, window_ms=1_000, session_window={}, tenant_window={},
)  # fmt: skip
FREE = Tariff(number=1, cpu_micros_per_s=0, wall_micros_per_s=0, egress_micros_per_mib=0, tool_call_micros=1)
"""One micro a tool call: costs that are easy to see."""
KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
HUMAN = Actor(principal_id="uid:1000", kind="human")


class Books:
    """A ledger with a clock and calls in few words."""

    def __init__(self, store: TenantStore, rules: LedgerRules = RULES) -> None:
        self.store = store
        self.chain = EventChain(store)
        self.ledger = Ledger(store, self.chain, rules)
        self.now = 10_000
        self.keys = KEYS

    def open(self, budget: dict[Unit, int] | None = None) -> None:
        self.store.write(lambda connection: self.ledger.open_session(connection, self.keys, budget or {}, self.now))

    def reserve(self, effect: str, micros: int = 0, keys: TraceKeys | None = None, **changes: Any) -> Reserved | BudgetBlocked:
        facts: dict[str, Any] = {"capability_id": "testbed.run_tests", "generation": 1, "expires_at_ms": self.now + 1_000}
        facts |= changes
        amounts = facts.pop("amounts", {"micros": micros})
        return self.store.write(
            lambda connection: self.ledger.reserve(
                connection, keys or self.keys, effect_key=effect, amounts=amounts, now_ms=self.now, **facts
            )
        )

    def settle(self, effect: str, micros: int = 0, keys: TraceKeys | None = None, **usage: Any) -> Settled:
        return self.store.write(
            lambda connection: self.ledger.settle(
                connection, keys or self.keys, effect_key=effect, capability_id="testbed.run_tests", role="implementer",
                usage=Usage(tool_calls=micros, **usage), tariff=FREE, now_ms=self.now,
            )
        )  # fmt: skip

    def void(self, effect: str) -> int:
        return self.store.write(
            lambda connection: self.ledger.void(connection, self.keys, effect_key=effect, reason="cancelled", now_ms=self.now)
        )

    def close(self, keys: TraceKeys | None = None) -> int:
        return self.store.write(lambda connection: self.ledger.void_session(connection, keys or self.keys, "closed", self.now))

    def expire(self) -> int:
        return self.store.write(lambda connection: self.ledger.expire(connection, self.now))

    def grant(self, unit: Unit, amount: int, grant_id: str = "g") -> Account:
        return self.store.write(
            lambda connection: self.ledger.grant(
                connection, unit, amount, grant_id=grant_id, reason="more", by=HUMAN, now_ms=self.now
            )
        )

    def account(self, name: str) -> Account:
        return self.accounts()[name]

    def accounts(self) -> dict[str, Account]:
        query = select(*(BUDGET_ACCOUNT.c[name] for name in Account.model_fields))
        rows = self.store.read(lambda connection: connection.execute(query).all())
        return {row.account_id: Account.model_validate(row._mapping) for row in rows}

    def available(self, session: str = "session", unit: Unit = "micros") -> int:
        return self.account(f"session:{session}:{unit}").available

    def told(self, session: str = "session") -> list[tuple[str, dict[str, Any]]]:
        return [(event.kind, payload["entries"]) for event, payload in self.chain.read(session)]

    def wrong(self) -> list[str]:
        def load(connection: Connection) -> list[str]:
            entries = [Entry.model_validate(row._mapping) for row in connection.execute(select(LEDGER_ENTRY))]
            held = [Reservation.model_validate(row._mapping) for row in connection.execute(select(RESERVATION))]
            return violations(self.accounts().values(), held, entries)

        return self.store.read(load)


@pytest.fixture
def books(store: Store) -> Books:
    return Books(store.tenant("acme"))


def session(name: str) -> TraceKeys:
    return KEYS.model_copy(update={"session_id": name})


# --- sessions and their allotments -----------------------------------------------------------------------------------


def test_a_session_draws_its_first_allotment_from_the_tenant(books: Books) -> None:
    books.open()
    books.open()
    assert (books.available(), books.available(unit="cpu_ms")) == (100, 1_000)
    assert books.account("tenant:micros").available == 900
    assert books.account("session:session:micros").credit_limit == 300
    assert books.told() == [("config.changed", {"grant": {"micros": 100, "cpu_ms": 1_000}})]
    assert books.wrong() == []


def test_a_request_brings_its_own_budget(books: Books) -> None:
    books.open({"micros": 50})
    assert books.account("session:session:micros").credit_limit == 50
    assert books.account("session:session:cpu_ms").credit_limit == 5_000
    assert isinstance(books.reserve("a", 50), Reserved)
    blocked = books.reserve("b", 1)
    assert isinstance(blocked, BudgetBlocked) and blocked.code == "BUDGET_EXHAUSTED"


def test_a_session_is_not_opened_twice_with_two_budgets(books: Books) -> None:
    books.open({"micros": 50})
    with pytest.raises(Refused, match="ID_CONFLICT"):
        books.open({"micros": 51})


@pytest.mark.parametrize("budget", [{"micros": -1}, {"micros": 2**53}, {"micros": 1.5}, {"micros": True}, {"dollars": 1}])
def test_what_is_no_amount_is_refused(books: Books, budget: dict[Unit, int]) -> None:
    with pytest.raises(InputError, match=r"AMOUNT_INVALID|UNIT_UNKNOWN"):
        books.open(budget)
    assert books.accounts() == {}


def test_a_session_of_an_earlier_version_gets_its_accounts_when_it_acts(books: Books) -> None:
    assert isinstance(books.reserve("a", 20), Reserved)
    assert books.available() == 80
    assert books.wrong() == []


def test_it_tops_up_in_steps_up_to_its_limit(books: Books) -> None:
    books.open()
    assert isinstance(books.reserve("a", 150), Reserved)
    assert books.available() == 50  # 100 + a step of 100 - 150
    assert isinstance(books.reserve("b", 150), Reserved)
    assert books.available() == 0
    blocked = books.reserve("c", 1)
    assert isinstance(blocked, BudgetBlocked)
    assert (blocked.code, blocked.unit, blocked.needed, blocked.available) == ("BUDGET_EXHAUSTED", "micros", 1, 0)
    assert books.told()[-1] == ("budget.blocked", {"blocked": {"micros": 1}})
    assert books.wrong() == []


def test_the_tenant_can_run_out_too(books: Books) -> None:
    for n in range(4):
        keys = session(f"s{n}")
        granted = books.reserve(f"a{n}", 300, keys)
        assert isinstance(granted, Reserved) == (n < 3)
    assert isinstance(granted, BudgetBlocked) and granted.code == "TENANT_BUDGET_EXHAUSTED"
    books.grant("micros", 200)
    assert isinstance(books.reserve("a3", 300, session("s3")), Reserved)
    assert books.wrong() == []


def test_all_units_or_none(books: Books) -> None:
    books.open()
    blocked = books.reserve("a", amounts={"micros": 10, "cpu_ms": 6_000})
    assert isinstance(blocked, BudgetBlocked) and blocked.unit == "cpu_ms"
    assert books.available() == 100
    assert books.account("session:session:micros").debits_pending == 0


def test_a_session_draws_no_more_than_its_window_allows(store: Store) -> None:
    books = Books(store.tenant("acme"), RULES.model_copy(update={"session_window": {"micros": 120}}))
    books.open()
    assert isinstance(books.reserve("a", 120), Reserved)
    blocked = books.reserve("b", 10)
    assert isinstance(blocked, BudgetBlocked)
    assert (blocked.code, blocked.retry_at_ms) == ("QUOTA_EXHAUSTED", 11_000)
    books.now = 11_000
    assert isinstance(books.reserve("b", 10), Reserved)
    assert books.wrong() == []


def test_sessions_of_a_tenant_share_its_window(store: Store) -> None:
    books = Books(store.tenant("acme"), RULES.model_copy(update={"tenant_window": {"micros": 250}}))
    assert isinstance(books.reserve("a", 100, session("a")), Reserved)
    assert isinstance(books.reserve("b", 100, session("b")), Reserved)
    blocked = books.reserve("c", 100, session("c"))
    assert isinstance(blocked, BudgetBlocked) and blocked.code == "QUOTA_EXHAUSTED"
    assert isinstance(books.reserve("c", 50, session("c")), Reserved)
    assert books.wrong() == []


# --- the two phases --------------------------------------------------------------------------------------------------


def test_what_was_not_used_comes_back_at_once(books: Books) -> None:
    books.reserve("a", 80)
    settled = books.settle("a", 30)
    assert (settled.charged["micros"], settled.returned["micros"], settled.overrun) == (30, 50, {})
    assert books.available() == 70
    assert books.account("task:session:task:micros").credits_posted == 30
    assert [kind for kind, _ in books.told()] == ["config.changed", "budget.reserved", "budget.settled"]
    assert books.told()[1:] == [
        ("budget.reserved", {"reserve": {"micros": 80}}), ("budget.settled", {"settle": {"micros": 30}})
    ]  # fmt: skip
    assert books.wrong() == []


def test_a_retry_resumes_what_its_first_attempt_reserved(books: Books) -> None:
    first, again = books.reserve("a", 80), books.reserve("a", 80)
    assert isinstance(first, Reserved) and isinstance(again, Reserved)
    assert again == first.model_copy(update={"resumed": True})
    assert books.available() == 20


def test_a_settlement_that_comes_twice_charges_once(books: Books) -> None:
    books.reserve("a", 80)
    books.settle("a", 30)
    again = books.settle("a", 60)
    assert again.repeated and again.charged == {"micros": 30}
    assert books.available() == 70
    assert books.wrong() == []


def test_an_attempt_after_a_settled_one_reserves_anew(books: Books) -> None:
    books.reserve("a", 80)
    books.settle("a", 30)
    again = books.reserve("a", 80)
    assert isinstance(again, Reserved) and (again.base, again.resumed) == ("a#2", False)
    assert books.settle("a", 10).charged == {"micros": 10}
    assert books.available() == 160  # 100 - 30 - 10, and a step
    assert books.wrong() == []


@pytest.mark.parametrize("changes", [{"capability_id": "other"}, {"keys": session("other")}])
def test_an_effect_belongs_to_one_session_and_capability(books: Books, changes: dict[str, Any]) -> None:
    books.reserve("a", 10)
    with pytest.raises(Refused, match="ID_CONFLICT"):
        books.reserve("a", 10, **changes)


def test_another_tenants_keys_are_refused(books: Books) -> None:
    foreign = KEYS.model_copy(update={"tenant_id": "other"})
    for act in (lambda: books.reserve("a", 1, foreign), lambda: books.settle("a", 1, foreign), lambda: books.close(foreign)):
        with pytest.raises(Refused, match="TENANT_MISMATCH"):
            act()


def test_more_than_was_reserved_is_an_overrun_and_freezes_the_session(books: Books) -> None:
    books.reserve("a", 80)
    settled = books.settle("a", 90)
    assert (settled.charged, settled.overrun) == ({"micros": 90}, {"micros": 10})
    assert books.account("excess:micros").debits_posted == 10
    assert books.told()[-1] == ("budget.overrun", {"overrun": {"micros": 10}})
    blocked = books.reserve("b", 1)
    assert isinstance(blocked, BudgetBlocked) and blocked.code == "BUDGET_FROZEN" and "entries" in blocked.remedy
    assert books.settle("a", 90).repeated
    assert books.wrong() == []


def test_a_frozen_tenant_gives_nothing_more(books: Books) -> None:
    books.open()
    books.store.write(
        lambda connection: connection.execute(
            update(BUDGET_ACCOUNT).where(BUDGET_ACCOUNT.c.account_id == "tenant:micros").values(frozen=True)
        )
    )
    blocked = books.reserve("a", 1)
    assert isinstance(blocked, BudgetBlocked) and (blocked.code, blocked.account_id) == ("BUDGET_FROZEN", "tenant:micros")


def test_units_that_nobody_reserved_are_overruns_too(books: Books) -> None:
    books.reserve("a", 10)
    assert books.settle("a", 5, cpu_ms=7).overrun == {"cpu_ms": 7}
    assert books.account("session:session:cpu_ms").frozen and not books.account("session:session:micros").frozen
    assert books.settle("never reserved", 3).overrun == {"micros": 3}
    assert books.settle("never reserved", 3).charged == {}
    assert books.wrong() == []


def test_a_voided_reservation_is_free_again_and_ends_once(books: Books) -> None:
    books.reserve("a", 80)
    assert (books.void("a"), books.void("a")) == (1, 0)
    assert books.available() == 100
    assert books.told()[-1] == ("budget.voided", {"void": {"micros": 80}})
    assert books.settle("a", 0).overrun == {}
    assert books.wrong() == []


def test_closing_a_session_voids_what_it_holds_and_gives_the_rest_back(books: Books) -> None:
    books.reserve("a", 80)
    books.settle("a", 30)
    books.reserve("b", 20)
    assert books.close() == 1
    assert books.available() == 0
    assert books.account("tenant:micros").available == 970
    assert books.close() == 0
    assert books.settle("b", 5).overrun == {"micros": 5}  # it ran on although the session was closed
    assert books.wrong() == []


def test_a_session_that_acts_again_can_be_closed_again(books: Books) -> None:
    books.open()
    books.close()
    books.reserve("a", 10)
    assert books.close() == 1
    assert books.account("tenant:micros").available == 1_000
    assert books.wrong() == []


# --- expiry ----------------------------------------------------------------------------------------------------------


def lease(store: TenantStore, **values: Any) -> None:
    row = {
        "lease_id": "l", "tenant_id": "acme", "trace_id": "trace", "session_id": "session", "version": "1",
        "principal_id": "p", "policy_id": "x", "generation": 1, "issued_at_ms": 0, "expires_at_ms": 10**12,
    }  # fmt: skip
    store.write(lambda connection: connection.execute(SESSION_LEASE.insert(), row | values))


def test_a_reservation_outlives_its_time_by_the_skew_of_clocks(books: Books) -> None:
    books.reserve("a", 80)
    books.now = 11_000 + CLOCK_SKEW_MS - 1
    assert books.expire() == 0
    books.now += 1
    assert (books.expire(), books.expire()) == (1, 0)
    assert books.available() == 100
    assert books.told()[-1] == ("budget.expired", {"expire": {"micros": 80}})
    assert books.wrong() == []


def test_it_does_not_expire_while_its_session_lives(books: Books) -> None:
    books.reserve("a", 80)
    lease(books.store)
    books.now = 10**9
    assert books.expire() == 0
    books.store.write(lambda connection: connection.execute(update(SESSION_LEASE).values(revoked_at_ms=1)))
    assert books.expire() == 1


def test_it_expires_when_a_newer_generation_runs(books: Books) -> None:
    books.reserve("a", 80)
    lease(books.store)
    books.now = 10**9
    run = {
        "workflow_id": "w", "run_id": "r2", "tenant_id": "acme", "trace_id": "trace", "session_id": "session", "version": "1",
        "first_run_id": "r", "principal_id": "p", "phase": "control", "generation": 2, "reset": True, "created_at_ms": 1,
    }  # fmt: skip
    books.store.write(lambda connection: connection.execute(EXECUTION.insert(), run))
    assert books.expire() == 1


def test_what_is_settled_after_it_expired_is_an_overrun(books: Books) -> None:
    books.reserve("a", 80)
    books.now = 10**9
    books.expire()
    assert books.settle("a", 30).overrun == {"micros": 30}
    assert books.settle("a", 30).repeated
    assert books.account("task:session:task:micros").credits_posted == 30
    assert books.account("session:session:micros").frozen
    assert books.wrong() == []


# --- grants and costs ------------------------------------------------------------------------------------------------


def test_the_same_grant_is_given_once(books: Books) -> None:
    assert books.grant("tokens", 5).available == 5
    assert books.grant("tokens", 5).available == 5
    with pytest.raises(Refused, match="ID_CONFLICT"):
        books.grant("tokens", 6)
    ((event, payload),) = books.chain.read(tenant_keys("acme").session_id)
    assert (event.kind, event.actor, payload["entries"]) == ("config.changed", HUMAN, {"grant": {"tokens": 5}})
    assert books.wrong() == []


@pytest.mark.parametrize(("amount", "grant_id"), [(0, "g"), (-1, "g"), (2**53, "g"), (1, ""), (1, "x" * 129)])
def test_what_is_no_grant_is_refused(books: Books, amount: int, grant_id: str) -> None:
    with pytest.raises(InputError):
        books.grant("tokens", amount, grant_id)


def test_balances_stay_exact_in_json(books: Books) -> None:
    books.grant("tokens", 2**53 - 1, "a")
    with pytest.raises(Refused, match="BALANCE_TOO_LARGE"):
        books.grant("tokens", 1, "b")
    assert books.wrong() == []


def test_first_grants_are_given_once_and_kept(books: Books) -> None:
    for grants in (RULES.tenant_grants, {"micros": 5}):
        books.store.write(lambda connection, grants=grants: books.ledger.ensure_tenant(connection, grants, books.now))
    assert {account.unit: account.available for account in books.ledger.balances()} == {
        **dict.fromkeys(UNITS, 0), "micros": 1_000, "cpu_ms": 10_000,
    }  # fmt: skip


def test_costs_are_kept_by_task_capability_and_role(books: Books) -> None:
    books.reserve("a", amounts={"micros": 80, "cpu_ms": 900, "wall_ms": 0})
    books.settle("a", 30, cpu_ms=800)
    (row,) = books.store.read(lambda connection: connection.execute(select(COST_ATTRIBUTION)).all())
    assert (row.session_id, row.task_id, row.capability_id, row.role) == ("session", "task", "testbed.run_tests", "implementer")
    assert (row.tool_invocations, row.cpu_ms, row.tool_cost_micros, row.total_cost_micros) == (30, 800, 30, 30)
    assert row.price_table_version == "tariff/1"


def test_tokens_without_a_price_are_not_guessed(books: Books) -> None:
    books.reserve("a", 80)
    with pytest.raises(Refused, match="PRICE_UNKNOWN"):
        books.settle("a", prompt_tokens=1, model="unheard-of")
    assert isinstance(books.reserve("a", 80), Reserved)  # it is still held


def test_first_values_are_policy() -> None:
    data = json.loads((resources.files("policies") / "data.json").read_text())["ledger"]
    assert policy_rules().session_budget == data["session_budget"] and set(data["session_budget"]) == set(UNITS)
    assert Tariff.model_validate(data["tariff"]).number == 1
    # A session may ask for more than it gets by itself, and what it gets by itself is within what it may ask for.
    assert all(data["session_budget"][unit] <= limit for unit, limit in data["limits"].items())


# --- many at once ----------------------------------------------------------------------------------------------------


def test_fifty_sessions_race_one_budget(books: Books) -> None:
    """Each wants 60 of a tenant that has 1000: sixteen get it, whoever comes first, and never a seventeenth."""
    outcomes: list[Reserved | BudgetBlocked] = []

    def work(n: int) -> None:
        keys = session(f"s{n}")
        outcomes.append(books.reserve(f"e{n}", 60, keys))
        if isinstance(books.reserve(f"e{n}", 60, keys), Reserved):
            books.settle(f"e{n}", 60, keys)

    books.ledger._rules = RULES.model_copy(update={"allotment_step": {}})
    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(type(one) for one in outcomes) == {Reserved: 16, BudgetBlocked: 34}
    assert books.account("tenant:micros").available == 1_000 - 16 * 60
    assert books.wrong() == []


PROGRAM = """
import sys
from activities.record.ledger import Ledger, Reserved
from activities.record.store import Store
from schemas.ledger import LedgerRules, Usage
from schemas.tariff import Tariff
from schemas.task import TraceKeys
rules = LedgerRules.model_validate_json(sys.argv[3])
store = Store.open(sys.argv[1]).tenant("acme")
ledger = Ledger(store, rules=rules)
free = Tariff(number=1, cpu_micros_per_s=0, wall_micros_per_s=0, egress_micros_per_mib=0, tool_call_micros=1)
count = 0
for n in range(25):
    keys = TraceKeys(tenant_id="acme", trace_id="t", session_id=sys.argv[2] if n % 2 else "shared", task_id="task")
    effect = f"{sys.argv[2]}-{n}"
    got = store.write(lambda c: ledger.reserve(c, keys, effect_key=effect, capability_id="x", amounts={"micros": 20},
                                               generation=1, expires_at_ms=10**13, now_ms=5))
    if isinstance(got, Reserved):
        count += 1
        store.write(lambda c: ledger.settle(c, keys, effect_key=effect, capability_id="x", role="verifier",
                                            usage=Usage(tool_calls=20), tariff=free, now_ms=6))
print(count)
"""


def test_processes_race_one_budget(books: Books, url: str) -> None:
    rules = RULES.model_copy(update={"session_budget": {"micros": 10**6}, "allotment_step": {"micros": 20}})
    argv = [sys.executable, "-c", PROGRAM, url]
    running = [
        subprocess.Popen([*argv, f"s{n}", rules.model_dump_json()], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
        for n in range(4)
    ]
    counts = [int(one.communicate()[0]) for one in running]
    assert sum(counts) == 50, counts  # 100 wanted 20 each of 1000
    assert books.account("tenant:micros").available == 0
    assert books.wrong() == []
    for name in ("shared", *(f"s{n}" for n in range(4))):
        assert books.chain.verify(name) == []


def test_sessions_do_not_wait_for_the_tenants_row(books: Books) -> None:
    """After the first draw, reserving and settling touch rows of the session and its tasks alone."""
    books.open()
    before = books.account("tenant:micros")
    for n in range(5):
        books.reserve(f"e{n}", 10)
        books.settle(f"e{n}", 5)
    assert books.account("tenant:micros") == before


def test_the_ledger_tells_its_story_in_the_sessions_chain(books: Books) -> None:
    books.reserve("a", 150)
    books.settle("a", 160)
    ids = itertools.chain.from_iterable(
        [f"{payload['id']}/{kind}/{unit}" for kind, units in payload["entries"].items() for unit in units]
        for _, payload in books.chain.read("session")
    )
    rows = books.store.read(
        lambda connection: connection.execute(
            select(LEDGER_ENTRY.c.ledger_id).where(LEDGER_ENTRY.c.session_id == "session")
        ).scalars().all()
    )  # fmt: skip
    assert sorted(ids) == sorted(rows)
    assert books.chain.verify("session") == []
    assert ENGINE.principal_id == "gen4"


def test_a_resumed_reservation_lives_as_long_as_the_attempt_that_resumed_it(books: Books) -> None:
    """Else a long second attempt would settle after its expiry: an overrun, which freezes the session."""
    books.open({"micros": 100})
    first = books.reserve("a", 60, expires_at_ms=books.now + 1_000)
    books.now += 900
    again = books.reserve("a", 60, expires_at_ms=books.now + 1_000)
    assert isinstance(first, Reserved) and isinstance(again, Reserved)
    assert again.resumed and again.expires_at_ms == first.expires_at_ms + 900
    books.now += 600 + CLOCK_SKEW_MS
    assert books.expire() == 0
    assert not any(books.settle("a", 50).overrun.values())
    assert books.reserve("b", 10) and books.ledger.reconcile(books.now, HUMAN).consistent
