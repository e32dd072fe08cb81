"""``gen4 kill`` and ``gen4 breakers`` as an operator types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from activities.kernel.limiting import KernelPolicy
from activities.record.breakers import Breakers
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.executions import ExecutionRow, ExecutionRows
from activities.record.kill_switches import KillSwitches
from cli.local import LocalStore, open_local
from cli.main import run
from schemas.event import Actor
from schemas.task import TENANT_CHAIN
from tests.cli.commands import Gen4
from workers.settings import Settings

WHY = ("--reason", "incident 12")


def local(home: Path) -> LocalStore:
    return open_local(Settings(home=home))


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


@pytest.mark.parametrize(
    ("option", "scope", "target"),
    [
        (("--tenant",), "tenant", ""),
        (("--everything",), "everything", ""),
        (("--capability", "testbed.run_tests"), "capability", "testbed.run_tests"),
    ],
)
def test_a_switch_goes_on_and_off_under_the_operators_name(
    home: Path, gen4: Gen4, option: tuple[str, ...], scope: str, target: str
) -> None:
    code, switch = gen4("kill", "on", *option, *WHY)
    told = (switch["scope"], switch["target"], switch["active"], switch["changed_by"])
    assert (code, told) == (0, (scope, target, True, "operator"))
    assert gen4("kill", "list")[1] == [switch]
    assert gen4("kill", "off", *option, "--reason", "over")[1]["epoch"] == 2
    assert gen4("kill", "list") == (0, [])
    events = [event.kind for event, _ in EventChain(local(home).store).read(TENANT_CHAIN)]
    assert events.count("killswitch.changed") == 2


def test_a_session_is_found_by_its_workflow(home: Path, gen4: Gen4) -> None:
    ExecutionRows(local(home).store).put(
        ExecutionRow(
            workflow_id="remediation-1", run_id="run", tenant_id="local", trace_id="t", session_id="session-1", task_id="k",
            first_run_id="run", principal_id="operator", phase="control", generation=1, reset=False,
        )
    )  # fmt: skip
    assert gen4("kill", "on", "--session", "remediation-1", *WHY)[1]["target"] == "session-1"
    assert code_of(gen4("kill", "on", "--session", "remediation-2", *WHY)) == (2, "SESSION_UNKNOWN")


@pytest.mark.parametrize("options", [(), ("--tenant", "--everything"), ("--tenant", "--capability", "testbed.run_tests")])
def test_exactly_one_thing_is_named(gen4: Gen4, options: tuple[str, ...]) -> None:
    assert code_of(gen4("kill", "on", *options, *WHY)) == (2, "KILL_TARGET")


@pytest.mark.parametrize("name", ["testbed.run_test", "Testbed.run_tests", "testbed.run_tests ", ""])
def test_a_capability_that_does_not_exist_would_be_a_switch_without_effect(gen4: Gen4, name: str) -> None:
    assert code_of(gen4("kill", "on", "--capability", name, *WHY)) == (2, "CAP_UNKNOWN")


def test_it_takes_a_reason(gen4: Gen4) -> None:
    assert gen4("kill", "on", "--tenant")[0] == 2
    assert code_of(gen4("kill", "on", "--tenant", "--reason", " ")) == (2, "KILL_REASON")


def test_roles_decide_who_may(home: Path, gen4: Gen4) -> None:
    gen4("whoami")
    people = Directory(local(home).store)
    people.revoke("operator", "operator", Actor(principal_id="operator", kind="human"))
    assert code_of(gen4("kill", "on", "--tenant", *WHY)) == (1, "ROLE_NOT_HELD")
    assert code_of(gen4("breakers", "reset", "local:server:sandbox", *WHY)) == (1, "ROLE_NOT_HELD")
    assert KillSwitches(local(home).store).active() == []
    assert gen4("kill", "on", "--everything", *WHY)[0] == 0, "which is a tenant_admin's"


def test_breakers_are_listed_with_their_outages_and_reset(home: Path, gen4: Gen4) -> None:
    assert gen4("breakers") == (0, {"breakers": [], "recoveries": []})
    store = local(home).store
    breakers = Breakers(store, KernelPolicy.load().breakers)
    for number in range(2):
        store.write(
            lambda connection, number=number: breakers.settle(  # type: ignore[misc]
                connection, "local:server:sandbox", f"a{number}", False, "SANDBOX_START_FAILED", 1_000
            )
        )
    code, found = gen4("breakers")
    assert code == 0
    assert [(one["scope_key"], one["phase"], one["last_reason"]) for one in found["breakers"]] == [
        ("local:server:sandbox", "open", "SANDBOX_START_FAILED")
    ]
    assert found["recoveries"] == [{"scope_key": "local:server:sandbox", "failing_since_ms": 1_000, "mttr_ms": None}]
    code, state = gen4("breakers", "reset", "local:server:sandbox", *WHY)
    assert (code, state["phase"]) == (0, "closed")
    assert gen4("breakers")[1]["recoveries"][0]["mttr_ms"] > 0
    assert code_of(gen4("breakers", "reset", "local:server:sandbok", *WHY)) == (2, "BREAKER_UNKNOWN")
    assert code_of(gen4("breakers", "reset", "other:server:sandbox", *WHY)) == (1, "TENANT_MISMATCH")


def test_people_read_one_line_each(home: Path, gen4: Gen4, capsys: pytest.CaptureFixture[str]) -> None:
    run(["kill", "on", "--tenant", *WHY])
    run(["kill", "list"])
    run(["kill", "off", "--tenant", "--reason", "over"])
    run(["kill", "list"])
    run(["breakers"])
    assert capsys.readouterr().out.splitlines() == [
        "tenant: on (epoch 1, operator: incident 12)", "tenant: on (epoch 1, operator: incident 12)",
        "tenant: off (epoch 2, operator: over)", "no kill switch is on", "nothing has failed",
    ]  # fmt: skip
