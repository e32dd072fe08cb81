"""Sealing and delivering, on real repositories: bare, checked out, moved, hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.forge.delivery import deliver
from activities.forge.message import SUBJECT_CHARS, commit_message
from activities.forge.sealing import ensure_key, seal_commit
from activities.kernel.repositories import Admitted
from activities.record.objects import ObjectStore
from schemas.capabilities import SealCommit, SealedCommit
from schemas.error import InputError, Refused
from schemas.model import ZERO_ID
from schemas.request import BundleRef, ReleaseMode, ReleaseRequest
from schemas.task import Source
from tests.e2e.harness import BUGGY, git, write_repository

DIGEST = "sha256:" + "a" * 64


class Case:
    """A repository with one commit, and a fix for it in our store."""

    def __init__(self, folder: Path, bare: bool) -> None:
        write_repository(folder / "work", BUGGY)
        self.repository = folder / "work"
        if bare:
            self.repository = folder / "bare.git"
            git(folder, "clone", "-q", "--bare", str(folder / "work"), str(self.repository))
        self.objects = ObjectStore.open(folder / "objects.git")
        found = self.objects.fetch(str(self.repository), "refs/heads/main", {"file"})
        self.source = Source(
            repository=str(self.repository), ref=found.ref, base_commit=found.commit, base_tree=found.tree,
            commit_time=found.commit_time,
        )  # fmt: skip
        self.tree = self.objects.write_tree(found.tree, {"src/shop/price.py": b"fixed = True\n"})
        self.to = Admitted(str(self.repository), "file")
        (folder / "keys").mkdir()
        self.key = ensure_key(folder / "keys")

    def seal(self, mode: ReleaseMode = "branch", target: str | None = None) -> SealedCommit:
        bundle = BundleRef(directory="/bundle", bundle_digest=DIGEST, stamp_id="stm_" + "0" * 32, stamp_sha256="b" * 64)
        request = SealCommit(
            source=self.source, result_tree=self.tree, bundle=bundle, goal="clamp is wrong", explorer="gen4:templates/1", mode=mode,
            target=target,
        )  # fmt: skip
        return seal_commit(self.objects, self.key, request, "task-1", self.to)

    def request(self, sealed: SealedCommit, mode: ReleaseMode = "branch") -> ReleaseRequest:
        return ReleaseRequest(
            repository=str(self.repository), approval_id="approval", action_digest=DIGEST, commit_id=sealed.commit_id,
            expected_head=sealed.expected_head, target_ref=sealed.target_ref, mode=mode, session_id="session",
        )  # fmt: skip

    def deliver(self, sealed: SealedCommit, mode: ReleaseMode = "branch") -> str:
        result = deliver(self.objects, self.request(sealed, mode), self.to)
        assert result.release is not None
        return result.release.commit


@pytest.fixture
def bare(tmp_path: Path) -> Case:
    return Case(tmp_path, bare=True)


@pytest.fixture
def checked_out(tmp_path: Path) -> Case:
    return Case(tmp_path, bare=False)


def test_sealing_the_same_change_again_gives_the_same_commit_and_publishes_nothing(bare: Case) -> None:
    first, second = bare.seal(), bare.seal()
    assert first == second
    assert first.expected_head == ZERO_ID
    assert git(bare.repository, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_delivering_twice_changes_the_repository_once(bare: Case) -> None:
    sealed = bare.seal()
    assert bare.deliver(sealed) == bare.deliver(sealed) == sealed.commit_id
    assert git(bare.repository, "rev-parse", "refs/heads/gen4/task-1") == sealed.commit_id
    assert git(bare.repository, "rev-list", "--count", "refs/heads/gen4/task-1") == "2"


def test_a_merge_moves_the_branch_from_exactly_the_approved_head(bare: Case) -> None:
    sealed = bare.seal("merge")
    assert sealed.expected_head == bare.source.base_commit
    bare.deliver(sealed, "merge")
    assert git(bare.repository, "rev-parse", "main") == sealed.commit_id


def test_a_branch_that_others_built_on_our_commit_counts_as_delivered(bare: Case, tmp_path: Path) -> None:
    sealed = bare.seal("merge")
    bare.deliver(sealed, "merge")
    git(tmp_path, "clone", "-q", str(bare.repository), str(tmp_path / "other"))
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "next")
    git(tmp_path / "other", "push", "-q", "origin", "main")
    assert bare.deliver(sealed, "merge") == sealed.commit_id


def test_a_target_that_moved_elsewhere_is_refused_and_stays_as_it_is(bare: Case, tmp_path: Path) -> None:
    sealed = bare.seal("merge")
    git(tmp_path / "work", "commit", "-q", "--allow-empty", "-m", "someone else")
    git(tmp_path / "work", "push", "-q", str(bare.repository), "main")
    head = git(bare.repository, "rev-parse", "main")
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.deliver(sealed, "merge")
    assert git(bare.repository, "rev-parse", "main") == head
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.seal("merge")


def test_a_branch_name_that_is_taken_is_refused(bare: Case) -> None:
    sealed = bare.seal()
    git(bare.repository, "update-ref", "refs/heads/gen4/task-1", bare.source.base_commit)
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.deliver(sealed)


def test_a_checked_out_branch_and_its_working_tree_are_never_touched(checked_out: Case) -> None:
    before = git(checked_out.repository, "rev-parse", "main")
    with pytest.raises(Refused, match="TARGET_CHECKED_OUT"):
        checked_out.deliver(checked_out.seal("merge"), "merge")
    assert git(checked_out.repository, "rev-parse", "main") == before
    assert git(checked_out.repository, "status", "--porcelain") == ""
    checked_out.deliver(checked_out.seal())
    assert git(checked_out.repository, "status", "--porcelain") == ""


def test_hooks_of_the_target_do_not_run(bare: Case, tmp_path: Path) -> None:
    for hook in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction"):
        path = bare.repository / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{hook}\n")
        path.chmod(0o755)
    bare.deliver(bare.seal())
    assert list(tmp_path.glob("ran-*")) == []


def test_a_merge_of_a_detached_start_needs_a_target(checked_out: Case) -> None:
    detached = checked_out.source.model_copy(update={"ref": checked_out.source.base_commit})
    checked_out.source = detached
    with pytest.raises(InputError, match="TARGET_UNKNOWN"):
        checked_out.seal("merge")
    assert checked_out.seal("merge", target="main").target_ref == "refs/heads/main"


@given(st.text())
def test_a_goal_can_only_fill_the_subject_line(goal: str) -> None:
    lines = commit_message(goal, "task", "gen4:templates/1", DIGEST).split("\n")
    assert lines[0].startswith("Fix")
    assert len(lines[0]) <= SUBJECT_CHARS
    assert lines[1:] == commit_message("", "task", "gen4:templates/1", DIGEST).split("\n")[1:]
