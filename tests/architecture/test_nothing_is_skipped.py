"""With CI=true a skipped test fails the run; without it, it is only reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
CASES = {
    "mark": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_one(): ...\ndef test_two(): ...\n",
    "call": "import pytest\ndef test_one():\n    pytest.skip('no engine')\ndef test_two(): ...\n",
    "module": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "expected": "import pytest\n@pytest.mark.xfail(reason='later')\ndef test_one():\n    assert False\ndef test_two(): ...\n",
}


def run(folder: Path, ci: str, *cases: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_more.py").write_text("def test_that_passes(): ...\n")
    for case in cases:
        (folder / f"test_{case}.py").write_text(CASES[case])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)], cwd=folder,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_skip_fails_in_ci(tmp_path: Path, case: str) -> None:
    done = run(tmp_path, "true", case)
    assert done.returncode == 1 and "counts as failed" in done.stdout, done.stdout + done.stderr


def test_elsewhere_no_skip_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "", *CASES)
    assert done.returncode == 0 and "counts as failed" not in done.stdout, done.stdout + done.stderr
    assert "3 skipped" in done.stdout and "1 xfailed" in done.stdout
