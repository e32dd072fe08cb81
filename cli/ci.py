"""Build servers obey what a program prints; while ours runs they do not (threats 6.10)."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def commands_stopped(environment: Mapping[str, str]) -> Iterator[None]:
    """GitHub's runner takes no command until it reads the token again, which nobody else knows.

    Elsewhere nothing is printed: whatever goes through :mod:`cli.output` is inert there too.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        yield
        return
    token = secrets.token_hex(20)
    _tell(f"::stop-commands::{token}")
    try:
        yield
    finally:
        sys.stdout.flush()
        _tell(f"::{token}::")


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
