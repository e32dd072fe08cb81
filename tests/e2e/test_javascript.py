"""A JavaScript target through Compile: Node, its test runner, the same gates and the same bundle."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.harness import Fabric, git

FILES = {
    "package.json": '{"name": "shop", "version": "1.0.0", "type": "module"}\n',
    "lib.js": "export const clamp = (v, lo, hi) => {\n  if (v < lo) return lo;\n  if (v < hi) return hi;\n  return v;\n};\n",
    "test/lib.test.js": """import test from 'node:test';
import assert from 'node:assert';
import { clamp } from '../lib.js';
for (const [v, want] of [[-1, 0], [5, 5], [11, 10]]) test(`clamp ${v}`, () => assert.equal(clamp(v, 0, 10), want));
""",
}


def test_a_patch_for_javascript_becomes_a_bundle(fabric: Fabric, tmp_path: Path) -> None:
    path = fabric.repository("javascript", FILES)
    (path / "lib.js").write_text(FILES["lib.js"].replace("v < hi", "v > hi"))
    patch = git(path, "diff") + "\n"
    git(path, "checkout", "-q", ".")
    out = tmp_path / "evidence"
    done = fabric.gen4(
        "compile", "-r", str(path), "--base", "HEAD", "--patch", "-", "--test", "node --test", "--out", str(out), "--json",
        stdin=patch, timeout=240,
    )  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads((out / "test_results.json").read_text())
    assert results["fail_to_pass"] == ["test/lib.test.js::clamp 11", "test/lib.test.js::clamp 5"]
    assert {suite["runner"] for suite in results["suites"]} == {"node"}
    verified = fabric.gen4("verify", str(out), "--trust", str(fabric.home / "keys/trust.json"), "--json")
    assert verified.code == 0, verified.out
    refused = fabric.gen4("remediate", "-r", str(path), "-g", "clamp is wrong", "--test", "node --test", "--json")
    assert refused.code == 2 and "no engine repairs JavaScript yet" in refused.out + refused.err
