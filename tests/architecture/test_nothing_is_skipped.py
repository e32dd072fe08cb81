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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ci", ["true", ""])
def test_a_skip_fails_only_in_ci(tmp_path: Path, case: str, ci: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_more.py").write_text("def test_that_passes(): ...\n")
    (tmp_path / "test_case.py").write_text(CASES[case])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if ci else 0), done.stdout + done.stderr
    assert ("counts as failed" in done.stdout) == bool(ci)
