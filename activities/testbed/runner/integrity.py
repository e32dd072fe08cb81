"""Is pytest still pytest? Code under test shares its process, so whoever replaces a part of it is found out: right behind each
test, where what decides its outcome is looked at, and at the end, where all is.

Of objects only a few are looked at, and only behind a test: this makes tampering evident, it does not make it impossible.
"""

from __future__ import annotations

import builtins
import inspect
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import compress
from operator import getitem, is_
from types import FunctionType
from typing import Any

from .child import Reporter
from .executable import is_measured
from .reaching import Reaching
from .reporting import text
from .sealing import seal

_WATCHED = frozenset({"pytest", "_pytest", "pluggy", "unittest", "builtins", "_gen4"})
_DECIDING = (
    "_pytest.runner", "_pytest.reports", "_pytest.python", "_pytest.unittest", "_pytest._code.code", "_gen4.reporting",
    "_gen4.child", "_gen4.integrity", "_gen4.reaching", "_pytest.approx", "_pytest.python_api", "_pytest.raises", "unittest.case",
)  # fmt: skip
"""Modules through which an outcome goes on its way from a test to the supervisor, those of assertions included; all of pluggy's,
which differ by version."""
_HOOKS = ("pytest_runtest_protocol", "pytest_runtest_call", "pytest_runtest_makereport", "pytest_runtest_logreport")
"""Hooks through which it goes; who takes part in them does not change while a test runs."""
_COUNTED = frozenset({"_number", "_modules_seen", "_session", "_code_set", "_code_set_elsewhere"})
"""What in our own objects changes as tests run."""
_MAX_NAMES = 20


class Integrity:
    """Pytest plugin. Reports ``intact``, with the names of what was replaced since anything of the tree was loaded."""

    def __init__(self, report: Reporter, reaching: Reaching, plugins: list[object], work: str) -> None:
        self._report, self._reaching, self._plugins, self._work = report, reaching, plugins, work + os.sep
        self._functions: dict[str, object] = {}
        self._hooks: list[tuple[Any, Any, Any]] = []
        self._deciding: list[tuple[str, Mapping[str, Any], str, Any]] = []
        self._codes: list[tuple[str, FunctionType, object]] = []
        self._columns: list[list[Any]] = []
        self._tests: dict[Any, tuple[FunctionType, object]] = {}
        self._ways: list[tuple[Any, ...]] = []
        self._objects: list[tuple[Any, ...]] = []
        self._seen: set[str] = set()
        self._raised: bool | None = None
        """Whether the last phase of a test raised; None while one is under way."""
        seal(self)

    def pytest_load_initial_conftests(self, early_config: Any) -> None:
        # Behind the plugins that add to pytest themselves, before the first conftest: of all that load some, pytest's is last.
        self._functions = dict(_functions(_modules()))
        hook = early_config.pluginmanager.hook
        callers = [getattr(hook, name) for name in sorted(vars(hook)) if name.startswith("pytest_")]
        self._hooks = [(caller, implementation, implementation.function) for caller in callers for implementation in _of(caller)]

        deciding = [(name, module) for name, module in _modules() if name in _DECIDING or name.startswith("pluggy.")]
        self._deciding = [entry for name, module in deciding for entry in _places(name, module)]
        functions = [(name, getattr(value, "__func__", value)) for name, _, _, value in self._deciding]
        self._codes = [(name, value, value.__code__) for name, value in functions if isinstance(value, FunctionType)]
        self._columns = [[*column] for column in zip(*self._deciding, strict=True)]
        self._objects = self._objects_now()
        self._reaching.start()

    def pytest_collection_finish(self, session: Any) -> None:
        found = [(item, _function(item)) for item in session.items]
        self._tests = {item: (function, function.__code__) for item, function in found if function is not None}
        for item, (function, _) in self._tests.items():
            file = _file_of(function)
            own = str(getattr(item, "path", None) or item.fspath)
            if file != own and file.startswith(self._work) and is_measured(file[len(self._work) :]):  # no test's text has it
                self._seen.add(f"the function of {text(item.nodeid)}, by one of {text(file)}")

    def pytest_runtest_setup(self) -> Generator[None, Any, None]:
        self._raised = None
        result = yield
        self._raised = result.excinfo is not None

    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, None]:
        function, code = self._tests.pop(item, (None, None))
        if function is not None and (_function(item) is not function or function.__code__ is not code):
            self._seen.add(f"the function of {text(item.nodeid)}")
        self._ways, self._raised = self._ways_of(item), None
        result = yield
        self._raised = result.excinfo is not None
        self._look()
        self._compare(item)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, None]:
        raised = call.excinfo is not None
        if call.when == "call":
            self._look()
        if self._raised not in (None, raised):
            self._seen.add(f"what came of {text(item.nodeid)}")
        result = yield
        if raised or call.excinfo is not None:  # an exception tells of itself in words of its own, so its code has just run
            self._look()
            if call.when == "call":
                self._compare(item)
            if result.excinfo is None and result.get_result().outcome == "passed":
                self._seen.add(f"the report of {text(item.nodeid)}, which raised")

    def pytest_sessionfinish(self) -> None:
        self._report("intact", changed=self._changed()[:_MAX_NAMES])

    def _look(self) -> None:
        """Behind every test, so it has to be quick: names are found only where something differs."""
        _, owners, keys, values = self._columns
        try:
            whole = _same(map(getitem, owners, keys), values)
        except KeyError:
            whole = False
        if not whole:
            self._seen.update([name for name, owner, key, value in self._deciding if owner.get(key) is not value])
        if self._reaching.code_was_set():
            self._seen.update([name for name, function, code in self._codes if function.__code__ is not code])

    def _compare(self, item: Any) -> None:
        pairs = zip((*self._ways_of(item), *self._objects_now()), (*self._ways, *self._objects), strict=True)
        changed = [len(now) != len(before) or not _same(now, before) for now, before in pairs]
        if any(changed):
            plugins = [f"an object of the runner, {type(one).__name__}" for one in self._own()]
            names = ("the class of a test", "hooks of a test", *(f"hook {name}" for name in _HOOKS), *plugins)
            self._seen.update(compress(names, changed))

    def _ways_of(self, item: Any) -> list[tuple[Any, ...]]:
        """The objects that an outcome passes on its way to our own: its test, and who takes part in hooks."""
        hook = item.config.hook
        ways: list[tuple[Any, ...]] = [(type(item),), ("ihook" in vars(item),)]
        for name in _HOOKS:
            implementations = _of(getattr(hook, name))
            ways.append((*implementations, *[one.function for one in implementations]))
        return ways

    def _own(self) -> tuple[object, ...]:
        return (*self._plugins, self._report, self._reaching)

    def _objects_now(self) -> list[tuple[Any, ...]]:
        """What our own objects hold, which is the same from before the first conftest on."""
        return [tuple(part for entry in vars(one).items() if entry[0] not in _COUNTED for part in entry) for one in self._own()]

    def _changed(self) -> list[str]:
        now = dict(_functions(_modules()))
        changed = {name for name, function in self._functions.items() if now.get(name) is not function}
        changed |= {name for name in now.keys() - self._functions.keys() if _takes_over(name, self._functions)}
        for caller, implementation, function in self._hooks:
            if implementation not in _of(caller) or implementation.function is not function:
                changed.add(f"hook {caller.name}")
        if sys.getprofile() is not None:
            changed.add("sys.setprofile")
        return sorted(name.replace("#", ".") for name in changed | self._seen | self._reaching.later)

    # Outermost: nothing comes between the look and what is looked at. Marked by hand, for pytest is imported later.
    pytest_runtest_setup.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_teardown = pytest_runtest_setup
    pytest_runtest_call.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_makereport.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_sessionfinish.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]


