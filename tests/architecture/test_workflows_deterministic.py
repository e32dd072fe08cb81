"""Workflow code imports only schemas, the standard library and temporalio, and nothing that differs on replay.

import-linter sees temporalio only as a whole and calls not at all, so this reads the syntax trees.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANNED_MODULES = {
    "concurrent", "glob", "http", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil", "signal",
    "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
ALLOWED = (sys.stdlib_module_names - BANNED_MODULES) | {"schemas", "workflows", "temporalio"}
BANNED_CALLS = {
    "__import__", "eval", "exec", "hash", "id", "input", "open", "print",
    "asyncio.as_completed", "asyncio.run", "asyncio.to_thread", "asyncio.wait",
    "date.today", "datetime.now", "datetime.today", "datetime.utcnow", "uuid.getnode", "uuid.uuid1", "uuid.uuid4",
    "datetime.date.today", "datetime.datetime.now", "datetime.datetime.today", "datetime.datetime.utcnow",
}  # fmt: skip
"""asyncio.wait and as_completed work on sets, whose order differs; the SDK's own ``workflow.wait`` does not."""


def problems(source: str) -> list[str]:
    """What in this module would make a replay differ, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for module in _imported(node):
            top = module.split(".")[0]
            if top not in ALLOWED or module in ("uuid.uuid1", "uuid.uuid4"):
                found.append(f"{getattr(node, 'lineno', 0)}: imports {module}")
        if isinstance(node, ast.Call) and (name := _dotted(node.func)) in BANNED_CALLS:
            found.append(f"{node.lineno}: calls {name}")
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.module == "uuid":
            return [f"uuid.{alias.name}" for alias in node.names]
        return [("." * node.level) + (node.module or "")]
    return []


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_workflows_are_deterministic() -> None:
    files = sorted((ROOT / "workflows").rglob("*.py"))
    found = [f"{path.relative_to(ROOT)}:{problem}" for path in files for problem in problems(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import os", "from os import path", "import random", "import time", "import secrets", "import activities.record",
        "from workers import settings", "import pydantic", "from uuid import uuid4", "from . import x", "import docker",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()", "import uuid\nuuid.uuid4()",
        "open('x')", "print('x')", "eval('1')", "hash('x')", "import asyncio\nasyncio.to_thread(f)",
        "def f():\n    import subprocess", "async def f():\n    return {g: time.time() for g in open('x')}",
    ],
)  # fmt: skip
def test_what_differs_on_replay_is_found(source: str) -> None:
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import timedelta", "import asyncio\nasyncio.gather(a, b)",
        "from temporalio import workflow\nworkflow.now()",
        "from temporalio import workflow\nworkflow.uuid4()", "from schemas.model import Digest", "import json, dataclasses",
    ],
)  # fmt: skip
def test_what_replays_is_allowed(source: str) -> None:
    assert problems(source) == []
