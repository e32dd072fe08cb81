"""Which commands there are, and that one of them loads no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from cli.main import WORDS, run, table


def test_every_word_is_registered_by_the_module_that_it_is_looked_for_in() -> None:
    for words in WORDS.values():
        for word in words:
            group = typer.main.get_command(table([word]))
            assert tuple(sorted(group.commands)) == tuple(sorted(words))  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["--help"], ["-h", "up"], [], ["upp"]])
def test_without_a_command_all_of_them_are_there(arguments: list[str]) -> None:
    group = typer.main.get_command(table(arguments))
    assert sorted(group.commands) == sorted(word for words in WORDS.values() for word in words)  # type: ignore[attr-defined]


def test_a_word_mistyped_is_told_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remediat"]) == 2
    assert "remediate" in capsys.readouterr().err


SLOW = ("temporalio", "sqlalchemy", "docker", "requests", "sigstore", "cyclonedx")
"""Libraries that take a tenth of a second or more each."""


@pytest.mark.parametrize(
    ("module", "needs"), [("fabric", ()), ("verify", ()), ("remediate", ("temporalio",)), ("events", ("sqlalchemy",))]
)
def test_a_command_loads_no_slow_library_that_it_does_not_need(module: str, needs: tuple[str, ...]) -> None:
    code = f"import cli.main, cli.{module}, json, sys; print(json.dumps([name for name in {SLOW} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(needs)
