"""A patch author who knows our code and wants a green verdict for a bad patch (rows 4.1 to 4.4).

Each attack goes through the real chain: import, overlay of base's tests, runs in a sandbox, the raise probe, the verdict.
What only has to be silent (SkipTest, xfail, os._exit) or comes in by configuration is in ``test_verdicts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from activities.testbed.importing import import_patch
from activities.testbed.probing import probe_tree
from activities.verify.diagnosing import ObservedRun, TreeRuns
from activities.verify.judging import Evidence, Ruling, rule
from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, RunVariant
from tests.testbed.conftest import LIMITS, Bed

TARGET, GUARD = "tests/test_calc.py::test_add", "tests/test_calc.py::test_zero"
CALC = "def add(a, b):\n    return a - b\n\n\ndef zero():\n    return 0\n"
BASE: dict[str, str] = {
    "calc.py": CALC,
    "tests/test_calc.py": "import json\nfrom calc import add, zero\n\n\ndef test_add():\n    assert add(1, 2) == 3\n\n\n"
    "def test_zero():\n    assert zero() == 0\n",
}
Edits = Mapping[str, str | None]


def at_import(code: str, body: str = "return a - b - 0") -> str:
    """``code`` runs when the product is imported, and ``add``, touched as well, stays wrong."""
    return f"{code}\n\n\ndef add(a, b):\n    {body}\n\n\ndef zero():\n    return 0\n"


def in_add(code: str) -> str:
    """``code`` runs when the target calls ``add``, which stays wrong."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return f"def add(a, b):\n{lines}    return a - b\n\n\ndef zero():\n    return 0\n"


@dataclass(frozen=True)
class Chain:
    """A base tree that was run, and the verdict on any patch of it."""

    bed: Bed
    environment: Environment
    base: str
    known: dict[tuple[str, tuple[str, ...]], ObservedRun] = field(default_factory=dict)

    def run(self, tree: str, only: tuple[str, ...] = ()) -> ObservedRun:
        """A verdict needs two runs that agree; to be quick here, one stands for both."""
        if (tree, only) not in self.known:
            request = RunTests(
                tree=tree, environment=self.environment, plan=parse_test_command(()), commit_time=1_700_000_000,
                limits=LIMITS.model_copy(update={"wall_ms": 20_000, "test_ms": 1_500, "disk_mb": 32}), purpose="patched",
                variant=RunVariant(only=only),
            )  # fmt: skip
            observed = self.bed.testbed.observe(request, lambda: None)
            self.known[tree, only] = ObservedRun(observed.run, observed.outcomes)
        return self.known[tree, only]

    def judge(self, edits: Edits) -> Ruling:
        objects = self.bed.objects
        result = objects.write_tree(self.base, {path: None if text is None else text.encode() for path, text in edits.items()})
        harness = import_patch(objects, self.base, objects.diff(self.base, result)).harness_tree
        base, patched = TreeRuns([self.run(self.base)] * 2), TreeRuns([self.run(harness)] * 2)
        ruling = rule(Evidence(base, patched))
        probe = probe_tree(objects, self.base, harness)
        if ruling.judgement.verdict != "accepted" or probe is None:
            return ruling
        return rule(Evidence(base, patched, self.run(probe, ruling.mended)))


@pytest.fixture(scope="module")
def chain(bed: Bed, plain: Environment) -> Chain:
    return Chain(bed, plain, bed.tree(BASE))


def test_honest_patches_are_accepted(chain: Chain) -> None:
    for text in (
        CALC.replace("a - b", "a + b"),
        CALC.replace("a - b", "sum((a, b))").replace("return 0", "return 1 - 1"),
        at_import("import operator", "return operator.add(a, b)"),
    ):
        assert chain.judge({"calc.py": text}).judgement.codes == ()


