"""What people and scripts read: results on standard output (one JSON document with ``--json``), the rest on standard error."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from schemas.error import Gen4Error
from schemas.text import plain

progress = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)


_CI_COMMAND = re.compile(r"^(\s*:)(?=:)|(#)(?=#)")
"""What build servers read as a command to them: ``::name::`` at the start of a line, ``##[name]`` and ``##vso[`` anywhere."""


def line(text: str) -> str:
    """Foreign text as one inert line: for terminals, and for build servers that obey what a program prints."""
    return _CI_COMMAND.sub(lambda found: found.group() + " ", plain(text))


def say(text: str) -> None:
    """One line of progress. Foreign text in it is made inert."""
    progress.print(line(text), markup=False)


def show(text: str) -> None:
    """One line of result."""
    results.print(line(text), markup=False)


def emit(document: BaseModel | dict[str, Any] | list[Any]) -> None:
    """The one JSON document of a ``--json`` command."""
    value = document.model_dump(mode="json", exclude_none=True) if isinstance(document, BaseModel) else document
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=isinstance(document, dict))
    sys.stdout.write(inert_json(text) + "\n")


def inert_json(text: str) -> str:
    """The same JSON documents, in which whatever could steer a terminal or a build server is escaped."""
    shown = "".join(char if char == "\n" or _visible(char) else _escaped(char) for char in text)
    return shown.replace("##", "#\\u0023")


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1]


def explain(error: Gen4Error, as_json: bool) -> None:
    """An error for people on standard error and, with ``--json``, as the one document on standard output."""
    if as_json:
        emit({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
    progress.print(Text(line(error.code) + ": ", style="bold red"), end="")  # a code may come from a workflow
    progress.print(line(error.message), markup=False)
    if error.remedy:
        progress.print("  → " + line(error.remedy), markup=False)
