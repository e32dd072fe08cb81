"""What the supervisor keeps of a measured run: lines that ran, and how long tests took."""

from __future__ import annotations

from typing import Any

from .executable import lines_of, spans
from .host import Host

_CHUNK = 500
_LONGEST_US = 10**10


class Measures:
    """``executable``: lines of the untouched tree, by path; only these count, so no report of a child invents any. None where
    they could not be found."""

    def __init__(self, executable: dict[str, str] | None) -> None:
        self.failed = executable is None
        self._executable = executable or {}
        self._covered: dict[str, set[int]] = {}
        self._timings: dict[str, int] = {}

    def take_lines(self, event: dict[str, Any]) -> None:
        if event["path"] in self._executable:
            self._covered.setdefault(event["path"], set()).update(lines_of(event["lines"]))

    def take_time(self, nodeid: str, microseconds: int) -> None:
        self._timings[nodeid] = min(max(microseconds, 0), _LONGEST_US)

    def send(self, host: Host) -> None:
        """Lines of kind ``coverage`` {path, lines, covered}, one a file, and of kind ``timings`` {us}."""
        if self.failed:
            return
        for path, text in sorted(self._executable.items()):
            covered = lines_of(text) & self._covered.get(path, set())
            host.send("coverage", path=path, lines=text, covered=spans(covered))
        timings = sorted(self._timings.items())
        for start in range(0, len(timings), _CHUNK):
            host.send("timings", us=dict(timings[start : start + _CHUNK]))

    def summary(self) -> dict[str, Any]:
        return {"measured": None if self.failed else {"files": len(self._executable), "timings": len(self._timings)}}
