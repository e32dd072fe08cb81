"""Pushing to repositories of users: only the named ref moves, only from the expected head, and nothing runs (threats 3.3)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from activities.record import transfer
from activities.record.objects import ObjectStore
from schemas.error import InputError, Refused
from schemas.model import ZERO_ID

from .conftest import Repository

PERSON = "Gen4 <gen4@example.org>"


class Fix:
    """A sealed commit on top of the repository's main."""

    def __init__(self, objects: ObjectStore, repository: Repository, key: Path) -> None:
        base = objects.fetch(str(repository.path), "refs/heads/main")
        self.base = base.commit
        tree = objects.write_tree(base.tree, {"src/pkg/__init__.py": b"x = 2\n"})
        self.commit = objects.commit_tree(tree, [base.commit], "fix", PERSON, PERSON, 1_700_000_001, key)


@pytest.fixture
def fix(objects: ObjectStore, repository: Repository, signing_key: Path) -> Fix:
    return Fix(objects, repository, signing_key)


def refused(code: str, push: Callable[[], object], target: Repository) -> None:
    before = target.refs()
    with pytest.raises(Refused, match=code) as caught:
        push()
    assert caught.value.remedy
    assert target.refs() == before


def test_new_branch_of_a_clone_leaves_everything_else_alone(objects: ObjectStore, repository: Repository, fix: Fix) -> None:
    (repository.path / "src/pkg/__init__.py").write_text("edited = True\n")
    index = (repository.path / ".git" / "index").read_bytes()
    receipt = objects.push(str(repository.path), fix.commit, "refs/heads/gen4/x", ZERO_ID)
    assert (receipt.commit, receipt.previous, receipt.already) == (fix.commit, ZERO_ID, False)
    assert repository.git("rev-parse", "refs/heads/gen4/x") == fix.commit
    assert repository.git("rev-parse", "HEAD") == fix.base and repository.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert (repository.path / "src/pkg/__init__.py").read_text() == "edited = True\n"
    assert (repository.path / ".git" / "index").read_bytes() == index


def test_branch_of_a_bare_repository_moves_forward(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)
    assert bare.git("rev-parse", "main") == fix.commit
    bare.git("fsck", "--strict")


def test_second_push_of_the_same_commit_does_nothing(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)
    assert objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base).already


def test_shallow_clone_can_be_a_target(objects: ObjectStore, repository: Repository, signing_key: Path) -> None:
    repository.commit({"new": "x"})
    shallow = Repository.__new__(Repository)
    shallow.path = repository.path.parent / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(shallow.path))
    fix = Fix(objects, shallow, signing_key)
    objects.push(str(shallow.path), fix.commit, "refs/heads/gen4/x", ZERO_ID)
    assert shallow.git("rev-parse", "refs/heads/gen4/x") == fix.commit


def test_moved_target_is_refused(objects: ObjectStore, repository: Repository, bare: Repository, fix: Fix) -> None:
    repository.commit({"other": "x"})
    repository.git("push", "--quiet", str(bare.path), "main")
    refused("TARGET_CHANGED", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base), bare)


