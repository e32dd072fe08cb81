"""The pure ledger under every order of events: debits are credits, nothing ends twice, nobody spends what he has not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from schemas.error import InputError
from schemas.ledger import (
    CLOCK_SKEW_MS,
    LARGEST,
    Account,
    Entry,
    Posting,
    QuotaWindow,
    Reservation,
    Shortage,
    checked,
    draw,
    entry_id,
    may_expire,
    overruns,
    pending_id,
    release,
    reserve,
    session_account,
    settle,
    task_account,
    tenant_account,
    transfer,
    violations,
    window_at,
)

UNIT = "micros"


def account(account_id: str, **values: Any) -> Account:
    return Account(account_id=account_id, tenant_id="t", unit=UNIT, **values)


def held(amount: int = 10, **values: Any) -> Reservation:
    return Reservation(
        pending_id="e#1/micros", effect_key="e", account_id="s", unit=UNIT, amount=amount, expires_at_ms=100, **values
    )


class Books(RuleBasedStateMachine):
    """One tenant, two sessions. Steps are lost, repeated and late; whoever settles may have used anything."""

    effects: Bundle[str] = Bundle("effects")

    def __init__(self) -> None:
        super().__init__()
        self.accounts = {
            name: account(name, debits_must_not_exceed_credits=bounded)
            for name, bounded in (("source", False), ("tenant", True), ("excess", False))
        }
        for name in ("a", "b"):
            self.accounts[name] = account(name, parent_account_id="tenant", credit_limit=150)
            self.accounts[f"task-{name}"] = account(f"task-{name}", parent_account_id=name)
        self.reservations: dict[str, Reservation] = {}
        self.entries: list[Entry] = []
        self.window = window_at("tenant", 120, 1_000, 0)
        self.now = 0
        self.counter = 0

    def post(self, posting: Posting) -> None:
        self.accounts |= {one.account_id: one for one in posting.accounts}
        self.reservations |= {one.pending_id: one for one in posting.reservations}
        self.entries += posting.entries

    def next_id(self) -> str:
        self.counter += 1
        return f"e{self.counter}"

    @rule(amount=st.integers(1, 200))
    def grant(self, amount: int) -> None:
        posting = transfer(self.accounts["source"], self.accounts["tenant"], amount, self.next_id())
        assert isinstance(posting, Posting)
        self.post(posting)

    @rule(target=effects, name=st.sampled_from("ab"), amount=st.integers(1, 60), crash=st.booleans())
    def reserve(self, name: str, amount: int, crash: bool) -> str:
        base = self.next_id()
        session = self.accounts[name]
        if session.available < amount:
            drawn = draw(
                session, self.accounts["tenant"], [self.window], wanted=amount, step=25, ledger_id=entry_id(base, "grant", UNIT)
            )
            if isinstance(drawn, Shortage):
                assert drawn.available < amount or session.frozen
                return base
            self.post(drawn[0])
            (self.window,) = drawn[1]
            session = self.accounts[name]
        if crash:
            return base  # the allotment was drawn in a transaction of its own, the reservation never came
        wanted = Reservation(
            pending_id=pending_id(base, UNIT), effect_key=base, account_id=name, unit=UNIT, amount=amount,
            expires_at_ms=self.now + 10,
        )  # fmt: skip
        posting = reserve(session, f"task-{name}", wanted, base)
        if isinstance(posting, Posting):
            self.post(posting)
        else:
            assert posting.code == "BUDGET_FROZEN"
        return base

    @rule(base=effects, used=st.integers(0, 80))
    def settle(self, base: str, used: int) -> None:
        one = self.reservations.get(pending_id(base, UNIT))
        if one is None:
            return
        name = one.account_id
        before, beyond = one.status, overruns(one, used)
        posting = settle(self.accounts[name], self.accounts[f"task-{name}"], self.accounts["excess"], one, used, base)
        self.post(posting)
        after = self.reservations[one.pending_id]
        assert after.settled <= after.amount
        if before != "settled" and beyond:
            assert self.accounts[name].frozen

    @rule(base=consumes(effects), kind=st.sampled_from(["void", "expire"]))
    def release(self, base: str, kind: Any) -> None:
        one = self.reservations.get(pending_id(base, UNIT))
        if one is None or (kind == "expire" and not may_expire(one, self.now, fenced=True)):
            return
        self.post(release(self.accounts[one.account_id], f"task-{one.account_id}", one, kind, base))

    @rule(name=st.sampled_from("ab"))
    def give_back(self, name: str) -> None:
        session = self.accounts[name]
        if session.available and not session.frozen:
            posting = transfer(session, self.accounts["tenant"], session.available, self.next_id())
            assert isinstance(posting, Posting)
            self.post(posting)

    @rule(ms=st.sampled_from([1, 11, CLOCK_SKEW_MS]))
    def wait(self, ms: int) -> None:
        self.now += ms
        if self.now >= self.window.window_end_ms:
            self.window = window_at("tenant", 120, 1_000, self.now)

    @invariant()
    def sound(self) -> None:
        assert violations(self.accounts.values(), self.reservations.values(), self.entries) == []
        assert 0 <= self.window.consumed <= self.window.window_budget
        for name in ("a", "b"):
            assert self.accounts[name].credits_posted <= 150


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_expiry_waits_for_every_clock_and_for_the_fence() -> None:
    assert not may_expire(held(), 100 + CLOCK_SKEW_MS - 1, fenced=True)
    assert may_expire(held(), 100 + CLOCK_SKEW_MS, fenced=True)
    assert not may_expire(held(), 10**15, fenced=False)
    assert not may_expire(held(status="settled"), 10**15, fenced=True)


def test_an_overrun_needs_somebody_to_bear_it() -> None:
    with pytest.raises(ValueError, match="bears"):
        settle(account("s", credits_posted=10, debits_pending=10), account("task"), None, held(), 11, "e#1")


def test_windows_lie_end_to_end() -> None:
    first = window_at("tenant:micros", 5, 1_000, 1_999)
    assert first == QuotaWindow(
        window_id="tenant:micros@1000", account_id="tenant:micros", window_start_ms=1_000, window_end_ms=2_000, window_budget=5
    )
    assert window_at("tenant:micros", 5, 1_000, 2_000).window_start_ms == first.window_end_ms


def test_a_top_up_takes_a_step_where_there_is_one_and_what_is_needed_where_not() -> None:
    tenant = account("tenant", credits_posted=100)
    for wanted, step, drawn in ((5, 30, 30), (40, 30, 40), (0, 30, 30), (5, 0, 5), (99, 100, 100)):
        found = draw(account("s", parent_account_id="tenant"), tenant, [], wanted=wanted, step=step, ledger_id="x")
        assert not isinstance(found, Shortage) and found[0].entries[0].amount == drawn
    short = draw(account("s", parent_account_id="tenant"), tenant, [], wanted=101, step=10, ledger_id="x")
    assert isinstance(short, Shortage) and (short.code, short.needed) == ("TENANT_BUDGET_EXHAUSTED", 101)


def test_violations_are_seen() -> None:
    sound = account("tenant", credits_posted=5)
    grant = Entry(
        ledger_id="g", kind="grant", debit_account_id="source", credit_account_id="tenant", amount=5, unit=UNIT
    )
    source = account("source", debits_posted=5, debits_must_not_exceed_credits=False)
    assert violations([sound, source], [], [grant]) == []
    for accounts, reservations, entries in (
        ([sound], [], [grant]),
        ([sound, source], [], []),
        ([sound, source], [], [grant, grant]),
        ([sound, source.model_copy(update={"debits_pending": 1})], [], [grant]),
        ([sound, source], [held(status="settled", settled=11)], [grant]),
    ):
        assert violations(accounts, reservations, entries)


def test_names_of_accounts_fit_their_column() -> None:
    session, task = "0" * 36, "x" * 256
    for name in (session_account(session, "egress_bytes"), task_account(session, task, "egress_bytes")):
        assert len(name) <= 256
    assert tenant_account("tokens") == "tenant:tokens"
    assert task_account(session, task, UNIT) != task_account(session, task + "y", UNIT)
    assert task_account(session, "fix", UNIT) == f"task:{session}:fix:micros"


@pytest.mark.parametrize("amount", [-1, LARGEST + 1, 1.0, True, "1", None])
def test_amounts_are_integers_that_json_keeps(amount: Any) -> None:
    with pytest.raises(InputError, match="AMOUNT_INVALID"):
        checked({UNIT: amount})


def test_units_are_a_closed_list() -> None:
    with pytest.raises(InputError, match="UNIT_UNKNOWN"):
        checked({"Micros": 1})  # type: ignore[dict-item]
    assert checked({"wall_ms": 2, "micros": 0, "tokens": 1}) == {"tokens": 1, "wall_ms": 2}


def test_what_is_more_than_a_whole_window_never_fits_and_says_so() -> None:
    session, tenant = Account(account_id="s", tenant_id="t", unit="micros"), Account(
        account_id="t", tenant_id="t", unit="micros", credits_posted=10_000
    )
    window = QuotaWindow(window_id="w", account_id="s", window_start_ms=0, window_end_ms=1_000, window_budget=100, consumed=60)
    later = draw(session, tenant, [window], wanted=80, step=1, ledger_id="x")
    never = draw(session, tenant, [window], wanted=200, step=1, ledger_id="x")
    assert isinstance(later, Shortage) and isinstance(never, Shortage)
    assert (later.code, later.retry_at_ms) == ("QUOTA_EXHAUSTED", 1_000)
    assert (never.code, never.retry_at_ms) == ("QUOTA_EXHAUSTED", None)
