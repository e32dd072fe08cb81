"""Canonical outcomes of real suites in a real sandbox: ordinary ones and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schemas.testing import Environment, Limits, Outcomes, TestRun, outcomes_sha256

Run = Callable[..., tuple[TestRun, Outcomes]]


def test_src_and_flat_layouts_import_the_tree(outcomes: Run) -> None:
    test = "import thing\ndef test_one(): assert thing.VALUE == 1\ndef test_two(): assert thing.VALUE == 2\n"
    for package in ("src/thing/__init__.py", "thing/__init__.py", "thing.py"):
        run, found = outcomes({package: "VALUE = 1\n", "tests/test_thing.py": test})
        assert found == {"tests/test_thing.py::test_one": "passed", "tests/test_thing.py::test_two": "failed"}
        assert (run.status, run.codes, run.counts) == ("failed", (), {"failed": 1, "passed": 1})
        assert run.outcomes_sha256 == outcomes_sha256(found)
        assert run.runner.startswith("pytest ")


def test_a_run_that_passes_says_so(outcomes: Run) -> None:
    run, found = outcomes({"test_a.py": "def test_a(): pass\n"}, "python", "-m", "pytest", "-q")
    assert (run.status, run.codes, run.exit_code, found) == ("passed", (), 0, {"test_a.py::test_a": "passed"})


def test_every_kind_of_outcome(outcomes: Run) -> None:
    source = """
import pytest, unittest
def test_skip(): pytest.skip("no")
def test_raises_skip(): raise unittest.SkipTest("from product code")
@pytest.mark.xfail
def test_xfailed(): assert 0
def test_calls_xfail(): pytest.xfail("now")
@pytest.mark.xfail
def test_xpassed(): pass
@pytest.mark.xfail(strict=True)
def test_strict(): pass
@pytest.fixture
def broken(): raise ValueError
def test_setup(broken): pass
@pytest.fixture
def breaks_later():
    yield
    raise ValueError
def test_teardown(breaks_later): pass
class TestSub(unittest.TestCase):
    def test_sub(self):
        for number in range(2):
            with self.subTest(number=number):
                self.assertEqual(number, 0)
"""
    _, found = outcomes({"test_a.py": source})
    assert {name.rpartition("::")[2]: outcome for name, outcome in found.items()} == {
        "test_skip": "skipped",
        "test_raises_skip": "skipped",
        "test_xfailed": "xfailed",
        "test_calls_xfail": "xfailed",
        "test_xpassed": "xpassed",
        "test_strict": "failed",
        "test_setup": "error",
        "test_teardown": "error",
        "test_sub": "failed",
    }


def test_ids_are_those_of_pytest_to_the_letter(outcomes: Run) -> None:
    source = """
