"""Lines and times of a run, measured without changing what its tests do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.testbed.protocol import HarnessBroken, read_report
from activities.testbed.run import Observation
from activities.testbed.runner.executable import executable_lines, is_measured, lines_of, spans
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.test_paths import is_test_path
from schemas.testing import Environment, Limits, RunVariant, TestPlan

from .conftest import LIMITS, speak
from .test_protocol import END, PASSED, lines
from .test_runner import job


def observe(
    bed: Any,
    tree: str,
    environment: Environment,
    *,
    measure: bool = False,
    plan: TestPlan | None = None,
    limits: Limits = LIMITS,
    **variant: Any,
) -> Observation:
    request = RunTests(
        tree=tree, environment=environment, plan=plan or parse_test_command(()), limits=limits, commit_time=1_700_000_000,
        purpose="base", measure=measure, variant=RunVariant(**variant),
    )  # fmt: skip
    seen: Observation = bed.testbed.observe(request, lambda: None)
    return seen


THING = """
def sign(x):
    if x < 0:
        return -1
    return 1


def listed():
    return [
        1,
        len("a"),
    ]
"""
TESTS = """
import os, socket, sys, threading
import thing
def test_negative(): assert thing.sign(-1) == -1
def test_thread():
    ran = threading.Thread(target=thing.listed)
    ran.start()
    ran.join()
def test_untraced(): sys.settrace(None)
def test_positive(): assert thing.sign(1) == 1
def test_network():
    with socket.socket() as one:
        try: one.connect(("192.0.2.1", 80))
        except OSError: pass
def test_loopback():
    with socket.socket() as one:
        try: one.connect(("127.0.0.1", 9))
        except OSError: pass
def test_exit(): os._exit(1)
def test_after(): import pkg.late
"""
FILES = {
    "src/thing.py": THING,
    "src/never.py": "VALUE = 1\n\ndef f():\n    return VALUE\n",
    "src/pkg/__init__.py": "",
    "src/pkg/late.py": "X = 1\n",
    "src/broken.py": "def (\n",
    "tests/helper.py": "Y = 1\n",
    "tests/test_thing.py": TESTS,
}


def test_lines_and_times_of_all_threads_and_processes_of_a_run(bed: Any, plain: Environment) -> None:
    tree = bed.tree(FILES)
    seen, bare = observe(bed, tree, plain, measure=True), observe(bed, tree, plain)
    assert seen.outcomes == bare.outcomes and seen.run.codes == bare.run.codes == ("PYTEST_CHANGED",)  # by test_untraced
    assert seen.run.run_key == bare.run.run_key and (bare.coverage, bare.timings, bare.run.coverage) == (None, None, None)
    assert seen.coverage == {
        "src/never.py": {"lines": [1, 3, 4], "covered": []},
        "src/pkg/__init__.py": {"lines": [], "covered": []},
        "src/pkg/late.py": {"lines": [1], "covered": [1]},
        "src/thing.py": {"lines": [2, 3, 4, 5, 8, 9, 10, 11], "covered": [2, 3, 4, 5, 8, 9, 10, 11]},
    }
    assert bed.blobs.get_json(seen.run.coverage) == seen.coverage and bed.blobs.get_json(seen.run.timings) == seen.timings
    assert seen.timings is not None
    assert set(seen.timings) == {nodeid for nodeid, outcome in seen.outcomes.items() if outcome == "passed"}
    assert seen.run.network == bare.run.network == ("tests/test_thing.py::test_network",)


def test_a_target_that_measures_itself_has_the_same_outcomes(bed: Any) -> None:
    files = {
        "thing.py": THING,
        "pytest.ini": "[pytest]\naddopts = --cov=thing --cov-fail-under=100\n",
        "test_own.py": """
import coverage, sys, thing
def test_own_coverage(tmp_path):
    assert "/env/" in coverage.__file__ and not [name for name in sys.modules if "harness" in name]
    own = coverage.Coverage(data_file=str(tmp_path / "data"), include=["*/thing.py"])
    own.start()
    thing.sign(-1)
    own.stop()
    assert own.analysis2(thing)[3] == [2, 5, 8, 9]
def test_path(): assert not [entry for entry in sys.path if "harness" in entry]
def test_after(): assert thing.sign(1) == 1
""",
    }
    tree = bed.tree(files)
    environment = bed.environments.prepare(tree, ("pytest", "pytest-cov"), lambda: None)
    seen, bare = observe(bed, tree, environment, measure=True), observe(bed, tree, environment)
    assert seen.outcomes == bare.outcomes == {f"test_own.py::test_{name}": "passed" for name in ("own_coverage", "path", "after")}
    assert seen.run.codes == () and seen.coverage is not None and seen.coverage["thing.py"]["covered"] == [2, 3, 5, 8]


def test_lines_of_fixtures_count_and_a_tracer_of_their_own_stays_with_its_test(bed: Any, plain: Environment) -> None:
    files = {
        "thing.py": "def up(): return 1\ndef down():\n    return 2\ndef seen():\n    return 3\ndef after():\n    return 4\n",
        "test_a.py": """
