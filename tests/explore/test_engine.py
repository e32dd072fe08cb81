"""The whole engine in a real sandbox: small buggy programs in, confirmed patches out."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest

from activities.explore.deciding import Decided, ForkServer
from activities.explore.splice import whole_compiles
from activities.explore.templates import Edit
from activities.record.trajectory import read_trajectory
from schemas.candidate import Exploration
from schemas.error import InfrastructureError
from schemas.test_command import parse_test_command
from tests.explore.bed import COMMIT_TIME, EXAMPLES, IMPATIENT, LIMITS, Bed, Case, files_below

SOLVED = {
    "stock": "stock/shelf.py",
    "ledger": "src/ledger/entries.py",
    "intervals": "intervals.py",
    "lookup": "lookup/paths.py",
    "pages": "pages/paging.py",
    "words": "words.py",
}
"""Example and the file that its bug is in. ``route`` needs a statement that none of the templates makes."""


@pytest.mark.parametrize("name", sorted(SOLVED))
def test_a_bug_is_mended_in_its_file(bed: Bed, name: str) -> None:
    case = bed.case(files_below(EXAMPLES / name))
    exploration = bed.repair(case, f"example-{name}", keep=1)
    assert [found.fix for found in exploration.candidates] == ["complete"], exploration
    best = exploration.candidates[0]
    assert best.path == SOLVED[name] and best.patch.paths == (SOLVED[name],)
    assert bed.objects.apply(case.tree, bed.blobs.get(best.patch.diff)) == best.patch.result_tree
    assert bed.objects.diff(case.tree, best.patch.result_tree) == bed.blobs.get(best.patch.diff)
    assert whole_compiles(bed.objects.file(best.patch.result_tree, best.path) or b"(")


def test_a_bug_beyond_single_edits_is_reported_as_unsolved(bed: Bed) -> None:
    case = bed.case(files_below(EXAMPLES / "route"), limits=IMPATIENT)
    exploration = bed.repair(case, "example-route", wall_ms=4_000)
    assert exploration.tried > 0
    assert exploration.candidates == ()
    assert exploration.stopped in ("wall_time", "exhausted") and exploration.message


def test_the_trajectory_tells_what_was_done(bed: Bed) -> None:
    case = bed.case(files_below(EXAMPLES / "intervals"))
    best = bed.repair(case, "trajectory", keep=1).candidates[0]
    steps = read_trajectory(bed.blobs.get(best.trajectory))
    assert [step.tool_call.name for step in steps if step.tool_call] == ["localize", "plan", "try_edits", "run_tests"]
    assert [step.candidate_id for step in steps] == [None, None, None, best.candidate_id]
    assert steps[-1].snapshot_hash == bed.objects.snapshot_hash(best.patch.result_tree)
    assert json.loads(steps[-1].tool_output)["verdict"] == "accepted"


class Killed(BaseException):
    """The worker dies here."""


def stable(bed: Bed, exploration: Exploration) -> list[Any]:
    """Everything but identities and times of steps, which each run has its own of."""
    told: list[Any] = []
    for found in exploration.candidates:
        steps = read_trajectory(bed.blobs.get(found.trajectory))
        told.append([step.model_dump(exclude={"step_id", "timestamp", "prev_hash"}) for step in steps])
        told.append(found.model_dump(exclude={"trajectory", "trajectory_sha256"}))
    return [told, exploration.tried, exploration.stopped]


def test_a_killed_search_goes_on_from_its_cursor(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.explore.search.SAVE_EVERY_S", 0.0)
    case = bed.case(files_below(EXAMPLES / "ledger"))
    times: list[float] = []
    undisturbed = bed.repair(case, "undisturbed", lambda: times.append(time.monotonic()), keep=2)
    assert max(later - earlier for earlier, later in pairwise(times)) < 4.0, "a heartbeat was missed"
    left = 30

    def dying() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.raises(Killed):
        bed.repair(case, "killed", dying, keep=2)
    cursor = bed.cursors.load("killed")
    assert cursor is not None and cursor["consumed"] > 0
    assert stable(bed, bed.repair(case, "killed", keep=2)) == stable(bed, undisturbed)


NAMED = {
    "one.py": b"def low(a):\n    return a - 1\n\n\ndef high(a):\n    return undefined + a\n",
    "test_one.py": b"from one import high, low\n\n\ndef test_low():\n    assert low(1) == 2\n\n\n"
    b"def test_high():\n    assert high(1) == {}\n",
}


def test_without_names_a_part_is_a_partial_fix_and_with_names_a_complete_one(bed: Bed) -> None:
    partial = bed.repair(bed.case(NAMED), "partial", wall_ms=15_000)
    assert {found.fix for found in partial.candidates} == {"partial"}
    complete = bed.repair(bed.case(NAMED, ("test_one.py::test_low",)), "named", keep=1)
    assert [found.fix for found in complete.candidates] == ["complete"]


def test_nothing_to_do_is_said_at_once(bed: Bed) -> None:
    good = {"one.py": b"X = 1\n", "test_one.py": b"def test_a():\n    assert True\n"}
    assert bed.repair(bed.case(good), "good").stopped == "no_failing_test"
    assert bed.repair(bed.case(good, ("test_one.py::test_a",)), "passing").stopped == "no_failing_test"
    assert bed.repair(bed.case({"one.py": b"X = 1\n"}), "testless").stopped == "no_tests"
    alone = {"test_one.py": b"def test_a():\n    assert False\n"}
    lonely = bed.repair(bed.case(alone), "alone")
    assert (lonely.stopped, lonely.message) == ("no_suspects", "the failing tests run no line of product code")


def test_source_that_is_not_utf8_is_named_and_not_called_uncovered(bed: Bed) -> None:
    latin = {
        "one.py": b"# -*- coding: latin-1 -*-\n# caf\xe9\ndef inc(n):\n    return n - 1\n",
        "test_one.py": b"from one import inc\n\n\ndef test_inc():\n    assert inc(1) == 2\n",
    }
    unread = bed.repair(bed.case(latin), "latin")
    assert unread.stopped == "no_suspects"
    assert "one.py" in unread.message and "UTF-8" in unread.message


HOSTILE = {
    "one.py": b"""\
