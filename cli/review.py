"""Recompute an approval's action from what is really there: the bundle's bytes and the sealed commit (threats 6.6)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from activities.evidence.reading import read_stamp
from activities.evidence.sources import public_repository
from activities.evidence.trusting import TRUST_FILE, load_trust
from activities.evidence.verification import verify_bundle
from cli.local import LocalStore
from schemas.approval import Action, ApprovalRequest
from schemas.canonical import StrictJsonError, digest_of, sha256_hex
from schemas.error import InputError
from schemas.evidence import PATCH, STAMP
from schemas.gates import GateReport
from schemas.model import ZERO_ID
from schemas.stamp import AnyStamp, StampSource


@dataclass(frozen=True)
class Review:
    """``checks``: what was recomputed and whether it equals the request. ``diff``, ``message``: of the commit itself."""

    request: ApprovalRequest
    diff: str
    message: str
    checks: dict[str, bool]
    trust_gate: GateReport

    @property
    def consistent(self) -> bool:
        return all(self.checks.values())

    def document(self, workflow_id: str) -> dict[str, Any]:
        return {
            "workflow_id": workflow_id, "consistent": self.consistent, "checks": self.checks, "diff": self.diff,
            "message": self.message, "request": self.request.model_dump(mode="json"),
            "trust_gate": self.trust_gate.model_dump(mode="json"),
        }  # fmt: skip


def review(request: ApprovalRequest, local: LocalStore) -> Review:
    action = request.action
    bundle = bundle_directory(local, action)
    trust = load_trust(local.home.keys / TRUST_FILE)
    report = verify_bundle(bundle, trust, objects=local.objects, now_ms=time.time_ns() // 1_000_000)
    commit, source = local.objects.commit(action.commit_id), stamp_of(bundle).source
    checks = {
        "the action digest is that of the action": action.digest == request.action_digest,
        "the bundle passes the Trust Gate": report.verdict == "pass",
        "the bundle digest is that of its checksums": digest_of((bundle / "checksums.sha256").read_bytes())
        == action.bundle_digest,
        "the stamp is the approved one": sha256_hex((bundle / "stamp.json").read_bytes()) == action.stamp_sha256,
        "the commit has the verified tree": commit.tree == action.result_tree == source.result_tree,
        "the commit follows the verified base alone": commit.parents == (source.base_commit,),
        "the change goes where it was verified": goes_to_source(action, source),
        "the bundle was made in this session": session_of(bundle) == (action.tenant_id, action.session_id),
    }
    # What is read is what the commit does: git's own diff of the two commits, not a text that somebody sent along.
    diff = local.objects.diff(local.objects.commit(source.base_commit).tree, commit.tree)
    checks["the diff in the evidence is that of the commit"] = diff == (bundle / PATCH).read_bytes()
    # Bytes that are no UTF-8 are shown as they are, so that no two different ones look alike.
    return Review(request, diff.decode("utf-8", "backslashreplace"), commit.message, checks, report)


def goes_to_source(action: Action, source: StampSource) -> bool:
    """The repository is the one of the stamp; its ref is new, or still at the verified base."""
    return public_repository(action.repository) == source.repo and action.expected_head in (ZERO_ID, source.base_commit)


def stamp_of(bundle: Path) -> AnyStamp:
    """Raises InputError(BUNDLE_NOT_FOUND) for a stamp that no verifier would read."""
    try:
        return read_stamp((bundle / STAMP).read_bytes())
    except (StrictJsonError, ValidationError) as error:
        raise InputError("BUNDLE_NOT_FOUND", f"{bundle} has no readable stamp", "start a new remediation") from error


def session_of(bundle: Path) -> tuple[str, str]:
    stamp = stamp_of(bundle)
    return stamp.tenant_id, stamp.session_id


def bundle_directory(local: LocalStore, action: Action) -> Path:
    """The sealed bundle with the approved stamp. Raises InputError(BUNDLE_NOT_FOUND)."""
    for folder in sorted(local.home.bundles.iterdir()):
        stamp = folder / "stamp.json"
        if stamp.is_file() and sha256_hex(stamp.read_bytes()) == action.stamp_sha256:
            return folder
    raise InputError("BUNDLE_NOT_FOUND", "no bundle here has the stamp of this request", "look on the machine that compiled it")