def _same(now: Iterable[Any], before: list[Any] | tuple[Any, ...]) -> bool:
    """Whether these are the very objects of before. Never by ``==``, which what came in their place may answer as it likes."""
    return all(map(is_, now, before))


def _function(item: Any) -> FunctionType | None:
    """The function of a test as it was written; None where something else is called."""
    found = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    return found if type(found) is FunctionType else None


def _file_of(function: FunctionType) -> str:
    try:
        found = inspect.unwrap(function)
    except ValueError:  # it wraps itself
        found = function
    return str(getattr(getattr(found, "__code__", None), "co_filename", ""))


def _modules() -> list[tuple[str, Any]]:
    return [(name, module) for name, module in sorted(sys.modules.items()) if name.partition(".")[0] in _WATCHED]


def _functions(modules: list[tuple[str, Any]]) -> Iterator[tuple[str, object]]:
    """Functions of modules and their code, members of classes (behind ``#``) and theirs."""
    for name, module in modules:
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type):
                if value.__module__ == name:
                    for member, found in list(vars(value).items()):
                        yield from _code_of(f"{name}.{attribute}#{member}", found)
            else:
                yield from _code_of(f"{name}.{attribute}", value)


def _places(name: str, module: Any) -> Iterator[tuple[str, Mapping[str, Any], str, Any]]:
    """Where the functions of a module and of its classes are found, without asking for each of them again."""
    for attribute, value in list(vars(module).items()):
        if isinstance(value, type) and value.__module__ == name:
            for member, found in list(vars(value).items()):
                if isinstance(found, (FunctionType, classmethod, staticmethod, float)):
                    yield f"{name}.{attribute}#{member}", vars(value), member, found
        elif isinstance(value, FunctionType):
            yield f"{name}.{attribute}", vars(module), attribute, value


def _code_of(name: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, (classmethod, staticmethod)):
        yield name, value
        value = value.__func__
    elif isinstance(value, property):
        yield name, value
        value = value.fget
    elif callable(value) or isinstance(value, float):  # how near is equal
        yield name, value
    if isinstance(value, FunctionType):
        yield f"{name}.__code__", value.__code__


def _takes_over(name: str, before: dict[str, object]) -> bool:
    """A name that was added where it hides another: a member of a class that was there, a built-in of a module that was."""
    owner = name.rpartition("#")[0]
    if owner:
        return any(known.startswith(f"{owner}#") for known in before)
    module, _, attribute = name.rpartition(".")
    return module != "builtins" and hasattr(builtins, attribute) and any(known.startswith(f"{module}.") for known in before)


def _of(caller: Any) -> list[Any]:
    try:
        return list(caller.get_hookimpls())
    except AttributeError:
        return []
