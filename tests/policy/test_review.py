"""Requests and patches reviewed end to end: real trees, a real OPA, and the decision on the session's chain."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.kernel.acting import Acting, as_acting
from activities.policy.activities import PolicyActivities
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.record.store import Store
from schemas.canonical import sha256_hex
from schemas.capabilities import ReviewPatch, ReviewRequest
from schemas.event import Actor
from schemas.policy import PolicyDecision
from schemas.task import TraceKeys
from schemas.testing import Patch
from tests.policy.running import RunningOpa
from tests.record.templates import new_sqlite
from workflows.verdicts import denial

pytestmark = pytest.mark.usefixtures("admitted")

KEYS = TraceKeys(tenant_id="local", trace_id="t", session_id="s", task_id="k")
Files = dict[str, bytes | tuple[str, bytes]]
BASE: Files = {
    "src/shop/__init__.py": b"", "src/shop/price.py": b"x = 1\n", "run.sh": ("100755", b"#!/bin/sh\n"),
    "link": ("120000", b"run.sh"),
}  # fmt: skip
ATTEMPTS = itertools.count(1)


def as_somebody() -> as_acting:
    attempt = next(ATTEMPTS)
    return as_acting(
        Acting(
            keys=KEYS, actor=Actor(principal_id="operator", kind="human"), phase="compile", workflow_id="w", run_id="r",
            effect_key="w/r/1", attempt_key=f"r/1/{attempt}", attempt=attempt,
        )
    )


class Review:
    """Trees written with git's own plumbing, reviewed by the real activities."""

    def __init__(self, folder: Path, opa: RunningOpa) -> None:
        self._folder = folder
        self.store = Store.open(new_sqlite(folder / "store.db"))
        self.objects = ObjectStore.open(folder / "objects")
        self.blobs = BlobStore(folder / "blobs", "local")
        chain = EventChain(self.store.tenant("local"))
        self.activities = PolicyActivities(
            opa.engine, self.blobs, self.objects, chain, roots=[folder], hosts=["git.example.org"]
        )

    def tree(self, files: Files) -> str:
        index = self._folder / "index"
        index.unlink(missing_ok=True)
        lines = b""
        for path, value in files.items():
            mode, content = value if isinstance(value, tuple) else ("100644", value)
            oid = "1" * 40 if mode == "160000" else self._git("hash-object", "-w", "--stdin", stdin=content, index=index)
            lines += f"{mode} {oid}\t".encode() + os.fsencode(path) + b"\0"
        self._git("update-index", "-z", "--index-info", stdin=lines, index=index)
        return self._git("write-tree", "--missing-ok", stdin=b"", index=index)

    def patch(self, result: Files, diff: bytes | None = None, base: Files = BASE) -> PolicyDecision:
        trees = self.tree(base), self.tree(result)
        text = self.objects.diff(*trees) if diff is None else diff
        patch = Patch(
            base_tree=trees[0], result_tree=trees[1], diff=self.blobs.put(text), patch_sha256=sha256_hex(text), paths=()
        )
        with as_somebody():
            return self.activities.review_patch(ReviewPatch(patch=patch))

    def denials(self, changes: Files) -> set[str]:
        decision = self.patch({**BASE, **changes})
        assert (decision.decision == "allow") == (not decision.denials)
        return {rule.rule_id.removeprefix("patch.") for rule in decision.denials}

    def _git(self, *arguments: str, stdin: bytes, index: Path) -> str:
        environment = {"GIT_DIR": str(self._folder / "objects"), "GIT_INDEX_FILE": str(index), "PATH": os.defpath}
        done = subprocess.run(["git", *arguments], input=stdin, env=environment, capture_output=True, check=True)
        return done.stdout.decode().strip()


@pytest.fixture
def review(tmp_path: Path, opa: RunningOpa) -> Iterator[Review]:
    made = Review(tmp_path, opa)
    yield made
    made.store.close()


def test_a_fix_of_product_code_is_allowed_and_recorded(review: Review) -> None:
    decision = review.patch({**BASE, "src/shop/price.py": b"x = 2\n"})
    assert decision.decision == "allow" and len(decision.required_checks) == 15
    [(event, payload)] = EventChain(review.store.tenant("local")).read("s")
    assert (event.kind, event.capability_id, payload["decision"]) == ("policy.decision", "policy.review_patch", "allow")
    assert payload["policy_digest"] == decision.policy_digest


