"""``gen4 ledger`` as operators and auditors type it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from activities.record.executions import ExecutionRow
from activities.record.ledger import Ledger
from cli.amounts import parse_amounts
from cli.local import open_local
from cli.main import run
from cli.remediate import budget_of
from schemas.error import InputError
from schemas.ledger import Usage
from schemas.request import Budget
from schemas.tariff import Tariff
from schemas.task import TraceKeys
from tests.cli.commands import Gen4
from workers.settings import Settings

KEYS = TraceKeys(tenant_id="local", trace_id="t", session_id="s-1", task_id="task")
TARIFF = Tariff(number=1, cpu_micros_per_s=11, wall_micros_per_s=3, egress_micros_per_mib=88, tool_call_micros=10)


@pytest.fixture
def spent(home: Path) -> Path:
    """A session that ran tests twice, in two roles."""
    local = open_local(Settings(home=home))
    ledger = Ledger(local.store, local.chain)
    local.executions.put(
        ExecutionRow(
            **KEYS.model_dump(), workflow_id="remediation-1", run_id="s-1", first_run_id="s-1", principal_id="operator",
            phase="control", generation=1, reset=False,
        )
    )  # fmt: skip
    for n, role in enumerate(("implementer", "verifier")):

        def together(connection: Any, effect: str = f"w/r/{n}", role: str = role) -> None:
            ledger.reserve(
                connection, KEYS, effect_key=effect, capability_id="testbed.run_tests", generation=1, now_ms=1,
                amounts={"micros": 1_000, "cpu_ms": 60_000}, expires_at_ms=10**13,
            )  # fmt: skip
            ledger.settle(
                connection, KEYS, effect_key=effect, capability_id="testbed.run_tests", role=role, tariff=TARIFF, now_ms=2,
                usage=Usage(cpu_ms=10_000, tool_calls=1),
            )  # fmt: skip

        local.store.write(together)
    local.close()
    return home


def test_balances_of_the_tenant_and_of_a_session(gen4: Gen4, spent: Path) -> None:
    code, accounts = gen4("ledger", "balance")
    assert code == 0
    assert {one["account_id"] for one in accounts} == {
        f"tenant:{unit}" for unit in ("micros", "tokens", "cpu_ms", "wall_ms", "egress_bytes")
    }
    found = {one["account_id"]: one for one in gen4("ledger", "balance", "--session", "remediation-1")[1]}
    assert found["session:s-1:micros"]["debits_posted"] == 240
    assert found["task:s-1:task:micros"]["credits_posted"] == 240
    assert found["session:s-1:micros"]["available"] == 200_000 - 240


def test_a_home_without_sessions(gen4: Gen4) -> None:
    assert gen4("ledger", "balance") == (0, [])
    assert gen4("ledger", "cost") == (0, [])
    assert gen4("ledger", "entries") == (0, [])
    assert gen4("ledger", "reconcile")[1]["consistent"] is True


def test_grants_are_on_record_and_given_once(gen4: Gen4) -> None:
    code, account = gen4("ledger", "grant", "micros=500", "--reason", "July", "--id", "july")
    assert (code, account["account_id"], account["available"], account["grant_id"]) == (0, "tenant:micros", 500, "july")
    assert gen4("ledger", "grant", "micros=500", "--reason", "July", "--id", "july")[1]["available"] == 500
    code, answer = gen4("ledger", "grant", "micros=600", "--reason", "July", "--id", "july")
    assert (code, answer["error"]["code"]) == (1, "ID_CONFLICT")
    (entry,) = gen4("ledger", "entries")[1]
    assert (entry["kind"], entry["amount"], entry["reason"]) == ("grant", 500, "July")


@pytest.mark.parametrize("amount", ["micros", "micros=", "micros=-1", "micros=1.5", "dollars=1", "micros=1,tokens=2", "micros=٣"])
def test_what_is_no_grant_is_a_usage_error(gen4: Gen4, amount: str) -> None:
    code, answer = gen4("ledger", "grant", amount, "--reason", "x")
    assert (code, answer["error"]["code"]) == (2, "BUDGET_SYNTAX")


def test_a_grant_of_nothing_is_refused(gen4: Gen4) -> None:
    code, answer = gen4("ledger", "grant", "micros=0", "--reason", "x")
    assert (code, answer["error"]["code"]) == (2, "AMOUNT_INVALID")


def test_only_an_administrator_grants(gen4: Gen4, home: Path) -> None:
    assert gen4("role", "grant", "operator", "auditor")[0] == 0
    gen4("principal", "add", "second", "--issuer", "https://id.example", "--subject", "2")
    gen4("role", "grant", "second", "tenant_admin")
    assert gen4("role", "revoke", "operator", "tenant_admin")[0] == 0
    code, answer = gen4("ledger", "grant", "micros=5", "--reason", "for myself")
    assert (code, answer["error"]["code"]) == (1, "ROLE_NOT_HELD")
    assert gen4("ledger", "balance") == (0, [])


def test_costs_by_role_capability_and_task(gen4: Gen4, spent: Path) -> None:
    by_role = gen4("ledger", "cost", "--by", "role", "--session", "s-1")[1]
    assert [(one["name"], one["calls"], one["total_cost_micros"]) for one in by_role] == [
        ("implementer", 1, 120), ("verifier", 1, 120),
    ]  # fmt: skip
    (one,) = gen4("ledger", "cost")[1]
    assert (one["name"], one["cpu_ms"], one["total_cost_micros"]) == ("testbed.run_tests", 20_000, 240)
    assert [one["name"] for one in gen4("ledger", "cost", "--by", "task")[1]] == ["task"]
    assert [one["name"] for one in gen4("ledger", "cost", "--by", "model")[1]] == [""]


def test_reconcile_says_what_was_altered(gen4: Gen4, spent: Path) -> None:
    code, result = gen4("ledger", "reconcile")
    assert (code, result["consistent"], result["differences"]) == (0, True, [])
    raw = sqlite3.connect(spent / "store.db")
    raw.execute("UPDATE budget_account SET debits_posted = 1 WHERE account_id = 'session:s-1:micros'")
    raw.commit()
    raw.close()
    code, result = gen4("ledger", "reconcile")
    assert (code, result["consistent"]) == (1, False)
    places = {(one["code"], one["account_id"], one["expected"], one["found"]) for one in result["differences"]}
    assert ("BALANCE_DIFFERS", "session:s-1:micros", 240, 1) in places
    kinds = [event["kind"] for event in gen4("events", "tenant")[1]]
    assert kinds.count("budget.reconciled") == 2


def test_people_read_it_too(home: Path, spent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, wanted in (
        (["balance", "--session", "s-1"], "session:s-1:micros  reserved 0, spent 240 of 200000"),
        (["balance", "--session", "s-1"], "task:s-1:task:micros  spent 240"),
        (["entries", "--session", "s-1"], "settle                120 micros       session:s-1:micros → task:s-1:task:micros"),
        (["cost"], "240 micros  testbed.run_tests  (2 calls, 20.0 s cpu"),
        (["reconcile"], "ok: no difference in"),
    ):
        capsys.readouterr()
        assert run(["ledger", *arguments]) == 0
        assert wanted in capsys.readouterr().out


def test_an_unknown_session_is_said(gen4: Gen4) -> None:
    code, answer = gen4("ledger", "balance", "--session", "nobody")
    assert (code, answer["error"]["code"]) == (2, "SESSION_UNKNOWN")


def test_a_budget_as_people_write_it() -> None:
    assert budget_of("") is None
    assert budget_of("micros=5,tokens=7") == Budget(micros=5, tokens=7)
    for text, code in (("micros=0", "INVALID_INPUT"), ("egress_bytes=5", "INVALID_INPUT"), ("five", "BUDGET_SYNTAX")):
        with pytest.raises(InputError) as refused:
            budget_of(text)
        assert refused.value.code == code


def test_amounts_of_a_budget() -> None:
    assert parse_amounts("micros=5, cpu_ms=7") == {"micros": 5, "cpu_ms": 7}
    for text in ("", "micros=5,micros=6", "micros", "=5", "micros=5,"):
        with pytest.raises(InputError, match="BUDGET_SYNTAX"):
            parse_amounts(text)
