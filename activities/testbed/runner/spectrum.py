"""Which lines of the tree a test runs, by ``sys.monitoring`` (3.12) or ``sys.settrace``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

CodeKey = tuple[str, int, str]
Lines = dict[str, list[int]]


def key_of(code: CodeType) -> CodeKey:
    return code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name)


class LineRecorder:
    """Records lines of files below ``work``, but not of ``skipped`` ones. ``only``: code objects that are recorded; None: all."""

    def __init__(self, work: str, skipped: frozenset[str], only: frozenset[CodeKey] | None = None) -> None:
        self._prefix = work.rstrip("/") + "/"
        self._skipped, self._only = skipped, only
        self._hits: dict[str, set[int]] = {}
        self.codes: set[CodeKey] = set()

    def observe(self, run: Callable[[], str]) -> tuple[str, dict[str, Any]]:
        """Run, and return the outcome with what was seen."""
        self._hits, self.codes = {}, set()
        stop = self._monitor() if hasattr(sys, "monitoring") else self._trace()
        try:
            outcome = run()
        finally:
            stop()
        return outcome, self.seen()

    def seen(self) -> dict[str, Any]:
        """Lines by path, relative to the tree, and code objects, of the test that runs or ran last."""
        lines = {os.path.relpath(path, self._prefix): sorted(found) for path, found in self._hits.items() if found}
        return {"lines": lines, "codes": sorted(self.codes)}

    def _lines_of(self, code: CodeType) -> set[int] | None:
        """Where to record lines of ``code``; None when it is not recorded."""
        path = code.co_filename
        if not path.startswith(self._prefix) or path in self._skipped:
            return None
        key = key_of(code)
        if self._only is not None and key not in self._only:
            return None
        self.codes.add(key)
        return self._hits.setdefault(path, set())

    def _trace(self) -> Callable[[], None]:
        known: dict[int, tuple[CodeType, Any]] = {}  # holds the code object, so that its id stays its own

        def local_for(code: CodeType) -> Any:
            found = self._lines_of(code)
            if found is None:
                return None
            add = found.add

            def local(frame: Any, event: str, arg: Any) -> Any:
                if event == "line":
                    add(frame.f_lineno)
                return local

            return local

        def on_call(frame: Any, event: str, arg: Any) -> Any:
            code = frame.f_code
            entry = known.get(id(code))
            if entry is None:
                entry = known[id(code)] = (code, local_for(code))
            return entry[1]

        def stop() -> None:
            sys.settrace(None)
            threading.settrace(None)

        threading.settrace(on_call)
        sys.settrace(on_call)
        return stop

    def _monitor(self) -> Callable[[], None]:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool, events = monitoring.COVERAGE_ID, monitoring.events

        def on_line(code: CodeType, line: int) -> Any:
            found = self._lines_of(code)
            if found is not None:
                found.add(line)
            return monitoring.DISABLE

        def stop() -> None:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, events.LINE, None)
            monitoring.free_tool_id(tool)

        monitoring.use_tool_id(tool, "gen4")
        monitoring.register_callback(tool, events.LINE, on_line)
        monitoring.restart_events()
        monitoring.set_events(tool, events.LINE)
        return stop
