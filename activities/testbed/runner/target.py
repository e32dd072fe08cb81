"""The process in which the target runs: its environment, its import path, and proof that its modules come from the tree."""

from __future__ import annotations

import functools
import os
import site
import sys
import time
from collections.abc import Iterable
from types import ModuleType
from typing import Any

_RUNNER_NAMES = frozenset({"pytest", "_pytest", "py", "_gen4", "__main__"})
"""Never purged: the running pytest cannot be replaced under itself. A tree that provides them is found out by ``outside``."""

_SOURCE_FOLDERS = ("", "src", "lib", "python", "source", "sources")
"""Where trees keep their packages. One that is not on the path at all is what lets an installed copy pass for the tree's."""


class Target:
    """One tree: ``job`` gives ``work``, ``environment`` (folders), ``python_path`` and ``env``."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.work: str = os.path.realpath(job["work"])
        self.environment: str = job["environment"]
        self.env: dict[str, str] = job["env"]
        folders = [os.path.normpath(os.path.join(self.work, folder)) for folder in job["python_path"]]
        self._known: dict[tuple[str, str], bool] = {}
        self.path = [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]

    def enter(self) -> None:
        """Make this process the target's: working folder, variables, the environment on the path, but not yet the tree."""
        os.chdir(self.work)
        os.environ.update(self.env)
        os.environ["PYTHONPATH"] = os.pathsep.join([*self.path, self.environment])
        time.tzset()
        # We run with -S, so that no .pth file of a dependency is executed; these are the parts of site that tests use.
        site.setquit()
        site.sethelper()
        site.setcopyright()
        sys.path.insert(0, self.environment)

    def go_first(self) -> None:
        """Put the tree before the environment, and forget modules that the environment has provided in its place."""
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        sys.path_importer_cache.clear()
        self._known.clear()
        for name in self.outside(sys.modules):
            if name.partition(".")[0] not in _RUNNER_NAMES:
                del sys.modules[name]

    def outside(self, modules: Iterable[str]) -> list[str]:
        """Loaded modules that the tree provides but that were loaded from elsewhere: results with them prove nothing.

        A stdlib module that the tree shadows stays the interpreter's: the runner uses it, so a tree must not replace it.
        """
        found = []
        provided = functools.cache(functools.partial(_has, folders := self._folders()))
        for name in sorted(modules):
            module = sys.modules.get(name)
            top = name.partition(".")[0]
            if module is None or top in sys.stdlib_module_names or top in ("_gen4", "__main__"):
                continue
            origin = _origin(module)
            if origin is None:
                continue
            if (name, origin) not in self._known:
                self._known[name, origin] = provided(top) and _provides(folders, name) and not self._inside(origin)
            if self._known[name, origin]:
                found.append(name)
        return found

    def look_again(self) -> None:
        """Forget what was found out: tests may have changed the path or the files."""
        self._known.clear()

    def _inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(self.work + os.sep)

    def _folders(self) -> list[str]:
        """Where the tree's modules may lie."""
        usual = (os.path.join(self.work, folder) for folder in _SOURCE_FOLDERS)
        return list(dict.fromkeys([*self.path, *(entry for entry in sys.path if entry and self._inside(entry)), *usual]))


def _has(folders: list[str], top: str) -> bool:
    """Whether anything below this name can be provided: one look for all modules of a package."""
    return any(os.path.exists(os.path.join(folder, top + suffix)) for folder in folders for suffix in ("", ".py"))


def _provides(folders: list[str], name: str) -> bool:
    relative = name.replace(".", os.sep)
    files = (f"{relative}.py", os.path.join(relative, "__init__.py"))
    return any(os.path.isfile(os.path.join(folder, file)) for folder in folders for file in files)


def _origin(module: ModuleType) -> str | None:
    try:
        path = module.__file__
    except Exception:  # noqa: BLE001  a target may put any object into sys.modules
        return None
    return path if isinstance(path, str) else None


class PutTreeFirst:
    """Pytest plugin: plugins come from the environment, everything from the first conftest on from the tree."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def pytest_load_initial_conftests(self) -> None:
        self._target.go_first()

    def pytest_configure(self) -> None:
        self._target.go_first()

    # Marked by hand: pytest must not be imported before the path is set.
    pytest_load_initial_conftests.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_configure.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]


def pytest_arguments(plan: list[str]) -> list[str]:
    """The plan's arguments, then ours, which win: every test runs, in this process, in collection order, without a cache."""
    import importlib.util

    arguments = [*plan, "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:random_order"]
    arguments += ["--continue-on-collection-errors", "--maxfail=0", "--color=no"]
    if importlib.util.find_spec("xdist"):
        arguments += ["-n0"]
    if importlib.util.find_spec("pytest_cov"):
        arguments += ["--no-cov"]
    return arguments
