"""Commands in a home of their own, in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.cli.commands import Gen4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GEN4_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEN4_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def gen4(home: Path, capsys: pytest.CaptureFixture[str]) -> Gen4:
    """Runs a command with ``--json``; its exit code and its one document."""

    def call(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call