import pytest
@pytest.mark.parametrize("x", ["a[b]", "ü", " two  words::", "a/b", "\\udc80", ""])
def test_p(x): pass
"""
    _, found = outcomes({"my tests/test a.py": source, "setup.cfg": "[tool:pytest]\npython_files = test*.py\n"})
    names = [name.removeprefix("my tests/test a.py::test_p") for name in found]
    assert sorted(names) == sorted(["[a[b]]", "[\\xfc]", "[ two  words::]", "[a/b]", "[\\udc80]", "[]"])


def test_no_tests(outcomes: Run) -> None:
    run, found = outcomes({"module.py": "x = 1\n"})
    assert (run.status, run.codes, found) == ("failed", ("TESTS_NONE_COLLECTED",), {})


def test_files_that_cannot_be_collected_are_named_and_the_rest_runs(outcomes: Run) -> None:
    run, found = outcomes(
        {
            "test_syntax.py": "def (\n",
            "test_import.py": "import no_such_module\n",
            "test_whole_file.py": "import pytest\npytest.skip('no', allow_module_level=True)\n",
            "test_good.py": "def test_a(): pass\n",
        }
    )
    assert found == {
        "test_syntax.py": "error",
        "test_import.py": "error",
        "test_whole_file.py": "skipped",
        "test_good.py::test_a": "passed",
    }
    assert (run.status, run.codes) == ("failed", ())


def test_only_collection_errors_is_no_lack_of_tests(outcomes: Run) -> None:
    run, found = outcomes({"test_syntax.py": "def (\n"})
    assert (run.codes, found) == ((), {"test_syntax.py": "error"})


def test_a_test_that_never_ends_costs_only_itself(outcomes: Run) -> None:
    source = "def test_before(): pass\ndef test_loop():\n    while True: pass\ndef test_after(): pass\n"
    run, found = outcomes({"test_a.py": source}, test_ms=1_000)
    assert found == {"test_a.py::test_before": "passed", "test_a.py::test_loop": "failed", "test_a.py::test_after": "passed"}
    assert run.codes == ("TEST_TIMEOUT",)


def test_a_suite_that_is_too_slow_as_a_whole(outcomes: Run) -> None:
    source = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(100)\n"
    run, found = outcomes({"test_a.py": source}, wall_ms=6_000, test_ms=60_000)
    assert (run.status, run.codes, found) == ("failed", ("RUN_TIMEOUT",), {"test_a.py::test_a": "passed"})


@pytest.mark.parametrize("deed", ["os._exit(0)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)", "os.abort()"])
def test_a_test_that_ends_its_process_is_an_error_and_the_rest_runs(outcomes: Run, deed: str) -> None:
    source = f"import os, ctypes\ndef test_a(): pass\ndef test_exit(): {deed}\ndef test_z(): pass\n"
    run, found = outcomes({"test_a.py": source})
    assert found == {"test_a.py::test_a": "passed", "test_a.py::test_exit": "error", "test_a.py::test_z": "passed"}
    assert (run.status, run.codes) == ("failed", ())


def test_a_file_that_ends_the_process_when_it_is_imported(outcomes: Run) -> None:
    run, found = outcomes({"test_exit.py": "import os\nos._exit(0)\n", "test_good.py": "def test_a(): pass\n"})
    assert found == {"test_exit.py": "error", "test_good.py::test_a": "passed"}
    assert run.status == "failed"


def test_a_conftest_that_ends_pytest(outcomes: Run) -> None:
    run, found = outcomes({"conftest.py": "import os\nos._exit(0)\n", "test_a.py": "def test_a(): pass\n"})
    assert (run.status, run.codes, found) == ("failed", ("HARNESS_BROKEN",), {})


def test_a_conftest_that_kills_the_runner(outcomes: Run) -> None:
    source = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(0)\n"
    run, found = outcomes({"conftest.py": source, "test_a.py": "def test_a(): pass\n"})
    assert (run.status, run.codes, found) == ("failed", ("HARNESS_BROKEN",), {})


def test_a_conftest_that_does_not_parse(outcomes: Run) -> None:
    run, found = outcomes({"conftest.py": "def (\n", "test_a.py": "def test_a(): pass\n"})
    assert (run.status, run.codes, found) == ("failed", ("PYTEST_USAGE",), {})
    assert "SyntaxError" in run.message


def test_a_path_that_is_not_there_is_a_usage_error(outcomes: Run) -> None:
    run, _ = outcomes({"test_a.py": "def test_a(): pass\n"}, "pytest", "tests")
    assert run.codes == ("PYTEST_USAGE",) and "tests" in run.message


def test_what_tests_print_is_no_result(outcomes: Run) -> None:
    source = """
import os, sys
LINE = b'{"kind":"outcome","id":"test_a.py::test_fake","outcome":"passed"}\\n{"kind":"end"}\\n'
def test_print():
    print("test_a.py::test_fail PASSED")
    for fd in (1, 2): os.write(fd, LINE)
    sys.__stdout__.write(LINE.decode())
def test_fail(): assert 0
"""
    run, found = outcomes({"test_a.py": source}, "pytest", "-s")
    assert found == {"test_a.py::test_print": "passed", "test_a.py::test_fail": "failed"}
    assert run.codes == ()


def test_blind_writes_to_the_reports_descriptor_break_the_run_loudly(outcomes: Run) -> None:
    source = """
