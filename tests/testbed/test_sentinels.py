"""Planted tests that must fail: every form does, none is in a neighbour's way, and one that does not fail is found out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from activities.testbed.runner.host import Host
from activities.testbed.runner.results import Results
from activities.testbed.runner.sentinels import FORMS, Sentinels
from schemas.test_command import parse_test_command
from schemas.testing import Environment

from .test_measuring import observe

PLANT = """
import json, sys
import pytest
from activities.testbed.runner.planting import Planting
seen = []
class Seen:
    def pytest_runtest_logreport(self, report): seen.append((report.nodeid, report.when, report.outcome))
forms = sys.argv[2].split(",")
sentinels = [
    {"name": f"test_{form}", "form": form, "at": number / len(forms), "left": number + 1, "right": 99, "error": "ValueError"}
    for number, form in enumerate(forms)
]
told = []
planting = Planting(sentinels, lambda event, **fields: told.append(fields), False)
options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:asyncio", "--rootdir", sys.argv[1]]
code = pytest.main([*options, sys.argv[1]], plugins=[planting, Seen()])
print(json.dumps({"code": int(code), "planted": told[0]["ids"], "seen": seen}))
"""
CONFTEST = """
import pytest
@pytest.fixture(autouse=True)
def strict(request): assert request.node.function.__doc__ == "honest"
def pytest_runtest_setup(item):
    if item.function.__doc__ != "honest": pytest.skip("not one of ours")
"""
SUITE = """
import unittest
import pytest
pytestmark = pytest.mark.filterwarnings("ignore")
@pytest.fixture(scope="module", autouse=True)
def module():
    print("MODULE UP")
    yield
    print("MODULE DOWN")
@pytest.mark.xfail
class TestA:
    @classmethod
    def setup_class(cls): print("CLASS UP")
    def test_1(self): "honest"
    def test_2(self): "honest"
class TestU(unittest.TestCase):
    @classmethod
    def setUpClass(cls): print("UNIT UP")
    def test_u(self): "honest"
    def test_v(self): "honest"
@pytest.mark.parametrize("n", [1, 2])
def test_end(n, request):
    "honest"
    assert request.session.testsfailed == 0 and len(request.session.items) == 6