WHOLESALE = {
    "CallInfo.from_call": """
import _pytest.runner as runner
def from_call(cls, func, when, reraise=None):
    try: func()
    except Exception: pass
    return cls(result=[], excinfo=None, start=0, stop=0, duration=0, when=when, _ispytest=True)
runner.CallInfo.from_call = classmethod(from_call)""",
    "TestReport.from_item_and_call": """
from _pytest.reports import TestReport
make = TestReport.from_item_and_call.__func__
def forged(cls, item, call):
    call.excinfo = None
    return make(cls, item, call)
TestReport.from_item_and_call = classmethod(forged)""",
    "pytest_pyfunc_call": """
import _pytest.python
_pytest.python.Function.runtest = lambda self: None""",
    "hook caller": """
import pluggy._hooks as hooks
call = hooks.HookCaller.__call__
def forged(self, **keywords):
    if self.name == 'pytest_pyfunc_call': return True
    return call(self, **keywords)
hooks.HookCaller.__call__ = forged""",
    "report objects": """
import gc
for found in [thing for thing in gc.get_objects() if type(thing).__name__ == 'Reporting']:
    tell = found.pytest_runtest_logreport
    def forged(report, tell=tell):
        report.outcome = 'passed'
        tell(report)
    found.pytest_runtest_logreport = forged
    for plugins in [x for x in gc.get_objects() if type(x).__name__ == 'HookImpl' and x.plugin is found]:
        if plugins.function.__name__ == 'pytest_runtest_logreport': plugins.function = forged""",
    "sys.modules": """
import sys
for name, module in list(sys.modules.items()):
    if name.endswith('.reporting'):
        kind = module.Reporting
        old = kind.pytest_runtest_logreport
        kind.pytest_runtest_logreport = lambda self, report: None""",
}


@pytest.mark.parametrize("code", WHOLESALE.values(), ids=WHOLESALE)
def test_whoever_makes_every_test_pass_makes_the_sentinels_pass(chain: Chain, code: str) -> None:
    ruling = chain.judge({"calc.py": at_import(code)})
    assert (ruling.judgement.verdict, ruling.judgement.codes) == ("rejected", ("HARNESS_TAMPERED",)), ruling


TARGETED = {
    "CallInfo.from_call": """
import _pytest.runner as runner
from_call = runner.CallInfo.from_call.__func__
def forged(cls, func, when, reraise=None):
    info = from_call(cls, func, when, reraise)
    if info.excinfo is not None and 'add(1, 2)' in str(info.excinfo.traceback[-1].statement):
        info.excinfo, info._result = None, []
    return info
runner.CallInfo.from_call = classmethod(forged)""",
    "Function.runtest": """
import _pytest.python
runtest = _pytest.python.Function.runtest
_pytest.python.Function.runtest = lambda self: None if self.name == 'test_add' else runtest(self)""",
    "__code__": """
import _pytest.python
def pytest_pyfunc_call(pyfuncitem):
    if pyfuncitem.name != 'test_add':
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
    return True
_pytest.python.pytest_pyfunc_call.__code__ = pytest_pyfunc_call.__code__""",
    "a profile function": """
import sys
def watch(frame, event, argument):
    if frame.f_code.co_name == 'pytest_pyfunc_call':
        item = frame.f_locals.get('pyfuncitem')
        if item is not None and item.name == 'test_add': item.obj = lambda: None
sys.setprofile(watch)""",
    "a member that was inherited": """
import _pytest.python
def member(self, name):
    if name == 'obj' and object.__getattribute__(self, 'name') == 'test_add': return lambda: None
    return object.__getattribute__(self, name)
_pytest.python.Function.__getattribute__ = member""",
}


@pytest.mark.parametrize("code", TARGETED.values(), ids=TARGETED)
def test_whoever_replaces_a_part_of_pytest_for_one_test_is_found_out(chain: Chain, code: str) -> None:
    """The sentinels do not see it: everything but the target comes out as it should."""
    ruling = chain.judge({"calc.py": at_import(code)})
    assert (ruling.judgement.verdict, ruling.judgement.codes) == ("rejected", ("HARNESS_TAMPERED",)), ruling
    assert "while the tests ran: " in ruling.message


FOR_ONCE = """
from _pytest.reports import TestReport
kept = TestReport.__dict__['from_item_and_call']
def once(cls, item, call):
    TestReport.from_item_and_call, call.excinfo = kept, None
    return kept.__func__(cls, item, call)
TestReport.from_item_and_call = classmethod(once)"""


HOOKS_FOR_ONCE = """
from pluggy import HookCaller
kept = HookCaller.__call__
def once(self, **keywords):
    if self.name == 'pytest_runtest_makereport': HookCaller.__call__, keywords['call'].excinfo = kept, None
    return kept(self, **keywords)
HookCaller.__call__ = once"""


WITH_EYES_SHUT = f"""
import sys
module = sys.modules['_gen4.integrity']
module._same, module.Integrity._look = lambda *_: True, lambda *_: None
{FOR_ONCE}"""


