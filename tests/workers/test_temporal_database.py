"""A home whose first start was cut off starts again; nothing that a server wrote is ever taken away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from workers.supervisor import discard_unfinished


def made(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as writer:
        for statement in statements:
            writer.execute(statement)
        writer.commit()
    return path


EXECUTIONS, FINISHED = "CREATE TABLE executions (a)", "CREATE TABLE cluster_metadata_info (a)"


@pytest.mark.parametrize(
    ("statements", "kept"),
    [
        ((), False), ((EXECUTIONS, "CREATE TABLE namespace_metadata (a)", "INSERT INTO namespace_metadata VALUES (1)"), False),
        ((EXECUTIONS, FINISHED), True), ((EXECUTIONS, "INSERT INTO executions VALUES (1)"), True),
    ],
)  # fmt: skip
def test_only_a_database_that_was_never_finished_goes(tmp_path: Path, statements: tuple[str, ...], kept: bool) -> None:
    database = made(tmp_path / "a %3f.db", *statements)
    database.touch()
    discard_unfinished(database)
    assert database.exists() == kept


def test_what_is_no_database_stays(tmp_path: Path) -> None:
    (tmp_path / "t.db").write_bytes(b"something else, long enough to be none" * 100)
    discard_unfinished(tmp_path / "t.db")
    assert (tmp_path / "t.db").exists()
    discard_unfinished(tmp_path / "absent.db")
