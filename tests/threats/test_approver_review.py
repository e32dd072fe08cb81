"""What an approver is shown is recomputed from bundle and commit, whatever the workflow says (row 6.6)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities.control.approvers import ensure_operator
from activities.forge.sealing import AUTHOR
from activities.record.chain import EventChain
from activities.record.executions import ExecutionRows
from activities.record.store import Store
from cli.approvals import _refuse_inconsistent
from cli.local import LocalStore
from cli.review import Review, review
from schemas.approval import Action, ApprovalRequest
from schemas.canonical import sha256_hex
from schemas.error import Gen4Error, InputError, Refused
from schemas.evidence import STAMP
from schemas.model import ZERO_ID
from tests.evidence.fabric import Fabric, make_fabric
from tests.evidence.workshop import POLICY_DIGEST
from tests.policy.running import RunningOpa

pytestmark = pytest.mark.usefixtures("admitted")

FIXED = b"def add(a, b):\n    return a + b\n"
DIGEST = "sha256:" + "d" * 64


@dataclass(frozen=True)
class Sealed:
    """A sealed bundle and commit, and the request that an honest workflow makes of them."""

    fabric: Fabric
    local: LocalStore
    action: Action
    key: Path

    def commit(self, tree: str | None = None, parents: tuple[str, ...] | None = None) -> str:
        source = self.fabric.source
        parents = (source.base_commit,) if parents is None else parents
        tree = tree or self.action.result_tree
        return self.local.objects.commit_tree(tree, parents, "Fix: it", AUTHOR, AUTHOR, source.commit_time + 1, self.key)

    def request(self, **changes: Any) -> ApprovalRequest:
        action = self.action.model_copy(update=changes)
        return ApprovalRequest(
            approval_id="a", action=action, action_digest=action.digest, stamp_id="s", fix="complete", requester_id="operator",
            eligible_approvers=("operator",), run_id="r", nonce="n", requested_at_ms=1, expires_at_ms=2, rollback="",
        )  # fmt: skip

    def differs(self, **changes: Any) -> set[str]:
        seen = review(self.request(**changes), self.local)
        return {name for name, ok in seen.checks.items() if not ok}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, opa: RunningOpa) -> Iterator[Sealed]:
    with make_fabric(tmp_path_factory.mktemp("review"), opa.engine, now_s=time.time) as fabric:
        key, store = ensure_operator(fabric.home), Store.open(f"sqlite:///{fabric.home.store}")
        bundle = fabric.sealed().bundle
        action = Action(
            repository=fabric.source.repository, target_ref="refs/heads/gen4/x", expected_head=ZERO_ID, commit_id="0" * 40,
            result_tree=fabric.objects.write_tree(fabric.source.base_tree, {"calc.py": FIXED}),
            bundle_digest=bundle.bundle_digest,
            stamp_sha256=sha256_hex((Path(bundle.directory) / STAMP).read_bytes()), policy_digest=POLICY_DIGEST,
            approvers_digest=DIGEST, tenant_id="local", session_id="session", mode="branch", revert="delete-branch",
        )  # fmt: skip
        mine = store.tenant("local")
        local = LocalStore(fabric.home, "local", mine, fabric.blobs, fabric.objects, EventChain(mine), ExecutionRows(mine))
        empty = Sealed(fabric, local, action, key)
        yield Sealed(fabric, local, action.model_copy(update={"commit_id": empty.commit()}), key)
        store.close()


def test_an_honest_request_is_consistent(sealed: Sealed) -> None:
    assert sealed.differs() == set()
    seen = review(sealed.request(), sealed.local)
    assert "+    return a + b" in seen.diff and seen.message == "Fix: it\n"
    _refuse_inconsistent(seen)


def test_a_commit_with_another_tree(sealed: Sealed) -> None:
    evil = sealed.local.objects.write_tree(sealed.action.result_tree, {"backdoor.py": b"import os\n"})
    commit = sealed.commit(evil)
    for changes in ({"commit_id": commit}, {"commit_id": commit, "result_tree": evil}):
        assert "the commit has the verified tree" in sealed.differs(**changes)
        seen = review(sealed.request(**changes), sealed.local)
        assert "backdoor.py" in seen.diff  # what is read is what would be delivered
        with pytest.raises(Refused, match="REVIEW_DIFFERS"):
            _refuse_inconsistent(seen)


def test_a_commit_that_brings_other_commits_along(sealed: Sealed) -> None:
    between = sealed.commit(sealed.local.objects.write_tree(sealed.action.result_tree, {"secret.py": b"x = 1\n"}))
    for parents in ((between,), (sealed.fabric.source.base_commit, between), ()):
        assert "the commit follows the verified base alone" in sealed.differs(commit_id=sealed.commit(parents=parents))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repository": "https://forge.example/other/calc.git"}, "the change goes where it was verified"),
        ({"expected_head": "1" * 40}, "the change goes where it was verified"),
        ({"bundle_digest": DIGEST}, "the bundle digest is that of its checksums"),
        ({"session_id": "another"}, "the bundle was made in this session"),
        ({"tenant_id": "another"}, "the bundle was made in this session"),
    ],
)
def test_an_action_that_is_not_what_was_verified(sealed: Sealed, changes: dict[str, Any], said: str) -> None:
    assert said in sealed.differs(**changes)


def test_a_digest_that_is_not_that_of_the_action(sealed: Sealed) -> None:
    request = sealed.request().model_copy(update={"action_digest": DIGEST})
    assert not review(request, sealed.local).checks["the action digest is that of the action"]


def test_a_bundle_that_is_not_here_is_not_imagined(sealed: Sealed) -> None:
    with pytest.raises(InputError, match="BUNDLE_NOT_FOUND"):
        review(sealed.request(stamp_sha256="1" * 64), sealed.local)
    with pytest.raises(Gen4Error, match="OBJECT"):
        review(sealed.request(commit_id="1" * 40), sealed.local)


def test_a_bundle_changed_after_sealing_fails_the_trust_gate(sealed: Sealed) -> None:
    folder = next(path for path in sealed.local.home.bundles.iterdir() if path.is_dir())
    patch = folder / "diff.patch"
    before = patch.read_bytes()
    folder.chmod(0o700)
    patch.chmod(0o600)
    try:
        patch.write_bytes(before.replace(b"a + b", b"a * b"))
        seen: Review = review(sealed.request(), sealed.local)
        assert not seen.consistent and not seen.checks["the bundle passes the Trust Gate"]
        assert "a + b" in seen.diff
    finally:
        patch.write_bytes(before)