IN_ITS_OWN_WORDS = """
class Sly(Exception):
    def __str__(self):  # asked for while the report is made
        from _pytest.reports import TestReport
        kept = TestReport.__init__
        def once(self, nodeid, location, keywords, outcome, longrepr, *rest, **names):
            TestReport.__init__ = kept
            kept(self, nodeid, location, keywords, 'passed', None, *rest, **names)
        TestReport.__init__ = once
        return ''
raise Sly()"""


OF_ANOTHER_KIND = """
class Sly(Exception):
    @property
    def __class__(self):  # asked for when the test has ended
        from _pytest.runner import CallInfo
        kept = CallInfo.__init__
        def once(self, **names):
            CallInfo.__init__ = kept
            kept(self, **{**names, 'excinfo': None, 'result': None})
        CallInfo.__init__ = once
        return Sly
raise Sly()"""


REPLACED = {
    "for good": TARGETED["CallInfo.from_call"], "for once": FOR_ONCE, "a caller of hooks": HOOKS_FOR_ONCE,
    "and who looks": WITH_EYES_SHUT, "by what is said of an exception": IN_ITS_OWN_WORDS,
    "by what an exception is": OF_ANOTHER_KIND,
}  # fmt: skip


@pytest.mark.parametrize("code", REPLACED.values(), ids=REPLACED)
def test_whoever_replaces_a_part_of_pytest_from_within_a_test_is_found_out(chain: Chain, code: str) -> None:
    assert chain.judge({"calc.py": in_add(code.strip())}).judgement.codes == ("HARNESS_TAMPERED",)


WALK = """
frame = None
try: 1 / 0
except ZeroDivisionError as error: frame = error.__traceback__.tb_frame
while frame is not None and 'pyfuncitem' not in frame.f_locals: frame = frame.f_back
item = frame.f_locals['pyfuncitem']
"""
REACHED = {
    "a trace function": "import sys\nsys.settrace(lambda *_: None)\nsys.settrace(None)",
    "all objects": "import gc\n[thing for thing in gc.get_objects() if type(thing).__name__ == 'Session']",
    "the code of a test": "import sys\nsys._getframe(1).f_globals['test_zero'].__code__ = (lambda: None).__code__",
    "all objects, by a false name": "import pytest\nexec(compile('import gc; gc.get_objects()', pytest.__file__, 'exec'), {})",
    "all objects, while nobody listens": """
import gc, sys
listening, reporter = sys.modules['_gen4.reaching'], sys.modules['_gen4.child'].Reporter
kept = listening._CALLS, reporter.__call__
listening._CALLS, reporter.__call__ = frozenset(), lambda *_, **__: None
gc.get_objects()
listening._CALLS, reporter.__call__ = kept""",
    "how near is equal": "import pytest\npytest.approx.__defaults__ = (1e9, None, False)",
    "how near is equal, by a number": """
import sys, pytest
near = sys.modules[pytest.approx.__module__].ApproxScalar
near.DEFAULT_ABSOLUTE_TOLERANCE = 1e9""",
    "an object of ours": WALK
    + """
(found,) = [one for one in item.config.pluginmanager.get_plugins() if type(one).__name__ == 'Reporting']
tell = found._report
class Lie:
    def __call__(self, event, **fields): tell(event, **fields)
    def with_next(self, event, **fields):
        if event == 'phase' and fields['when'] == 'call':
            fields['outcome'], found._report = 'passed', tell
            item.session.testsfailed -= 1
        tell.with_next(event, **fields)
found._report = Lie()""",
    "the hooks of a test": WALK
    + """
from _pytest.reports import TestReport
class Hooks:
    pytest_runtest_logreport = staticmethod(item.ihook.pytest_runtest_logreport)
    def pytest_runtest_makereport(self, item, call):
        call.excinfo = None
        return TestReport.from_item_and_call(item, call)
item.__class__ = type('Function', (type(item),), {'ihook': Hooks()})""",
    "a hook of its own": WALK
    + """
import pytest
class Plugin:
    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        call.excinfo = None
        item.config.pluginmanager.unregister(self)
        yield
item.config.pluginmanager.register(Plugin())""",
}


@pytest.mark.parametrize("code", REACHED.values(), ids=REACHED)
def test_whoever_reaches_for_what_runs_the_tests_is_found_out(chain: Chain, code: str) -> None:
    judgement = chain.judge({"calc.py": in_add(code.strip()).replace("a - b", "3")}).judgement
    assert (judgement.verdict, judgement.codes) == ("rejected", ("HARNESS_TAMPERED",)), judgement