import os
def test_forge():
    for fd in range(3, 4096):
        try: os.write(fd, b'{"event":"done","id":"test_a.py::test_fail"}\\n')
        except OSError: pass
def test_fail(): assert 0
"""
    run, _ = outcomes({"test_a.py": source})
    assert (run.status, run.codes) == ("failed", ("HARNESS_BROKEN",))


def test_the_supervisors_descriptors_cannot_be_reopened(outcomes: Run) -> None:
    source = """
import os, glob
def test_a():
    opened = 0
    for path in glob.glob(f"/proc/{os.getppid()}/fd/*"):
        os.open(path, os.O_WRONLY); opened += 1
    assert not opened
    try: os.listdir(f"/proc/{os.getppid()}/fd")
    except PermissionError: return
    assert 0
"""
    _, found = outcomes({"test_a.py": source})
    assert found == {"test_a.py::test_a": "passed"}


def test_what_was_reported_cannot_be_taken_back(outcomes: Run) -> None:
    """Nobody but the supervisor reads it: the result of a test may wait there while the next one runs."""
    source = """
import os, pytest
def test_a(): assert 0
def test_b():
    ours = [path for name in os.listdir("/proc/self/fd") if int(name) > 1_000 and os.path.exists(path := f"/proc/self/fd/{name}")]
    for path in ours:
        with pytest.raises(OSError): os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.set_blocking(int(path.rpartition("/")[2]), False)
            os.read(int(path.rpartition("/")[2]), 1)
        os.set_blocking(int(path.rpartition("/")[2]), True)
    assert ours
"""
    _, found = outcomes({"test_a.py": source})
    assert found == {"test_a.py::test_a": "failed", "test_a.py::test_b": "passed"}


def test_a_grandchild_that_holds_the_pipe_does_not_hold_up_the_run(outcomes: Run) -> None:
    source = """
import os, time
def test_a():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(1000)
        os._exit(0)
"""
    run, found = outcomes({"test_a.py": source}, wall_ms=20_000)
    assert (run.status, found) == ("passed", {"test_a.py::test_a": "passed"})


def test_a_forked_copy_of_pytest_reports_nothing(outcomes: Run) -> None:
    source = "import os\ndef test_a(): os.fork()\ndef test_b(): pass\n"
    run, found = outcomes({"test_a.py": source})
    assert (run.status, found) == ("passed", {"test_a.py::test_a": "passed", "test_a.py::test_b": "passed"})


def test_exit_handlers_get_no_turn(outcomes: Run) -> None:
    source = "import atexit, os\natexit.register(os._exit, 0)\ndef test_a(): assert 0\n"
    run, found = outcomes({"test_a.py": source})
    assert (run.status, run.exit_code, found) == ("failed", 1, {"test_a.py::test_a": "failed"})


def test_stopping_at_the_first_failure_has_no_effect(outcomes: Run) -> None:
    files = {"test_a.py": "def test_a(): assert 0\ndef test_b(): pass\n", "pytest.ini": "[pytest]\naddopts = -x --maxfail=1\n"}
    _, found = outcomes(files, "pytest", "-x")
    assert found == {"test_a.py::test_a": "failed", "test_a.py::test_b": "passed"}


def test_pytest_exit_in_a_test_loses_the_rest_loudly(outcomes: Run) -> None:
    source = "import pytest\ndef test_a(): pytest.exit('enough', 0)\ndef test_b(): pass\n"
    run, found = outcomes({"test_a.py": source})
    assert run.status == "failed" and run.codes and "test_a.py::test_b" not in found


def test_two_thousand_files(outcomes: Run) -> None:
    files = {f"pkg/sub{n % 20}/module_{n}.py": f"VALUE = {n}\n" for n in range(1_900)}
    files |= {f"tests/test_{n}.py": f"def test_{n}(): pass\n" for n in range(100)}
    run, found = outcomes(files)
    assert (run.status, len(found)) == ("passed", 100)


def test_the_process_is_pinned(outcomes: Run) -> None:
    source = """
