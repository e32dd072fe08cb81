"""Lines of the tree that a child runs, by the tracer of coverage.py, loaded under a name of its own.

Of the package only that extension module is used: no path, module or setting of it is visible to tests, which may use another
coverage.py for themselves. While they do, ours sees nothing; it takes over again before the next test.
"""

from __future__ import annotations

import glob
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Generator
from types import FrameType
from typing import Any

from .child import Reporter
from .executable import is_measured, spans

_TRACER = "coverage/tracer.*.so"
_RESTS = sys.version_info < (3, 12)
"""Later ones instrument code for a tracer: what is not counted runs at full speed, and to start and stop is what takes time."""


class Lines:
    """Pytest plugin. Counts in all threads from the first conftest on; each :meth:`flush` reports what is new.

    Before Python 3.12 it rests between the phases of tests: there all code takes several times as long under a tracer, also where
    nothing of it is counted, and what pytest and we do there is more than many a test does. What a hook of a conftest runs then
    does not count.
    """

    def __init__(self, module: Any, work: str, report: Reporter) -> None:
        self._module, self._work, self._report = module, work + os.sep, report
        self._data: dict[str, set[int]] = {}
        self._reported: dict[str, set[int]] = {}
        self._sizes: list[int] = []
        self._decided: dict[str, Any] = {}
        self._tracer: Any = None
        self._of_threads: list[Any] = []
        """Kept: one that is freed ends the tracing of whoever frees it, and frames of a thread may outlive it."""
        self._rests = False

    @classmethod
    def load(cls, harness: str, work: str, report: Reporter) -> Lines | None:
        """None where the harness has no tracer for this Python."""
        found = glob.glob(os.path.join(harness, _TRACER))
        if not found:
            return None
        loader = importlib.machinery.ExtensionFileLoader("_gen4.tracer", found[0])
        spec = importlib.util.spec_from_loader("_gen4.tracer", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return cls(module, work, report)

    def flush(self) -> None:
        """Report the lines of each file that were not reported before."""
        sizes = [*map(len, list(self._data.values()))]
        if sizes == self._sizes:
            return
        self._sizes = sizes
        for filename, lines in list(self._data.items()):
            reported = self._reported.setdefault(filename, set())
            new = lines - reported
            reported |= new
            if new := new - {0}:  # where an empty module starts
                self._report("lines", path=filename.removeprefix(self._work), lines=spans(new))

    def pytest_load_initial_conftests(self) -> None:
        self._start()

    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        self._start()
        yield
        self._rest()

    def pytest_runtest_call(self) -> Generator[None, None, None]:
        self._go_on()
        yield
        self._rest()

    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        self._go_on()
        yield
        self._rest()

    def pytest_sessionfinish(self) -> None:
        self._start()

    def _start(self) -> None:
        """Trace this thread and those to come, also where something else was set to trace since."""
        self._rests = False
        if self._tracer is None or sys.gettrace() is not self._tracer:
            if self._tracer is not None:
                self._tracer.stop()  # when it is freed it ends no other's tracing
            self._tracer = self._new()
            self._tracer.start()
            threading.settrace(self._in_thread)

    def _rest(self) -> None:
        self._rests = _RESTS and sys.gettrace() is self._tracer
        if self._rests:
            sys.settrace(None)

    def _go_on(self) -> None:
        """With a new tracer: where another was when it stopped is nothing to go on from."""
        if self._rests and sys.gettrace() is None:
            self._start()

    def _new(self) -> Any:
        tracer = self._module.CTracer()
        tracer.data, tracer.should_trace, tracer.should_trace_cache = self._data, self._should_trace, self._decided
        tracer.trace_arcs, tracer.warn = False, _ignore
        tracer.lock_data = tracer.unlock_data = _ignore
        tracer.concur_id_func = tracer.check_include = tracer.switch_context = None
        tracer.should_start_context = tracer.disable_plugin = None
        tracer.file_tracers = {}
        return tracer

    def _in_thread(self, frame: FrameType, event: str, argument: Any) -> Any:
        sys.settrace(None)
        tracer = self._new()
        self._of_threads.append(tracer)
        return tracer.start()(frame, event, argument)

    def _should_trace(self, filename: str, frame: FrameType) -> Any:
        decision = self._module.CFileDisposition()
        path = filename.removeprefix(self._work)
        decision.trace = path != filename and is_measured(path)
        decision.original_filename = decision.canonical_filename = filename
        decision.source_filename = filename if decision.trace else None
        decision.reason, decision.file_tracer, decision.has_dynamic_filename = "", None, False
        return decision

    # Marked by hand: pytest must not be imported before the path is set.
    pytest_load_initial_conftests.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_setup.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_call.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_runtest_teardown.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]
    pytest_sessionfinish.pytest_impl = {"tryfirst": True}  # type: ignore[attr-defined]


def _ignore(*_: Any) -> None:
    return None
