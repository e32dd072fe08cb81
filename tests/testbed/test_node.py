"""JavaScript targets: Node's test runner in a real sandbox, with packages of the package lock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.capabilities import RunTests
from schemas.test_command import parse_test_command
from schemas.testing import Environment, NodeEnvironmentLock, Outcomes, RunVariant, TestRun
from tests.testbed.conftest import LIMITS, Bed, Files

MANIFEST = '{"name": "demo", "version": "1.0.0", "type": "module"}'
LIBRARY = "export const half = (n) => n / 2;\nexport const twice = (n) => n * 2;\n"
TESTS = """
import test, { describe, it } from 'node:test';
import assert from 'node:assert';
import { half, twice } from '../lib.js';
test('half', () => assert.equal(half(8), 4));
test('wrong', () => assert.equal(twice(4), 9));
test('left out', { skip: true }, () => {});
test('some day', { todo: true }, () => { throw new Error('not yet'); });
describe('both', () => {
  it('agree', () => assert.equal(half(twice(3)), 3));
  it('same name', () => {});
  it('same name', () => { throw new Error('no'); });
});
test('parent', async (t) => { await t.test('child', () => {}); });
"""


@pytest.fixture(scope="module")
def node(bed: Bed) -> Environment:
    return bed.environments.prepare(bed.tree({"package.json": MANIFEST}), (), lambda: None, "node")


def run(bed: Bed, environment: Environment, files: Files, *command: str, **more: Any) -> tuple[TestRun, Outcomes]:
    request = RunTests(
        tree=bed.tree({"package.json": MANIFEST, **files}), environment=environment,
        plan=parse_test_command(command or ("node", "--test")), limits=LIMITS, commit_time=1_700_000_000, purpose="base", **more,
    )  # fmt: skip
    observed = bed.testbed.observe(request, lambda: None)
    assert observed.planted == observed.caught or "HARNESS_TAMPERED" in observed.run.codes
    return observed.run, observed.outcomes


def test_every_outcome_has_the_id_of_its_test(bed: Bed, node: Environment) -> None:
    result, outcomes = run(bed, node, {"lib.js": LIBRARY, "test/lib.test.js": TESTS})
    assert outcomes == {
        "test/lib.test.js::half": "passed", "test/lib.test.js::wrong": "failed", "test/lib.test.js::left out": "skipped",
        "test/lib.test.js::some day": "xfailed", "test/lib.test.js::both > agree": "passed",
        "test/lib.test.js::both > same name": "passed", "test/lib.test.js::both > same name #2": "failed",
        "test/lib.test.js::parent > child": "passed", "test/lib.test.js::parent": "passed",
    }  # fmt: skip
    assert (result.status, result.codes, result.exit_code) == ("failed", (), 1)
    assert result.runner.startswith("node 22.")


def test_a_suite_that_passes_says_so(bed: Bed, node: Environment) -> None:
    good = "import test from 'node:test';\nimport { half } from '../lib.js';\ntest('half', () => { half(2); });\n"
    result, outcomes = run(bed, node, {"lib.js": LIBRARY, "test/a.test.js": good, "test/helper.js": "export const x = 1;\n"})
    assert (result.status, outcomes) == ("passed", {"test/a.test.js::half": "passed"})


@pytest.mark.parametrize(
    "body",
    [
        "throw new Error('at import');",
        "import './missing.js';",
        "import test from 'node:test';\ntest('quits', () => process.exit(0));\ntest('never', () => { throw 1; });",
        "process.exit(0);",
        "import test from 'node:test';\ntest('kills', () => process.kill(process.pid, 'SIGKILL'));",
    ],
)
def test_a_file_that_ends_before_its_tests_have_reported_is_an_error(bed: Bed, node: Environment, body: str) -> None:
    result, outcomes = run(bed, node, {"test/a.test.js": body})
    assert outcomes.get("test/a.test.js") == "error" and result.status == "failed"


def test_a_file_that_hangs_costs_itself_alone(bed: Bed, node: Environment) -> None:
    hang = "import test from 'node:test';\ntest('hangs', () => { for (;;); });\n"
    good = "import test from 'node:test';\ntest('good', () => {});\n"
    limits = LIMITS.model_copy(update={"test_ms": 500})
    request = RunTests(
        tree=bed.tree({"package.json": MANIFEST, "test/a.test.js": hang, "test/b.test.js": good}), environment=node,
        plan=parse_test_command(("node", "--test")), limits=limits, commit_time=1_700_000_000, purpose="base",
    )  # fmt: skip
    outcomes = bed.testbed.observe(request, lambda: None).outcomes
    assert outcomes == {"test/a.test.js": "error", "test/b.test.js::good": "passed"}


@pytest.mark.parametrize(
    "attack",
    [
        "import { Test } from 'node:test';\nimport test from 'node:test';\nconst real = test;\nconsole.log('ok 1 - half');\n",
        "import assert from 'node:assert';\nassert.strictEqual = () => {};\nassert.equal = () => {};\n",
        "process.on('exit', () => { process.exitCode = 0; });\n",
    ],
)
def test_product_code_that_blinds_the_tests_is_no_pass(bed: Bed, node: Environment, attack: str) -> None:
    test = "import '../lib.js';\nimport test from 'node:test';\ntest('fails', () => { throw new Error('really'); });\n"
    result, outcomes = run(bed, node, {"lib.js": attack, "test/a.test.js": test})
    assert "passed" not in outcomes.values() and result.status == "failed"


def test_planted_tests_show_an_assertion_that_was_blinded(bed: Bed, node: Environment) -> None:
    attack = "import assert from 'node:assert';\nassert.strictEqual = () => {};\n"
    test = "import '../lib.js';\nimport test from 'node:test';\nimport assert from 'node:assert';\n"
    test += "test('blind', () => assert.strictEqual(1, 2));\n"
    result, _ = run(bed, node, {"lib.js": attack, "test/a.test.js": test})
    assert "HARNESS_TAMPERED" in result.codes


def test_variants(bed: Bed, node: Environment) -> None:
    files = {
        "test/a.test.js": "import test from 'node:test';\nimport fs from 'node:fs';\n"
        "test('first', () => { if (fs.existsSync('/tmp/b')) throw 1; });\n",
        "test/b.test.js": "import test from 'node:test';\nimport fs from 'node:fs';\n"
        "test('second', () => fs.writeFileSync('/tmp/b', ''));\n"
        "test('clock', () => { if (Date.now() < 1.75e12) throw 1; });\n",
    }
    command = ("node", "--test", "test/a.test.js", "test/b.test.js")
    _, plain = run(bed, node, files, *command)
    assert set(plain.values()) == {"passed"}
    _, turned = run(bed, node, files, *command, variant=RunVariant(order="reversed"))
    assert turned["test/a.test.js::first"] == "failed"
    _, standing = run(bed, node, files, *command, variant=RunVariant(clock=1_600_000_000))
    assert standing["test/b.test.js::clock"] == "failed"
    _, only = run(bed, node, files, *command, variant=RunVariant(only=("test/b.test.js::second",)))
    assert only == {"test/b.test.js::second": "passed"}


def test_packages_come_from_the_lock_and_are_rebuilt_bit_for_bit(bed: Bed) -> None:
    integrity = "sha512-CQpnWPrDwmP1+SMHXZhtLtJv90yiyVfluGsX5iNCVkrhQtU3TQHsUWPG9wkdk9Lgd5yNpAg9jQEo90CBaXgWMA=="
    number = "sha512-Wu1VHeILBK8KAWJUAiSZQX94GmOE45Rg6/538fKwiloUu21KncEkYGPqob2oSZ5mUT73vLGrHQjKw3KMPwfDzg=="
    lock = {
        "name": "demo", "lockfileVersion": 3, "packages": {
            "": {"name": "demo", "dependencies": {"is-odd": "3.0.1"}},
            "node_modules/is-odd": {"version": "3.0.1", "integrity": integrity},
            "node_modules/is-number": {"version": "6.0.0", "integrity": number},
        },
    }  # fmt: skip
    manifest = '{"name": "demo", "type": "module", "dependencies": {"is-odd": "3.0.1"}}'
    test = "import test from 'node:test';\nimport odd from 'is-odd';\ntest('odd', () => { if (!odd(3)) throw 1; });\n"
    files = {"package.json": manifest, "package-lock.json": json.dumps(lock), "test/a.test.js": test}
    environment = bed.environments.prepare(bed.tree(files), (), lambda: None, "node")
    found = bed.environments.lock(environment.environment_digest)
    assert isinstance(found, NodeEnvironmentLock)
    assert [(package.name, package.version) for package in found.packages] == [("is-number", "6.0.0"), ("is-odd", "3.0.1")]
    result, outcomes = run(bed, environment, files)
    assert outcomes == {"test/a.test.js::odd": "passed"}, result.message
    assert bed.environments.prepare(bed.tree(files), (), lambda: None, "node") == environment
