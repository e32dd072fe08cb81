"""The signer is no oracle: whoever may call it gets nothing signed but what follows from receipts (threats 5.1, 5.5)."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import seal
from activities.evidence.establishing import establish
from activities.evidence.refusal import read_refusal
from activities.evidence.signer_client import SignerClient
from activities.evidence.signer_service import SignerPorts
from activities.evidence.signing import load_signer
from activities.evidence.trusting import load_trust
from activities.evidence.witnessing import Believed, Circumstances
from activities.kernel.acting import as_acting
from activities.kernel.channel import call, connect
from activities.kernel.judging import PolicyPort
from activities.kernel.signing_keys import pem_of
from activities.record.commits import CommitInfo
from activities.record.objects import ObjectStore
from activities.testbed.importing import PATCH_LIMIT
from activities.verify.gating import report_if_allowed
from schemas.canonical import jcs, sha256_hex
from schemas.capabilities import AssembleMembers, DeterminismInput, ImportPatch, JudgeRuns, Members, SealBundle, SealRejection
from schemas.error import Gen4Error
from schemas.evidence import (
    BUILDER_ID,
    PATCH,
    SEPARATED_BUILDER_ID,
    STABLE_MEMBERS,
    STAMP,
    TEST_RESULTS,
    timestamp_of,
)
from schemas.gates import GateReport, MeasuredMetric
from schemas.model import BlobRef
from schemas.regression import Waiver
from schemas.stamp import Stamp2
from schemas.testing import Outcomes, RunVariant, TestRun
from schemas.verdict import judge
from tests.evidence.fabric import PACKAGES, PROBED, Fabric, make_fabric, running_signer, who
from tests.evidence.workshop import BASE, NOW_S, PATCHED, POLICY_DIGEST

Change = Callable[[Fabric, SealBundle], dict[str, Any]]
BETTER: Outcomes = {**PATCHED, "tests/test_calc.py::test_more": "passed"}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory, policy: PolicyPort) -> Iterator[Fabric]:
    with as_acting(who()), make_fabric(tmp_path_factory.mktemp("signer"), policy) as made:
        yield made


@pytest.fixture(scope="module")
def honest(fabric: Fabric) -> SealBundle:
    with as_acting(who()):
        return fabric.sealing()


def _code(action: Callable[[], object]) -> str:
    with pytest.raises(Gen4Error) as caught:
        action()
    assert caught.value.remedy
    return caught.value.code


def _refused(fabric: Fabric, request: SealBundle, **changes: Any) -> str:
    return _code(lambda: fabric.client.seal(request.model_copy(update=changes), who().keys))


def test_what_follows_from_receipts_is_signed(fabric: Fabric, honest: SealBundle) -> None:
    sealed = fabric.client.seal(honest, who().keys)
    stamp = Stamp2.model_validate_json(sealed.files[STAMP])
    assert stamp.compile.runs == 2 and len(stamp.compile.receipts) == 7 and stamp.compile.sentinels == 21
    assert (stamp.compile.cache, stamp.compile.probe, stamp.gates.determinism.reused) == ("miss", "failed_as_it_must", False)
    assert set(sealed.files) & set(STABLE_MEMBERS) == set()
    assert not list(fabric.home.signer.glob("call-*"))


def test_a_seal_that_takes_long_is_of_the_time_when_it_began(fabric: Fabric, honest: SealBundle, tmp_path: Path) -> None:
    clock = itertools.count(NOW_S, 7)
    believed = Believed(executors=(pem_of(fabric.executor.public_key()),), policy_digests=frozenset({POLICY_DIGEST}))
    ports = SignerPorts(
        folder=tmp_path, own_uid=os.geteuid(), signer=lambda: load_signer(tmp_path), believed=lambda: believed,
        base_packages=lambda _: PACKAGES, regression=report_if_allowed, gen4_version="0.1.0", git_version="2.39.5",
        now_s=lambda: float(next(clock)),
    )  # fmt: skip
    client = dataclasses.replace(fabric.client, connect=lambda: connect(tmp_path / "s"))
    with running_signer(ports, tmp_path / "s"):
        stamp = Stamp2.model_validate_json(client.seal(honest, who().keys).files[STAMP])
    assert stamp.created_at == timestamp_of(NOW_S) and next(clock) > NOW_S + 7


def test_a_signer_without_room_says_so_and_leaves_nothing(
    fabric: Fabric, honest: SealBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(seal, "copy", full)
        assert _refused(fabric, honest) == "BUNDLE_WRITE_FAILED"
    assert not list(fabric.home.signer.glob("call-*"))
    assert fabric.client.seal(honest, who().keys).files


# --- other runs than those of the receipts ----------------------------------------------------------------------------


def _of_an_unknown_executor(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    run = fabric.run(BASE, fabric.source.base_tree, key=ec.generate_private_key(ec.SECP256R1()))
    return {"base_runs": (request.base, run)}


def _without_a_receipt(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, request.base.model_copy(update={"receipt": None}))}


def _of_another_tree(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    run = fabric.run(PATCHED, fabric.source.base_tree)
    return {"patched": run, "patched_runs": (run, fabric.run(PATCHED, fabric.source.base_tree))}


def _of_another_tenant(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, fabric.run(BASE, fabric.source.base_tree, tenant="other"))}


def _twice_the_same(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, request.base)}


def _only_one(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"patched_runs": (request.patched,)}


def _edited_outcomes(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    edited = fabric.run(BETTER, fabric.imported().harness_tree).model_copy(update={"receipt": request.patched.receipt})
    return {"patched": edited, "patched_runs": (edited, request.patched_runs[1])}


def _outcomes_of_another_blob(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    edited = request.patched.model_copy(update={"outcomes": fabric.blobs.put(jcs(dict(BETTER)))})
    return {"patched": edited, "patched_runs": (edited, request.patched_runs[1])}


def _runs_that_disagree(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"patched_runs": (request.patched, fabric.run(BASE, fabric.imported().harness_tree))}


def _a_run_that_is_not_among_them(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base": fabric.run(BASE, fabric.source.base_tree)}


def _of_another_variant(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, fabric.run(BASE, fabric.source.base_tree, variant=RunVariant(hash_seed=1)))}


def _sentinels_missed(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, fabric.run(BASE, fabric.source.base_tree, caught=2))}


def _no_sentinels(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"base_runs": (request.base, fabric.run(BASE, fabric.source.base_tree, planted=0, caught=0))}


def _a_run_that_timed_out(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    run = fabric.run(BASE, fabric.source.base_tree, codes=("RUN_TIMEOUT",), status="failed")
    return {"base_runs": (request.base, run)}


def _other_limits(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"limits": request.limits.model_copy(update={"memory_mb": 1})}


def _another_plan(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"plan": request.plan.model_copy(update={"pytest_args": ("tests/test_calc.py::test_add",)})}


def _another_command_shown(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    return {"plan": request.plan.model_copy(update={"argv": ("pytest", "-x")})}


def _an_edited_receipt(fabric: Fabric, request: SealBundle) -> dict[str, Any]:
    assert request.base.receipt is not None
    envelope = json.loads(fabric.blobs.get(request.base.receipt))
    envelope["signatures"].append(envelope["signatures"][0])
    return {"base_runs": (request.base.model_copy(update={"receipt": fabric.blobs.put(jcs(envelope))}), request.base_runs[1])}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_of_an_unknown_executor, "RECEIPT_UNTRUSTED"), (_without_a_receipt, "RECEIPT_MISSING"),
        (_of_another_tree, "RECEIPT_OTHER_RUN"), (_of_another_tenant, "RECEIPT_OTHER_RUN"),
        (_twice_the_same, "RECEIPT_REPEATED"), (_only_one, "RECEIPTS_TOO_FEW"), (_edited_outcomes, "RECEIPT_MISMATCH"),
        (_outcomes_of_another_blob, "OUTCOMES_DIGEST"), (_runs_that_disagree, "RUNS_DISAGREE"),
        (_a_run_that_is_not_among_them, "RECEIPT_MISMATCH"), (_of_another_variant, "RECEIPT_OTHER_RUN"),
        (_sentinels_missed, "HARNESS_TAMPERED"), (_no_sentinels, "RUN_INCONCLUSIVE"), (_a_run_that_timed_out, "RUN_INCONCLUSIVE"),
        (_other_limits, "RECEIPT_OTHER_RUN"), (_another_plan, "PLAN_MISMATCH"), (_another_command_shown, "PLAN_MISMATCH"),
        (_an_edited_receipt, "RECEIPT_INVALID"),
    ],
)  # fmt: skip
def test_runs_that_no_executor_vouches_for(fabric: Fabric, honest: SealBundle, change: Change, code: str) -> None:
    assert _refused(fabric, honest, **change(fabric, honest)) == code


UNREAD: Outcomes = {"tests/test_calc.py": "error"}


def _on_a_base_that_cannot_be_read(fabric: Fabric, request: SealBundle, outcomes: Outcomes = UNREAD) -> dict[str, Any]:
    """Planted tests did not run on it either."""
    def run() -> TestRun:
        return fabric.run(outcomes, fabric.source.base_tree, planted=0, caught=0, status="failed")

    base = run()
    judged = fabric.verify.judge_runs(JudgeRuns(base=(base, run()), patched=request.patched_runs))
    fields = {name: getattr(request, name) for name in AssembleMembers.model_fields if name != "trajectory"}
    members = fabric.evidence.assemble_members(AssembleMembers(**fields | {"base": base, "judged": judged, "trajectory": None}))
    determinism = fabric.verify.determinism_gate(
        DeterminismInput(first=members, rerun=members, runs=2, isolation="fresh_sandbox")
    )
    probe_tree = fabric.imported().probe_tree
    assert probe_tree is not None
    probe = fabric.run(dict.fromkeys(PATCHED, "failed"), probe_tree, variant=RunVariant(only=tuple(sorted(PATCHED))))
    changes = {
        "base": base, "base_runs": (base, run()), "rerun_runs": (run(), request.rerun_runs[1]), "judged": judged, "probe": probe,
        "members": members, "determinism": determinism, "rerun_bundle_digest": members.bundle_digest,
    }  # fmt: skip
    return {**changes, "regression": fabric.regression(request.model_copy(update=changes))}


def test_a_base_of_which_nothing_can_be_collected_may_be_mended(fabric: Fabric, honest: SealBundle) -> None:
    request = honest.model_copy(update=_on_a_base_that_cannot_be_read(fabric, honest))
    stamp = Stamp2.model_validate_json(fabric.client.seal(request, who().keys).files[STAMP])
    assert stamp.fix.completeness == "complete" and stamp.compile.sentinels == 12
    ran = _on_a_base_that_cannot_be_read(fabric, honest, {**UNREAD, "tests/test_b.py::test": "failed"})
    assert _refused(fabric, honest, **ran) == "RUN_INCONCLUSIVE"


def test_the_receipts_of_one_compile_are_worth_nothing_in_another_environment(fabric: Fabric, honest: SealBundle) -> None:
    other = fabric.blobs.get(honest.environment.lock).replace(b'"9.2.0"', b'"9.2.1"')
    lock = fabric.blobs.put(other)
    environment = honest.environment.model_copy(update={"lock": lock, "environment_digest": f"sha256:{lock.sha256}"})
    assert _refused(fabric, honest, environment=environment) == "RECEIPT_OTHER_RUN"
    assert _refused(fabric, honest, environment=honest.environment.model_copy(update={"lock": lock})) == "ENVIRONMENT_MISMATCH"


# --- the probe --------------------------------------------------------------------------------------------------------


def test_a_patch_that_touches_functions_needs_its_probe(fabric: Fabric, honest: SealBundle) -> None:
    assert _refused(fabric, honest, probe=None) == "PROBE_MISSING"


def test_a_probe_that_left_out_what_was_mended(fabric: Fabric, honest: SealBundle) -> None:
    variant = RunVariant(only=("tests/test_calc.py::test_zero",))
    probe = fabric.run({"tests/test_calc.py::test_zero": "failed"}, _probe_tree(fabric), variant=variant)
    assert _refused(fabric, honest, probe=probe) == "PROBE_MISSING"


def test_a_probe_of_another_tree(fabric: Fabric, honest: SealBundle) -> None:
    variant = RunVariant(only=("tests/test_calc.py::test_add",))
    assert _refused(fabric, honest, probe=fabric.run(PROBED, fabric.source.base_tree, variant=variant)) == "RECEIPT_OTHER_RUN"


def test_a_mended_test_that_passes_in_the_probe_was_forged(fabric: Fabric, honest: SealBundle) -> None:
    variant = RunVariant(only=("tests/test_calc.py::test_add",))
    probe = fabric.run({"tests/test_calc.py::test_add": "passed"}, _probe_tree(fabric), variant=variant)
    assert _refused(fabric, honest, probe=probe) == "HARNESS_TAMPERED"


def _probe_tree(fabric: Fabric) -> str:
    with as_acting(who()):
        tree = fabric.imported().probe_tree
    assert tree is not None
    return tree


# --- verdict, gates, policy -------------------------------------------------------------------------------------------


def _gate(report: GateReport, verdict: str) -> GateReport:
    return report.model_copy(update={"verdict": verdict})


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
@pytest.mark.parametrize("gate", ["regression", "determinism"])
def test_a_gate_that_did_not_pass_leaves_no_stamp(fabric: Fabric, honest: SealBundle, gate: str, verdict: str) -> None:
    assert _refused(fabric, honest, **{gate: _gate(getattr(honest, gate), verdict)}) == "GATE_NOT_PASSED"


def test_the_report_of_another_gate_does_not_count(fabric: Fabric, honest: SealBundle) -> None:
    assert _refused(fabric, honest, determinism=honest.regression) == "GATE_NOT_PASSED"


def test_a_metric_is_judged_by_what_the_tests_gave(fabric: Fabric, honest: SealBundle) -> None:
    for metrics in ((), (MeasuredMetric(name="tests", verdict="fail", waived=True),),
                    (*honest.regression.metrics, MeasuredMetric(name="coverage", verdict="fail"))):  # fmt: skip
        changed = honest.regression.model_copy(update={"metrics": metrics})
        assert _refused(fabric, honest, regression=changed) == "GATE_MISMATCH"


def test_another_verdict_than_the_outcomes_give(fabric: Fabric, honest: SealBundle) -> None:
    assert _refused(fabric, honest, judged=honest.judged.model_copy(update={"fix": "partial"})) == "VERDICT_MISMATCH"
    forged = judge(BASE, PATCHED).model_copy(update={"targets": (), "fail_to_pass": ()})
    judged = honest.judged.model_copy(update={"judgement": fabric.blobs.put(jcs(forged))})
    assert _refused(fabric, honest, judged=judged) == "VERDICT_MISMATCH"


def test_a_patch_that_mends_nothing(fabric: Fabric, honest: SealBundle) -> None:
    harness = _harness(fabric)
    runs = tuple(fabric.run(BASE, harness) for _ in range(2))
    judgement = judge(BASE, BASE)
    judged = honest.judged.model_copy(
        update={"judgement": fabric.blobs.put(jcs(judgement)), "verdict": judgement.verdict, "fix": judgement.fix}
    )
    assert _refused(fabric, honest, patched=runs[0], patched_runs=runs, judged=judged) == "GATE_NOT_PASSED"


def _harness(fabric: Fabric) -> str:
    with as_acting(who()):
        return fabric.imported().harness_tree


def test_a_denied_patch_and_a_policy_that_the_operator_did_not_name(fabric: Fabric, honest: SealBundle) -> None:
    denied = honest.policy.model_copy(update={"decision": "deny"})
    assert _refused(fabric, honest, policy=denied) == "GATE_NOT_PASSED"
    lax = honest.policy.model_copy(update={"required_checks": honest.policy.required_checks[:1]})
    assert _refused(fabric, honest, policy=lax) == "GATE_NOT_PASSED"
    other = honest.policy.model_copy(update={"policy_digest": "sha256:" + "0" * 64})
    assert _refused(fabric, honest, policy=other) == "POLICY_UNKNOWN"


def test_a_rerun_that_gave_something_else(fabric: Fabric, honest: SealBundle) -> None:
    worse = fabric.run(BETTER, _harness(fabric))
    assert _refused(fabric, honest, rerun_runs=(honest.rerun_runs[0], worse)) == "GATE_NOT_PASSED"
    assert _refused(fabric, honest, rerun_bundle_digest="sha256:" + "0" * 64) == "GATE_NOT_PASSED"
    assert _refused(fabric, honest, rerun_runs=()) == "RECEIPTS_TOO_FEW"


def test_a_rerun_elsewhere_has_receipts_of_somebody_else(fabric: Fabric, honest: SealBundle, tmp_path: Path) -> None:
    assert _refused(fabric, honest, isolation="other_worker") == "ISOLATION_MISMATCH"
    other = ec.generate_private_key(ec.SECP256R1())
    keys = tuple(pem_of(key.public_key()) for key in (fabric.executor, other))
    rerun = (fabric.run(BASE, fabric.source.base_tree, key=other), fabric.run(PATCHED, _harness(fabric), key=other))
    elsewhere = honest.model_copy(update={"rerun_runs": rerun, "isolation": "other_worker"})
    believed = Believed(executors=keys, policy_digests=frozenset({POLICY_DIGEST}))
    circumstances = _circumstances(apart=False)
    found = establish(elsewhere, _AtHand(fabric), believed, circumstances)
    assert not found.reused and found.builder_id == BUILDER_ID


def test_a_rerun_that_is_the_first_run_says_so(fabric: Fabric, honest: SealBundle) -> None:
    cached = {"cached": True}
    base, patched = (tuple(run.model_copy(update=cached) for run in runs) for runs in (honest.base_runs, honest.patched_runs))
    changes = {"base_runs": base, "base": base[0], "patched_runs": patched, "patched": patched[0]}
    again = honest.model_copy(update={**changes, "rerun_runs": (base[0], patched[0])})
    stamp = Stamp2.model_validate_json(fabric.client.seal(again, who().keys).files[STAMP])
    assert stamp.gates.determinism.reused and stamp.compile.cache == "hit"


# --- waivers ----------------------------------------------------------------------------------------------------------


def _losing(fabric: Fabric, expires_s: int) -> SealBundle:
    """Everything went well, but a test was lost, for which somebody answers until ``expires_s``."""
    lost: Outcomes = {**PATCHED, "tests/test_calc.py::test_zero": "failed"}
    waived = "tests/test_calc.py::test_zero"
    waiver = Waiver(
        id="w-1", metric="tests", subject=waived, owner="alice", reason="known", expires_at=timestamp_of(expires_s)
    )
    with as_acting(who()):
        request, harness = fabric.sealing(), fabric.imported().harness_tree
        runs = tuple(fabric.run(lost, harness) for _ in range(2))
        judgement = judge(BASE, lost, waived=(waived,))
        judged = request.judged.model_copy(
            update={"judgement": fabric.blobs.put(jcs(judgement)), "verdict": judgement.verdict, "fix": judgement.fix, "lost": 1}
        )
        changed = request.model_copy(update={"patched": runs[0], "judged": judged})
        assembled = fabric.assembling().model_copy(update={"patched": runs[0], "judged": judged})
        members = fabric.evidence.assemble_members(assembled)
    request = changed.model_copy(
        update={
            "patched_runs": runs, "rerun_runs": (request.rerun_runs[0], fabric.run(lost, harness)), "members": members,
            "rerun_bundle_digest": members.bundle_digest, "waivers": (waiver,),
        }
    )  # fmt: skip
    return request.model_copy(update={"regression": fabric.regression(request, expires_s - 1)})


def test_a_waiver_is_judged_when_it_is_signed(fabric: Fabric) -> None:
    request = _losing(fabric, NOW_S + 60)
    stamp = Stamp2.model_validate_json(fabric.client.seal(request, who().keys).files[STAMP])
    assert [(waiver.id, waiver.owner) for waiver in stamp.gates.regression.waivers] == [("w-1", "alice")]
    assert _refused(fabric, _losing(fabric, NOW_S)) == "WAIVER_EXPIRED"


def test_a_waiver_that_nobody_granted_or_that_covers_something_else(fabric: Fabric) -> None:
    request = _losing(fabric, NOW_S + 60)
    assert _refused(fabric, request, waivers=()) == "WAIVER_UNKNOWN"
    longer = request.waivers[0].model_copy(update={"expires_at": timestamp_of(NOW_S + 999)})
    assert _refused(fabric, request, waivers=(longer,)) == "WAIVER_UNKNOWN"
    elsewhere = request.waivers[0].model_copy(update={"subject": "tests/test_calc.py::test_add"})
    assert _refused(fabric, request, waivers=(elsewhere,)) == "WAIVER_UNKNOWN"


# --- subjects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"result_tree": "0" * 40}, {"base_tree": "0" * 40}])
def test_a_patch_that_gives_another_tree_is_not_signed(fabric: Fabric, honest: SealBundle, change: dict[str, str]) -> None:
    assert _refused(fabric, honest, patch=honest.patch.model_copy(update=change)) == "PATCH_TREE"


def test_another_patch_has_no_receipts(fabric: Fabric, honest: SealBundle) -> None:
    other = fabric.objects.write_tree(fabric.source.base_tree, {"calc.py": b"def add(a, b):\n    return 3\n"})
    diff = fabric.blobs.put(fabric.objects.diff(fabric.source.base_tree, other))
    patch = honest.patch.model_copy(update={"diff": diff, "patch_sha256": diff.sha256, "result_tree": other})
    assert _refused(fabric, honest, patch=patch) == "RECEIPT_OTHER_RUN"
    assert _refused(fabric, honest, patch=honest.patch.model_copy(update={"diff": diff})) == "PATCH_DIGEST"


@pytest.mark.parametrize("change", [{"base_tree": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}, {"commit_time": 1}])
def test_a_source_that_is_not_that_of_its_commit(fabric: Fabric, honest: SealBundle, change: dict[str, Any]) -> None:
    assert _refused(fabric, honest, source=honest.source.model_copy(update=change)) == "SOURCE_MISMATCH"


def test_a_member_that_does_not_follow_from_the_runs_is_not_signed(fabric: Fabric, honest: SealBundle) -> None:
    results = json.loads(fabric.blobs.get(honest.members.blobs[TEST_RESULTS]))
    results["suites"][1]["outcomes"]["tests/test_calc.py::test_more"] = "passed"
    forged = {**honest.members.blobs, TEST_RESULTS: fabric.blobs.put(jcs(results))}
    assert _refused(fabric, honest, members=_members(honest, forged)) == "MEMBER_MISMATCH"
    digest = Members(blobs=honest.members.blobs, bundle_digest="sha256:" + "0" * 64)
    assert _refused(fabric, honest, members=digest) == "MEMBER_MISMATCH"


def test_a_missing_or_extra_member_is_not_signed(fabric: Fabric, honest: SealBundle) -> None:
    rest = {name: ref for name, ref in honest.members.blobs.items() if name != PATCH}
    assert _refused(fabric, honest, members=_members(honest, rest)) == "MEMBER_MISSING"
    extra = {**honest.members.blobs, "note.txt": honest.patch.diff}
    assert _refused(fabric, honest, members=_members(honest, extra)) == "MEMBER_MISSING"


def _members(request: SealBundle, blobs: dict[str, BlobRef]) -> Members:
    return Members(blobs=blobs, bundle_digest=request.members.bundle_digest)


# --- content and calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blob", "commit", "tree"])
def test_content_under_a_false_name_is_refused(
    fabric: Fabric, honest: SealBundle, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that has nothing yet asks for everything; this caller sends something else for one kind."""
    supply = SignerClient._supply

    def lie(self: SignerClient, wanted: Any) -> Any:
        if name not in wanted:
            return supply(self, wanted)
        other = fabric.objects.write_tree(fabric.source.base_tree, {"a": b"b"})
        return supply(self, {**wanted, "tree": other}) if name == "tree" else b"lie"

    monkeypatch.setattr(SignerClient, "_supply", lie)
    believed = Believed(executors=(pem_of(fabric.executor.public_key()),), policy_digests=frozenset({POLICY_DIGEST}))
    ports = SignerPorts(
        folder=tmp_path, own_uid=os.geteuid(), signer=lambda: load_signer(tmp_path), believed=lambda: believed,
        base_packages=lambda _: PACKAGES, regression=report_if_allowed, gen4_version="0.1.0", git_version="2.39.5",
    )  # fmt: skip
    client = dataclasses.replace(fabric.client, connect=lambda: connect(tmp_path / "s"))
    with running_signer(ports, tmp_path / "s"):
        assert _code(lambda: client.seal(honest, who().keys)) in ("CONTENT_MISMATCH", "OBJECTS_MALFORMED")


