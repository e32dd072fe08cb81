"""Every capability by the registry: outside the gate it refuses, before it does anything; and importing does nothing at all."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.acting import Acting, as_acting
from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability
from schemas.error import Refused
from schemas.event import Actor
from schemas.task import TraceKeys
from workers.registration import activities_of, served_by

ROOT = Path(__file__).resolve().parents[2]


def implementing() -> dict[str, tuple[type, str]]:
    """(class, name of the method) of each capability's implementation."""
    found = {}
    for path in sorted((ROOT / "activities").glob("*/activities.py")):
        module = importlib.import_module(f"activities.{path.parent.name}.activities")
        for _, owner in inspect.getmembers(module, inspect.isclass):
            for name, method in vars(owner).items():
                if owner.__module__ == module.__name__ and (capability := getattr(method, "__capability__", None)):
                    found[capability.id] = (owner, name)
    return found


IMPLEMENTING = implementing()


class Untouched:
    """Stands for an implementation's object: whatever it is asked for, somebody came too far."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"reached .{name}")


def call(capability: Capability[Any, Any]) -> Any:
    owner, name = IMPLEMENTING[capability.id]
    return vars(owner)[name](Untouched(), Untouched())


@pytest.mark.parametrize("capability_id", sorted(CAPABILITIES))
def test_outside_the_gate_it_refuses_before_it_does_anything(capability_id: str) -> None:
    with pytest.raises(Refused) as caught:
        call(CAPABILITIES[capability_id])
    assert caught.value.code == "UNGATED" and capability_id in caught.value.message


@pytest.mark.parametrize("capability_id", sorted(CAPABILITIES))
def test_under_the_admission_of_another_it_refuses_too(capability_id: str) -> None:
    other = next(name for name in sorted(CAPABILITIES) if name != capability_id)
    who = Acting(
        keys=TraceKeys(tenant_id="t", trace_id="r", session_id="s", task_id="k"), actor=Actor(principal_id="p", kind="human"),
        phase="control", workflow_id="w", run_id="r", effect_key="e", attempt_key="a", attempt=1, capability_id=other,
    )  # fmt: skip
    with as_acting(who), pytest.raises(Refused, match="UNGATED"):
        call(CAPABILITIES[capability_id])


def test_an_admission_ends_with_its_call_and_is_no_other_threads() -> None:
    capability = CAPABILITIES["forge.fetch_source"]
    who = Acting(
        keys=TraceKeys(tenant_id="t", trace_id="r", session_id="s", task_id="k"), actor=Actor(principal_id="p", kind="human"),
        phase="control", workflow_id="w", run_id="r", effect_key="e", attempt_key="a", attempt=1, capability_id=capability.id,
    )  # fmt: skip
    caught: list[str] = []

    def elsewhere() -> None:
        try:
            call(capability)
        except Refused as error:
            caught.append(error.code)

    with as_acting(who):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    elsewhere()
    assert caught == ["UNGATED", "UNGATED"]


@pytest.mark.parametrize("pool", sorted({capability.pool for capability in CAPABILITIES.values()}))
def test_a_worker_registers_one_dynamic_activity_and_nothing_else(pool: Any) -> None:
    """So that every name, also one that nobody knows, reaches the gate; no name reaches an implementation without it."""
    owners = {owner for id, (owner, _) in IMPLEMENTING.items() if id in served_by(pool)}
    [registered] = activities_of([object.__new__(owner) for owner in owners], pool)
    assert vars(registered)["__temporal_activity_definition"].name is None, "what is dynamic has no name"


def test_every_worker_that_runs_activities_has_the_gate() -> None:
    """Read from the syntax: a ``Worker`` with activities and without ``interceptors=[gate]`` is none of ours."""
    without, made = [], 0
    for package in ("workers", "cli", "activities", "workflows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Worker":
                    made += 1
                    named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    gated = named.get("interceptors", "").startswith("[gate")
                    if ("activities" in named and not gated) or None in named:
                        without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert without == [] and made >= 2


PROBE = """
import importlib, json, os, sys, threading
seen = []
WATCHED = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect", "socket.bind",
           "socket.getaddrinfo", "sqlite3.connect", "os.mkdir", "os.remove", "os.rename", "os.chmod", "os.kill", "shutil.rmtree")
def watch(event, args):
    if event in WATCHED or (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")):
        seen.append([event, str(args)[:200]])
sys.addaudithook(watch)
for name in sys.argv[1].split(","):
    importlib.import_module(name)
threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
print(json.dumps({"seen": seen, "threads": threads}))
"""


def importable() -> list[str]:
    """Every module of ours that runs on the host: what runs in the sandbox or is alembic's own is no import of ours."""
    names = []
    for package in ("schemas", "policies", "activities", "workflows", "workers", "cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            inside = {"runner", "inside", "templates", "versions"} & set(parts) or parts[-1] in ("__main__", "launcher", "env")
            if not inside:
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_importing_every_module_does_nothing(tmp_path: Path) -> None:
    """Before any policy is loaded there is nothing to escape from: no process, connection, file, database or thread.

    One library asks the system whether it knows IPv6, by binding a socket of its own to loopback and closing it.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", PROBE, ",".join(importable())], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    told["seen"] = [one for one in told["seen"] if not (one[0] == "socket.bind" and one[1].endswith("('::1', 0))"))]
    assert told == {"seen": [], "threads": []}
    assert list(tmp_path.iterdir()) == []
