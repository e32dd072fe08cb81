"""Options of what is timed, for the commands that compare two trees."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from schemas.error import InputError

BenchmarkOption = Annotated[
    str,
    typer.Option(
        "--benchmark", metavar="COMMAND", help="Command whose time counts, split like a shell's words; it runs in the sandbox."
    ),
]
BenchmarkRunsOption = Annotated[
    int, typer.Option("--benchmark-runs", min=3, max=20, help="How often the benchmark runs on each side.")
]
BENCHMARK_RUNS = 5


def benchmark_words(command: str) -> tuple[str, ...]:
    """Raises InputError COMMAND_SYNTAX."""
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise InputError("COMMAND_SYNTAX", f"--benchmark: {error}", "quote the command as for a shell") from error