BEHIND_THE_LOOK = {
    "while the report is made": WALK + """
class Late(list):
    def __iter__(self):
        (found,) = [one for one in item.config.pluginmanager.get_plugins() if type(one).__name__ == 'Reporting']
        tell = found._report
        class Lie:
            def __call__(self, event, **fields):
                if event == 'phase':
                    fields['outcome'], found._report = 'passed', tell
                    item.session.testsfailed -= 1
                tell(event, **fields)
        found._report, item._report_sections = Lie(), []
        return super().__iter__()
item._report_sections = Late(item._report_sections)""",
    "where reports go": WALK + """
(found,) = [one for one in item.config.pluginmanager.get_plugins() if type(one).__name__ == 'Reporting']
import os
found._report.descriptor = os.dup(found._report.descriptor)""",
}  # fmt: skip


@pytest.mark.parametrize("code", BEHIND_THE_LOOK.values(), ids=BEHIND_THE_LOOK)
def test_whoever_changes_an_object_of_ours_behind_the_look_is_found_out(chain: Chain, code: str) -> None:
    assert chain.judge({"calc.py": in_add(code.strip())}).judgement.codes == ("HARNESS_TAMPERED",)


def test_a_failure_has_left_before_the_teardown(chain: Chain) -> None:
    late = """
(found,) = [one for one in item.config.pluginmanager.get_plugins() if type(one).__name__ == 'Reporting']
def late():
    for event in found._report._held:
        if event.get('outcome') == 'failed': event['outcome'] = 'passed'
item.addfinalizer(late)"""
    judgement = chain.judge({"calc.py": in_add((WALK + late).strip())}).judgement
    assert (judgement.verdict, judgement.fail_to_pass) == ("rejected", ())


@pytest.fixture(scope="module")
def unittests(bed: Bed, plain: Environment) -> Chain:
    text = """
import unittest
from calc import add, zero
class Plain(unittest.TestCase):
    def test_2(self): self.assertEqual(add(1, 2), 3)
class Awaited(unittest.IsolatedAsyncioTestCase):
    async def test_3(self): self.assertEqual(add(1, 2), 3)
class Prepared(unittest.TestCase):
    def setUp(self): self.assertEqual(add(1, 2), 3)
    def test_4(self): pass
def test_5(): assert zero() == 0
def test_6(): assert add(1, 2) == 3
"""
    return Chain(bed, plain, bed.tree({"calc.py": CALC, "tests/test_unit.py": text}))


def test_an_honest_patch_of_what_unittest_tests_is_accepted(unittests: Chain) -> None:
    judgement = unittests.judge({"calc.py": CALC.replace("a - b", "a + b")}).judgement
    assert (judgement.verdict, len(judgement.fail_to_pass)) == ("accepted", 4)


def test_another_function_in_the_place_of_a_test_is_found_out(unittests: Chain) -> None:
    walk = "".join(f"    {line}\n" for line in WALK.strip().splitlines())
    walk += "    (other,) = [one for one in item.session.items if one.name == 'test_6']\n    other.obj = lambda: None\n"
    ruling = unittests.judge({"calc.py": CALC.replace("    return 0", f"{walk}    return 0")})
    assert ruling.judgement.codes == ("HARNESS_TAMPERED",) and "the function of tests/test_unit.py::test_6" in ruling.message


def test_what_an_exception_says_of_itself_below_unittest_is_looked_at_too(unittests: Chain) -> None:
    assert unittests.judge({"calc.py": in_add(IN_ITS_OWN_WORDS.strip())}).judgement.codes == ("HARNESS_TAMPERED",)


PLANTED = """
import os, sys, types
module = types.ModuleType('test_unit')
module.__file__ = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tests', 'test_unit.py')
module.__dict__.update(test_5=lambda: None, test_6=lambda: None)
sys.modules['test_unit'] = module
"""
LOADED = """
import tests.test_unit as module
module.test_6 = lambda: None
"""
WRITTEN = """
from pathlib import Path
(Path(__file__).parent / 'tests/test_unit.py').write_text('def test_5(): pass\\ndef test_6(): pass\\n')
"""