import os
import signal
import time
from itertools import pairwise

LEVEL = 1


def act(what):
    hold = []
    if what == "loop":
        while True:
            pass
    if what == "sleep":
        time.sleep(3600)
    if what == "exit":
        os._exit(0)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "eat":
        while True:
            hold.append(bytearray(1 << 26))
    if what == "flood":
        for _ in range(20000):
            print("x" * 1000)
    if what == "fork" and os.fork() == 0:
        time.sleep(3600)
    if what == "close":
        os.closerange(3, 64)
    return LEVEL


def target():
    return act("nothing")
""",
    "test_one.py": b"from one import target\n\n\ndef test_target():\n    assert target() == 5\n\n\n"
    b"def test_other():\n    assert True\n",
}


@pytest.fixture
def hostile(bed: Bed) -> Case:
    return bed.case(HOSTILE)


def ask(bed: Bed, case: Case, *texts: tuple[str, str]) -> list[Decided]:
    """Verdicts on edits that replace the last occurrence of a text."""
    assert bed.environment is not None
    data = HOSTILE["one.py"]
    job = {"targets": ["test_one.py::test_target"], "passing": ["test_one.py::test_other"], "named": True, "memory_mb": 512}
    plan = parse_test_command(())
    with bed.testbed.session(case.tree, bed.environment, plan, LIMITS, "forkserver", job, commit_time=COMMIT_TIME) as process:
        server = ForkServer(process, bed.beat)
        assert server.ready().unsteady == ()
        found = []
        for number, (old, new) in enumerate(texts):
            start = data.rindex(old.encode())
            server.submit(number, Edit("one.py", start, start + len(old.encode()), new, "test", 1.0, 1), (0,))
            found.append(server.next())
        return found


def test_edits_that_misbehave_cost_only_themselves(bed: Bed, hostile: Case) -> None:
    kinds = ["loop", "sleep", "exit", "kill", "eat", "flood", "fork", "close"]
    edits = [("nothing", kind) for kind in kinds]
    found = ask(
        bed,
        hostile,
        *edits,
        ('act("nothing")', "5"),
        ("act(", "act(("),
        ('act("nothing")', 'act("nothing" "")'),
        ("LEVEL = 1", "LEVEL = 5"),
    )
    verdicts = [decided.verdict for decided in found]
    assert set(verdicts[: len(kinds)]) <= {"fails", "timeout"}
    assert verdicts[:2] == ["timeout", "timeout"]
    assert verdicts[len(kinds) :] == ["plausible", "invalid", "same", "plausible"]
    assert [decided.how for decided in found[-4:]] == ["swap", "swap", "swap", "import"]


def test_an_edit_that_breaks_a_passing_test_names_it(bed: Bed) -> None:
    files = {
        "one.py": b"def f(x):\n    return x\n",
        "test_one.py": b"from one import f\n\n\ndef test_old():\n    assert f(1) == 1\n\n\n"
        b"def test_new():\n    assert f(0) == 1\n",
    }
    case = bed.case(files, ("test_one.py::test_new",))
    assert bed.environment is not None
    job = {"targets": ["test_one.py::test_new"], "passing": ["test_one.py::test_old"], "named": True, "memory_mb": 512}
    plan = parse_test_command(())
    with bed.testbed.session(case.tree, bed.environment, plan, LIMITS, "forkserver", job, commit_time=COMMIT_TIME) as process:
        server = ForkServer(process, bed.beat)
        server.ready()
        server.submit(1, Edit("one.py", 21, 22, "x + 1", "test", 1.0, 2), (0,))
        decided = server.next()
    assert (decided.verdict, decided.mended, decided.detail) == ("breaks", ("test_one.py::test_new",), "test_one.py::test_old")


LEAKY = {
    "one.py": b"""\
import functools


@functools.lru_cache
def table():
    return [0]


def value():
    return table()[0]
""",
    "test_one.py": b"""\
import os
from one import value

STARTED = os.getpid()


def test_value():
    assert os.getpid() != STARTED and value() == 1
""",
}


def test_what_only_holds_in_a_fork_is_not_a_candidate(bed: Bed) -> None:
    """The test demands to run in another process than it was collected in, as no fresh pytest process does."""
    case = bed.case(LEAKY)
    exploration = bed.repair(case, "leaky", wall_ms=5_000)
    assert exploration.candidates == ()


def test_a_dying_server_is_replaced_and_its_edit_left_out(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    case = bed.case(files_below(EXAMPLES / "words"))
    real, calls = ForkServer.next, 0

    def dying(self: ForkServer) -> Decided:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InfrastructureError("FORK_SERVER_GONE", "as if the sandbox had ended")
        return real(self)

    monkeypatch.setattr(ForkServer, "next", dying)
    assert bed.repair(case, "replaced", keep=1).candidates
