"""Recompute an approval's action from what is really there: the bundle's bytes and the sealed commit (threats 6.6)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activities.evidence.keys import TRUST_FILE, load_trust
from activities.evidence.verification import verify_bundle
from cli.local import LocalStore
from schemas.approval import Action, ApprovalRequest
from schemas.canonical import digest_of, sha256_hex
from schemas.error import InputError
from schemas.gates import GateReport


@dataclass(frozen=True)
class Review:
    """``checks``: what was recomputed and whether it equals the request."""

    request: ApprovalRequest
    diff: str
    checks: dict[str, bool]
    trust_gate: GateReport

    @property
    def consistent(self) -> bool:
        return all(self.checks.values())

    def document(self, workflow_id: str) -> dict[str, Any]:
        return {
            "workflow_id": workflow_id, "consistent": self.consistent, "checks": self.checks, "diff": self.diff,
            "request": self.request.model_dump(mode="json"), "trust_gate": self.trust_gate.model_dump(mode="json"),
        }  # fmt: skip


def review(request: ApprovalRequest, local: LocalStore) -> Review:
    action = request.action
    bundle = bundle_directory(local, action)
    trust = load_trust(local.home.keys / TRUST_FILE)
    report = verify_bundle(bundle, trust, objects=local.objects, now_ms=time.time_ns() // 1_000_000)
    commit = local.objects.commit(action.commit_id)
    checks = {
        "the action digest is that of the action": action.digest == request.action_digest,
        "the bundle passes the Trust Gate": report.verdict == "pass",
        "the bundle digest is that of its checksums": digest_of((bundle / "checksums.sha256").read_bytes())
        == action.bundle_digest,
        "the stamp is the approved one": sha256_hex((bundle / "stamp.json").read_bytes()) == action.stamp_sha256,
        "the commit has the verified tree": commit.tree == action.result_tree,
    }
    diff = (bundle / "diff.patch").read_text("utf-8", "replace")
    return Review(request=request, diff=diff, checks=checks, trust_gate=report)


def bundle_directory(local: LocalStore, action: Action) -> Path:
    """The sealed bundle with the approved stamp. Raises InputError(BUNDLE_NOT_FOUND)."""
    for folder in sorted(local.home.bundles.iterdir()):
        stamp = folder / "stamp.json"
        if stamp.is_file() and sha256_hex(stamp.read_bytes()) == action.stamp_sha256:
            return folder
    raise InputError("BUNDLE_NOT_FOUND", "no bundle here has the stamp of this request", "look on the machine that compiled it")