@pytest.mark.parametrize("code", [PLANTED, LOADED, WRITTEN], ids=["instead of the file's", "in its own module", "written"])
def test_tests_that_the_product_defines_are_found_out(bed: Bed, plain: Environment, code: str) -> None:
    """No function is touched, so there is no probe."""
    tests = "from calc import add, zero\ndef test_5(): assert zero() == 0\ndef test_6(): assert add(1, 2) == 3\n"
    first = "from early import VALUE\ndef test_1(): assert VALUE == 1\n"
    package = {"tests/__init__.py": ""} if code is LOADED else {}
    files = {"calc.py": CALC, "early.py": "VALUE = 1\n", "tests/test_a.py": first, "tests/test_unit.py": tests, **package}
    ruling = Chain(bed, plain, bed.tree(files)).judge({"early.py": "VALUE = 1\n" + code})
    assert ruling.judgement.codes == ("HARNESS_TAMPERED",)


def test_no_signal_of_unittest_ends_a_test_silently(unittests: Chain) -> None:
    judgement = unittests.judge({"calc.py": in_add("import unittest.case\nraise unittest.case._ShouldStop")}).judgement
    assert (judgement.verdict, judgement.fail_to_pass) == ("rejected", ())


def test_an_answer_that_needs_none_of_the_touched_functions_is_none_of_theirs(chain: Chain) -> None:
    """No part of pytest is touched. The raise probe finds it: the target passes although ``add`` raises."""
    ruling = chain.judge({"calc.py": at_import("") + "\n\nadd = lambda a, b: {(1, 2): 3}.get((a, b))\n"})
    assert (ruling.judgement.verdict, ruling.judgement.codes) == ("rejected", ("HARNESS_TAMPERED",)), ruling
    assert TARGET in ruling.message and "raises" in ruling.message


SPOKEN = {
    "printed lines": "print('tests/test_calc.py::test_add PASSED', '[100%]', '2 passed in 0.01s', sep='\\n', flush=True)",
    "written to standard output": f"""
import os
line = b'\\n{{"kind":"outcome","id":"{TARGET}","outcome":"passed"}}\\n'
for descriptor in (1, 2): os.write(descriptor, line)
for name in ('stdout', 'stderr', 'fd/1', 'fd/2'):
    try: open('/proc/self/' + name, 'wb').write(line)
    except OSError: pass""",
    "every descriptor": f"""
import os
for descriptor in range(3, 4096):
    try: os.write(descriptor, b'{{"event":"phase","id":"{TARGET}","when":"call","outcome":"passed","xfail":false}}\\n')
    except OSError: pass""",
    "the token, found in memory": f"""
import gc, os
for found in [thing for thing in gc.get_objects() if type(thing).__name__ == 'Reporter']:
    fields = {{name.lstrip('_'): value for name, value in vars(found).items()}}
    text = '%s {{"event":"phase","id":"{TARGET}","when":"call","outcome":"passed","xfail":false}}\\n' % fields['token']
    os.write(fields['descriptor'], text.encode())
    os.write(fields['descriptor'], text.replace('phase', 'done').encode())
    os._exit(0)""",
    "the reporter, called": f"""
import gc, os
for found in [thing for thing in gc.get_objects() if type(thing).__name__ == 'Reporter']:
    found('phase', id='{TARGET}', when='call', outcome='passed', xfail=False)
    found('done', id='{TARGET}')
    found('finish', exit_code=0)
    os._exit(0)""",
    "a grandchild that outlives the test": f"""
import gc, os, time
found = [thing for thing in gc.get_objects() if type(thing).__name__ == 'Reporter']
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for reporter in found:
            for name in vars(reporter):
                if 'owner' in name: setattr(reporter, name, os.getpid())
        for _ in range(200):
            time.sleep(0.01)
            for reporter in found: reporter('phase', id='{TARGET}', when='call', outcome='passed', xfail=False)
    os._exit(0)
time.sleep(0.3)""",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)",
    "the runner, killed": "import os\nos.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)",
    "every process, killed": "import os\nos.kill(-1, 9)",
}


@pytest.mark.parametrize("code", SPOKEN.values(), ids=SPOKEN)
def test_no_result_is_spoken_for(chain: Chain, code: str) -> None:
    judgement = chain.judge({"calc.py": in_add(code.strip())}).judgement
    assert (judgement.verdict, judgement.fail_to_pass) == ("rejected", ()), judgement


