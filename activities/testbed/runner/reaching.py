"""Who reaches for what runs the tests: calls that lead to pytest's own objects, frames and code, and that tests rarely need.

The interpreter tells of such a call before it has a result (PEP 578), nobody can take the listener away again, and the
supervisor hears of it at once. Ways of which the interpreter does not tell, along the frames of a traceback say, stay open.
"""

from __future__ import annotations

import os
import sys
import threading
import types
from types import FrameType
from typing import Any

from .child import Reporter
from .reporting import text
from .sealing import seal

_CALLS = frozenset(
    {
        "sys.settrace", "sys.setprofile", "sys.monitoring.register_callback", "sys._current_frames", "gc.get_objects",
        "gc.get_referrers", "gc.get_referents", "code.__new__",
    }
)  # fmt: skip
_OF_ONE_THREAD = frozenset({"sys.settrace", "sys.setprofile"})
"""Tests run in the main thread. Others get their tracer by themselves, ours as well."""
_SET = "object.__setattr__"
_DEFAULTS = frozenset({"__defaults__", "__kwdefaults__"})
_RUNNERS = frozenset({"pytest", "_pytest", "pluggy", "unittest", "_gen4"})
_frame, _thread = sys._getframe, threading.get_ident


class Reaching:
    """Reports ``reached`` once for each call. Libraries of the ``environment`` may do what they like: it is not the patch's."""

    def __init__(self, report: Reporter, environment: str) -> None:
        self._report = report
        self._free = (environment.rstrip(os.sep) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
        self._standard = types.__file__  # makes a coroutine of a generator, by a flag of its code
        self._others = (*self._free, os.path.dirname(types.__file__) + os.sep, "<frozen ")
        self._main = threading.main_thread().ident
        self._told: set[str] = set()
        self.later: set[str] = set()
        """All that was seen, also in other threads, which must not come between the reports of this one."""
        self._code_set = self._code_set_elsewhere = False
        seal(self)

    def start(self) -> None:
        """Watch this process until it ends."""
        sys.addaudithook(self._audit)

    def code_was_set(self) -> bool:
        """Whether any function may have got another code since this was asked last; to look costs far more.

        We are told before it happens: in this thread it then has happened, in another it may do so at any time.
        """
        was, self._code_set = self._code_set, False
        return was or self._code_set_elsewhere

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CALLS:
            self._note(event, _frame(1))
        elif event == _SET and arguments[1] == "__code__":
            if _thread() == self._main:
                self._code_set = True
            else:
                self._code_set_elsewhere = True
            self._note("function.__code__", _frame(1))
        elif event == _SET and arguments[1] in _DEFAULTS and _is_of_runner(arguments[0]):
            self._note(f"function.{arguments[1]}", _frame(1))
        elif (event == "compile" and self._is_others(arguments[1])) or event == "marshal.loads":
            if not self._is_others(_frame(1).f_code.co_filename):
                self._note(f"{event}, which can name code as a library's", _frame(1))

    def _is_others(self, filename: object) -> bool:
        """Whether code of this name belongs to a library, the interpreter or us."""
        return isinstance(filename, str) and filename.startswith(self._others)

    def _note(self, what: str, caller: FrameType) -> None:
        file, in_main = caller.f_code.co_filename, _thread() == self._main
        if what in self._told or file == self._standard or file.startswith(self._free):
            return
        found = f"{what}, called in {text(file)}"
        if in_main or what not in _OF_ONE_THREAD:
            self.later.add(found)
        if in_main:
            self._told.add(what)
            self._report("reached", what=found)


def _is_of_runner(function: Any) -> bool:
    """Whether it was defined by what runs tests, or by what they assert with."""
    return isinstance(function, types.FunctionType) and str(function.__globals__.get("__name__")).partition(".")[0] in _RUNNERS
