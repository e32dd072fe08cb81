"""A workshop that makes good bundles, and bundles with exactly one defect signed by a trusted key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import sigstore_bundle
from activities.evidence.content import Content
from activities.evidence.external import external_trajectory
from activities.evidence.members import MemberInputs, assemble, bundle_digest
from activities.evidence.seal import Established, SealFacts, sign_members, write_stamp
from activities.evidence.signing import Signer
from activities.kernel import dsse
from schemas.canonical import digest_of, jcs, sha256_hex
from schemas.capabilities import Judged, Members, SealBundle
from schemas.evidence import (
    BUILDER_ID,
    PAYLOAD_TYPE,
    PROVENANCE,
    SIGSTORE_BUNDLE,
    STAMP,
    SUBJECT_MEMBERS,
    timestamp_of,
)
from schemas.gates import Check, GateReport, MeasuredMetric
from schemas.model import BlobRef
from schemas.policy import PolicyDecision, PolicyRule
from schemas.stamp import Stamp2
from schemas.task import Source, TraceKeys
from schemas.testing import (
    Environment,
    EnvironmentLock,
    Limits,
    Outcomes,
    Patch,
    SandboxFacts,
    TestPlan,
    TestRun,
    Wheel,
    counts_of,
    outcomes_sha256,
)
from schemas.trust import Trust, Trusted
from schemas.verdict import Judgement, judge

NOW_S = 1_790_000_000
POLICY_DIGEST = "sha256:" + "5e" * 32
DIFF = b"""diff --git a/calc.py b/calc.py
index 1111111111111111111111111111111111111111..2222222222222222222222222222222222222222 100644
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""
BASE: Outcomes = {"tests/test_calc.py::test_add": "failed", "tests/test_calc.py::test_zero": "passed"}
PATCHED: Outcomes = {"tests/test_calc.py::test_add": "passed", "tests/test_calc.py::test_zero": "passed"}


def reference(data: bytes) -> BlobRef:
    return BlobRef(sha256=sha256_hex(data), size=len(data))


def make_run(outcomes: Outcomes, key: str) -> TestRun:
    sandbox = SandboxFacts(
        backend="bubblewrap", version="0.8.0", profile_sha256="ab" * 32, enforcement={"memory": "cgroup", "network": "kernel"}
    )
    return TestRun(
        status="failed" if "failed" in outcomes.values() else "passed", outcomes=reference(jcs(dict(outcomes))),
        outcomes_sha256=outcomes_sha256(outcomes), counts=counts_of(outcomes), exit_code=int("failed" in outcomes.values()),
        runner="pytest 9.2.0", run_key=key * 64, sandbox=sandbox,
    )  # fmt: skip


