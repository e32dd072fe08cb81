"""Assemble, seal and verify with the real stores: what is signed follows from what was recorded, or nothing is signed."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from activities.evidence.activities import EvidenceActivities, SigningActivities
from activities.evidence.key_ring import KeyRing
from activities.evidence.trusting import TrustStore, load_trust
from activities.evidence.verification import verify_bundle
from activities.kernel import dsse
from activities.kernel.acting import as_acting
from activities.kernel.channel import connect, listen
from activities.kernel.judging import PolicyPort
from activities.record.objects import ObjectStore
from schemas.canonical import digest_of
from schemas.capabilities import SealBundle, VerifyBundle
from schemas.error import Gen4Error, InfrastructureError, Refused
from schemas.evidence import (
    CHECKSUMS,
    OPTIONAL_MEMBERS,
    PATCH,
    PAYLOAD_TYPE,
    REQUIRED_MEMBERS,
    STABLE_MEMBERS,
    TRAJECTORY,
)
from schemas.rejection import REJECTION_PREDICATE, REPORT, STATEMENT, RejectionReport
from schemas.statement import Envelope
from tests.evidence.fabric import Fabric, make_fabric, who
from tests.evidence.workshop import BASE, NOW_S

pytestmark = pytest.mark.usefixtures("admitted")


@pytest.fixture
def fabric(tmp_path: Path, policy: PolicyPort) -> Iterator[Fabric]:
    with make_fabric(tmp_path, policy) as made:
        yield made


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
            "base": fabric.run(dict(reversed(BASE.items())), fabric.source.base_tree),
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
    forged = request.model_copy(update={"patched": fabric.run(BASE, fabric.imported().harness_tree)})
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


def _refused_seal(fabric: Fabric, request: SealBundle, code: str) -> None:
    assert _refusal(lambda: fabric.seal(request)) == code
    assert list(fabric.home.bundles.iterdir()) == []


def test_a_bundle_that_this_home_would_not_verify_never_gets_its_name(fabric: Fabric) -> None:
    request = fabric.sealing()
    _distrust(fabric, policy_digests=())
    _refused_seal(fabric, request, "BUNDLE_INVALID")


def test_a_signer_that_the_trust_file_does_not_name_is_told_apart(fabric: Fabric) -> None:
    request = fabric.sealing()
    _distrust(fabric, signers=())
    with pytest.raises(Refused, match="BUNDLE_INVALID") as caught:
        fabric.seal(request)
    assert "gen4 keys list" in caught.value.remedy


def test_a_worker_whose_clock_is_behind_the_signers_hands_out_no_bundle_and_says_so(fabric: Fabric) -> None:
    request = fabric.sealing()
    ports = dataclasses.replace(fabric.ports, now_s=lambda: float(NOW_S - 86_400))
    with as_acting(who()), pytest.raises(Refused, match="STAMP_SCHEMA: created_at") as caught:
        SigningActivities(ports, fabric.client, lambda: None).seal_bundle(request)
    assert "clocks" in caught.value.remedy
    assert list(fabric.home.bundles.iterdir()) == []


def _distrust(fabric: Fabric, **changes: Any) -> None:
    TrustStore(fabric.home.keys).change(lambda trust: trust.model_copy(update=changes), NOW_S)


def test_a_bundle_that_cannot_be_written_leaves_nothing(fabric: Fabric) -> None:
    request, blocked = fabric.sealing(), fabric.home.root / "blocked"
    blocked.write_bytes(b"")
    ports = dataclasses.replace(fabric.ports, bundles=blocked / "bundles")
    with as_acting(who()):
        signing = SigningActivities(ports, fabric.client, lambda: None)
        assert _refusal(lambda: signing.seal_bundle(request)) == "BUNDLE_WRITE_FAILED"


def test_statements_lie_beside_the_bundle(fabric: Fabric) -> None:
    bundle = fabric.sealed().bundle
    (folder,) = (fabric.home.attestations / bundle.bundle_digest.removeprefix("sha256:")).iterdir()
    assert folder.name == bundle.stamp_id
    assert {"test-result.intoto.json", "trajectory.intoto.json", "vsa.intoto.json", "root.layout"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_signer_that_does_not_answer_is_the_machines_fault(fabric: Fabric) -> None:
    client = dataclasses.replace(fabric.client, connect=lambda: connect(fabric.home.run / "nobody.sock"))
    request = fabric.sealing()
    with as_acting(who()), pytest.raises(InfrastructureError, match="SIGNER_UNAVAILABLE"):
        SigningActivities(fabric.ports, client, lambda: None).seal_bundle(request)


def test_a_signer_that_is_frozen_is_not_waited_for_without_end(fabric: Fabric, tmp_path: Path) -> None:
    with listen(tmp_path / "frozen.sock"):  # somebody listens, and nobody answers
        client = dataclasses.replace(fabric.client, connect=lambda: connect(tmp_path / "frozen.sock"), silent_s=0.1)
        with pytest.raises(InfrastructureError, match=r"SIGNER_UNAVAILABLE.*timed out"):
            client.signer()


def test_a_rejection_gets_a_signed_report_once(fabric: Fabric) -> None:
    request = fabric.rejecting()
    with as_acting(who()):
        first, second = (fabric.signing.seal_rejection(request) for _ in range(2))
    assert first == second
    folder = Path(first.directory)
    assert folder == fabric.home.rejections / first.report_id
    report = RejectionReport.model_validate_json((folder / REPORT).read_bytes())
    assert (report.codes, report.verdict) == (("REG_TEST_LOST",), "rejected")
    envelope = Envelope.model_validate_json((folder / STATEMENT).read_bytes())
    payload, signature = (dsse.decode_base64(text) for text in (envelope.payload, envelope.signatures[0].sig))
    assert dsse.verify(fabric.signer.public_key, PAYLOAD_TYPE, payload, signature)
    assert json.loads(payload)["predicateType"] == REJECTION_PREDICATE


# --- Trust Gate -------------------------------------------------------------------------------------------------------


def test_the_trust_gate_alone_fails_for_a_revoked_key(fabric: Fabric) -> None:
    sealed = fabric.sealed()
    KeyRing(fabric.home).revoke(fabric.signer.hint, (), NOW_S)
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
