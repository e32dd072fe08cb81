"""`make bench` runs every benchmark that there is, and says which target was missed."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench.__main__ import main, targets

ROOT = Path(bench.__file__).parent


def test_every_program_among_the_benchmarks_is_listed() -> None:
    programs = {
        path.stem for path in ROOT.glob("*.py") if 'if __name__ == "__main__"' in path.read_text() and path.stem != "__main__"
    }
    assert programs == set(bench.BENCHMARKS)


def test_each_tells_in_its_first_line_what_it_measures() -> None:
    for name, what in bench.BENCHMARKS.items():
        assert what and (ROOT / f"{name}.py").read_text().startswith('"""')


def test_targets_are_found_however_deep_they_stand() -> None:
    result = {"decision": {"met": True, "ratio": {"p50": 1}}, "gate": {"deep": {"met": False}}, "note": "met"}
    assert list(targets("kernel", result)) == [("kernel.decision", True), ("kernel.gate.deep", False)]


def test_an_unknown_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernl"]) == 2
    assert "kernl" in capsys.readouterr().err
