"""Every declared capability is implemented exactly once, and workflows reach the world only through declared ones."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections import defaultdict
from pathlib import Path

from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability

ROOT = Path(__file__).resolve().parents[2]
AROUND_THE_CALL = {"execute_activity", "execute_activity_method", "execute_local_activity", "start_activity"}


def implementations() -> dict[str, list[str]]:
    """Qualified names of the implementing methods, by capability id."""
    found = defaultdict(list)
    for path in sorted((ROOT / "activities").glob("*/*.py")):
        if "@implements(" not in path.read_text():
            continue
        module = importlib.import_module(f"activities.{path.parent.name}.{path.stem}")
        for _, owner in inspect.getmembers(module, inspect.isclass):
            if owner.__module__ == module.__name__:
                for name, method in vars(owner).items():
                    if capability := getattr(method, "__capability__", None):
                        found[capability.id].append(f"{module.__name__}.{owner.__name__}.{name}")
    return found


def test_every_capability_is_implemented_exactly_once() -> None:
    found = implementations()
    assert {name: found[name] for name in CAPABILITIES if len(found[name]) != 1} == {}
    assert set(found) == set(CAPABILITIES)


def test_workflows_call_only_what_is_declared() -> None:
    declared = vars(importlib.import_module("schemas.capabilities"))
    names = {name for name, value in declared.items() if isinstance(value, Capability)}
    undeclared, called = [], set()
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "call":
                argument = node.args[0]
                name = argument.attr if isinstance(argument, ast.Attribute) else getattr(argument, "id", ast.dump(argument))
                called.add(name)
                if name not in names:
                    undeclared.append(f"{path.name}:{node.lineno}: {name}")
    assert undeclared == []
    assert names - called == set(), "declared and implemented, but no workflow uses it"


def test_no_workflow_goes_around_the_call() -> None:
    """``workflows/calling.py`` is the only place that schedules an activity: it names the pool and the limits."""
    around = []
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in AROUND_THE_CALL and path.name != "calling.py":
                around.append(f"{path.name}:{node.lineno}: {node.attr}")
    assert around == []
