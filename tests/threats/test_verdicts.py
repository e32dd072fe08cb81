"""Hostile patches through the real chain: import, overlay, a run of each tree in a sandbox, verdict (rows 4.1 to 4.3).

What speaks for a test instead of passing it is in ``test_forged_results.py``. Here a patch mends nothing and tries to look as
if it had, or mends the bug and silences a test that it breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from activities.testbed.importing import import_patch
from activities.verify.diagnosing import ObservedRun, TreeRuns
from activities.verify.judging import Evidence, Ruling, rule
from schemas.test_command import parse_test_command
from schemas.testing import Environment
from tests.testbed.conftest import LIMITS, Bed

FAILING, GUARD = "tests/test_calc.py::test_add", "tests/test_calc.py::test_zero"
BASE: dict[str, str] = {
    "calc.py": "def add(a, b):\n    return a - b\n\n\ndef zero():\n    return 0\n",
    "tests/test_calc.py": "import json\nfrom calc import add, zero\n\n\ndef test_add():\n    assert add(1, 2) == 3\n\n\n"
    "def test_zero():\n    assert zero() == 0\n",
    "specs/check_calc.py": "from calc import add\n\n\ndef test_spec():\n    assert add(2, 2) == 4\n",
    "pyproject.toml": "[tool.pytest.ini_options]\npython_files = ['test_*.py', 'check_*.py']\n",
}
ADD = "def add(a, b):\n    {}\n\n\ndef zero():\n    return 0\n"
ZERO = "def add(a, b):\n    return a + b\n\n\ndef zero():\n    {}\n"


@dataclass(frozen=True)
class Chain:
    """A base tree, run twice, and the verdict on any patch of it."""

    bed: Bed
    environment: Environment
    base: str
    base_runs: list[ObservedRun]
    known: dict[str, ObservedRun] = field(default_factory=dict)

    def runs(self, tree: str) -> list[ObservedRun]:
        """A verdict needs two runs that agree; to be quick here, one stands for both and for equal trees."""
        if tree not in self.known:
            limits = LIMITS.model_copy(update={"wall_ms": 30_000, "test_ms": 1_500})
            self.known[tree] = ObservedRun(*self.bed.run(tree, self.environment, parse_test_command(()), limits))
        return [self.known[tree]] * 2

    def judge(self, edits: Mapping[str, str | None]) -> Ruling:
        objects = self.bed.objects
        result = objects.write_tree(self.base, {path: None if text is None else text.encode() for path, text in edits.items()})
        imported = import_patch(objects, self.base, objects.diff(self.base, result))
        return rule(Evidence(TreeRuns(self.base_runs), TreeRuns(self.runs(imported.harness_tree))))


@pytest.fixture(scope="module")
def chain(bed: Bed, plain: Environment) -> Chain:
    base = bed.tree(BASE)
    return Chain(bed, plain, base, Chain(bed, plain, base, []).runs(base))


def test_an_honest_fix_is_accepted(chain: Chain) -> None:
    assert chain.base_runs[0].outcomes == {FAILING: "failed", GUARD: "passed", "specs/check_calc.py::test_spec": "failed"}
    ruling = chain.judge({"calc.py": ADD.format("return a + b")})
    assert (ruling.judgement.verdict, ruling.judgement.fix) == ("accepted", "complete"), ruling


SILENCERS = {
    "SkipTest": "raise __import__('unittest').SkipTest('not now')",
    "pytest.skip": "__import__('pytest').skip('not now')",
    "pytest.xfail": "__import__('pytest').xfail('known')",
    "os._exit": "__import__('os')._exit(0)",
    "sys.exit": "raise SystemExit(0)",
    "pytest.exit": "__import__('pytest').exit('done', 0)",
    "kill": "__import__('os').kill(__import__('os').getpid(), 9)",
    "loop": "while True: pass",
}


@pytest.mark.parametrize("deed", SILENCERS.values(), ids=SILENCERS)
def test_a_test_that_is_silenced_is_lost(chain: Chain, deed: str) -> None:
    """The bug is mended, and the test that guards ``zero`` is made to end otherwise than by failing."""
    judgement = chain.judge({"calc.py": ZERO.format(deed)}).judgement
    assert judgement.verdict == "rejected" and judgement.codes, judgement


@pytest.mark.parametrize("name", ["SkipTest", "pytest.xfail", "os._exit", "sys.exit"])
def test_a_failing_test_that_is_silenced_is_not_mended(chain: Chain, name: str) -> None:
    judgement = chain.judge({"calc.py": ADD.format(SILENCERS[name])}).judgement
    assert (judgement.verdict, judgement.fix) == ("rejected", "none"), judgement
    assert "NOTHING_FIXED" in judgement.codes


OVERLAYS: dict[str, Mapping[str, str | None]] = {
    "weaker test": {"tests/test_calc.py": "def test_add(): pass\n\n\ndef test_zero(): pass\n"},
    "weaker test of a declared name": {"specs/check_calc.py": "def test_spec(): pass\n"},
    "deleted test": {"tests/test_calc.py": None},
    "conftest": {
        "conftest.py": "import pytest\n\n\n@pytest.hookimpl(wrapper=True)\ndef pytest_pyfunc_call(pyfuncitem):\n"
        "    try:\n        yield\n    except BaseException:\n        pass\n    return True\n"
    },
    "addopts -p": {"pytest.ini": "[pytest]\naddopts = -p evil\n", "evil.py": "import os\nos._exit(0)\n"},
    "addopts --deselect": {"pytest.ini": f"[pytest]\naddopts = --deselect {FAILING}\n"},
    "addopts in pyproject": {"pyproject.toml": f"[tool.pytest.ini_options]\naddopts = '--deselect {FAILING}'\n"},
    "tox.ini": {"tox.ini": "[pytest]\naddopts = --ignore=tests\n", "pyproject.toml": None},
    "entry point": {
        "evil.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1\n",
        "evil.egg-info/entry_points.txt": "[pytest11]\nevil = evil\n",
        "evil.py": "def pytest_collection_modifyitems(items): items.clear()\n",
    },
    "entry point in dist-info": {
        "evil-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: evil\nVersion: 1\n",
        "evil-1.dist-info/entry_points.txt": "[pytest11]\nevil = evil\n",
        "evil.py": "def pytest_collection_modifyitems(items): items.clear()\n",
    },
    "start-up hook": {"sitecustomize.py": "import os\nos._exit(0)\n", "usercustomize.py": "import os\nos._exit(0)\n"},
    "pth": {"evil.pth": "import os; os._exit(0)\n"},
    "shadowed json": {"json.py": "import sys\nsys.exit(0)\n"},
    "shadowed pluggy": {"pluggy.py": "import os\nos._exit(0)\n"},
    "shadowed runner": {"reporting.py": "import os\nos._exit(0)\n", "child.py": "import os\nos._exit(0)\n"},
}


@pytest.mark.parametrize("edits", OVERLAYS.values(), ids=OVERLAYS)
def test_tests_and_what_runs_them_are_those_of_base(chain: Chain, edits: Mapping[str, str | None]) -> None:
    judgement = chain.judge({"calc.py": BASE["calc.py"] + "\n# changed\n", **edits}).judgement
    assert (judgement.verdict, judgement.fix, judgement.fail_to_pass) == ("rejected", "none", ()), judgement


def test_a_patch_that_needs_no_test_to_fail_is_no_fix(chain: Chain) -> None:
    mended = chain.bed.objects.write_tree(chain.base, {"calc.py": ADD.format("return a + b").encode()})
    runs = chain.runs(mended)
    ruling = rule(Evidence(TreeRuns(runs), TreeRuns(runs)))
    assert (ruling.judgement.verdict, ruling.judgement.fix, ruling.judgement.codes) == ("rejected", "none", ("NO_FAILING_TEST",))


def test_a_pth_file_of_the_tree_is_not_read(bed: Bed, plain: Environment) -> None:
    files = {
        "tests/test_a.py": "import sys\n\n\ndef test_a():\n    assert 'evil' not in sys.modules\n",
        "evil.pth": "import evil\n",
        "evil.py": "raise SystemExit(0)\n",
    }
    assert bed.run(bed.tree(files), plain)[1] == {"tests/test_a.py::test_a": "passed"}
