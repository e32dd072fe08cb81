"""Assemble, seal and verify with the real stores: what is signed follows from what was recorded, or nothing is signed."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities.compile.activities import CompileActivities
from activities.evidence.activities import EvidenceActivities, EvidencePorts, SigningActivities
from activities.evidence.keys import ensure_trust, load_signer, load_trust
from activities.evidence.verification import verify_bundle
from activities.kernel.acting import Acting, as_acting
from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.record.home import Home
from activities.record.objects import ObjectStore
from activities.verify.activities import VerifyActivities
from activities.verify.regression import regression_report, tests_metric
from schemas.canonical import digest_of, jcs
from schemas.capabilities import (
    AssembleMembers,
    DeterminismInput,
    ImportPatch,
    Judged,
    JudgeRuns,
    Members,
    ReadMembers,
    SealBundle,
    SealedBundle,
    VerifyBundle,
)
from schemas.error import Gen4Error
from schemas.event import Actor
from schemas.evidence import CHECKSUMS, OPTIONAL_MEMBERS, PATCH, REQUIRED_MEMBERS, STABLE_MEMBERS, TEST_RESULTS, TRAJECTORY
from schemas.gates import GateReport
from schemas.model import BlobRef
from schemas.task import Source, TraceKeys
from schemas.testing import Environment, Limits, Outcomes, Patch, TestRun
from schemas.verdict import Judgement
from tests.evidence.workshop import BASE, NOW_S, PATCHED, POLICY_DIGEST, make_inputs, make_run

pytestmark = pytest.mark.usefixtures("admitted")

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
PACKAGES = {"libc6:amd64": "2.36-9"}


def who(task: str = "task-1", effect: str = "task-1:seal") -> Acting:
    keys = TraceKeys(tenant_id="local", trace_id="trace", session_id="session", task_id=task)
    actor = Actor(principal_id="local:operator", kind="human")
    return Acting(
        keys=keys, actor=actor, phase="compile", workflow_id="w", run_id="r", effect_key=effect, attempt_key=f"{effect}/1",
        attempt=1,
    )  # fmt: skip


@dataclass
class Fabric:
    """The stores of one state directory with a repository of one commit in them."""

    home: Home
    blobs: BlobStore
    objects: ObjectStore
    ports: EvidencePorts
    source: Source
    evidence: EvidenceActivities
    signing: SigningActivities
    verify: VerifyActivities
    compile: CompileActivities

    def imported(self) -> Patch:
        edits = {"calc.py": b"def add(a, b):\n    return a + b\n"}
        diff = self.objects.diff(self.source.base_tree, self.objects.write_tree(self.source.base_tree, edits))
        return self.compile.import_patch(ImportPatch(source=self.source, patch=diff.decode())).patch

    def run(self, outcomes: Outcomes, key: str) -> TestRun:
        return make_run(outcomes, key).model_copy(update={"outcomes": self.blobs.put(jcs(dict(outcomes)))})

    def assembling(self, trajectory: bytes | None = None) -> AssembleMembers:
        inputs = make_inputs()
        base, patched = self.run(BASE, "1"), self.run(PATCHED, "2")
        environment = Environment(
            environment_digest="sha256:" + "e0" * 32, base_digest=inputs.lock.base_digest, lock=self.blobs.put(jcs(inputs.lock)),
            python_version="3.11.2", platform="linux/x86_64",
        )  # fmt: skip
        return AssembleMembers(
            source=self.source, patch=self.imported(), environment=environment, plan=inputs.plan, base=base, patched=patched,
            judged=self.verify.judge_runs(JudgeRuns(base=(base, base), patched=(patched, patched))), policy=inputs.policy,
            trajectory=None if trajectory is None else self.blobs.put(trajectory),
        )  # fmt: skip

    def regression(self, judged: Judged) -> GateReport:
        judgement = Judgement.model_validate_json(self.blobs.get(judged.judgement))
        metrics = [metric] if (metric := tests_metric(judgement)) else []
        return regression_report(
            judgement, self.source.base_commit, metrics, lambda question: self.verify._policy.decide("gen4.metrics", question),
            now="2026-01-01T00:00:00Z",
        )  # fmt: skip

    def sealing(self, trajectory: bytes | None = None) -> SealBundle:
        """The request of a workflow in which everything went well, re-run and both gates included."""
        request = self.assembling(trajectory)
        members = self.evidence.assemble_members(request)
        reread = self.compile.import_patch(self.evidence.reread_patch(ReadMembers(members=members, source=self.source)))
        rerun = self.evidence.assemble_members(request.model_copy(update={"patch": reread.patch}))
        gates: dict[str, GateReport] = {
            "regression": self.regression(request.judged),
            "determinism": self.verify.determinism_gate(
                DeterminismInput(first=members, rerun=rerun, runs=2, isolation="fresh_sandbox")
            ),
        }
        fields = {name: getattr(request, name) for name in AssembleMembers.model_fields if name != "trajectory"}
        return SealBundle(
            **fields, **gates, limits=Limits(), members=members, rerun_bundle_digest=rerun.bundle_digest, runs=2,
            candidate_id="cand-1", explorer_name="external", explorer_version="1",
        )  # fmt: skip

    def sealed(self) -> SealedBundle:
        with as_acting(who()):
            return self.signing.seal_bundle(self.sealing())

    def trust_gate(self, sealed: SealedBundle, **changes: Any) -> GateReport:
        with as_acting(who(task=changes.pop("task", "task-1"))):
            source = changes.pop("source", self.source)
            return self.evidence.trust_gate(VerifyBundle(bundle=sealed.bundle.model_copy(update=changes), source=source))


@pytest.fixture
def fabric(tmp_path: Path, policy: PolicyPort) -> Iterator[Fabric]:
    home = Home.open(tmp_path / "home")
    blobs, objects = BlobStore(home.blobs, "local"), ObjectStore.open(home.objects)
    files = {"calc.py": b"def add(a, b):\n    return a - b\n", "tests/test_calc.py": b"from calc import add\n"}
    source = make_inputs().source.model_copy(update={"base_tree": objects.write_tree(EMPTY_TREE, files)})
    signer = load_signer(home.keys)
    ports = EvidencePorts(
        blobs=blobs, objects=objects, bundles=home.bundles, trust=ensure_trust(home.keys, signer, (POLICY_DIGEST,), NOW_S - 60),
        base_packages=lambda _: PACKAGES, gen4_version="0.1.0", git_version="2.39.5", now_s=lambda: float(NOW_S),
    )  # fmt: skip
    yield Fabric(
        home, blobs, objects, ports, source, EvidenceActivities(ports), SigningActivities(ports, signer),
        VerifyActivities(blobs, policy),
        CompileActivities(blobs, objects),
    )  # fmt: skip
    for folder in home.bundles.iterdir():
        folder.chmod(0o700)


# --- members ----------------------------------------------------------------------------------------------------------


def test_members_1_to_6_are_the_same_bytes_on_a_second_assembly(fabric: Fabric) -> None:
    request = fabric.assembling()
    first, second = (fabric.evidence.assemble_members(request) for _ in range(2))
    assert first == second and tuple(sorted(first.blobs)) == tuple(sorted(STABLE_MEMBERS))
    assert first.bundle_digest == digest_of(fabric.blobs.get(first.blobs[CHECKSUMS]))


def test_the_order_in_which_things_were_found_leaves_no_trace(fabric: Fabric) -> None:
    request = fabric.assembling()
    reordered = request.model_copy(
        update={
            "base": fabric.run(dict(reversed(BASE.items())), "1"),
            "policy": request.policy.model_copy(update={"results": request.policy.results[::-1]}),
        }
    )
    assert fabric.evidence.assemble_members(reordered) == fabric.evidence.assemble_members(request)


def test_members_hold_no_machine_path_and_no_time_of_the_run(fabric: Fabric) -> None:
    members = fabric.evidence.assemble_members(fabric.assembling())
    content = b"".join(fabric.blobs.get(ref) for ref in members.blobs.values())
    assert str(fabric.home.root).encode() not in content
    assert b"2026-" not in content


def test_a_patch_without_exploration_has_a_trajectory_of_one_external_step(fabric: Fabric) -> None:
    request = fabric.assembling()
    members = fabric.evidence.assemble_members(request)
    (line,) = fabric.blobs.get(members.blobs[TRAJECTORY]).splitlines()
    step = json.loads(line)
    assert (step["agent_id"], step["timestamp"]) == ("external", "2023-11-14T22:13:20Z")
    assert step["snapshot_hash"] == fabric.objects.snapshot_hash(request.patch.result_tree)


def test_the_trajectory_of_a_candidate_is_kept_as_it_is(fabric: Fabric) -> None:
    trajectory = b'{"seq":1}\n{"seq":2}\n'
    members = fabric.evidence.assemble_members(fabric.assembling(trajectory))
    assert fabric.blobs.get(members.blobs[TRAJECTORY]) == trajectory


@pytest.mark.parametrize("trajectory", [b"", b'{"seq":1}', b'{"a":1,"a":2}\n', b"\n", b'{"a":NaN}\n'])
def test_a_trajectory_that_no_verifier_would_take_is_refused(fabric: Fabric, trajectory: bytes) -> None:
    assert _refusal(lambda: fabric.evidence.assemble_members(fabric.assembling(trajectory))) == "BUNDLE_MEMBER_INVALID"


def test_a_verdict_that_does_not_follow_from_the_outcomes_is_refused(fabric: Fabric) -> None:
    request = fabric.assembling()
    forged = request.model_copy(update={"patched": fabric.run(BASE, "2")})
    assert _refusal(lambda: fabric.evidence.assemble_members(forged)) == "VERDICT_MISMATCH"


# --- sealing ----------------------------------------------------------------------------------------------------------


def _refusal(action: Any) -> str:
    with pytest.raises(Gen4Error) as caught:
        action()
    assert caught.value.remedy
    return caught.value.code


def test_a_sealed_bundle_passes_the_trust_gate_and_offline_verification(fabric: Fabric) -> None:
    sealed = fabric.sealed()
    report = fabric.trust_gate(sealed)
    assert report.verdict == "pass" and all(check.checked and check.ok for check in report.checks)
    trust = load_trust(Path(sealed.trust))
    assert verify_bundle(Path(sealed.bundle.directory), trust, now_ms=NOW_S * 1000).verdict == "pass"


def test_a_sealed_bundle_is_read_only_and_complete(fabric: Fabric) -> None:
    directory = Path(fabric.sealed().bundle.directory)
    assert sorted(path.name for path in directory.iterdir()) == sorted((*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS))
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o555
    assert [path.name for path in fabric.home.bundles.iterdir()] == [directory.name]


def test_a_later_attempt_finds_the_bundle_of_the_earlier_one(fabric: Fabric) -> None:
    assert fabric.sealed() == fabric.sealed()
    assert len(list(fabric.home.bundles.iterdir())) == 1


def test_what_a_killed_attempt_left_is_removed(fabric: Fabric) -> None:
    name = Path(fabric.sealed().bundle.directory).name
    sealed = fabric.home.bundles / name
    sealed.chmod(0o700)
    for path in sealed.iterdir():
        path.unlink()
    os.rename(sealed, fabric.home.bundles / f".sealing-{name}-dead")
    assert Path(fabric.sealed().bundle.directory) == sealed
    assert [path.name for path in fabric.home.bundles.iterdir()] == [name]


def test_a_damaged_bundle_of_an_earlier_attempt_is_not_handed_out(fabric: Fabric) -> None:
    directory = Path(fabric.sealed().bundle.directory)
    (directory / PATCH).chmod(0o600)
    (directory / PATCH).write_bytes(b"x")
    assert _refusal(fabric.sealed) == "BUNDLE_INVALID"


def _failing(report: GateReport, verdict: str) -> GateReport:
    return report.model_copy(update={"verdict": verdict})


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
@pytest.mark.parametrize("gate", ["regression", "determinism"])
def test_a_gate_that_did_not_pass_leaves_no_stamp(fabric: Fabric, gate: str, verdict: str) -> None:
    request = fabric.sealing()
    _refused_seal(fabric, request.model_copy(update={gate: _failing(getattr(request, gate), verdict)}), "GATE_NOT_PASSED")


def _refused_seal(fabric: Fabric, request: SealBundle, code: str) -> None:
    with as_acting(who()):
        assert _refusal(lambda: fabric.signing.seal_bundle(request)) == code
    assert list(fabric.home.bundles.iterdir()) == []


def test_the_report_of_another_gate_does_not_count(fabric: Fabric) -> None:
    request = fabric.sealing()
    _refused_seal(fabric, request.model_copy(update={"determinism": request.regression}), "GATE_NOT_PASSED")


@pytest.mark.parametrize("change", [{"rerun_bundle_digest": "sha256:" + "0" * 64}, {"runs": 1}])
def test_gates_are_recomputed_before_signing(fabric: Fabric, change: dict[str, Any]) -> None:
    _refused_seal(fabric, fabric.sealing().model_copy(update=change), "GATE_NOT_PASSED")


def test_a_denied_patch_is_not_signed(fabric: Fabric) -> None:
    request = fabric.sealing()
    denied = request.policy.model_copy(update={"decision": "deny"})
    members = fabric.evidence.assemble_members(fabric.assembling().model_copy(update={"policy": denied}))
    changed = request.model_copy(
        update={"policy": denied, "members": members, "rerun_bundle_digest": members.bundle_digest}
    )
    _refused_seal(fabric, changed, "GATE_NOT_PASSED")


def test_a_member_that_does_not_follow_from_the_runs_is_not_signed(fabric: Fabric) -> None:
    request = fabric.sealing()
    results = json.loads(fabric.blobs.get(request.members.blobs[TEST_RESULTS]))
    results["suites"][1]["outcomes"]["tests/test_calc.py::test_more"] = "passed"
    forged = {**request.members.blobs, TEST_RESULTS: fabric.blobs.put(jcs(results))}
    _refused_seal(fabric, _with_members(request, forged), "MEMBER_MISMATCH")


def _with_members(request: SealBundle, blobs: dict[str, BlobRef]) -> SealBundle:
    return request.model_copy(update={"members": Members(blobs=blobs, bundle_digest=request.members.bundle_digest)})


def test_a_missing_or_extra_member_is_not_signed(fabric: Fabric) -> None:
    request = fabric.sealing()
    rest = {name: ref for name, ref in request.members.blobs.items() if name != PATCH}
    _refused_seal(fabric, _with_members(request, rest), "MEMBER_MISSING")
    extra = {**request.members.blobs, "note.txt": request.patch.diff}
    _refused_seal(fabric, _with_members(request, extra), "MEMBER_MISSING")


def test_outcomes_judged_otherwise_are_not_signed(fabric: Fabric) -> None:
    request = fabric.sealing()
    judged: Judged = request.judged.model_copy(update={"fix": "partial"})
    _refused_seal(fabric, request.model_copy(update={"judged": judged}), "VERDICT_MISMATCH")
    _refused_seal(fabric, request.model_copy(update={"base": fabric.run(PATCHED, "1")}), "VERDICT_MISMATCH")


@pytest.mark.parametrize("change", [{"result_tree": "0" * 40}, {"base_tree": "0" * 40}])
def test_a_patch_that_gives_another_tree_is_not_signed(fabric: Fabric, change: dict[str, Any]) -> None:
    request = fabric.sealing()
    _refused_seal(fabric, request.model_copy(update={"patch": request.patch.model_copy(update=change)}), "PATCH_TREE")


def test_a_bundle_that_would_not_verify_never_gets_its_name(fabric: Fabric) -> None:
    request = fabric.sealing()
    trust = load_trust(fabric.ports.trust)
    fabric.ports.trust.write_bytes(jcs(trust.model_copy(update={"policy_digests": ()})))
    _refused_seal(fabric, request, "BUNDLE_INVALID")


def test_a_bundle_that_cannot_be_written_leaves_nothing(fabric: Fabric) -> None:
    request = fabric.sealing()
    ports = dataclasses.replace(fabric.ports, bundles=fabric.home.root / "nowhere")
    with as_acting(who()):
        signing = SigningActivities(ports, load_signer(fabric.home.keys))
        assert _refusal(lambda: signing.seal_bundle(request)) == "BUNDLE_WRITE_FAILED"


# --- Trust Gate -------------------------------------------------------------------------------------------------------


def test_the_trust_gate_alone_fails_for_a_revoked_key(fabric: Fabric) -> None:
    sealed = fabric.sealed()
    trust = load_trust(fabric.ports.trust)
    revoked = trust.model_copy(update={"keys": (trust.keys[0].model_copy(update={"revoked_at": "2026-01-01T00:00:00Z"}),)})
    fabric.ports.trust.write_bytes(jcs(revoked))
    assert fabric.trust_gate(sealed).codes == ("SIGNER_UNTRUSTED",)


@pytest.mark.parametrize(
    "change",
    [{"stamp_id": "stm_" + "0" * 32}, {"stamp_sha256": "0" * 64}, {"bundle_digest": "sha256:" + "0" * 64}],
)
def test_a_good_bundle_that_is_not_the_named_one(fabric: Fabric, change: dict[str, Any]) -> None:
    report = fabric.trust_gate(fabric.sealed(), **change)
    assert (report.verdict, report.codes) == ("fail", ("STAMP_ID",))


def test_a_good_bundle_of_another_task_or_source(fabric: Fabric) -> None:
    sealed = fabric.sealed()
    other = fabric.source.model_copy(update={"ref": "refs/heads/other"})
    assert fabric.trust_gate(sealed, task="task-2").codes == ("UNKNOWN_PARAMETER",)
    assert fabric.trust_gate(sealed, source=other).codes == ("UNKNOWN_PARAMETER",)


def test_a_bundle_elsewhere_is_not_looked_at(fabric: Fabric, tmp_path: Path) -> None:
    sealed = fabric.sealed()
    with as_acting(who()):
        request = VerifyBundle(bundle=sealed.bundle.model_copy(update={"directory": str(tmp_path)}), source=fabric.source)
        assert _refusal(lambda: fabric.evidence.trust_gate(request)) == "BUNDLE_ELSEWHERE"


def test_a_patch_that_does_not_apply_to_the_repository_fails_the_trust_gate(fabric: Fabric, tmp_path: Path) -> None:
    sealed = fabric.sealed()
    empty = ObjectStore.open(tmp_path / "other.git")
    ports = dataclasses.replace(fabric.ports, objects=empty)
    with as_acting(who()):
        report = EvidenceActivities(ports).trust_gate(VerifyBundle(bundle=sealed.bundle, source=fabric.source))
    assert report.codes == ("PATCH_TREE",)
