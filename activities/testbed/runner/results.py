"""Outcomes as the supervisor sees them: from reports, and from children that ended without one."""

from __future__ import annotations

from typing import Any

from .host import Host

_ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")
_MAX_DETAILS = 100


class Results:
    """``outcomes`` only ever holds final ones; each is sent to the host once, when it is final."""

    def __init__(self, host: Host) -> None:
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
        self._left: dict[str, None] = {}

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
        if kind == "collecting":
            self._file = event["id"]
        elif kind == "file":
            self._settle(event["id"], event["outcome"], event["detail"])
        elif kind == "items":
            self._planned.update(dict.fromkeys(event["ids"]))
            self._left.update(dict.fromkeys(event["ids"]))
        elif kind == "collected":
            self._collected, self._file = True, ""
        elif kind == "start":
            self._test, self._phases = event["id"], []
        elif kind == "phase":
            self._phase(event)
        elif kind == "done":
            self._done(event["id"])
        elif kind == "outside":
            self._code("MODULES_OUTSIDE_TREE", "loaded from outside the tree: " + ", ".join(event["modules"]))
        elif kind == "runner":
            self._runner = f"pytest {event['version']}"
        elif kind == "finish":
            self._finished, self._exit_code = True, event["exit_code"]

    def ended(self, status: int) -> bool:
        """The child is gone; True when no further one is needed."""
        if self._finished:
            return self._after_finish()
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        if self._test is not None:
            return self._broke(self._test, "error", f"{self._test} ended its process with {how}")
        if self._file and not self._collected:
            return self._broke_file(f"collecting {self._file} ended the process with {how}")
        return self.give_up("HARNESS_BROKEN", f"pytest's process ended with {how} outside of any test")

    def timed_out(self, test_ms: int) -> bool:
        """The child was too long at one thing; True when no further child is needed."""
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

    def end(self) -> dict[str, Any]:
        """The end line."""
        if not self.outcomes and not self._codes:
            self._code("TESTS_NONE_COLLECTED", "pytest found no test")
        return {
            "codes": sorted(set(self._codes)),
            "message": self._message,
            "runner": self._runner,
            "exit_code": 1 if self._exit_code is None else self._exit_code,
            "outcomes": len(self.outcomes),
            "children": self._children - 1,
            "tail": self.tail,
        }

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

    def _phase(self, event: dict[str, Any]) -> None:
        when, outcome, xfail = event["when"], event["outcome"], event["xfail"]
        if event.get("sub") and outcome != "failed":
            return  # a subtest that passed or was skipped says nothing about its test
        if event["id"] != self._test:
            self._code("HARNESS_BROKEN", "a report for a test that was not running")
            return
        if outcome == "failed":
            canonical = "failed" if when == "call" else "error"
            self._send_detail(event["id"], event["detail"])
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
        self._settle(nodeid, max(phases, key=_ORDER.index) if phases else "error", "")
        self._test = None

    def _broke(self, nodeid: str, outcome: str, message: str) -> bool:
        self._settle(nodeid, outcome, message)
        # Without a collected remainder the next child would only repeat an empty collection.
        return all(other in self.outcomes for other in self._left)

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
            self._host.send("outcome", id=nodeid, outcome=outcome)
        elif _ORDER.index(outcome) > _ORDER.index(before):
            self.outcomes[nodeid] = outcome
            self._host.send("worse", id=nodeid, outcome=outcome)

    def _send_detail(self, nodeid: str, detail: str) -> None:
        if nodeid not in self._detailed and len(self._detailed) < _MAX_DETAILS:
            self._detailed.add(nodeid)
            self._host.send("detail", id=nodeid, text=detail)

    def _code(self, code: str, message: str) -> None:
        if code not in self._codes:
            self._codes.append(code)
            self._message = self._message or message
