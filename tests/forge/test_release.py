"""Sealing and delivering, on real repositories: bare, checked out, moved, hostile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.forge.activities import ForgeActivities
from activities.forge.sealing import SUBJECT_CHARS, message_of, target_of
from activities.kernel.acting import as_acting
from activities.kernel.rechecking import as_rechecked
from activities.kernel.repositories import RepositoryRules
from activities.record.objects import ObjectStore
from schemas.approval import ApprovalRequest
from schemas.capabilities import FetchSource, SealCommit, SealedCommit
from schemas.error import InputError, Refused
from schemas.model import ZERO_ID
from schemas.request import BundleRef, ReleaseMode, ReleaseRequest
from schemas.task import Source
from tests.control.conftest import SHA, Desk
from tests.e2e.harness import BUGGY, git, write_repository


class Case:
    """A repository with one commit, a fix for it in our store, and a desk where it can be approved."""

    def __init__(self, folder: Path, *, bare: bool) -> None:
        self.folder = folder
        self.stopped: Refused | None = None
        write_repository(folder / "work", BUGGY)
        self.repository = folder / "work"
        if bare:
            self.repository = folder / "bare.git"
            git(folder, "clone", "-q", "--bare", str(folder / "work"), str(self.repository))
        self.desk = Desk(folder)
        self.objects = ObjectStore.open(self.desk.home.objects)
        self.forge = ForgeActivities(
            self.desk.tenant, self.objects, self.desk.home.objects, self.desk.home.keys, self.desk.policy,
            RepositoryRules((folder,)), clock=lambda: self.desk.now,
        )  # fmt: skip
        self.source: Source = self.do("fetch_source", FetchSource(repository=str(self.repository), ref="refs/heads/main"))
        self.tree = self.objects.write_tree(self.source.base_tree, {"src/shop/price.py": b"fixed = True\n"})

    def recheck(self) -> None:
        """What the gate would read again; a test may make it refuse."""
        if self.stopped is not None:
            raise self.stopped

    def do(self, name: str, request: Any, call: str | None = None) -> Any:
        with as_acting(self.desk.who(call)), as_rechecked(self.recheck):
            return getattr(self.forge, name)(request)

    def seal(self, mode: ReleaseMode = "branch", target: str | None = None) -> SealedCommit:
        bundle = BundleRef(directory="/bundle", bundle_digest=SHA, stamp_id="stm_" + "0" * 32, stamp_sha256="b" * 64)
        request = SealCommit(
            source=self.source, result_tree=self.tree, bundle=bundle, goal="clamp is wrong", explorer="gen4:templates/1",
            mode=mode, target=target,
        )  # fmt: skip
        sealed: SealedCommit = self.do("seal_commit", request)
        return sealed

    def approve(self, sealed: SealedCommit, mode: ReleaseMode = "branch", *, redeem: bool = True) -> ReleaseRequest:
        asked: ApprovalRequest = self.desk.ask(
            repository=self.source.repository, target_ref=sealed.target_ref, expected_head=sealed.expected_head,
            commit_id=sealed.commit_id, result_tree=self.tree, mode=mode,
        )  # fmt: skip
        assert self.desk.judge(asked, self.desk.signed(asked)).accepted
        if redeem:
            self.desk.redeem(asked)
        return ReleaseRequest(
            repository=self.source.repository, approval_id=asked.approval_id, action_digest=asked.action_digest,
            commit_id=sealed.commit_id, expected_head=sealed.expected_head, target_ref=sealed.target_ref, mode=mode,
            session_id="s",
        )  # fmt: skip

    def deliver(self, request: ReleaseRequest) -> str:
        result = self.do("deliver", request)
        assert result.release is not None
        return str(result.release.commit)

    def head(self, ref: str) -> str:
        return git(self.repository, "for-each-ref", "--format=%(objectname)", ref)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path, bare=True)
    yield case
    case.desk.store.close()


@pytest.fixture
def checked_out(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path, bare=False)
    yield case
    case.desk.store.close()


def test_sealing_the_same_change_again_gives_the_same_signed_commit_and_publishes_nothing(bare: Case) -> None:
    first, second = bare.seal(), bare.seal()
    assert first == second
    assert (first.target_ref, first.expected_head) == ("refs/heads/gen4/task", ZERO_ID)
    info = bare.objects.commit(first.commit_id)
    assert (info.parents, info.tree, info.signed) == ((bare.source.base_commit,), bare.tree, True)
    assert info.author == info.committer == "gen4 <gen4@localhost>"
    assert info.commit_time == bare.source.commit_time + 1
    assert git(bare.repository, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_delivering_twice_changes_the_repository_once_and_records_it_once(bare: Case) -> None:
    sealed = bare.seal()
    request = bare.approve(sealed)
    assert bare.deliver(request) == bare.deliver(request) == sealed.commit_id
    assert bare.head("refs/heads/gen4/task") == sealed.commit_id
    assert git(bare.repository, "rev-list", "--count", "refs/heads/gen4/task") == "2"
    assert bare.desk.kinds().count("change.opened") == 1


def test_what_was_delivered_in_time_is_found_later(bare: Case) -> None:
    request = bare.approve(bare.seal())
    bare.deliver(request)
    bare.desk.now += 10_000_000
    assert bare.deliver(request) == request.commit_id


def test_a_merge_moves_the_branch_from_exactly_the_approved_head(bare: Case) -> None:
    sealed = bare.seal("merge")
    assert sealed.expected_head == bare.source.base_commit
    bare.deliver(bare.approve(sealed, "merge"))
    assert bare.head("refs/heads/main") == sealed.commit_id
    assert bare.desk.kinds()[-1] == "change.merged"


def test_a_branch_that_others_built_on_our_commit_counts_as_delivered(bare: Case, tmp_path: Path) -> None:
    request = bare.approve(bare.seal("merge"), "merge")
    bare.deliver(request)
    git(tmp_path, "clone", "-q", str(bare.repository), str(tmp_path / "other"))
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "next")
    git(tmp_path / "other", "push", "-q", "origin", "main")
    assert bare.deliver(request) == request.commit_id


def test_a_target_that_moved_elsewhere_is_refused_and_stays_as_it_is(bare: Case, tmp_path: Path) -> None:
    request = bare.approve(bare.seal("merge"), "merge")
    git(tmp_path / "work", "commit", "-q", "--allow-empty", "-m", "someone else")
    git(tmp_path / "work", "push", "-q", str(bare.repository), "main")
    head = bare.head("refs/heads/main")
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.deliver(request)
    assert bare.head("refs/heads/main") == head
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.seal("merge")


def test_a_branch_name_that_is_taken_is_refused(bare: Case) -> None:
    request = bare.approve(bare.seal())
    git(bare.repository, "update-ref", "refs/heads/gen4/task", bare.source.base_commit)
    with pytest.raises(Refused, match="TARGET_CHANGED"):
        bare.deliver(request)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"approval_id": "another"}, "UNKNOWN_APPROVAL"),
        ({"action_digest": "sha256:" + "0" * 64}, "DIGEST_MISMATCH"),
        ({"target_ref": "refs/heads/main"}, "DIGEST_MISMATCH"),
        ({"commit_id": "3" * 40}, "DIGEST_MISMATCH"),
        ({"expected_head": "3" * 40}, "DIGEST_MISMATCH"),
        ({"mode": "merge"}, "DIGEST_MISMATCH"),
        ({"session_id": "other"}, "DIGEST_MISMATCH"),
        ({"repository": "/elsewhere"}, "DIGEST_MISMATCH"),
    ],
)
def test_nothing_but_the_approved_action_is_delivered(bare: Case, change: dict[str, Any], code: str) -> None:
    request = bare.approve(bare.seal())
    with pytest.raises(Refused) as refused:
        bare.deliver(request.model_copy(update=change))
    assert refused.value.code == code
    assert bare.head("refs/heads/gen4") == ""


def test_an_approval_that_was_not_redeemed_delivers_nothing(bare: Case) -> None:
    with pytest.raises(Refused, match="APPROVAL_REQUIRED"):
        bare.deliver(bare.approve(bare.seal(), redeem=False))
    assert bare.head("refs/heads/gen4") == ""


def test_time_and_policy_are_read_again_before_the_push(bare: Case) -> None:
    request = bare.approve(bare.seal())
    digest, bare.desk.policy.policy_digest = bare.desk.policy.policy_digest, "sha256:" + "d" * 64
    with pytest.raises(Refused, match="POLICY_CHANGED"):
        bare.deliver(request)
    bare.desk.policy.policy_digest = digest
    bare.desk.now += 500
    with pytest.raises(Refused, match="EXPIRED"):
        bare.deliver(request)
    assert bare.head("refs/heads/gen4") == ""


def test_a_checked_out_branch_and_its_working_tree_are_never_touched(checked_out: Case) -> None:
    before = checked_out.head("refs/heads/main")
    git(checked_out.repository, "config", "receive.denyCurrentBranch", "updateInstead")
    with pytest.raises(Refused, match="TARGET_CHECKED_OUT"):
        checked_out.seal("merge")
    checked_out.deliver(checked_out.approve(checked_out.seal()))
    assert checked_out.head("refs/heads/main") == before
    assert git(checked_out.repository, "status", "--porcelain") == ""


def test_a_branch_that_is_checked_out_after_the_approval_is_refused(bare: Case, tmp_path: Path) -> None:
    request = bare.approve(bare.seal("merge"), "merge")
    git(bare.repository, "worktree", "add", "-q", str(tmp_path / "tree"), "main")
    with pytest.raises(Refused, match="TARGET_CHECKED_OUT"):
        bare.deliver(request)
    assert bare.head("refs/heads/main") == bare.source.base_commit


def test_hooks_of_the_target_do_not_run(bare: Case, tmp_path: Path) -> None:
    for hook in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "push-to-checkout"):
        path = bare.repository / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{hook}\n")
        path.chmod(0o755)
    bare.deliver(bare.approve(bare.seal()))
    assert list(tmp_path.glob("ran-*")) == []


def test_a_merge_of_a_detached_start_needs_a_target(bare: Case) -> None:
    bare.source = bare.source.model_copy(update={"ref": bare.source.base_commit})
    with pytest.raises(Refused, match="TARGET_UNKNOWN"):
        bare.seal("merge")
    assert bare.seal("merge", target="main").target_ref == "refs/heads/main"


@pytest.mark.parametrize("target", ["refs/tags/v1", "refs/remotes/origin/main"])
def test_only_a_branch_can_be_fast_forwarded(bare: Case, target: str) -> None:
    with pytest.raises(Refused, match="TARGET_UNKNOWN"):
        target_of("merge", target, bare.source, "task")


@pytest.mark.parametrize("target", ["x.lock", "a..b", "a b", "a~1"])
def test_a_target_that_is_no_name_is_refused(bare: Case, target: str) -> None:
    with pytest.raises(InputError, match="REF_INVALID"):
        bare.seal("merge", target=target)


def test_a_repository_outside_the_roots_is_refused_at_every_use(bare: Case) -> None:
    with pytest.raises(InputError, match="REPOSITORY_OUTSIDE_ROOTS"):
        bare.do("fetch_source", FetchSource(repository="/etc", ref="HEAD"))
    bare.source = bare.source.model_copy(update={"repository": "/etc"})
    with pytest.raises(InputError, match="REPOSITORY_OUTSIDE_ROOTS"):
        bare.seal()


@given(st.text())
def test_a_goal_can_only_fill_the_subject_line(goal: str) -> None:
    lines = message_of(goal, explorer="gen4:templates/1", task_id="task", bundle_digest=SHA).split("\n")
    assert lines[0].startswith("Fix: ")
    assert len(lines[0]) <= SUBJECT_CHARS
    assert lines[1:] == ["", "Assisted-by: gen4:templates/1", "Gen4-Task: task", f"Gen4-Evidence: {SHA}", ""]


@pytest.mark.parametrize("code", ["KILL_SWITCH", "LEASE_REVOKED"])
def test_what_was_stopped_after_the_approval_was_redeemed_is_not_pushed(bare: Case, code: str) -> None:
    request = bare.approve(bare.seal())
    bare.stopped = Refused(code, "an operator stopped it")
    with pytest.raises(Refused, match=code):
        bare.deliver(request)
    assert request.target_ref not in git(bare.repository, "for-each-ref")
    bare.stopped = None
    assert bare.deliver(request)