@dataclass
class Workshop:
    """``files`` is a good bundle; ``variant`` makes one that differs in a single respect and is properly signed."""

    signer: Signer
    trust: Trust
    inputs: MemberInputs
    request: SealBundle
    facts: SealFacts
    files: dict[str, bytes]

    @property
    def stamp(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.files[STAMP])
        return value

    @property
    def stamp_digest(self) -> str:
        return digest_of(self.files[STAMP])

    def statement(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(dsse.decode_base64(json.loads(self.files[PROVENANCE])["payload"]))
        return value

    def variant(
        self,
        *,
        members: dict[str, bytes] | None = None,
        stamp: Callable[[dict[str, Any]], None] | None = None,
        statement: Callable[[dict[str, Any]], None] | None = None,
        payload_type: str = PAYLOAD_TYPE,
        signer: Signer | None = None,
    ) -> dict[str, bytes]:
        """Change members, stamp or statement, then sign again; the subject follows the bytes unless ``statement`` says else."""
        signer = signer or self.signer
        files = {**self.files, **(members or {})}
        if stamp is not None:
            value = json.loads(files[STAMP])
            stamp(value)
            files[STAMP] = jcs(value)
        body = self.statement()
        body["subject"] = [{"name": name, "digest": {"sha256": sha256_hex(files[name])}} for name in SUBJECT_MEMBERS]
        if statement is not None:
            statement(body)
        return self.signed(files, jcs(body), payload_type, signer)

    def signed(
        self, files: dict[str, bytes], payload: bytes, payload_type: str = PAYLOAD_TYPE, signer: Signer | None = None
    ) -> dict[str, bytes]:
        signer = signer or self.signer
        envelope = signer.sign(payload_type, payload)
        bundle = sigstore_bundle.encode(sigstore_bundle.wrap(envelope, signer.hint))
        return {**files, PROVENANCE: jcs(envelope), SIGSTORE_BUNDLE: bundle}

    def remade(self, inputs: MemberInputs, stamp: Callable[[dict[str, Any]], None] | None = None) -> dict[str, bytes]:
        """A consistent bundle of other inputs: checksums, stamp and statement follow; gates stay as they were."""
        members = assemble(inputs)
        judged = judge(inputs.base_outcomes, inputs.patched_outcomes)
        request = self.request.model_copy(
            update={"rerun_bundle_digest": bundle_digest(members), "policy": inputs.policy, "source": inputs.source}
        )
        made = write_stamp(request, establish(members, judged), self.signer, self.facts)
        value = made.model_dump(mode="json", exclude_none=True)
        if stamp is not None:
            stamp(value)
        return in_memory(sign_members(members, Stamp2.model_validate(value), self.signer, BUILDER_ID))


def in_memory(files: dict[str, Content]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if isinstance(data, bytes)}


def establish(members: dict[str, Content], judgement: Judgement) -> Established:
    """What a signer would find out about two fresh runs of each tree and a re-run."""
    return Established(
        members=members, judgement=judgement, receipts=tuple(f"{number:064x}" for number in range(1, 8)), runs=2, sentinels=21,
        probe="failed_as_it_must", cache="miss", reused=False, rerun_bundle_digest=bundle_digest(members), builder_id=BUILDER_ID,
    )  # fmt: skip


def passing(gate: str, code: str) -> GateReport:
    metrics = (MeasuredMetric(name="tests", verdict="pass"),) if gate == "regression" else ()
    return GateReport.model_validate(
        {"gate": gate, "verdict": "pass", "checks": (Check(code=code, ok=True),), "metrics": metrics}
    )


def make_inputs() -> MemberInputs:
    source = Source(
        repository="https://user:secret@forge.example/team/calc.git", ref="refs/heads/main", base_commit="c0" * 20,
        base_tree="ba" * 20, commit_time=1_700_000_000,
    )  # fmt: skip
    lock = EnvironmentLock(
        base_digest="sha256:" + "d0" * 32, platform="linux/x86_64", python_version="3.11.2", profile="wheels/1", origin="request",
        wheels=(Wheel(name="pytest", version="9.2.0", sha256="b1" * 32, filename="pytest-9.2.0.whl", license="MIT"),),
    )  # fmt: skip
    patch = make_patch(source)
    rules = (PolicyRule(rule_id="patch.paths", outcome="pass"), PolicyRule(rule_id="patch.links", outcome="pass"))
    policy = PolicyDecision(
        decision="allow", policy_id="gen4.patch", policy_digest=POLICY_DIGEST, engine_name="opa", engine_version="1.22.0",
        input_sha256="1d" * 32, required_checks=("patch.paths", "patch.links"), results=rules,
    )  # fmt: skip
    return MemberInputs(
        source=source, diff=DIFF, lock=lock, plan=TestPlan(argv=("pytest", "-q")), base=make_run(BASE, "1"), base_outcomes=BASE,
        patched=make_run(PATCHED, "2"), patched_outcomes=PATCHED, judgement=judge(BASE, PATCHED), policy=policy,
        trajectory=external_trajectory(source, patch, "5a" * 32), base_packages={"libc6:amd64": "2.36-9"},
    )  # fmt: skip


def make_patch(source: Source) -> Patch:
    return Patch(
        base_tree=source.base_tree, result_tree="fe" * 20, diff=reference(DIFF), patch_sha256=sha256_hex(DIFF), paths=("calc.py",)
    )


def make_request(inputs: MemberInputs, members: dict[str, Content]) -> SealBundle:
    judged = inputs.judgement
    environment = Environment(
        environment_digest=digest_of(jcs(inputs.lock)), base_digest=inputs.lock.base_digest, lock=reference(jcs(inputs.lock)),
        python_version="3.11.2", platform="linux/x86_64",
    )  # fmt: skip
    return SealBundle(
        source=inputs.source, patch=make_patch(inputs.source), environment=environment, plan=inputs.plan, limits=Limits(),
        base=inputs.base, patched=inputs.patched, policy=inputs.policy,
        judged=Judged(
            verdict=judged.verdict, codes=judged.codes, fix=judged.fix, fail_to_pass=1, lost=0, judgement=reference(jcs(judged))
        ),
        members=Members(
            blobs={name: reference(data) for name, data in in_memory(members).items()}, bundle_digest=bundle_digest(members)
        ),
        regression=passing("regression", "REG_TEST_LOST"), determinism=passing("determinism", "DET_DIGEST"),
        rerun_bundle_digest=bundle_digest(members), runs=2, candidate_id="cand-1", explorer_name="templates",
        explorer_version="1",
    )  # fmt: skip


def trusted(signer: Signer, now_s: int = NOW_S - 3600) -> Trusted:
    return signer.trusted(now_s)


def make_trust(*signers: Trusted, policies: tuple[str, ...] = (POLICY_DIGEST,)) -> Trust:
    return Trust(
        version=1, issued_at=timestamp_of(NOW_S - 3600), expires_at=timestamp_of(NOW_S + 86_400), assurance="single_operator",
        signers=signers, policy_digests=policies,
    )  # fmt: skip


def make_workshop(signer: Signer | None = None) -> Workshop:
    signer = signer or Signer(ec.generate_private_key(ec.SECP256R1()))
    inputs = make_inputs()
    members = assemble(inputs)
    request = make_request(inputs, members)
    facts = SealFacts(
        keys=TraceKeys(tenant_id="local", trace_id="t" * 8, session_id="s" * 8, task_id="task-1"),
        capability_id="evidence.seal_bundle", capability_version="1", gen4_version="0.1.0", git_version="2.39.5", created_s=NOW_S,
    )  # fmt: skip
    stamp = write_stamp(request, establish(members, inputs.judgement), signer, facts)
    files = in_memory(sign_members(members, stamp, signer, BUILDER_ID))
    return Workshop(signer, make_trust(trusted(signer)), inputs, request, facts, files)
