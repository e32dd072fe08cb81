"""Evidence: members 1-6, the sealed bundle, the Trust Gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from activities.evidence.checkpointing import CheckpointSigner
from activities.evidence.external import external_trajectory
from activities.evidence.keys import Signer, load_trust
from activities.evidence.members import MemberInputs, assemble, bundle_digest
from activities.evidence.provenance import external_parameters
from activities.evidence.seal import SealFacts, is_complete, publish, refuse_unless_sealable, sign_members, write_stamp
from activities.evidence.sources import public_repository
from activities.evidence.verification import verify_bundle
from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.record.blobs import BlobStore
from activities.record.checkpoints import Checkpoints
from activities.record.objects import ObjectStore
from activities.record.sink import Sink
from activities.record.store import TenantStore, now_ms
from schemas.canonical import sha256_hex
from schemas.capabilities import (
    ASSEMBLE_MEMBERS,
    REREAD_PATCH,
    SEAL_BUNDLE,
    TAKE_CHECKPOINT,
    TRUST_GATE,
    AssembleMembers,
    ImportPatch,
    Members,
    ReadMembers,
    SealBundle,
    SealedBundle,
    VerifyBundle,
)
from schemas.checkpoint import CheckpointTaken, TakeCheckpoint
from schemas.error import Refused
from schemas.evidence import PATCH, STABLE_MEMBERS, STAMP, TRAJECTORY, Stamp, TrustStampCheck
from schemas.gates import Check, GateReport
from schemas.request import BundleRef
from schemas.task import Source
from schemas.testing import EnvironmentLock, Outcomes, TestRun, outcomes_sha256
from schemas.verdict import Judgement, judge_recorded

_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)
_START_AGAIN = "start the remediation again; what was recorded is kept"


@dataclass(frozen=True, kw_only=True)
class EvidencePorts:
    """``base_packages``: Debian packages of a base root filesystem by its digest; ``trust``: path of the trust root."""

    blobs: BlobStore
    objects: ObjectStore
    bundles: Path
    trust: Path
    base_packages: Callable[[str], Mapping[str, str]]
    gen4_version: str
    git_version: str
    now_s: Callable[[], float] = time.time


class EvidenceActivities:
    """Assembles and checks. The signing key is not here but in :class:`SigningActivities`, which has its own pool."""

    def __init__(self, ports: EvidencePorts) -> None:
        self._ports = ports

    @implements(ASSEMBLE_MEMBERS)
    def assemble_members(self, request: AssembleMembers) -> Members:
        trajectory = self._trajectory(request)
        members = assemble(_inputs(self._ports, request, trajectory, _judgement(self._ports, request)))
        return Members(
            blobs={name: self._ports.blobs.put(data) for name, data in members.items()}, bundle_digest=bundle_digest(members)
        )

    @implements(REREAD_PATCH)
    def reread_patch(self, request: ReadMembers) -> ImportPatch:
        return ImportPatch(source=request.source, patch_ref=request.members.blobs[PATCH])

    @implements(TRUST_GATE)
    def trust_gate(self, request: VerifyBundle) -> GateReport:
        directory = _own_directory(self._ports, request.bundle)
        report = verify_bundle(
            directory,
            load_trust(self._ports.trust),
            objects=self._ports.objects,
            expected_parameters=_expected(request.source),
            now_ms=int(self._ports.now_s() * 1000),
        )
        named = _is_the_named_one(directory, request.bundle) if report.verdict == "pass" else None
        if named is None or named.ok:
            return report
        checks = tuple(named if check.code == named.code else check for check in report.checks)
        return report.model_copy(update={"verdict": "fail", "checks": checks})

    def _trajectory(self, request: AssembleMembers) -> bytes:
        if request.trajectory is not None:
            return self._ports.blobs.get(request.trajectory)
        snapshot = self._ports.objects.snapshot_hash(request.patch.result_tree)
        return external_trajectory(request.source, request.patch, snapshot)


class SigningActivities:
    """Holds the signer. It believes no digest, verdict or member that it can compute again itself.

    In embedded mode it still runs under the uid of everything else, and builder.id says so (threats 1.4).
    """

    def __init__(self, ports: EvidencePorts, signer: Signer) -> None:
        self._ports = ports
        self._signer = signer

    @implements(SEAL_BUNDLE)
    def seal_bundle(self, request: SealBundle) -> SealedBundle:
        """Seal once per business identity of the call: a later attempt finds the bundle of an earlier one."""
        who = acting()
        judgement = _judgement(self._ports, request)
        members = self._recomputed(request, judgement)
        refuse_unless_sealable(request, members, judgement)
        directory = self._ports.bundles / sha256_hex(who.effect_key.encode())[:32]
        if not directory.exists():
            facts = SealFacts(
                keys=who.keys,
                capability_id=SEAL_BUNDLE.id,
                capability_version=SEAL_BUNDLE.version,
                gen4_version=self._ports.gen4_version,
                git_version=self._ports.git_version,
                created_s=int(self._ports.now_s()),
            )
            checks = self._pre_seal_checks(request, members)
            stamp = write_stamp(request, members, judgement, checks, self._signer, facts)
            publish(
                sign_members(members, stamp, self._signer), directory, lambda folder: self._reference(folder, directory, request)
            )
        return SealedBundle(bundle=self._reference(directory, directory, request), trust=str(self._ports.trust))

    def _recomputed(self, request: SealBundle, judgement: Judgement) -> dict[str, bytes]:
        """Members 1-6 made again from runs, patch, policy and environment; the trajectory is what was recorded."""
        given = {name: self._ports.blobs.get(ref) for name, ref in request.members.blobs.items()}
        if not is_complete(given):
            raise Refused("MEMBER_MISSING", f"members are {sorted(given)}, not {sorted(STABLE_MEMBERS)}", _START_AGAIN)
        made = assemble(_inputs(self._ports, request, given[TRAJECTORY], judgement))
        for name in STABLE_MEMBERS:
            if made[name] != given[name]:
                raise Refused("MEMBER_MISMATCH", f"{name} does not follow from the recorded runs", _START_AGAIN)
        if request.members.bundle_digest != bundle_digest(made):
            raise Refused("MEMBER_MISMATCH", "the bundle digest is not that of checksums.sha256", _START_AGAIN)
        return made

    def _pre_seal_checks(self, request: SealBundle, members: Mapping[str, bytes]) -> tuple[TrustStampCheck, ...]:
        """Completeness and checksums were settled by making the members again; the patch is applied here."""
        result = self._ports.objects.apply(request.source.base_tree, members[PATCH])
        if result != request.patch.result_tree or request.patch.base_tree != request.source.base_tree:
            raise Refused("PATCH_TREE", f"the patch gives tree {result}, not {request.patch.result_tree}", _START_AGAIN)
        return tuple(TrustStampCheck(code=code, ok=True) for code in ("MEMBER_MISSING", "CHECKSUM_MISMATCH", "PATCH_TREE"))

    def _reference(self, folder: Path, directory: Path, request: SealBundle) -> BundleRef:
        """Verify what lies in ``folder``, whoever wrote it, before it gets the name ``directory`` or that is handed out."""
        report = verify_bundle(
            folder,
            load_trust(self._ports.trust),
            objects=self._ports.objects,
            expected_parameters=_expected(request.source),
            now_ms=int(self._ports.now_s() * 1000),
        )
        if report.verdict != "pass":
            raise Refused("BUNDLE_INVALID", f"{folder} does not verify: {', '.join(report.codes)}", _START_AGAIN)
        stamp_bytes = (folder / STAMP).read_bytes()
        stamp = Stamp.model_validate_json(stamp_bytes)
        if stamp.bundle_digest != request.members.bundle_digest:
            raise Refused("BUNDLE_INVALID", f"{folder} holds another bundle", _START_AGAIN)
        return BundleRef(
            directory=str(directory),
            bundle_digest=stamp.bundle_digest,
            stamp_id=stamp.stamp_id,
            stamp_sha256=sha256_hex(stamp_bytes),
        )


class CheckpointActivities:
    """Holds the checkpoint key, which has nothing to do with bundles: whoever has it can hide what was altered."""

    def __init__(self, store: TenantStore, signer: CheckpointSigner, sink: Sink | None = None) -> None:
        self._checkpoints = Checkpoints(store)
        self._signer = signer
        self._sink = sink

    @implements(TAKE_CHECKPOINT)
    def take_checkpoint(self, request: TakeCheckpoint) -> CheckpointTaken:
        taken = self._checkpoints.take(self._signer, now_ms(), self._sink)
        return CheckpointTaken(number=taken.number, root_sha256=taken.root_sha256, sessions=taken.sessions)


def _inputs(ports: EvidencePorts, request: AssembleMembers | SealBundle, trajectory: bytes, judgement: Judgement) -> MemberInputs:
    diff = ports.blobs.get(request.patch.diff)
    if sha256_hex(diff) != request.patch.patch_sha256:
        raise Refused("PATCH_DIGEST", "the stored diff is not the patch", _START_AGAIN)
    lock = EnvironmentLock.model_validate_json(ports.blobs.get(request.environment.lock))
    return MemberInputs(
        source=request.source,
        diff=diff,
        lock=lock,
        plan=request.plan,
        base=request.base,
        base_outcomes=_outcomes(ports, request.base),
        patched=request.patched,
        patched_outcomes=_outcomes(ports, request.patched),
        judgement=judgement,
        policy=request.policy,
        trajectory=trajectory,
        base_packages=ports.base_packages(lock.base_digest),
    )


def _judgement(ports: EvidencePorts, request: AssembleMembers | SealBundle) -> Judgement:
    """The recorded judgement, which must be the one that the outcomes give."""
    recorded = Judgement.model_validate_json(ports.blobs.get(request.judged.judgement))
    judged = judge_recorded(_outcomes(ports, request.base), _outcomes(ports, request.patched), recorded.targets)
    if judged != recorded or (request.judged.verdict, request.judged.fix) != (judged.verdict, judged.fix):
        raise Refused("VERDICT_MISMATCH", "the recorded verdict does not follow from the recorded outcomes", _START_AGAIN)
    return judged


def _outcomes(ports: EvidencePorts, run: TestRun) -> Outcomes:
    try:
        outcomes = _OUTCOMES.validate_python(ports.blobs.get_json(run.outcomes))
    except ValidationError as error:
        raise Refused("OUTCOMES_INVALID", f"outcomes of run {run.run_key} do not fit their model", _START_AGAIN) from error
    if outcomes_sha256(outcomes) != run.outcomes_sha256:
        raise Refused("OUTCOMES_DIGEST", f"outcomes of run {run.run_key} are not those it reported", _START_AGAIN)
    return outcomes


def _expected(source: Source) -> dict[str, str]:
    """The task's own parameters: a valid bundle of another task must not pass for this one."""
    return external_parameters(acting().keys.task_id, public_repository(source.repository), source.ref).model_dump()


def _own_directory(ports: EvidencePorts, bundle: BundleRef) -> Path:
    directory = Path(bundle.directory)
    if directory.parent != ports.bundles:
        raise Refused("BUNDLE_ELSEWHERE", f"{directory} is not in the bundles folder of this fabric", _START_AGAIN)
    return directory


def _is_the_named_one(directory: Path, bundle: BundleRef) -> Check:
    """The verified bundle is the one that an approval will name."""
    data = (directory / STAMP).read_bytes()
    stamp = Stamp.model_validate_json(data)
    expected = (bundle.stamp_id, bundle.stamp_sha256, bundle.bundle_digest)
    actual = (stamp.stamp_id, sha256_hex(data), stamp.bundle_digest)
    return Check(
        code="STAMP_ID",
        ok=actual == expected,
        reason="" if actual == expected else "reference",
        member=STAMP,
        expected=" ".join(expected),
        actual=" ".join(actual),
        remedy="" if actual == expected else _START_AGAIN,
    )
