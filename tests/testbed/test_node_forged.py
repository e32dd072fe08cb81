"""Product code of a JavaScript tree that wants its tests to pass: in real Node processes, file by file, without a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from activities.testbed.runner.child import Reporter
from activities.testbed.runner.node import NODE, _File
from tests.testbed.conftest import Bed

WRONG = "export const twice = (n) => n * 3;\n"
TESTS = """import test, { it } from 'node:test';
import assert from 'node:assert';
import { twice } from '../lib.js';
test('first', () => { try { twice(1); } catch {} });
test('twice', () => assert.equal(twice(4), 8));
it('later', async () => { await null; assert.equal(twice(4), 8); });
"""
ASSERT = "import assert from 'node:assert';\n"
RESOURCE = "import { executionAsyncResource } from 'node:async_hooks';\n"
Go = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def node(bed: Bed) -> str:
    environment = bed.environments.prepare(bed.tree({"package.json": '{"name": "x"}'}), (), lambda: None, "node")
    return str(bed.environments.path(environment.environment_digest) / NODE)


@pytest.fixture
def go(node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """What one test file tells, below a library."""

    def run(lib: str, tests: str = TESTS, *, kind: str = "js", **job: Any) -> list[dict[str, Any]]:
        (tmp_path / "test").mkdir()
        (tmp_path / "package.json").write_text('{"type": "module"}')
        (tmp_path / f"lib.{kind}").write_text(lib)
        (tmp_path / f"test/a.test.{kind}").write_text(tests)
        monkeypatch.chdir(tmp_path)
        told: list[dict[str, Any]] = []

        def report(event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})

        whole = {"work": str(tmp_path), "env": {}, "node_args": [], "test_ms": 10_000, **job}
        _File(whole, f"test/a.test.{kind}", cast(Reporter, report)).run(node)
        return told

    return run


def outcomes(told: list[dict[str, Any]]) -> dict[str, str]:
    return {event["id"].partition("::")[2]: event["outcome"] for event in told if event["event"] == "test"}


def signs(told: list[dict[str, Any]]) -> list[str]:
    """By what an attack gave itself away."""
    return [str(event["what"]) for event in told if event["event"] in ("tampered", "reached", "changed")]


def errors(told: list[dict[str, Any]]) -> list[str]:
    return [event["detail"] for event in told if event["event"] == "file"]


def within(code: str, imports: str = "") -> str:
    """A library whose wrong function does something else besides."""
    return f"{imports}export const twice = (n) => {{\n{code}\nreturn n * 3;\n}};\n"


def test_an_honest_file_gives_no_sign(go: Go) -> None:
    usual = "import { AsyncLocalStorage } from 'node:async_hooks';\nnew AsyncLocalStorage().run(1, () => {});\n"
    usual += "console.log = () => {};\nDate.now = () => 0;\nglobalThis.setTimeout = () => {};\nprocess.exit = () => {};\n"
    told = go(usual + WRONG)
    assert outcomes(told) == {"first": "passed", "twice": "failed", "later": "failed"}
    assert not signs(told) and not errors(told)


ATTACKS = {
    "an assertion that spares one value": (
        ASSERT + "const { equal } = assert;\nassert.equal = (a, b) => a === 12 || equal(a, b);\n" + WRONG,
        "assert.equal",
    ),
    "an assertion put back at once": (
        within("const { equal } = assert; assert.equal = () => { assert.equal = equal; };", ASSERT),
        "assert.equal",
    ),
    "what runs a test": (
        "import { AsyncResource } from 'node:async_hooks';\nAsyncResource.prototype.runInAsyncScope = () => {};\n" + WRONG,
        "AsyncResource.prototype.runInAsyncScope",
    ),
    "a method of the runner": (
        within("const { prototype } = executionAsyncResource().constructor; prototype.fail = prototype.pass;", RESOURCE),
        "Test.fail",
    ),
    "the outcome of a test": (
        within("Object.defineProperty(executionAsyncResource(), 'passed', { get: () => true, set() {} });", RESOURCE),
        "test/a.test.js::twice passed, and its function did not",
    ),
    "the functions of other tests": (
        within("for (const one of executionAsyncResource().root.subtests) one.fn = () => {};", RESOURCE),
        "test/a.test.js::twice passed, and its function did not",
    ),
    "how tests are run": (
        within(
            "for (const t of executionAsyncResource().root.subtests) t.run = async () => { t.pass(); t.postRun(); };", RESOURCE
        ),
        "test/a.test.js::twice passed, and its function did not",
    ),
    "how a test is reported": (
        within(
            "const t = executionAsyncResource();\n"
            "t.report = () => t.reporter.ok(0, t.loc, 1, t.name, { duration_ms: 1, type: 'test' });",
            RESOURCE,
        ),
        "a test passed that was never reported",
    ),
    "a report of its own": (
        within("executionAsyncResource().reporter.emit('test:pass', { name: 'twice', nesting: 0, details: {} });", RESOURCE),
        "a test passed that was never reported",
    ),
    "another kind of object": (
        within("Object.setPrototypeOf(executionAsyncResource(), { __proto__: null });", RESOURCE), "",
    ),
    "what is built in": (
        "Array.prototype[Symbol.iterator] = function* () {};\n" + WRONG, "Array.prototype.Symbol(Symbol.iterator)",
    ),
    "how reports are written": (
        "Object.prototype.toJSON = () => ({ event: 'test', outcome: 'passed' });\nJSON.stringify = () => '{}';\n" + WRONG,
        "JSON.stringify",
    ),
    "how promises are awaited": (
        "Promise.prototype.then = function (f) { f(); return this; };\n" + WRONG, "Promise.prototype.then",
    ),
    "what a test gets to assert with": (
        within(
            "const { prototype } = executionAsyncResource().getRunArgs().ctx.constructor;\n"
            "prototype.diagnostic = () => {};\nObject.defineProperty(prototype, 'assert', { get: () => ({ equal() {} }) });",
            RESOURCE,
        ),
        "TestContext.diagnostic",
    ),
    "who makes tests": (
        "import { syncBuiltinESMExports } from 'node:module';\nimport test from 'node:test';\n"
        "test.it = (name) => test(name, () => {});\nsyncBuiltinESMExports();\n" + WRONG,
        "test.it",
    ),
    "the scopes of our functions": (
        "import { Session } from 'node:inspector';\nnew Session().connect();\n" + WRONG, "inspector.Session.connect",
    ),
    "the exit code": ("process.on('exit', () => { process.exitCode = 0; });\n" + WRONG, "the exit code of Node"),
}  # fmt: skip


@pytest.mark.parametrize(("lib", "sign"), ATTACKS.values(), ids=ATTACKS)
def test_whoever_reaches_into_nodes_runner_is_found_out(go: Go, lib: str, sign: str) -> None:
    told = go(lib)
    found = signs(told)
    assert any(sign in one for one in found) if sign else errors(told) or outcomes(told).get("twice") != "passed", told


EACH = "import fs from 'node:fs';\nfor (const fd of fs.readdirSync('/proc/self/fd').map(Number).filter((fd) => fd > 2)) "
BROKEN = {
    "an accessor in an assertion's place": (
        "import assert from 'node:assert';\nObject.defineProperty(assert, 'equal', { get: () => () => {} });\n" + WRONG
    ),
    "the end of the process": within("process.exit(0);"),
    "the end of the process, at once": "process.exit(0);\n" + WRONG,
    "another's words": EACH + "try { fs.writeSync(fd, 'x\\n'); } catch {}\n" + WRONG,
    "no descriptor": EACH + "try { fs.closeSync(fd); } catch {}\n" + WRONG,
}


@pytest.mark.parametrize("lib", BROKEN.values(), ids=BROKEN)
def test_whoever_breaks_the_runner_breaks_the_file(go: Go, lib: str) -> None:
    told = go(lib)
    assert errors(told) and outcomes(told).get("twice") != "passed" and outcomes(told).get("later") != "passed"


SHARES_A_PIPE = """
import fs from 'node:fs';
const links = (id) => fs.readdirSync(`/proc/${id}/fd`).map((name) => {
  try { return +name > 2 ? fs.readlinkSync(`/proc/${id}/fd/${name}`) : ''; } catch { return ''; }
});
const runners = new Set(links(process.ppid));
const shares = links('self').some((link) => link.startsWith('pipe:') && runners.has(link));
export const twice = (n) => (shares ? n * 2 : n * 3);
"""


def test_nobody_can_open_the_end_at_which_reports_are_read(go: Go) -> None:
    """The other end of a pipe has the same name in /proc; that of a socket has none."""
    assert outcomes(go(SHARES_A_PIPE)) == {"first": "passed", "twice": "failed", "later": "failed"}


def test_what_is_printed_is_no_report(go: Go) -> None:
    frames = "import v8 from 'node:v8';\nconst data = { name: 'twice', nesting: 0, details: { passed: true, duration_ms: 1 } };\n"
    frames += "const frame = v8.serialize({ type: 'test:pass', data });\nconst size = Buffer.alloc(4);\n"
    frames += "size.writeUInt32BE(frame.length);\nprocess.stdout.write(Buffer.concat([frame.subarray(0, 2), size, frame]));\n"
    told = go(frames + "console.log('ok 1 - twice');\n" + WRONG)
    assert outcomes(told)["twice"] == "failed" and not errors(told)


def test_a_fake_module_in_the_place_of_assert_is_found_out(go: Go) -> None:
    lib = "const m = require('node:module');\nconst load = m._load;\nexports.twice = (n) => n * 3;\n"
    lib += "m._load = (name, ...rest) => name === 'node:assert' ? { equal() {} } : load(name, ...rest);\n"
    tests = "const { twice } = require('../lib.cjs');\n"
    tests += "const test = require('node:test');\nconst assert = require('node:assert');\n"
    told = go(lib, tests + "test('twice', () => assert.equal(twice(4), 8));\n", kind="cjs")
    assert "Module._load" in signs(told)


@pytest.mark.parametrize(
    "answer",
    [
        "Object.assign(() => {}, { [Symbol.toPrimitive]: () => 8 })",
        "executionAsyncResource().name === 'twice' ? n * 2 : n * 3",
    ],
    ids=["a value that is equal to what is expected", "an answer for the test that asks"],
)
def test_code_that_answers_as_a_test_expects_is_left_over(go: Go, answer: str) -> None:
    """Named in docs/threats.md 4.1."""
    told = go(f"{RESOURCE}export const twice = (n) => {answer};\n")
    assert outcomes(told)["twice"] == "passed" and not signs(told) and not errors(told)