@pytest.mark.parametrize("name", ["written to standard output", "every descriptor"])
def test_no_result_is_spoken_for_while_tests_are_collected(chain: Chain, name: str) -> None:
    judgement = chain.judge({"calc.py": at_import(SPOKEN[name].strip())}).judgement
    assert (judgement.verdict, judgement.fail_to_pass) == ("rejected", ()), judgement


DEEDS = {
    "writes outside the tree": """
import os
for folder in ('/', '/gen4', '/environment', '/usr', '/etc', os.path.dirname(os.__file__)):
    try: open(os.path.join(folder, 'evil.pth'), 'w').write('import os; os._exit(0)')
    except OSError: continue
    if folder not in ('/tmp',): raise SystemExit('written to ' + folder)""",
    "weakens the test file on the disk": """
import os
open(os.path.join(os.path.dirname(__file__), 'tests', 'test_calc.py'), 'w').write('def test_add(): pass')""",
    "fills the disk": """
try:
    with open('/tmp/full', 'wb') as file:
        while True: file.write(bytes(1 << 20))
except OSError: pass""",
    "hangs": "while True: pass",
    "ignores signals": "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except OSError: pass\ntime.sleep(100)",
    "eats memory": "held = [bytearray(1 << 24) for _ in range(1000)]",
    "floods the output": "import os\nwhile True: os.write(1, bytes(1 << 20))",
}


@pytest.mark.parametrize("code", DEEDS.values(), ids=DEEDS)
def test_no_deed_mends_the_target(chain: Chain, code: str) -> None:
    """The function misbehaves and stays wrong. No deed is worth more than a failing test (see also tests/sandbox)."""
    judgement = chain.judge({"calc.py": in_add(code.strip())}).judgement
    assert (judgement.verdict, judgement.fail_to_pass) == ("rejected", ()), judgement


def test_a_new_test_file_cannot_speak_for_the_old_ones(chain: Chain) -> None:
    """New test files stay in the tree, so they are as hostile as the rest of the patch."""
    evil = WHOLESALE["CallInfo.from_call"] + "\ndef test_new(): pass\n"
    judgement = chain.judge({"tests/test_aaa.py": evil, "calc.py": CALC + "\nX = 1\n"}).judgement
    assert (judgement.verdict, judgement.codes) == ("rejected", ("HARNESS_TAMPERED",))


LEFT_OVER = {
    "equal to everything": "class Any(int):\n        def __eq__(self, other): return True\n    return Any()",
    "the expected answer": "return {(1, 2): 3}.get((a, b))",
    "an answer for one test": "import os\n    return 3 if 'test_add' in os.environ.get('PYTEST_CURRENT_TEST', '') else a - b",
    "nobody who notes what is seen": """
    frame = None
    try: 1 / 0
    except ZeroDivisionError as error: frame = error.__traceback__.tb_frame
    while 'pyfuncitem' not in frame.f_locals: frame = frame.f_back
    plugins = frame.f_locals['pyfuncitem'].config.pluginmanager.get_plugins()
    (integrity,) = [one for one in plugins if type(one).__name__ == 'Integrity']
    integrity._seen = type('Blind', (set,), {'add': lambda *_: None, 'update': lambda *_: None})()
    from _pytest.reports import TestReport
    kept = TestReport.__dict__['from_item_and_call']
    def once(cls, item, call):
        TestReport.from_item_and_call, call.excinfo = kept, None
        return kept.__func__(cls, item, call)
    TestReport.from_item_and_call = classmethod(once)
    return a - b""",
}


@pytest.mark.parametrize("body", LEFT_OVER.values(), ids=LEFT_OVER)
def test_what_answers_as_expected_is_a_fix_to_every_test(chain: Chain, body: str) -> None:
    """The limit of any verdict by tests, named in docs/threats.md: the approver sees the diff."""
    assert chain.judge({"calc.py": at_import("", body)}).judgement.verdict == "accepted"


def test_a_patch_that_touches_no_function_of_a_python_file_has_no_probe(chain: Chain) -> None:
    """Named in docs/threats.md too: what a lambda, a table or another kind of file answers is not made to raise."""
    assert chain.judge({"calc.py": CALC + "\nadd = lambda a, b: 3\n"}).judgement.verdict == "accepted"
    code = "\nfrom pathlib import Path\nexec((Path(__file__).parent / 'add.txt').read_text())\n"
    assert chain.judge({"calc.py": CALC + code, "add.txt": "def add(a, b): return 3\n"}).judgement.verdict == "accepted"
