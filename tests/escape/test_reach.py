"""No process, engine, network, git, model, client or hidden code is reachable but from the modules that a table names."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.capabilities import CAPABILITIES
from tests.escape.allowed import ALLOWED
from tests.escape.powers import Power, uses

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "policies", "activities", "workflows", "workers", "cli")
IN_THE_SANDBOX = ("activities.testbed.runner", "activities.kernel.sandbox.inside")


def modules() -> Iterator[str]:
    for package in PACKAGES:
        yield from (str(path.relative_to(ROOT)) for path in sorted((ROOT / package).rglob("*.py")))


def entry_of(module: str) -> str:
    """The table's line for a module: its own, else that of a folder around it."""
    return next((entry for entry in ALLOWED if entry == module or (entry.endswith("/") and module.startswith(entry))), "")


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


@functools.cache
def taken() -> dict[str, dict[Power, str]]:
    """By line of the table (or module without one): which powers are taken, and where."""
    found: dict[str, dict[Power, str]] = {}
    for module in modules():
        for use in sorted(uses((ROOT / module).read_text())):
            found.setdefault(entry_of(module) or module, {})[use.power] = f"{module}:{use.line}: {use.what}"
    return found


def test_no_module_takes_a_power_that_the_table_does_not_give() -> None:
    found = [(entry, power, where) for entry, by in taken().items() for power, where in by.items()]
    assert [f"{power}: {where}" for entry, power, where in found if power not in ALLOWED.get(entry, {})] == []


def test_no_line_of_the_table_is_left_over() -> None:
    found = taken()
    assert [f"{entry}: {power}" for entry, given in ALLOWED.items() for power in given if power not in found.get(entry, {})] == []


def test_nobody_reaches_a_model() -> None:
    """There is no model capability yet; the first one will come with its own pool, its own uid and its line in the table."""
    assert [entry for entry, given in ALLOWED.items() if "model" in given] == []


def test_schemas_and_workflows_take_nothing() -> None:
    assert [entry for entry in ALLOWED if entry.startswith(("schemas/", "policies/", "workflows/"))] == []


def test_what_runs_in_the_sandbox_is_imported_by_nobody_outside() -> None:
    importing = []
    for module in modules():
        for name in _imported(module) if not entry_of(module).endswith("/") else ():
            if name.startswith(IN_THE_SANDBOX) and entry_of(_path_of(name)).endswith("/"):
                importing.append(f"{module}: {name}")
    assert importing == []


def test_only_activity_modules_implement_and_each_names_its_capability() -> None:
    """A capability's implementation carries the mark that puts it behind the gate, in the one module a worker takes it from."""
    marked: dict[str, list[str]] = {}
    for module in modules():
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "implements":
                [argument] = node.args
                assert isinstance(argument, ast.Name), f"{module}:{node.lineno}: the capability is named, not computed"
                marked.setdefault(module, []).append(argument.id)
    assert {module for module in marked if module.split("/")[-1] != "activities.py"} == set()
    assert sum(len(names) for names in marked.values()) == len(CAPABILITIES)


def _path_of(name: str) -> str:
    """The file of a module, or of the module that the name is taken from."""
    whole = name.replace(".", "/") + ".py"
    return whole if (ROOT / whole).is_file() else name.rpartition(".")[0].replace(".", "/") + ".py"


def _imported(module: str) -> Iterator[str]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ESCAPES: dict[str, tuple[str, Power]] = {
    "plain": ("import subprocess", "process"),
    "inside a function": ("def f():\n    from subprocess import run\n    run(['id'])", "process"),
    "under another name": ("import os as o\no.system('id')", "process"),
    "taken by name": ("from os import execv as become\nbecome('/bin/sh', [])", "process"),
    "kept, not called": ("import os\nrun = os.posix_spawn", "process"),
    "asyncio's way": ("import asyncio\nasyncio.create_subprocess_exec('id')", "process"),
    "a pool of processes": ("from concurrent.futures import ProcessPoolExecutor", "process"),
    "a pool by its whole name": ("import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()", "process"),
    "a fork": ("import os\nif os.fork(): pass", "process"),
    "a socket": ("import socket", "network"),
    "an address": ("import urllib.request", "network"),
    "asyncio's sockets": ("import asyncio\nasyncio.open_connection('h', 1)", "network"),
    "a key set by URL": ("import jwt\njwt.PyJWKClient('http://x')", "network"),
    "an engine": ("from docker import DockerClient", "docker"),
    "git past the object store": ("from activities.record.git import Git", "git"),
    "a model": ("from openai import OpenAI", "model"),
    "a client": ("from temporalio.client import Client", "temporal client"),
    "an activity of its own": ("from temporalio import activity\n@activity.defn\ndef f(): ...", "activity"),
    "a worker of its own": ("from temporalio.worker import Worker", "activity"),
    "a module by computed name": ("import importlib\nimportlib.import_module('sub' + 'process')", "code"),
    "the builtin importer": ("__import__('subprocess')", "code"),
    "a loaded module": ("import sys\nsys.modules['subprocess'].run(['id'])", "code"),
    "an attribute by computed name": ("import os\ngetattr(os, 'sys' + 'tem')('id')", "code"),
    "a namespace": ("import os\nos.__dict__['system']('id')", "code"),
    "its vars": ("import os\nvars(os)['system']('id')", "code"),
    "evaluated": ("eval('1')", "code"),
    "native": ("import ctypes", "code"),
    "unpickled": ("import pickle", "code"),
    "a database of its own": ("import sqlite3", "database"),
    "an engine of its own": ("import sqlalchemy\nsqlalchemy.create_engine('sqlite://')", "database"),
    "a signal": ("import os\nos.kill(1, 9)", "signal"),
}


@pytest.mark.parametrize("case", ESCAPES)
def test_each_way_of_taking_a_power_is_seen(case: str) -> None:
    source, power = ESCAPES[case]
    assert power in {use.power for use in uses(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('x')", "compile: int = 1", "import os\nos.environ.get('X')", "import asyncio\nasyncio.gather()",
        "from importlib.metadata import version", "from temporalio.service import RPCError", "getattr(request, 'x', None)",
        "from temporalio import workflow", "from sqlalchemy import select",
        "import concurrent.futures\nconcurrent.futures.wait([])",
    ],
)  # fmt: skip
def test_what_takes_nothing_is_left_alone(source: str) -> None:
    assert uses(source) == set()
