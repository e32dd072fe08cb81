"""Does an edited file still compile? Compiled on the host, never run; only the enclosing function where that decides it."""

from __future__ import annotations

import warnings

from activities.explore.templates import Edit
from activities.testbed.runner.swap import Invalid, NeedsImport, Source, compile_edit, parse_source


class Splices:
    """Answers for the edits of one file at a time; the last file is kept parsed."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._data = b""

    def compiles(self, data: bytes, edit: Edit) -> bool:
        """``data``: the file that ``edit`` is for."""
        try:
            if data is not self._data or self._source is None:
                self._source, self._data = parse_source(data, "<base>"), data
            compile_edit(self._source, "<edited>", edit.start, edit.end, edit.text)
            return True
        except Invalid:
            return False
        except NeedsImport:
            return whole_compiles(edit.apply(data))


def whole_compiles(data: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, "<edited>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True
