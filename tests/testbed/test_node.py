"""JavaScript targets: Node's test runner in a real sandbox, with packages of the package lock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.capabilities import RunTests
from schemas.request import InvalidRequest
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
NODE_TEST = ("node", "--test")


@pytest.fixture(scope="module")
def node(bed: Bed) -> Environment:
    return bed.environments.prepare(bed.tree({"package.json": MANIFEST}), (), lambda: None, "node")


def run(bed: Bed, environment: Environment, files: Files, *command: str, **more: Any) -> tuple[TestRun, Outcomes]:
    request = RunTests(
        tree=bed.tree({"package.json": MANIFEST, **files}), environment=environment,
        plan=parse_test_command(command or NODE_TEST), limits=LIMITS, commit_time=1_700_000_000, purpose="base", **more,
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
    seen = bed.testbed.observe(request, lambda: None)
    assert seen.outcomes == {"test/a.test.js": "error", "test/b.test.js::good": "passed"}
    assert seen.run.codes == ("TEST_TIMEOUT",) and "a.test.js::hangs did not end within 500 ms" in seen.run.message


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


def test_a_file_that_a_hook_ends_behind_its_last_test_has_reported(bed: Bed, node: Environment) -> None:
    body = "import test, { after } from 'node:test';\nafter(() => process.exit(0));\ntest('a', () => {});\n"
    result, outcomes = run(bed, node, {"test/a.test.js": body, "server.test.js": body.replace("after(", "test.before(")})
    assert outcomes == {"test/a.test.js::a": "passed", "server.test.js": "error"}
    assert (result.codes, result.exit_code) == ((), 1)


def test_what_a_file_leaves_running_meets_no_other_file(bed: Bed, node: Environment) -> None:
    head = "import test from 'node:test';\nimport fs from 'node:fs';\nimport { spawn } from 'node:child_process';\n"
    left = head + "const options = { detached: true, stdio: 'ignore' };\n"
    left += "const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 50000)'], options);\n"
    left += "child.unref();\ntest('left', () => fs.writeFileSync('/tmp/left', `/proc/${child.pid}`));\n"
    seen = head + "test('gone', () => { if (fs.existsSync(fs.readFileSync('/tmp/left', 'utf8'))) throw 1; });\n"
    _, outcomes = run(bed, node, {"test/a.test.js": left, "test/b.test.js": seen})
    assert outcomes == {"test/a.test.js::left": "passed", "test/b.test.js::gone": "passed"}


def test_a_suite_whose_body_throws_fails(bed: Bed, node: Environment) -> None:
    body = "import { describe, it } from 'node:test';\ndescribe('s', () => { it('a', () => {}); throw new Error('x'); });\n"
    _, outcomes = run(bed, node, {"a.test.js": body})
    assert outcomes["a.test.js::s"] == "failed" and outcomes["a.test.js::s > a"] == "failed"


def test_tests_can_be_chosen_by_their_names(bed: Bed, node: Environment) -> None:
    _, outcomes = run(bed, node, {"lib.js": LIBRARY, "test/a.test.js": TESTS}, *NODE_TEST, "--test-name-pattern=half")
    assert outcomes == {"test/a.test.js::half": "passed"}


def test_a_measured_run_has_coverage_and_timings_and_the_same_outcomes(bed: Bed, node: Environment) -> None:
    library = "// half\nexport const half = (n) => {\n  if (n > 100) {\n    return 1;\n  }\n  return n / 2;\n};\n"
    library += "\nexport function f() {\n  /* never\n     called */\n  return 1;\n}\n"
    test = "import test from 'node:test';\nimport { half } from '../lib.js';\ntest('half', () => { half(2); });\n"
    files = {"lib.js": library, "unused.cjs": "exports.x = 1;\n", "test/a.test.js": test, "test/help.js": "export const x = 1;\n"}
    request = RunTests(
        tree=bed.tree({"package.json": MANIFEST, **files}), environment=node, plan=parse_test_command(NODE_TEST), limits=LIMITS,
        commit_time=1_700_000_000, purpose="base", measure=True,
    )  # fmt: skip
    seen = bed.testbed.observe(request, lambda: None)
    assert seen.coverage == {
        "lib.js": {"lines": [2, 3, 4, 6, 9, 12], "covered": [2, 3, 6, 9]}, "unused.cjs": {"lines": [1], "covered": []},
    }  # fmt: skip
    assert seen.timings is not None and seen.timings.keys() == {"test/a.test.js::half"} and seen.run.codes == ()
    assert seen.outcomes == run(bed, node, files)[1] == {"test/a.test.js::half": "passed"}


def test_a_file_of_tests_that_is_written_to_shows(bed: Bed, node: Environment) -> None:
    test = "import test from 'node:test';\nimport fs from 'node:fs';\n"
    test += "test('a', () => fs.appendFileSync('test/b.test.js', '// x'));\n"
    other = "import test from 'node:test';\ntest('b', () => {});\n"
    result, _ = run(bed, node, {"test/a.test.js": test, "test/b.test.js": other})
    assert result.codes == ("PYTEST_CHANGED",) and result.message == "written to while the tests ran: test/b.test.js"


def test_typescript_runs_where_node_can_strip_its_types(bed: Bed, node: Environment) -> None:
    files = {
        "lib.ts": "export const half = (n: number): number => n / 2;\nexport interface Unused {\n  x: string;\n}\n",
        "test/a.test.ts": "import test from 'node:test';\nimport assert from 'node:assert';\nimport { half } from '../lib.ts';\n"
        "test('half', () => { const want: number = 4; assert.equal(half(8), want); });\n",
        "test/b.test.ts": "import test from 'node:test';\nenum Kind { A }\ntest('enum', () => { Kind.A; });\n",
    }
    result, outcomes = run(bed, node, files)
    assert outcomes == {"test/a.test.ts::half": "passed", "test/b.test.ts": "error"} and result.codes == ()


def test_what_node_cannot_load_is_refused(bed: Bed, node: Environment) -> None:
    files = {"src/a.test.tsx": "<a/>\n", "src/b.test.js": "import test from 'node:test';\ntest('b', () => {});\n"}
    result, _ = run(bed, node, files, "node", "--test", "src/*.test.*")
    assert result.codes == ("TEST_LANGUAGE_UNSUPPORTED",) and result.message == "Node cannot load src/a.test.tsx"
    with pytest.raises(InvalidRequest, match=r"src/a\.test\.tsx.*holds JSX"):
        parse_test_command(("node", "--test", "src/a.test.tsx"))


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
