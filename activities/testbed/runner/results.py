"""Outcomes as the supervisor sees them: from reports, and from children that ended without one."""

from __future__ import annotations

from typing import Any

from .host import Host
from .measures import Measures
from .sentinels import Sentinels

_ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")
_MAX_DETAILS = 100
_MAX_NETWORK = 100
PYTEST_CHANGED = "PYTEST_CHANGED"
"""Parts of pytest were replaced. Some suites do that; a patch that starts it is not believed."""
_ONLY_EXPLAIN = frozenset({"TEST_TIMEOUT", "MODULES_OUTSIDE_TREE", "HARNESS_TAMPERED", PYTEST_CHANGED})
"""Codes of runs that nevertheless go through to their end."""


class Results:
    """``outcomes`` only ever holds final ones; each goes to the host once, when it is final.

    ``sentinels``: tests that must fail and are no results; ``only``: ids that the run is confined to, if not empty.
    """

    def __init__(
        self,
        host: Host,
        sentinels: Sentinels | None = None,
        measures: Measures | None = None,
        only: frozenset[str] = frozenset(),
    ) -> None:
        self._sentinels, self._measures, self._only = sentinels, measures, only
        self._network: dict[str, None] = {}
        self.outcomes: dict[str, str] = {}
        self.broken_files: set[str] = set()
        self.tail = ""
        self._host = host
        self._codes: list[str] = []
        self._message = ""
        self._planned: dict[str, None] = {}
        self._runner = ""
        self._exit_code: int | None = None
        self._detailed: set[str] = set()
        self._children = 0
        self.begin_child()

    def begin_child(self) -> None:
        self._children += 1
        self._test: str | None = None
        self._phases: list[tuple[str, str]] = []
        self._file = ""
        self._collected = False
        self._finished = False
        self._failed = False
        self._session: int | None = None
        self._intact = False
        self._us: int | None = None
        self._left: dict[str, None] = {}

    def order(self) -> dict[str, Any]:
        """What the next child leaves out and plants."""
        return {
            "done": sorted(self.outcomes),
            "broken_files": sorted(self.broken_files),
            "sentinels": [] if self._sentinels is None else self._sentinels.order(),
        }

    @property
    def started(self) -> bool:
        """Whether pytest was there."""
        return bool(self._runner)

    @property
    def in_test(self) -> bool:
        return self._test is not None

    @property
    def doing(self) -> str:
        """What the child was last heard to do, for people."""
        return self._test or (f"collecting {self._file}" if self._file else "pytest itself")

    def take(self, event: dict[str, Any]) -> None:
        """One report of the child."""
        kind = event["event"]
        if self._finished:
            self._code("HARNESS_TAMPERED", "a report behind pytest's end")
        elif kind == "collecting":
            self._file = event["id"]
        elif kind == "file":
            self._take_file(event)
        elif kind == "items":
            self._planned.update(dict.fromkeys(event["ids"]))
            self._left.update(dict.fromkeys(event["ids"]))
        elif kind == "collected":
            self._collected, self._file = True, ""
        elif kind == "planted":
            self._plant(event["ids"])
        elif kind == "start":
            self._test, self._phases, self._us = event["id"], [], None
        elif kind == "phase":
            self._phase(event)
        elif kind == "detail":
            if event["id"] == self._test and not self._is_planted(event["id"]):
                self._send_detail(event["id"], event["text"])
        elif kind == "done":
            self._done(event["id"])
        elif kind == "outside":
            self._code("MODULES_OUTSIDE_TREE", "loaded from outside the tree: " + ", ".join(event["modules"]))
        elif kind == "network":
            nodeid = event["id"]
            if nodeid == self._test and not self._is_planted(nodeid) and len(self._network) < _MAX_NETWORK:
                self._network[nodeid] = None
        elif kind == "lines":
            if self._measures is not None:
                self._measures.take_lines(event)
        elif kind == "intact":
            self._intact = True
            if event["changed"]:
                self._code(PYTEST_CHANGED, "replaced while the tests ran: " + ", ".join(event["changed"]))
        elif kind == "reached":
            self._code(PYTEST_CHANGED, f"reached for while the tests ran: {event['what']}")
        elif kind == "session":
            self._session = event["exit_code"]
        elif kind == "runner":
            self._runner = f"pytest {event['version']}"
        elif kind == "finish":
            self._finished, self._exit_code = True, event["exit_code"]

    def ended(self, status: int) -> bool:
        """The child is gone; True when no further one is needed."""
        if self._finished:
            self._compare_codes(status)
            return self._after_finish()
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        if self._test is not None and self._is_planted(self._test):
            return False  # what an earlier test left behind did it; another child plants the sentinel again
        if self._test is not None:
            return self._broke(self._test, "error", f"{self._test} ended its process with {how}")
        if self._file and not self._collected:
            return self._broke_file(f"collecting {self._file} ended the process with {how}")
        return self.give_up("HARNESS_BROKEN", f"pytest's process ended with {how} outside of any test")

    def timed_out(self, test_ms: int) -> bool:
        """The child was too long at one thing; True when no further child is needed."""
        if self._test is not None and self._is_planted(self._test):
            return self.give_up("HARNESS_BROKEN", "pytest made no progress in a test of the runner's own")
        if self._test is not None:
            self._code("TEST_TIMEOUT", f"{self._test} did not end within {test_ms} ms")
            return self._broke(self._test, "failed", f"{self._test} did not end within {test_ms} ms")
        if self._file and not self._collected:
            self._code("TEST_TIMEOUT", f"collecting {self._file} did not end")
            return self._broke_file(f"collecting {self._file} did not end")
        return self.give_up("HARNESS_BROKEN", "pytest made no progress outside of any test")

    def give_up(self, code: str, message: str) -> bool:
        self._code(code, message)
        return True

    def flush(self) -> None:
        """Let the host have what is final."""
        self._host.flush()

    def end(self) -> dict[str, Any]:
        """The end line."""
        if not self.outcomes and not self._codes:
            self._code("TESTS_NONE_COLLECTED", "pytest found no test")
        sentinels = self._judge_sentinels()
        if self._measures is not None:
            self._measures.send(self._host)
        return {
            "codes": sorted(set(self._codes)),
            "message": self._message,
            "runner": self._runner,
            "exit_code": self._final_exit_code(),
            "outcomes": len(self.outcomes),
            "children": self._children - 1,
            "tail": self.tail,
            "sentinels": sentinels,
            "network": sorted(self._network),
            **({} if self._measures is None else self._measures.summary()),
        }

    def _final_exit_code(self) -> int:
        """pytest's, but 1 where a test that ended its process failed and pytest never knew."""
        if self._exit_code in (0, 5) and any(outcome in ("failed", "error") for outcome in self.outcomes.values()):
            return 1
        return 1 if self._exit_code is None else self._exit_code

    def _plant(self, ids: list[str]) -> None:
        if self._sentinels is not None and (
            not self._sentinels.plant(ids) or any(nodeid in self._planned or nodeid in self.outcomes for nodeid in ids)
        ):
            self._code("HARNESS_TAMPERED", "tests of the runner's own were not planted as ordered")

    def _is_planted(self, nodeid: str) -> bool:
        return self._sentinels is not None and nodeid in self._sentinels

    def _judge_sentinels(self) -> dict[str, int]:
        """``planted`` differs from ``caught`` only where somebody tampered, not where a run just did not get that far."""
        if self._sentinels is None:
            return {"planted": 0, "caught": 0}
        caught, missing = self._sentinels.caught, len(self._sentinels.outstanding)
        if self._sentinels.wrong:
            self._code("HARNESS_TAMPERED", f"a test of the runner's own that must fail was reported {self._sentinels.wrong}")
        elif missing and self._planned and set(self._codes) <= _ONLY_EXPLAIN:
            self._code("HARNESS_TAMPERED", f"{missing} tests of the runner's own, which must fail, were never run")
        return {"planted": caught + missing if "HARNESS_TAMPERED" in self._codes else caught, "caught": caught}

    def _compare_codes(self, status: int) -> None:
        """What pytest itself counted, and how its process ended, against what it reported."""
        if self._session is None:
            return  # pytest did not get as far as a session
        if not self._intact:
            self._code("HARNESS_TAMPERED", "nobody looked whether pytest is whole")
        if status != (self._exit_code or 0) & 0xFF:
            self._code("HARNESS_TAMPERED", f"pytest reported exit code {self._exit_code}, its process ended with {status}")
        if self._session == 0 and self._failed:
            self._code("HARNESS_TAMPERED", "pytest counted no failure, and failures were reported")
        elif self._session == 1 and not self._failed:
            self._code("HARNESS_TAMPERED", "pytest counted failures, and none was reported")

    def _after_finish(self) -> bool:
        for nodeid in self._planned:
            if nodeid not in self.outcomes:
                self._code("TESTS_NOT_RUN", f"pytest ended with exit code {self._exit_code} before {nodeid}")
        if self._exit_code == 3:
            self._code("PYTEST_INTERNAL_ERROR", "pytest reported an internal error")
        elif self._exit_code == 4:
            self._code("PYTEST_USAGE", "pytest refused its arguments or configuration")
        elif self._exit_code == 5 and not self._planned:
            self._code("TESTS_NONE_COLLECTED", "pytest found no test")
        return True

    def _take_file(self, event: dict[str, Any]) -> None:
        self._failed |= event["outcome"] == "error"
        if not self._only or event["id"] in self._only:
            self._settle(event["id"], event["outcome"], event["detail"])

    def _phase(self, event: dict[str, Any]) -> None:
        when, outcome, xfail = event["when"], event["outcome"], event["xfail"]
        if event.get("sub") and outcome != "failed":
            return  # a subtest that passed or was skipped says nothing about its test
        if event["id"] != self._test:
            self._code("HARNESS_BROKEN", "a report for a test that was not running")
            return
        if when == "call":
            self._us = event.get("us")
        if outcome == "failed":
            canonical = "failed" if when == "call" else "error"
            if not self._is_planted(event["id"]):
                self._failed = True
                self._send_detail(event["id"], event.get("detail", ""))
        elif outcome == "skipped":
            canonical = "xfailed" if xfail else "skipped"
        elif when == "call" and xfail:
            canonical = "xpassed"
        else:
            canonical = "passed"
        self._phases.append((when, canonical))

    def _done(self, nodeid: str) -> None:
        if nodeid != self._test:
            self._code("HARNESS_BROKEN", "the end of a test that was not running")
            return
        phases = [outcome for _, outcome in self._phases]
        # Setup and teardown that pass say nothing; without any phase nothing was run.
        outcome = max(phases, key=_ORDER.index) if phases else "error"
        if self._sentinels is not None and nodeid in self._sentinels:
            self._sentinels.settle(nodeid, outcome)
        else:
            self._settle(nodeid, outcome, "")
            if self._measures is not None and self._us is not None:
                self._measures.take_time(nodeid, self._us)
        self._test = None

    def _broke(self, nodeid: str, outcome: str, message: str) -> bool:
        self._settle(nodeid, outcome, message)
        # Without a collected remainder the next child would only repeat an empty collection.
        outstanding = self._sentinels is not None and bool(self._sentinels.outstanding)
        return not outstanding and all(other in self.outcomes for other in self._left)

    def _broke_file(self, message: str) -> bool:
        self._settle(self._file, "error", message)
        self.broken_files.add(self._file)
        return False

    def _settle(self, nodeid: str, outcome: str, detail: str) -> None:
        if detail and outcome in ("failed", "error"):
            self._send_detail(nodeid, detail)
        before = self.outcomes.get(nodeid)
        if before is None:
            self.outcomes[nodeid] = outcome
            self._host.with_next("outcome", id=nodeid, outcome=outcome)
        elif _ORDER.index(outcome) > _ORDER.index(before):
            self.outcomes[nodeid] = outcome
            self._host.with_next("worse", id=nodeid, outcome=outcome)

    def _send_detail(self, nodeid: str, detail: str) -> None:
        if detail and nodeid not in self._detailed and len(self._detailed) < _MAX_DETAILS:
            self._detailed.add(nodeid)
            self._host.with_next("detail", id=nodeid, text=detail)

    def _code(self, code: str, message: str) -> None:
        if code not in self._codes:
            self._codes.append(code)
            self._message = self._message or message
