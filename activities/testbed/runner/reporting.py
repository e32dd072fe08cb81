"""The pytest plugin that tells the supervisor what happens."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from .child import Reporter
from .measuring import Lines
from .network import NetworkWatch
from .target import Target

_CHUNK = 200
_DETAIL_CHARS = 4_000


@dataclass(frozen=True)
class Selection:
    """What a later child leaves out: ids that have an outcome, files that broke collection. ``only``: what it is confined
    to, if anything; ``reverse``: last first."""

    done: frozenset[str]
    broken_files: frozenset[str]
    only: frozenset[str] = frozenset()
    reverse: bool = False

    def of(self, items: list[Any]) -> list[Any]:
        chosen = [item for item in items if text(item.nodeid) not in self.done]
        if self.only:
            chosen = [item for item in chosen if text(item.nodeid) in self.only]
        return chosen[::-1] if self.reverse else chosen


class Reporting:
    """Events: ``collecting``, ``collected``, ``file`` (error or skip), ``start``, ``phase``, ``detail`` (of a failure), ``done``,
    ``network``, ``outside``, ``session`` (what pytest itself makes of it all); with ``lines`` given, also ``lines``."""

    def __init__(
        self, target: Target, selection: Selection, report: Reporter, network: NetworkWatch, lines: Lines | None = None
    ) -> None:
        self._target, self._selection, self._report = target, selection, report
        self._network, self._lines = network, lines
        self._modules_seen = 0

    def pytest_collectstart(self, collector: Any) -> None:
        self._report("collecting", id=text(collector.nodeid))

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            outcome = "skipped" if report.outcome == "skipped" else "error"
            self._report("file", id=text(report.nodeid or "."), outcome=outcome, detail=_detail(report))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = self._selection.of(items)

    def pytest_collection_finish(self, session: Any) -> None:
        ids = [text(item.nodeid) for item in session.items]
        for start in range(0, len(ids), _CHUNK):
            self._report("items", ids=ids[start : start + _CHUNK])
        self._report("collected")
        if self._lines is not None:
            self._lines.flush()
        self._check_origins()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._report("start", id=text(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome = report.outcome
        if outcome not in ("passed", "failed", "skipped"):
            return  # e.g. "rerun" of a plugin: another report follows
        xfail = hasattr(report, "wasxfail")
        fields: dict[str, Any] = {}
        if type(report).__name__ == "SubtestReport":
            fields["sub"] = True
        elif report.when == "call" and self._lines is not None:
            fields["us"] = int(report.duration * 1_000_000)
        # What is no pass leaves at once: the teardown that follows may change what is held here.
        tell = self._report.with_next if outcome == "passed" and not xfail else self._report
        tell("phase", id=text(report.nodeid), when=report.when, outcome=outcome, xfail=xfail, **fields)
        if outcome == "failed":
            self._report("detail", id=text(report.nodeid), text=_detail(report))  # which foreign code may have a part in

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._check_origins()
        if self._network.attempted:
            self._network.attempted = False
            self._report("network", id=text(nodeid))
        if self._lines is not None:
            self._lines.flush()  # so that a test which ends its process loses no lines but its own
        self._report.with_next("done", id=text(nodeid))  # together with the start of what follows

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._report("session", exit_code=int(exitstatus))
        if self._lines is not None:
            self._lines.flush()
        self._modules_seen = 0
        self._target.look_again()
        self._check_origins()

    def _check_origins(self) -> None:
        if len(sys.modules) == self._modules_seen:
            return
        self._modules_seen = len(sys.modules)
        found = self._target.outside(list(sys.modules))
        if found:
            self._report("outside", modules=found[:20])

    pytest_collection_modifyitems.pytest_impl = {"trylast": True}  # type: ignore[attr-defined]
    pytest_runtest_logstart.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_logreport.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_logfinish.pytest_impl = {"trylast": True}  # type: ignore[attr-defined]
    pytest_sessionfinish.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]


def leaving_out(selection: Selection, pytest_version: str) -> object:
    """A plugin that leaves out files which broke collection; pytest 7 renamed the argument of its hook."""

    def is_broken(path: object, config: Any) -> bool | None:
        name = os.path.relpath(str(path), str(getattr(config, "rootpath", None) or config.rootdir))
        return True if name.replace(os.sep, "/") in selection.broken_files else None

    class Recent:
        def pytest_ignore_collect(self, collection_path: Any, config: Any) -> bool | None:
            return is_broken(collection_path, config)

    class Old:
        def pytest_ignore_collect(self, path: Any, config: Any) -> bool | None:
            return is_broken(path, config)

    return Recent() if int(pytest_version.partition(".")[0]) >= 7 else Old()


def text(value: str) -> str:
    """An id as valid Unicode: a lone surrogate becomes its escape, so that ids can be hashed."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _detail(report: Any) -> str:
    try:
        return text(str(report.longreprtext if hasattr(report, "longreprtext") else report.longrepr))[-_DETAIL_CHARS:]
    except Exception as error:  # noqa: BLE001  foreign __str__ and __repr__ run here
        return f"no text: {type(error).__name__}"
