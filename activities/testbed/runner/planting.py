"""Puts sentinels among the collected tests, so that they pass through the same hooks, and leave no trace in the session.

Each runs right before some test, below the collector of that test: nothing that the neighbours share is set up or torn down
for it. It takes no fixture, inherits no mark and meets no hook of a ``conftest.py``, so no honest suite makes it pass or skip.
"""

from __future__ import annotations

import ast
import builtins
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .child import Reporter
from .reporting import text

_SOURCES = {
    "assert": "def {name}():\n    value = {left}\n    assert value == {right}\n",
    "contains": "def {name}():\n    values = [{left}]\n    assert {right} in values\n",
    "raise": "def {name}():\n    raise {error}('{left}')\n",
    "fail": "import pytest\ndef {name}():\n    pytest.fail('{left}')\n",
    "text": "def {name}():\n    value = str({left})\n    assert value == '{right}'\n",
    "unittest": "import unittest\nclass Test{left}(unittest.TestCase):\n"
    "    def {name}(self):\n        self.assertEqual({left}, {right})\n",
}


class Planting:
    """Pytest plugin. ``sentinels``: what :meth:`Sentinels.order` drew. ``alone``: plant them also where no test is left."""

    def __init__(self, sentinels: list[dict[str, Any]], report: Reporter, alone: bool) -> None:
        self._sentinels, self._report, self._alone = sentinels, report, alone
        self._before: dict[Any, list[Any]] = {}
        self._behind: list[Any] = []
        self.ids: set[str] = set()

    def pytest_runtestloop(self, session: Any) -> None:
        items = list(session.items)
        if not self._sentinels or not (items or self._alone) or session.config.option.collectonly:
            return
        taken = {text(item.nodeid) for item in items}
        planted = []
        for sentinel in self._sentinels:
            place = int(sentinel["at"] * (len(items) + 1))
            neighbour = items[place] if place < len(items) else None
            item = _item(sentinel, session, session if neighbour is None else neighbour.parent, taken)
            if neighbour is None and items:  # named as if it were the last of its file
                item._nodeid = f"{items[-1].parent.nodeid}{item.nodeid}"
            planted.append(text(item.nodeid))
            taken.add(planted[-1])
            (self._behind if neighbour is None else self._before.setdefault(neighbour, [])).append(item)
        self.ids.update(planted)
        self._report("planted", ids=planted)
        if not items:
            self._run(session.config, self._behind, None)

    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Generator[None, None, None]:
        # Outermost of all wrappers: none of a plugin is under way for the neighbour yet.
        if text(item.nodeid) not in self.ids:
            self._run(item.config, self._before.pop(item, []), item)
        yield
        if nextitem is None and text(item.nodeid) not in self.ids:
            self._run(item.config, self._behind, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and text(report.nodeid) in self.ids:
            self._session.testsfailed -= 1
            reporter = self._session.config.pluginmanager.get_plugin("terminalreporter")
            shown = getattr(reporter, "stats", {}).get("failed", [])
            if report in shown:
                shown.remove(report)

    def pytest_sessionstart(self, session: Any) -> None:
        self._session = session

    def _run(self, config: Any, items: list[Any], following: Any) -> None:
        for item in items:
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    # Marked by hand: pytest must not be imported before the path is set.
    pytest_runtestloop.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_protocol.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_logreport.pytest_impl = {"trylast": True}  # type: ignore[attr-defined]


def _item(sentinel: dict[str, Any], session: Any, parent: Any, taken: set[str]) -> Any:
    import pytest
    from _pytest.unittest import TestCaseFunction, UnitTestCase

    name = sentinel["name"]
    while f"{text(parent.nodeid)}::{name}" in taken:
        name += "_again"
    found = _define({**sentinel, "name": name}, session.config, str(getattr(parent, "path", "") or "test.py"))
    nowhere = os.path.join(os.sep, "nowhere", "test.py")
    hooks = session.gethookproxy(Path(nowhere) if hasattr(session, "path") else type(session.fspath)(nowhere))
    if isinstance(found, type):
        case = UnitTestCase.from_parent(parent, name=found.__name__)
        case.obj = found
        item = _plain(TestCaseFunction, hooks, {}).from_parent(case, name=name, callobj=getattr(found, name))
    else:
        # pytest 6 looks a method up in its class again.
        item = _plain(pytest.Function, hooks, {"_getobj": lambda self: found}).from_parent(parent, name=name, callobj=found)
    item.fixturenames = []
    return item


def _plain(kind: Any, hooks: Any, more: dict[str, Any]) -> Any:
    """The same kind of test, without what it would inherit from its collectors and from ``conftest.py``."""

    def no_marks(self: Any, name: str | None = None) -> Any:
        return iter(())

    own = {"ihook": hooks, "iter_markers_with_node": no_marks, "__module__": kind.__module__, **more}
    return type(kind)(kind.__name__, (kind,), own)


def _define(sentinel: dict[str, Any], config: Any, filename: str) -> Any:
    source = _SOURCES[sentinel["form"]].format(**sentinel)
    tree = ast.parse(source)
    if config.option.assertmode == "rewrite":
        from _pytest.assertion.rewrite import rewrite_asserts

        rewrite_asserts(tree, source.encode(), filename, config)
    names: dict[str, Any] = {"__builtins__": builtins, "__name__": "test"}
    exec(compile(tree, filename, "exec", dont_inherit=True), names)  # noqa: S102  our own text
    return names.get(sentinel["name"]) or names[f"Test{sentinel['left']}"]