def test_branch_that_exists_already_is_refused(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    refused("TARGET_CHANGED", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/main", ZERO_ID), bare)


def test_branch_that_vanished_is_refused(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    refused("TARGET_CHANGED", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/gone", fix.base), bare)


def test_target_that_moves_between_look_and_push_is_refused(
    objects: ObjectStore, repository: Repository, bare: Repository, fix: Fix, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner = repository.commit({"other": "x"})

    def move(*_: object) -> None:
        repository.git("push", "--quiet", str(bare.path), "main")

    monkeypatch.setattr(transfer, "refuse_backwards", move)
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)
    assert bare.git("rev-parse", "main") == winner


def test_commit_that_does_not_follow_is_refused(objects: ObjectStore, repository: Repository, bare: Repository, fix: Fix) -> None:
    head = repository.commit({"other": "x"})
    repository.git("push", "--quiet", str(bare.path), "main")
    refused("NOT_FAST_FORWARD", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/main", head), bare)


@pytest.mark.parametrize("ref", ["refs/tags/v1", "refs/gen4/x", "HEAD", "main", "refs/heads/-x/../y", "refs/heads/a b", ""])
def test_only_branches_are_pushed(objects: ObjectStore, bare: Repository, fix: Fix, ref: str) -> None:
    with pytest.raises(InputError, match="REF_INVALID"):
        objects.push(str(bare.path), fix.commit, ref, ZERO_ID)


@pytest.mark.parametrize("commit", ["", "main", "--all", "A" * 40, "0" * 39, ":refs/heads/main"])
def test_only_ids_are_pushed(objects: ObjectStore, bare: Repository, commit: str) -> None:
    with pytest.raises(InputError, match="OBJECT_ID"):
        objects.push(str(bare.path), commit, "refs/heads/x", ZERO_ID)


# --- work trees of the user are never touched ------------------------------------------------------------------------


def test_checked_out_branch_is_refused(objects: ObjectStore, repository: Repository, fix: Fix) -> None:
    repository.git("config", "receive.denyCurrentBranch", "updateInstead")
    for path in (repository.path, repository.path / ".git"):
        push = partial(objects.push, str(path), fix.commit, "refs/heads/main", fix.base)
        refused("TARGET_CHECKED_OUT", push, repository)
    assert (repository.path / "src/pkg/__init__.py").read_text() == "x = 1\n"


def test_branch_of_a_linked_work_tree_is_refused(objects: ObjectStore, repository: Repository, fix: Fix, tmp_path: Path) -> None:
    repository.git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "linked"))
    for path in (repository.path, tmp_path / "linked"):
        push = partial(objects.push, str(path), fix.commit, "refs/heads/other", fix.base)
        refused("TARGET_CHECKED_OUT", push, repository)


def test_branch_of_a_work_tree_of_a_bare_repository_is_refused(
    objects: ObjectStore, bare: Repository, fix: Fix, tmp_path: Path
) -> None:
    bare.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "main")
    refused("TARGET_CHECKED_OUT", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base), bare)


def test_branch_that_is_being_rebased_is_refused(objects: ObjectStore, repository: Repository, fix: Fix) -> None:
    repository.git("checkout", "--quiet", "--detach")
    (repository.path / ".git" / "rebase-merge").mkdir()
    (repository.path / ".git" / "rebase-merge" / "head-name").write_text("refs/heads/main\n")
    refused("TARGET_CHECKED_OUT", lambda: objects.push(str(repository.path), fix.commit, "refs/heads/main", fix.base), repository)


def test_repository_with_a_work_tree_by_configuration_counts_as_one(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    bare.git("config", "core.worktree", "/somewhere")
    with pytest.raises(Refused, match="TARGET_CHECKED_OUT"):
        objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)


def test_detached_head_leaves_the_branch_free(objects: ObjectStore, repository: Repository, fix: Fix) -> None:
    repository.git("checkout", "--quiet", "--detach")
    objects.push(str(repository.path), fix.commit, "refs/heads/main", fix.base)
    assert repository.git("rev-parse", "HEAD") == fix.base


def test_name_that_stands_for_another_branch_is_refused(objects: ObjectStore, repository: Repository, fix: Fix) -> None:
    repository.git("symbolic-ref", "refs/heads/alias", "refs/heads/main")
    refused("TARGET_SYMBOLIC", lambda: objects.push(str(repository.path), fix.commit, "refs/heads/alias", fix.base), repository)


def test_ref_that_is_a_link_is_refused(objects: ObjectStore, bare: Repository, fix: Fix, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(fix.base + "\n")
    (bare.path / "refs" / "heads" / "link").symlink_to(outside)
    with pytest.raises(Refused, match=r"TARGET_SYMBOLIC|TARGET_CHANGED"):
        objects.push(str(bare.path), fix.commit, "refs/heads/link", fix.base)
    assert outside.read_text() == fix.base + "\n"


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_hooks_of_the_target_do_not_run(
    objects: ObjectStore, bare: Repository, fix: Fix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEN4_CANARY", "the environment of the fabric")
    for hook in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "push-to-checkout"):
        script = bare.path / "hooks" / hook
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nenv > "{tmp_path}/ran-{hook}"\nexit 1\n')
        script.chmod(0o755)
    bare.git("config", "core.hooksPath", str(bare.path / "hooks"))
    objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)
    assert list(tmp_path.glob("ran-*")) == []


def test_other_side_of_a_local_push_has_none_of_our_environment(
    objects: ObjectStore, bare: Repository, fix: Fix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what git starts over there by itself: here the program that lists references of alternates."""
    monkeypatch.setenv("GEN4_CANARY", "the environment of the fabric")
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "true").write_text(f'#!/bin/sh\nenv > "{tmp_path}/seen"\n')
    (fake / "true").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    other = Repository(tmp_path / "other.git", bare=True)
    (bare.path / "objects" / "info" / "alternates").write_text(f"{other.path}/objects\n")
    objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base)
    if (tmp_path / "seen").exists():  # a shell with `true` built in starts no program
        assert "CANARY" not in (tmp_path / "seen").read_text()


def test_target_that_hands_refs_to_a_hook_is_refused(objects: ObjectStore, bare: Repository, fix: Fix, tmp_path: Path) -> None:
    script = bare.path / "hooks" / "proc-receive"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\ntouch "{tmp_path}/ran"\n')
    script.chmod(0o755)
    bare.git("config", "receive.procReceiveRefs", "refs/heads")
    refused("PUSH_REJECTED", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/main", fix.base), bare)
    assert not (tmp_path / "ran").exists()


def test_target_that_hides_the_ref_is_refused(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    bare.git("config", "receive.hideRefs", "refs/heads/gen4")
    refused("PUSH_REJECTED", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/gen4/x", ZERO_ID), bare)


def test_protocols_of_the_caller_hold(objects: ObjectStore, bare: Repository, fix: Fix) -> None:
    push = partial(objects.push, str(bare.path), fix.commit, "refs/heads/x", ZERO_ID, {"https"})
    refused("PROTOCOL_REFUSED", push, bare)
    with pytest.raises(InputError, match="REPOSITORY_INVALID"):
        objects.push(f"ext::sh -c '{bare.path}'", fix.commit, "refs/heads/x", ZERO_ID, {"https", "ssh", "file"})


def test_target_of_another_uid_is_refused(
    objects: ObjectStore, bare: Repository, fix: Fix, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    refused("REPOSITORY_OWNER", lambda: objects.push(str(bare.path), fix.commit, "refs/heads/x", ZERO_ID), bare)