@pytest.mark.parametrize(
    "message",
    [
        None, [], {}, {"op": "sign", "payload": "aGk="}, {"op": "seal"}, {"op": "seal", "keys": {}, "request": {}},
        {"op": ["seal"]},
    ],
)
def test_calls_that_are_none(fabric: Fabric, message: Any) -> None:
    channel = connect(fabric.home.run / "signer.sock")
    assert _code(lambda: call(channel, message, supply=lambda _: b"")) == "CALL_INVALID"
    channel.close()


def test_a_rejection_is_no_way_round(fabric: Fabric) -> None:
    request = fabric.rejecting()

    def refused(**changes: Any) -> str:
        return _code(lambda: fabric.client.reject(request.model_copy(update=changes), who().keys, "rej_" + "0" * 32))

    assert refused(verdict="accepted") == "REJECTION_ACCEPTED"
    assert refused(codes=()) == "REJECTION_WITHOUT_CODE"
    edited: TestRun = request.runs[0].model_copy(update={"exit_code": 77})
    assert refused(runs=(edited,)) == "RECEIPT_MISMATCH"
    assert _code(lambda: fabric.client.reject(request, who().keys, "../../etc")) == "CALL_INVALID"


def _never_a_patch(fabric: Fabric, sent: bytes = b"not a patch") -> SealRejection:
    """As the workflow asks after IMPORT_PATCH refused what was sent as text."""
    asked = ImportPatch(source=fabric.source, patch=sent.decode())
    with pytest.raises(Gen4Error) as caught:
        fabric.compile.import_patch(asked)
    return SealRejection(
        source=fabric.source, offered=asked.offered, candidate_id="cand-1", verdict="rejected", codes=(caught.value.code,),
        message=caught.value.message,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sent, code", [(b"not a patch \xc3\xa9", "PATCH_DOES_NOT_APPLY"), (b"#" * (PATCH_LIMIT + 1), "PATCH_TOO_LARGE")]
)
def test_what_never_became_a_patch_gets_a_signed_report(fabric: Fabric, sent: bytes, code: str) -> None:
    with as_acting(who(effect=code)):
        folder = Path(fabric.signing.seal_rejection(_never_a_patch(fabric, sent)).directory)
    refusal = read_refusal(folder, load_trust(fabric.ports.trust, now_s=NOW_S))
    assert refusal is not None and refusal.signer and refusal.report is not None
    report = refusal.report
    assert (report.patch_sha256, report.evidence_refs) == (sha256_hex(sent), (sha256_hex(sent),))
    assert (report.failed_gate, report.codes, report.next, report.tests) == ("compile", (code,), "revise", None)
    assert [(check.code, bool(check.remedy)) for check in report.checks] == [(code, True)]