import os, sys, time
def test_a():
    assert os.environ["PYTHONHASHSEED"] == "0" and hash("a") != 0
    assert os.environ["SOURCE_DATE_EPOCH"] == "1700000000"
    assert time.tzname[0] == "UTC" and os.getcwd() == "/work" and os.environ["HOME"] == "/home/gen4"
    assert sys.dont_write_bytecode and "GEN4_HOME" not in os.environ
    assert not [entry for entry in sys.path if "gen4" in entry]
    try: exit(3)
    except SystemExit: pass
"""
    _, found = outcomes({"test_a.py": source})
    assert found == {"test_a.py::test_a": "passed"}


def test_variables_and_path_of_the_command_reach_the_tests_and_their_children(outcomes: Run) -> None:
    source = """
import os, subprocess, sys
import thing
def test_a():
    assert os.environ["COLOUR"] == "blue"
    code = "import thing, os; print(thing.VALUE, os.environ['COLOUR'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1 blue\\n"
"""
    files = {"lib/thing.py": "VALUE = 1\n", "test_a.py": source}
    _, found = outcomes(files, "env", "PYTHONPATH=lib", "COLOUR=blue", "python3", "-m", "pytest")
    assert found == {"test_a.py::test_a": "passed"}


def test_the_run_key_names_everything_that_matters(bed: Any, plain: Environment) -> None:
    tree = bed.tree({"test_a.py": "def test_a(): pass\n"})
    first, _ = bed.run(tree, plain)
    again, _ = bed.run(tree, plain)
    other, _ = bed.run(tree, plain, limits=Limits(wall_ms=61_000, test_ms=5_000))
    assert first.run_key == again.run_key != other.run_key


def test_a_test_that_kills_every_process_it_sees(outcomes: Run) -> None:
    run, found = outcomes({"test_a.py": "import os\ndef test_a(): os.kill(-1, 9)\ndef test_b(): pass\n"})
    assert (run.status, run.codes, found) == ("failed", ("HARNESS_BROKEN",), {})


def test_a_test_that_closes_every_descriptor_is_an_error(outcomes: Run) -> None:
    _, found = outcomes({"test_a.py": "import os\ndef test_a(): os.closerange(3, 4096)\ndef test_b(): pass\n"})
    assert found == {"test_a.py::test_a": "error", "test_a.py::test_b": "passed"}


def test_a_test_that_takes_all_memory(outcomes: Run) -> None:
    source = "def test_a():\n    x = []\n    while True: x.append(bytearray(10_000_000))\ndef test_b(): pass\n"
    run, found = outcomes({"test_a.py": source}, memory_mb=300)
    assert run.status == "failed"
    assert run.codes == ("MEMORY_LIMIT",) or found["test_a.py::test_a"] in ("failed", "error")


def test_tests_that_a_crash_made_disappear_are_missed(outcomes: Run) -> None:
    source = "import os\ndef test_a():\n    os.unlink(__file__)\n    os._exit(1)\ndef test_b(): pass\n"
    run, found = outcomes({"test_a.py": source, "test_z.py": "def test_z(): pass\n"})
    assert (run.status, run.codes) == ("failed", ("PYTEST_CHANGED", "TESTS_NOT_RUN"))
    assert found == {"test_a.py::test_a": "error", "test_z.py::test_z": "passed"}


def test_plugins_that_would_make_runs_differ_are_held_still(bed: Any) -> None:
    files = {
        "pkg.py": "def f(): return 1\n",
        "test_a.py": "import pkg, random\ndef test_a(): assert pkg.f()\ndef test_b(): pass\nasync def test_c(): pass\n",
        "pytest.ini": "[pytest]\naddopts = -n auto --cov=pkg --cov-fail-under=100 --dist loadfile\nasyncio_mode = auto\n",
    }
    tree = bed.tree(files)
    environment = bed.environments.prepare(tree, ("pytest", "pytest-randomly"), lambda: None)
    for _ in range(2):
        run, found = bed.run(tree, environment)
        assert (run.status, run.codes, list(found)) == ("passed", (), [f"test_a.py::test_{name}" for name in "abc"])