"""


def test_every_form_fails_between_any_tests_and_disturbs_none(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-c", PLANT, str(tmp_path), ",".join(FORMS)], capture_output=True, text=True, timeout=60, check=False
    )
    *lines, last = done.stdout.splitlines()
    told = json.loads(last)
    calls = {nodeid: outcome for nodeid, when, outcome in told["seen"] if when == "call"}
    assert len(told["planted"]) == len(FORMS) and {calls[nodeid] for nodeid in told["planted"]} == {"failed"}
    assert {outcome for nodeid, outcome in calls.items() if nodeid not in told["planted"]} == {"passed"} and len(calls) == 12
    assert all(nodeid.startswith("test_a.py::") for nodeid in told["planted"])
    printed = "\n".join(lines)
    assert [printed.count(word) for word in ("MODULE UP", "MODULE DOWN", "CLASS UP", "UNIT UP")] == [1, 1, 1, 1]
    assert told["code"] == 0 and "test_assert" not in printed, "the session does not count them, and nothing shows them"


class FakeHost:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def with_next(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


REAL = "test_a.py::test_real"
FINISH = ({"event": "session", "exit_code": 0}, {"event": "intact", "changed": []}, {"event": "finish", "exit_code": 0})


def report(nodeid: str, outcome: str) -> list[dict[str, Any]]:
    phase = {"event": "phase", "id": nodeid, "when": "call", "outcome": outcome, "xfail": False, "detail": ""}
    return [{"event": "start", "id": nodeid}, phase, {"event": "done", "id": nodeid}]


def end_of(events: Sequence[dict[str, Any]], sentinels: Sentinels, status: int = 0) -> dict[str, Any]:
    host = FakeHost()
    results = Results(cast(Host, host), sentinels)
    results.order()
    for event in ({"event": "runner", "version": "9"}, {"event": "items", "ids": [REAL]}, {"event": "collected"}, *events):
        results.take(event)
    results.ended(status)
    assert {fields["id"] for kind, fields in host.sent if kind == "outcome"} <= {REAL}
    return results.end()


def planted(sentinels: Sentinels) -> list[str]:
    return [f"test_a.py::{name}" for name in sentinels.outstanding]


def test_a_run_whose_sentinels_failed_is_a_run() -> None:
    sentinels = Sentinels()
    ids = planted(sentinels)
    events = [{"event": "planted", "ids": ids}, *report(ids[0], "failed"), *report(REAL, "passed")]
    events += [event for nodeid in ids[1:] for event in report(nodeid, "failed")]
    end = end_of([*events, *FINISH], sentinels)
    assert (end["codes"], end["exit_code"], end["outcomes"]) == ([], 0, 1)
    assert end["sentinels"] == {"planted": len(ids), "caught": len(ids)} and 2 <= len(ids) <= 4


@pytest.mark.parametrize("outcome", ["passed", "skipped"])
def test_a_sentinel_that_does_not_fail_is_tampering(outcome: str) -> None:
    sentinels = Sentinels()
    ids = planted(sentinels)
    events = [{"event": "planted", "ids": ids}, *report(ids[0], outcome), *report(REAL, "passed")]
    events += [event for nodeid in ids[1:] for event in report(nodeid, "failed")]
    end = end_of([*events, *FINISH], sentinels)
    assert end["codes"] == ["HARNESS_TAMPERED"] and outcome in end["message"]
    assert end["sentinels"]["caught"] == len(ids) - 1


def test_sentinels_that_vanish_are_tampering() -> None:
    for events in (
        [*report(REAL, "passed"), *FINISH],
        [{"event": "planted", "ids": []}, *report(REAL, "passed"), *FINISH],
        [{"event": "planted", "ids": [REAL, REAL]}, *report(REAL, "passed"), *FINISH],
    ):
        end = end_of(events, Sentinels())
        assert "HARNESS_TAMPERED" in end["codes"]
        assert end["sentinels"]["caught"] < end["sentinels"]["planted"] or "not planted" in end["message"]


@pytest.mark.parametrize(
    ("outcome", "session", "finish", "status"),
    [("failed", 0, 0, 0), ("passed", 1, 1, 1), ("passed", 0, 0, 1), ("passed", 0, 0, -9), ("failed", 1, 1, 0)],
)
def test_exit_codes_that_contradict_the_outcomes_are_tampering(outcome: str, session: int, finish: int, status: int) -> None:
    sentinels = Sentinels()
    ids = planted(sentinels)
    events = [{"event": "planted", "ids": ids}, *(event for nodeid in ids for event in report(nodeid, "failed"))]
    events += [*report(REAL, outcome), {"event": "session", "exit_code": session}, {"event": "finish", "exit_code": finish}]
    assert end_of(events, sentinels, status)["codes"] == ["HARNESS_TAMPERED"]


def test_what_is_reported_behind_the_end_is_tampering() -> None:
    sentinels = Sentinels()
    ids = planted(sentinels)
    events = [{"event": "planted", "ids": ids}, *(event for nodeid in ids for event in report(nodeid, "failed"))]
    end = end_of([*events, *FINISH, *report(REAL, "passed")], sentinels)
    assert "HARNESS_TAMPERED" in end["codes"] and end["outcomes"] == 0


def test_a_run_that_gave_up_before_them_is_not_called_tampered() -> None:
    host = FakeHost()
    results = Results(cast(Host, host), Sentinels())
    results.order()
    results.take({"event": "items", "ids": [REAL]})
    results.give_up("RUN_TIMEOUT", "too slow")
    end = results.end()
    assert end["codes"] == ["RUN_TIMEOUT"] and end["sentinels"] == {"planted": 0, "caught": 0}


def test_all_are_caught_in_real_runs_also_behind_a_crash_and_for_a_single_test(bed: Any, plain: Environment) -> None:
    tree = bed.tree({"test_a.py": "import os\ndef test_a(): pass\ndef test_exit(): os._exit(0)\n"})
    seen = observe(bed, tree, plain)
    assert (seen.run.codes, seen.outcomes) == ((), {"test_a.py::test_a": "passed", "test_a.py::test_exit": "error"})
    assert seen.planted == seen.caught >= 2 and seen.run.exit_code == 1
    only = observe(bed, tree, plain, only=("test_a.py::test_a",))
    assert (only.run.status, only.planted == only.caught >= 2) == ("passed", True)
    nothing = observe(bed, bed.tree({"README": ""}), plain)
    assert (nothing.run.codes, nothing.planted) == (("TESTS_NONE_COLLECTED",), 0)


def test_a_forked_copy_of_the_reporter_is_noticed(bed: Any, plain: Environment) -> None:
    source = """
import gc, os
def test_a():
    [reporter] = [thing for thing in gc.get_objects() if type(thing).__name__ == "Reporter"]
    if os.fork() == 0:
        reporter._owner = os.getpid()
        reporter("phase", id="test_a.py::test_b", when="call", outcome="passed", xfail=False)
        os._exit(0)
    os.wait()
def test_b(): assert 0
"""
    seen = observe(bed, bed.tree({"test_a.py": source}), plain, plan=parse_test_command(()))
    assert seen.run.codes == ("HARNESS_BROKEN", "PYTEST_CHANGED") and seen.outcomes.get("test_a.py::test_b") != "passed"
