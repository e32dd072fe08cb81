"""Effects that were begun and never ended: what becomes of them, and of what was held back for them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from activities.control.reconciling import QUIET_MS, Reconciling
from activities.kernel.acting import Acting
from activities.record.effects import Effects
from activities.record.ledger import Ledger, Reserved
from activities.record.store import now_ms
from schemas.operations import RunFacts
from schemas.tariff import Tariff
from tests.control.conftest import Desk
from tests.control.test_reaping import Server

HOUR_MS = 3_600_000
TARIFF = Tariff.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes())["ledger"]["tariff"])


class Bench:
    """One metered effect, begun in a child's run; its clock is that of the store, moved on by ``later_ms``."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.server = desk, Server()
        self.effects, self.ledger = Effects(desk.tenant), Ledger(desk.tenant)
        self.who: Acting = desk.who(workflow_id="w/explore/1", run_id="r", effect_key="w/explore/1/r/5", attempt_key="r/5/1")
        desk.tenant.write(lambda connection: self.ledger.open_session(connection, desk.keys, {}, 1))
        reserved = desk.tenant.write(
            lambda connection: self.ledger.reserve(
                connection, desk.keys, effect_key=self.who.effect_key, capability_id="testbed.run_tests",
                amounts={"cpu_ms": 2_000, "wall_ms": 1_000, "micros": 500}, generation=1, expires_at_ms=2**50, now_ms=1,
            )
        )  # fmt: skip
        assert isinstance(reserved, Reserved)
        self.effects.begin(self.who, "testbed.run_tests")
        self.later_ms = HOUR_MS
        self.reconciling = Reconciling(desk.tenant, self.server, TARIFF, clock=lambda: now_ms() + self.later_ms)

    def run_is(self, status: Any, *pending: str) -> None:
        self.server.runs[("w/explore/1", "r")] = RunFacts(run_id="r", first_run_id="r", status=status, pending=pending)

    def found(self) -> list[str]:
        return [one.effect_key for one in self.reconciling.find(10).effects]

    def accounts(self) -> dict[str, tuple[int, int]]:
        """Pending and posted of the session, by unit."""
        held = {}
        for account in self.ledger.balances("s"):
            if account.parent_account_id and account.parent_account_id.startswith("tenant"):
                held[account.unit] = (account.debits_pending, account.debits_posted)
        return held

    def outcome(self) -> str:
        stored = self.effects.get(self.who.effect_key)
        assert stored is not None
        return stored.outcome


@pytest.fixture
def bench(desk: Desk) -> Bench:
    return Bench(desk)


@pytest.mark.parametrize("status", ["TERMINATED", "TIMED_OUT", "FAILED", "CANCELED", "COMPLETED"])
def test_what_left_nothing_failed_and_is_charged_what_was_held_back(bench: Bench, status: str) -> None:
    bench.run_is(status)
    assert bench.found() == [bench.who.effect_key]
    settled = bench.reconciling.reconcile(bench.who.effect_key, None)
    assert (settled.outcome, settled.code) == ("failed", "NOT_OBSERVED")
    assert bench.outcome() == "failed"
    assert bench.accounts()["cpu_ms"] == (0, 2_000)
    assert bench.accounts()["wall_ms"] == (0, 1_000)
    assert bench.accounts()["micros"][0] == 0
    assert bench.found() == []
    again = bench.reconciling.reconcile(bench.who.effect_key, None)
    assert (again.outcome, again.code) == (None, "SETTLED_BY_ITSELF")
    kinds = [event.kind for event, _ in bench.desk.chain.read("s")]
    assert kinds.count("task.reconciled") == kinds.count("budget.settled") == 1
    assert bench.desk.chain.verify("s") == []


def test_a_run_that_the_server_forgot_attempts_nothing_more(bench: Bench) -> None:
    assert bench.reconciling.reconcile(bench.who.effect_key, None).outcome == "failed"


@pytest.mark.parametrize("pending", [("5",), ()])
def test_what_a_running_workflow_began_is_its_own(bench: Bench, pending: tuple[str, ...]) -> None:
    bench.run_is("RUNNING", *pending)
    assert bench.found() == []
    assert bench.reconciling.reconcile(bench.who.effect_key, None).outcome is None
    assert bench.outcome() == "started"
    assert bench.reconciling.find(10).waiting == 1


def test_an_unknown_effect_that_is_not_tried_again_is_settled_while_its_workflow_runs(bench: Bench) -> None:
    bench.effects.finish(bench.who, "testbed.run_tests", "unknown", None)
    bench.run_is("RUNNING", "5")
    assert bench.found() == []
    bench.run_is("RUNNING", "6")
    assert bench.found() == [bench.who.effect_key]


def test_what_was_touched_just_now_waits(bench: Bench) -> None:
    bench.run_is("TERMINATED")
    bench.later_ms = QUIET_MS // 2
    assert bench.found() == []
    bench.later_ms = QUIET_MS * 2
    assert bench.found() == [bench.who.effect_key]


def test_an_attempt_that_ends_meanwhile_knows_better(bench: Bench) -> None:
    bench.run_is("TERMINATED")
    assert bench.found()
    bench.effects.finish(bench.who, "testbed.run_tests", "succeeded", "{}")
    assert bench.reconciling.reconcile(bench.who.effect_key, None).code == "SETTLED_BY_ITSELF"
    assert bench.outcome() == "succeeded"


def test_a_late_success_is_kept_although_the_effect_was_given_up(bench: Bench) -> None:
    bench.run_is("TERMINATED")
    bench.reconciling.reconcile(bench.who.effect_key, None)
    bench.effects.finish(bench.who, "testbed.run_tests", "succeeded", "{}")
    assert bench.outcome() == "succeeded"


def test_what_waits_for_its_workflow_does_not_hide_what_can_be_settled(bench: Bench) -> None:
    """Three older effects of a run that goes on, and pages of two."""
    for number in range(3):
        waiting = bench.desk.who(workflow_id="open", run_id="o", effect_key=f"open/o/{number}", attempt_key=f"o/{number}/1")
        bench.effects.begin(waiting, "testbed.run_tests")
        bench.effects.finish(waiting, "testbed.run_tests", "failed", None)
        bench.effects.begin(waiting, "testbed.run_tests")
    bench.server.runs[("open", "o")] = RunFacts(run_id="o", first_run_id="o", status="RUNNING", pending=())
    last = bench.desk.who(workflow_id="w/explore/1", run_id="r", effect_key="w/explore/1/r/6", attempt_key="r/6/1")
    bench.effects.begin(last, "testbed.run_tests")
    bench.run_is("COMPLETED")
    assert {one.effect_key for one in bench.reconciling.find(2).effects} == {bench.who.effect_key, last.effect_key}
