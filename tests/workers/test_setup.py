"""What set-up leaves beside the programs: bytecode, for processes that may not write any."""

from __future__ import annotations

from pathlib import Path

from workers.setup import MODULES, ROOT, compile_modules


def test_every_package_of_ours_is_compiled() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"bench"} == set(MODULES)


def test_what_cannot_be_compiled_or_written_is_left(tmp_path: Path) -> None:
    for name, text in (("good/a.py", "x = 1\n"), ("bad/b.py", "x = (\n"), ("closed/c.py", "x = 1\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "closed" / "__pycache__").write_text("in the way")
    compile_modules(tmp_path, ("bad", "closed", "good", "absent"))
    assert [path.parents[1].name for path in tmp_path.rglob("*.pyc")] == ["good"]
