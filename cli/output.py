"""What people and scripts read: results on standard output (one JSON document with ``--json``), the rest on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from schemas.details import plain
from schemas.error import Gen4Error

progress = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of progress. Foreign text in it is made inert."""
    progress.print(plain(text), markup=False)


def show(text: str) -> None:
    """One line of result."""
    results.print(plain(text), markup=False)


def emit(document: BaseModel | dict[str, Any] | list[Any]) -> None:
    """The one JSON document of a ``--json`` command."""
    value = document.model_dump(mode="json", exclude_none=True) if isinstance(document, BaseModel) else document
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=isinstance(document, dict)) + "\n")


def explain(error: Gen4Error, as_json: bool) -> None:
    """An error for people on standard error and, with ``--json``, as the one document on standard output."""
    if as_json:
        emit({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
    progress.print(f"[bold red]{error.code}[/]: ", end="")
    progress.print(plain(error.message), markup=False)
    if error.remedy:
        progress.print("  → " + plain(error.remedy), markup=False)
