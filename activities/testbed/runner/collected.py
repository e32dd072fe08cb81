"""A pytest session that stops after collection and hands its tests to a body instead of running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .reporting import text

_ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")


class Collected:
    """Pytest plugin. ``files``: only these test files (relative to the root folder) are collected; None: all of the plan's.

    ``body`` runs in place of pytest's loop, with the session and its hooks alive; forks of it run single tests.
    """

    def __init__(self, body: Callable[[Collected], None], files: frozenset[str] | None = None) -> None:
        self._body, self._files = body, files
        self._phases: list[str] = []
        self.items: dict[str, Any] = {}
        """By test id, in the order of collection."""

    def pytest_ignore_collect(self, collection_path: Any, config: Any) -> bool | None:
        if self._files is None or collection_path.is_dir() or collection_path.name == "conftest.py":
            return None
        try:
            name = collection_path.relative_to(config.rootpath).as_posix()
        except ValueError:
            return None
        return None if name in self._files else True

    def pytest_runtestloop(self, session: Any) -> bool:
        for item in session.items:
            self.items.setdefault(text(item.nodeid), item)
        for item in session.items:
            # Reports are only classified, so no text is made of failures: it costs more than most tests.
            item.repr_failure = _no_text
            _ = item.location  # computed once here instead of in every fork
        self._body(self)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome not in ("passed", "failed", "skipped"):
            return
        xfail = hasattr(report, "wasxfail")
        if report.outcome == "failed":
            self._phases.append("failed" if report.when == "call" else "error")
        elif report.outcome == "skipped":
            self._phases.append("xfailed" if xfail else "skipped")
        else:
            self._phases.append("xpassed" if report.when == "call" and xfail else "passed")

    def run(self, nodeid: str, following: str | None) -> str:
        """Run one test through pytest's own hooks; its canonical outcome, as in mode ``tests``."""
        self._phases = []
        item = self.items[nodeid]
        next_item = None if following is None else self.items[following]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        return max(self._phases, key=_ORDER.index) if self._phases else "error"

    pytest_ignore_collect.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtestloop.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]


def _no_text(*arguments: Any, **options: Any) -> str:
    return ""


def files_of(nodeids: list[str]) -> frozenset[str]:
    return frozenset(nodeid.partition("::")[0] for nodeid in nodeids)