import pytest, sys, thing
@pytest.fixture
def around():
    thing.up()
    yield
    thing.down()
@pytest.fixture
def own():
    names = []
    sys.settrace(lambda frame, *_: names.append(frame.f_code.co_name))
    yield names
    sys.settrace(None)
def test_around(around): pass
def test_own(own):
    thing.seen()
    assert "seen" in own
def test_after(): thing.after()
""",
    }
    seen = observe(bed, bed.tree(files), plain, measure=True)
    assert set(seen.outcomes.values()) == {"passed"} and len(seen.outcomes) == 3
    assert seen.coverage == {"thing.py": {"lines": [1, 2, 3, 4, 5, 6, 7], "covered": [1, 2, 3, 4, 6, 7]}}


def test_an_error_that_outlives_its_thread_ends_no_tracing(bed: Any, plain: Environment) -> None:
    files = {
        "thing.py": "def fail():\n    raise ValueError\ndef later():\n    return 1\n",
        "test_a.py": """
import threading, thing
def test_a():
    errors = []
    def run():
        try: thing.fail()
        except ValueError as error: errors.append(error)
    ran = threading.Thread(target=run)
    ran.start()
    ran.join()
    del ran, run
    errors.clear()
    thing.later()
""",
    }
    seen = observe(bed, bed.tree(files), plain, measure=True)
    assert (seen.run.codes, seen.run.status) == ((), "passed")
    assert seen.coverage == {"thing.py": {"lines": [1, 2, 3, 4], "covered": [1, 2, 3, 4]}}


def test_without_a_tracer_the_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(): pass\n")
    spoken = speak("tests", job(tmp_path, measure=True, harness="/nonexistent"))
    assert spoken.end["codes"] == ["MEASURING_UNSUPPORTED"]


def test_sources_that_do_not_compile_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("x = " + "(" * 5_000 + ")" * 5_000)
    (tmp_path / "nul.py").write_bytes(b"x\0")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\r\ny = 2\r\n".encode("latin-1"))
    (tmp_path / "link.py").symlink_to("latin.py")
    assert executable_lines(str(tmp_path), 30) == {"latin.py": "2-3"}


@given(st.sets(st.integers(1, 2_000)))
def test_spans_name_exactly_their_lines(numbers: set[int]) -> None:
    assert lines_of(spans(numbers)) == numbers


@given(st.lists(st.sampled_from(["tests", "test", "a", "TESTS", "conftest.py", "test_a.py", "a_test.py", "a.py"]), min_size=1))
def test_nothing_is_measured_that_the_verdict_calls_a_test(parts: list[str]) -> None:
    path = "/".join(parts)
    assert not (is_measured(path) and is_test_path(path))


COVERED = {"kind": "coverage", "path": "a.py", "lines": "1-3", "covered": "2"}
MEASURED = END | {"measured": {"files": 1, "timings": 1}}
TIMES = {"kind": "timings", "us": {"a::b": 5}}


def test_a_measured_report() -> None:
    report = read_report(lines(PASSED, COVERED, TIMES, MEASURED))
    assert (report.coverage, report.timings) == ({"a.py": {"lines": [1, 2, 3], "covered": [2]}}, {"a::b": 5})
    assert read_report(lines(PASSED, COVERED, END)).coverage is None, "not announced, not believed"


@pytest.mark.parametrize(
    "stream",
    [
        [COVERED, COVERED],
        [COVERED | {"path": "../a.py"}],
        [COVERED | {"path": "/a.py"}],
        [COVERED | {"path": ""}],
        [COVERED | {"covered": "4"}],
        [COVERED | {"lines": "3-1"}],
        [COVERED | {"lines": "1-99999999"}],
        [COVERED | {"lines": "2,1"}],
        [COVERED | {"lines": "0"}],
        [COVERED | {"lines": "٣"}],
        [COVERED | {"lines": [1]}],
        [TIMES, TIMES],
        [TIMES | {"us": {"a::b": -1}}],
        [TIMES | {"us": {"a::b": True}}],
        [TIMES | {"us": 5}],
        [PASSED, TIMES, MEASURED],
        [PASSED, END | {"sentinels": {"planted": 1, "caught": 2}}],
        [PASSED, END | {"sentinels": {"planted": 1}}],
        [PASSED, END | {"network": ["a::c"]}],
    ],
)
def test_measurements_are_read_strictly(stream: list[Any]) -> None:
    with pytest.raises(HarnessBroken):
        read_report(lines(*stream))
