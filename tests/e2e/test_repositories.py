"""Repositories as they come: odd layouts and states, hostile configuration, and those that nothing can be done for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Fabric, closed, git, waiting, write_repository

LIBRARY = "def inc(n):\n    return n - 1\n"
TESTS = "from mod import inc\n\n\ndef test_inc():\n    assert inc(1) == 2\n"

BOXES = {
    "geo/__init__.py": "",
    "geo/box.py": """class Box:
    def __init__(self, left, top, right, bottom):
        self.left, self.top, self.right, self.bottom = left, top, right, bottom

    @property
    def height(self):
        return self.bottom + self.top
""",
    "geo/tests/__init__.py": "",
    "geo/tests/test_box.py": """import unittest

from ..box import Box


class BoxTest(unittest.TestCase):
    def setUp(self):
        self.box = Box(1, 2, 11, 7)

    def test_left(self):
        self.assertEqual(self.box.left, 1)

    def test_height(self):
        self.assertEqual(self.box.height, 5)
""",
}

HOOKS = ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive", "push-to-checkout")


def start(fabric: Fabric, repository: Path) -> str:
    done = fabric.gen4("remediate", "-r", str(repository), "-g", "a number is wrong", "--json")
    assert done.code == 0, done.err
    return str(done.json["workflow_id"])


def test_a_detached_head_with_uncommitted_changes_in_a_path_with_spaces_is_repaired_and_left_alone(fabric: Fabric) -> None:
    repository = fabric.repository("a path with spaces/lib \u00e9", BOXES)
    git(repository, "commit", "-q", "--allow-empty", "-m", "later")
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    (repository / "geo" / "box.py").write_text("garbage(((\n")
    (repository / "new.txt").write_text("staged")
    git(repository, "add", "new.txt")
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD", "main")

    pending = fabric.wait_for(start(fabric, repository), waiting)

    assert pending["approval"]["fix"] == "complete"
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD", "main")) == before
    assert (repository / "geo" / "box.py").read_text() == "garbage(((\n"


def hostile(path: Path, trap: Path) -> None:
    """Everything that a repository can bring along to have its commands run; each would leave a file in ``trap``."""
    escape = f"open({str(trap / 'python')!r}, 'w').close()"
    write_repository(
        path,
        {
            "mod.py": LIBRARY,
            "test_mod.py": TESTS,
            "setup.py": f"{escape}\nfrom setuptools import setup\nsetup(name='h')\n",
            "conftest.py": f"import os\ntry:\n    {escape}\nexcept OSError:\n    pass\n"
            "os.write(1, b'{\"kind\":\"end\",\"results\":{}}\\n')\n",
            ".gitattributes": "*.py filter=evil diff=evil\n*.txt export-ignore export-subst\n",
            ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = ext::touch {trap / "submodule"}\n',
        },
    )
    os.symlink("/etc/passwd", path / "out.txt")
    git(path, "add", "out.txt")
    git(path, "update-index", "--add", "--cacheinfo", f"160000,{'12' * 20},s")
    git(path, "commit", "-q", "-m", "links")
    for name in (
        "filter.evil.smudge", "filter.evil.clean", "diff.evil.command", "diff.evil.textconv", "core.fsmonitor", "core.sshCommand",
        "uploadpack.packObjectsHook", "core.pager", "gpg.program", "core.alternateRefsCommand",
    ):  # fmt: skip
        git(path, "config", name, f"touch {trap / name}")
    for name in HOOKS:
        hook = path / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch '{trap / name}'\n")
        hook.chmod(0o755)


@pytest.fixture(scope="module")
def released(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A hostile repository that was repaired, approved and released into."""
    trap = tmp_path_factory.mktemp("trap")
    repository = fabric.repositories / "hostile"
    hostile(repository, trap)
    workflow_id = start(fabric, repository)
    digest = fabric.wait_for(workflow_id, waiting)["approval"]["action_digest"]
    approve = fabric.gen4("approve", workflow_id, "--digest", digest)
    assert approve.code == 0, approve.err
    result = fabric.wait_for(workflow_id, closed)["result"]
    return {"repository": repository, "trap": trap, "workflow_id": workflow_id, "digest": digest, "result": result}


def test_a_hostile_repository_is_repaired_and_released_and_runs_nothing_here(released: dict[str, Any]) -> None:
    release = released["result"]["release"]
    assert list(released["trap"].iterdir()) == []
    git(released["repository"], "status")
    assert (released["trap"] / "core.fsmonitor").exists(), "the traps work for whoever does not disarm them"
    for name in ("core.fsmonitor", "diff.evil.command", "core.pager", "filter.evil.clean"):
        git(released["repository"], "config", "--unset-all", name)  # this test's own git would obey them
    assert git(released["repository"], "rev-parse", release["ref"]) == release["commit"]
    changed = git(released["repository"], "diff-tree", "-r", "--name-only", "main", release["commit"])
    assert changed == "mod.py"


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_decision_on_an_ended_session_is_refused_in_words(fabric: Fabric, released: dict[str, Any], decision: str) -> None:
    late = fabric.gen4(decision, released["workflow_id"], "--digest", released["digest"], "--reason", "late")
    assert late.code == 1
    assert "ALREADY_FINAL" in late.err
    assert "Traceback" not in late.err


@pytest.mark.parametrize(("made", "code"), [(True, "REF_NOT_FOUND"), (False, "REPOSITORY_NOT_FOUND")])
def test_a_folder_without_commits_fails_at_once_with_a_code_and_a_remedy(fabric: Fabric, made: bool, code: str) -> None:
    path = fabric.repositories / f"without-{'commits' if made else 'git'}"
    path.mkdir()
    if made:
        git(path, "init", "-q")
    done = fabric.gen4("remediate", "-r", str(path), "-g", "inc is wrong", "--until", "closed", "--json")
    assert done.code == 1
    assert done.json["outcome"] == "failed"
    assert code in done.json["rejection"]["codes"]
    assert done.json["rejection"]["remedy"]


def test_a_link_that_leads_outside_of_the_roots_is_refused(fabric: Fabric, tmp_path: Path) -> None:
    write_repository(tmp_path / "elsewhere", {"mod.py": LIBRARY})
    (fabric.repositories / "inside").symlink_to(tmp_path / "elsewhere")
    done = fabric.gen4("remediate", "-r", str(fabric.repositories / "inside"), "-g", "x", "--until", "closed")
    assert done.code == 2
    assert "REPOSITORY_OUTSIDE_ROOTS" in done.err