def test_the_signer_tries_by_itself_whether_it_is_no_patch(fabric: Fabric) -> None:
    request = _never_a_patch(fabric)

    def refused(**changes: Any) -> str:
        return _code(lambda: fabric.client.reject(request.model_copy(update=changes), who().keys, "rej_" + "0" * 32))

    assert refused(offered=fabric.imported().patch.diff) == "REJECTION_MISMATCH"
    assert refused(codes=("PATCH_EMPTY",)) == "REJECTION_MISMATCH"
    assert refused(codes=(*request.codes, "REG_TEST_LOST")) == "REJECTION_MISMATCH"
    assert refused(runs=fabric.rejecting().runs) == "REJECTION_MISMATCH"
    assert refused(verdict="infra_error") == "REJECTION_MISMATCH"
    assert refused(offered=None) == "PATCH_MISSING"


# --- who is separated -------------------------------------------------------------------------------------------------


@dataclass
class _AtHand:
    """Content straight from the stores of the fabric."""

    fabric: Fabric

    def blob(self, ref: BlobRef) -> bytes:
        return self.fabric.blobs.get(ref)

    content = blob

    def commit(self, commit: str) -> CommitInfo:
        return self.fabric.objects.commit(commit)

    def tree(self, tree: str) -> ObjectStore:
        return self.fabric.objects


def _circumstances(apart: bool) -> Circumstances:
    return Circumstances(
        tenant_id="local", apart=apart, now_ms=NOW_S * 1000, base_packages=lambda _: PACKAGES, regression=report_if_allowed
    )


@pytest.mark.parametrize(
    ("apart", "listed_as_separated", "builder"),
    [(True, True, SEPARATED_BUILDER_ID), (True, False, BUILDER_ID), (False, True, BUILDER_ID)],
)
def test_only_a_caller_and_executors_apart_make_a_separated_builder(
    fabric: Fabric, honest: SealBundle, apart: bool, listed_as_separated: bool, builder: str
) -> None:
    pem = pem_of(fabric.executor.public_key())
    believed = Believed(
        executors=(pem,), separated=(pem,) if listed_as_separated else (), policy_digests=frozenset({POLICY_DIGEST})
    )
    circumstances = _circumstances(apart)
    assert establish(honest, _AtHand(fabric), believed, circumstances).builder_id == builder
