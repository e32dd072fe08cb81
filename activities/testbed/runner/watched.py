"""Whether files of tests are at the end of a run those of its beginning."""

from __future__ import annotations

import os
from collections.abc import Callable

from .results import PYTEST_CHANGED, Results


class WatchedFiles:
    """Each file that ``wanted`` names, with what tells that it was written to or replaced, which no process here can set back."""

    def __init__(self, work: str, wanted: Callable[[str], bool]) -> None:
        self._work, self._wanted = work, wanted
        self._before = self._look()

    def compare(self, results: Results) -> None:
        """Of the files whose tests have run."""
        now, ran = self._look(), {nodeid.partition("::")[0] for nodeid in results.outcomes}
        if written := sorted(path for path in ran & self._before.keys() if now.get(path) != self._before[path]):
            results.give_up(PYTEST_CHANGED, "written to while the tests ran: " + ", ".join(written[:5]))

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder, _, names in os.walk(self._work):
            inside = folder[len(self._work) :].strip("/")
            for name in names:
                path = f"{inside}/{name}" if inside else name
                if self._wanted(path):
                    status = os.lstat(os.path.join(folder, name))
                    found[path] = (status.st_ino, status.st_ctime_ns)
        return found