ATTACKS: dict[str, tuple[Files, set[str]]] = {
    "a new link": ({"a": ("120000", b"/etc/passwd")}, {"regular_files", "modes"}),
    "a link elsewhere": ({"link": ("120000", b"/etc")}, {"regular_files"}),
    "a submodule": ({"sub": ("160000", b"")}, {"regular_files", "modes", "text"}),
    "an executable": ({"src/shop/price.py": ("100755", b"x = 1\n")}, {"modes"}),
    "a binary": ({"src/shop/data": b"\0\1"}, {"text"}),
    "UTF-7": ({"src/shop/price.py": b"# coding: utf-7\nx = +ACI-1+ACI-\n"}, {"encoding"}),
    "a direction mark of another encoding": ({"src/shop/price.py": b"# coding: cp1255\nx = '\xfd'\n"}, {"no_hidden_characters"}),
    "an LFS pointer": ({"big": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"}, {"no_lfs"}),
    "gitattributes": ({"src/.gitattributes": b"*.py filter=x\n"}, {"no_git_files"}),
    "gitmodules in capitals": ({".GitModules": b"x\n"}, {"no_git_files"}),
    "bidi text": ({"src/shop/price.py": "x = '\u202e'\n".encode()}, {"no_hidden_characters"}),
    "zero-width text": ({"src/shop/price.py": "x\u200b = 2\n".encode()}, {"no_hidden_characters"}),
    "a zero-width name": ({"src/shop/pri\u200bce.py": b"x\n"}, {"no_hidden_characters", "plain_paths", "no_collisions"}),
    "conftest": ({"tests/conftest.py": b"x = 1\n"}, {"no_tool_files"}),
    "conftest in capitals": ({"tests/ConfTest.py": b"x = 1\n"}, {"no_tool_files"}),
    "pyproject": ({"pyproject.toml": b"[tool.pytest.ini_options]\n"}, {"no_tool_files"}),
    "a pth file": ({"src/x.pth": b"import os\n"}, {"no_tool_files"}),
    "sitecustomize": ({"src/sitecustomize.py": b"x\n"}, {"no_tool_files"}),
    "a CI pipeline": ({".github/workflows/x.yml": b"x\n"}, {"no_git_files"}),
    "requirements": ({"requirements.txt": b"evil\n"}, {"no_lock_files"}),
    "shadowing the standard library": ({"src/json.py": b"x\n"}, {"no_shadowing"}),
    "shadowing the runner": ({"src/pytest/__init__.py": b"x\n"}, {"no_shadowing"}),
    "a second copy beside the tests": ({"tests/shop.py": b"x\n"}, {"no_shadowing"}),
    "a second copy as a package": ({"tests/unit/shop/__init__.py": b"x\n"}, {"no_shadowing"}),
    "a second copy at the root": ({"shop/__init__.py": b"x\n"}, {"no_shadowing"}),
    "a plugin": ({"pytest_gen4.py": b"x\n"}, {"no_shadowing"}),
    "a case collision": ({"SRC/shop/other.py": b"x\n"}, {"no_collisions"}),
    "a path with a stream": ({"src/a:b.py": b"x\n"}, {"plain_paths"}),
    "an undecodable path": ({"src/\udcff.py": b"x\n"}, {"plain_paths", "no_hidden_characters"}),
    "too much": ({"src/shop/price.py": b"x = 1234\n" * 40_000}, {"size"}),
    "too many": ({f"src/shop/m{n}.py": b"x\n" for n in range(70)}, {"size"}),
    "nothing": ({}, {"nonempty"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_denied_for_its_own_reason(review: Review, attack: str) -> None:
    changes, rules = ATTACKS[attack]
    assert review.denials(changes) == rules


@pytest.mark.parametrize(
    "changes",
    [
        {"src/shop/types.py": b"x\n"}, {"src/shop/shop.py": b"x\n"}, {"tools/shop.py": b"x\n"}, {"tests/price.py": b"x\n"},
        {"tests/test_new.py": b"def test(): pass\n"}, {"docs/x.md": "ä — ok\n".encode()},
        {"run.sh": ("100755", b"#!/bin/sh\nexit 0\n")}, {"src/shop/price.py": b"x = 1\r\ny = 2\r\n"},
        {"src/shop/price.py": b"# coding: latin-1\nx = '\xe9'\n"}, {"src/shop/price.c": b"/* \xe9 */\n"},
    ],
)  # fmt: skip
def test_ordinary_changes_are_allowed(review: Review, changes: Files) -> None:
    assert review.denials(changes) == set()


def test_deleting_is_a_change_like_others(review: Review) -> None:
    kept = {path: value for path, value in BASE.items() if path != "src/shop/price.py"}
    assert review.patch(kept).decision == "allow"
    kept = {path: value for path, value in BASE.items() if path != "link"}
    assert {rule.rule_id for rule in review.patch(kept).denials} == {"patch.regular_files"}


def test_the_text_must_be_that_of_the_trees(review: Review) -> None:
    decision = review.patch({**BASE, "src/shop/price.py": b"x = 2\n"}, diff=b"something else\n")
    assert {rule.rule_id for rule in decision.denials} == {"patch.canonical"}


def test_denials_name_the_file(review: Review) -> None:
    decision = review.patch({**BASE, "tests/conftest.py": b"x\n", "src/shop/price.py": b"x = 2\n"})
    assert [(rule.rule_id, rule.path) for rule in decision.denials] == [("patch.no_tool_files", "tests/conftest.py")]


def test_requests(review: Review, tmp_path: Path) -> None:
    def ask(repository: str, ref: str = "main", **release: Any) -> str:
        with as_somebody():
            return review.activities.review_request(ReviewRequest(repository=repository, ref=ref, **release)).decision

    inside = str(tmp_path / "repository")
    assert ask(inside) == ask(inside, "HEAD", release_mode="branch") == ask("https://git.example.org/a") == "allow"
    assert ask(inside, release_mode="merge", release_target="main") == "allow"
    assert ask("/etc") == ask(inside, "--upload-pack=x") == ask(inside, release_mode="merge", release_target="HEAD") == "deny"
    assert ask(inside, budget={"micros": 20_000_000, "cpu_ms": 1}) == "allow"
    assert ask(inside, budget={"micros": 20_000_001}) == ask(inside, budget={"egress_bytes": 1}) == "deny"


def test_a_budget_above_policy_is_refused_by_its_code(review: Review, tmp_path: Path) -> None:
    with as_somebody():
        request = ReviewRequest(repository=str(tmp_path / "repository"), ref="main", budget={"tokens": 10**12})
        codes, message, _ = denial(review.activities.review_request(request))
    assert codes == ("POLICY_DENIED", "request.budget", "BUDGET_ABOVE_POLICY")
    assert "at most" in message and "20000000 micros" in message
