"""Evidence: members 1-6, the sealed bundle, the Trust Gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from activities.evidence.checkpointing import CheckpointSigner
from activities.evidence.content import IN_MEMORY, Content, StoredFile
from activities.evidence.external import external_trajectory
from activities.evidence.members import assemble, bundle_digest
from activities.evidence.provenance import external_parameters
from activities.evidence.reading import read_stamp
from activities.evidence.recorded import member_inputs, read_judgement, read_outcomes
from activities.evidence.remembering import Remembering
from activities.evidence.seal import attestations_of, publish, publish_folder
from activities.evidence.signer_client import SignerClient
from activities.evidence.sources import public_repository
from activities.evidence.trusting import load_trust
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
    SEAL_REJECTION,
    TAKE_CHECKPOINT,
    TRUST_GATE,
    AssembleMembers,
    ImportPatch,
    Members,
    ReadMembers,
    SealBundle,
    SealedBundle,
    SealedRejection,
    SealRejection,
    VerifyBundle,
)
from schemas.checkpoint import CheckpointTaken, TakeCheckpoint
from schemas.error import Refused
from schemas.evidence import PATCH, STAMP
from schemas.gates import Check, GateReport
from schemas.model import BlobRef
from schemas.request import BundleRef
from schemas.stamp import StampCheckpoint
from schemas.task import Source
from schemas.testing import read_lock

_START_AGAIN = "start the remediation again; what was recorded is kept"
_NAME_SIGNER = "see in `gen4 keys list` whether who signs is trusted; `gen4 down`, then `gen4 up`, names whoever signs then"


@dataclass(frozen=True, kw_only=True)
class EvidencePorts:
    """``base_packages``: Debian packages of a base root filesystem by its digest; ``trust``: path of the trust root."""

    blobs: BlobStore
    objects: ObjectStore
    bundles: Path
    attestations: Path
    """Where statements beside bundles are; see :func:`activities.evidence.seal.attestations_of`."""
    rejections: Path
    trust: Path
    base_packages: Callable[[str], Mapping[str, str]]
    now_s: Callable[[], float] = time.time

    @cached_property
    def repository(self) -> Remembering:
        """For verification. What is compiled again is made again, by the store itself."""
        return Remembering(self.objects)


class EvidenceActivities:
    """Assembles and checks. The signing key is not here but in :class:`SigningActivities`, which has its own pool."""

    def __init__(self, ports: EvidencePorts) -> None:
        self._ports = ports

    @implements(ASSEMBLE_MEMBERS)
    def assemble_members(self, request: AssembleMembers) -> Members:
        read, trajectory = self._ports.blobs.get, self._trajectory(request)
        lock = read_lock(read(request.environment.lock))
        outcomes = read_outcomes(read, request.base), read_outcomes(read, request.patched)
        judgement = read_judgement(read, request.judged, *outcomes)
        packages = self._ports.base_packages(lock.base_digest)
        members = assemble(member_inputs(request, read, lock, outcomes, judgement, trajectory, packages))
        blobs = {
            name: self._ports.blobs.put(data) if isinstance(data, bytes) else BlobRef(sha256=data.sha256, size=data.size)
            for name, data in members.items()
        }
        return Members(blobs=blobs, bundle_digest=bundle_digest(members))

    @implements(REREAD_PATCH)
    def reread_patch(self, request: ReadMembers) -> ImportPatch:
        return ImportPatch(source=request.source, patch_ref=request.members.blobs[PATCH])

    @implements(TRUST_GATE)
    def trust_gate(self, request: VerifyBundle) -> GateReport:
        directory = _own_directory(self._ports, request.bundle)
        report = verify_bundle(
            directory,
            load_trust(self._ports.trust),
            objects=self._ports.repository,
            expected_parameters=_expected(request.source),
            now_ms=int(self._ports.now_s() * 1000),
        )
        named = _is_the_named_one(directory, request.bundle) if report.verdict == "pass" else None
        if named is None or named.ok:
            return report
        checks = tuple(named if check.code == named.code else check for check in report.checks)
        return report.model_copy(update={"verdict": "fail", "checks": checks})

    def _trajectory(self, request: AssembleMembers) -> Content:
        if (ref := request.trajectory) is not None:
            return _content(self._ports.blobs, ref)
        snapshot = self._ports.objects.snapshot_hash(request.patch.result_tree)
        return external_trajectory(request.source, request.patch, snapshot)


class SigningActivities:
    """Asks the signer, which has a process and a key of its own, and publishes what it made.

    Nothing here can sign. The signer believes no digest, verdict or member that it can find out itself (threats 5.1).
    """

    def __init__(self, ports: EvidencePorts, signer: SignerClient, checkpoint: Callable[[], StampCheckpoint | None]) -> None:
        self._ports = ports
        self._signer = signer
        self._checkpoint = checkpoint

    @implements(SEAL_BUNDLE)
    def seal_bundle(self, request: SealBundle) -> SealedBundle:
        """Seal once per business identity of the call: a later attempt finds the bundle of an earlier one."""
        who = acting()
        name = sha256_hex(who.effect_key.encode())[:32]
        directory = self._ports.bundles / name
        checked: list[BundleRef] = []
        if not directory.exists():
            sealed = self._signer.seal(request, who.keys, self._checkpoint())
            files = {**self._stored(request), **sealed.files}
            stamp = read_stamp(sealed.files[STAMP])
            publish_folder(sealed.attestations, attestations_of(self._ports.attestations, stamp))
            if not publish(files, directory, lambda folder: checked.append(self._reference(folder, directory, request))):
                checked.clear()  # another attempt was first
        bundle = checked[0] if checked else self._reference(directory, directory, request)
        return SealedBundle(bundle=bundle, trust=str(self._ports.trust))

    @implements(SEAL_REJECTION)
    def seal_rejection(self, request: SealRejection) -> SealedRejection:
        """Once per business identity too: the report's id follows from it."""
        who = acting()
        report_id = "rej_" + sha256_hex(who.effect_key.encode())[:32]
        directory = self._ports.rejections / report_id
        if not directory.exists():
            publish_folder(self._signer.reject(request, who.keys, report_id), directory)
        return SealedRejection(directory=str(directory), report_id=report_id)

    def _stored(self, request: SealBundle) -> dict[str, Content]:
        """Members 1-6 from the content store; the large one stays a file."""
        return {name: _content(self._ports.blobs, ref) for name, ref in request.members.blobs.items()}

    def _reference(self, folder: Path, directory: Path, request: SealBundle) -> BundleRef:
        """Verify what lies in ``folder``, whoever wrote it, before it gets the name ``directory`` or that is handed out."""
        report = verify_bundle(
            folder,
            load_trust(self._ports.trust),
            objects=self._ports.repository,
            expected_parameters=_expected(request.source),
            now_ms=int(self._ports.now_s() * 1000),
        )
        if report.verdict != "pass":
            own = next((check.remedy for check in report.failed if check.remedy), _START_AGAIN)
            remedy = _NAME_SIGNER if "SIGNER_UNTRUSTED" in report.codes else own
            raise Refused("BUNDLE_INVALID", f"{folder} does not verify: {report.why}", remedy)
        stamp_bytes = (folder / STAMP).read_bytes()
        stamp = read_stamp(stamp_bytes)
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


def _content(blobs: BlobStore, ref: BlobRef) -> Content:
    """A blob; one that is too large for memory stays a file, hashed here."""
    if ref.size <= IN_MEMORY:
        return blobs.get(ref)
    file = StoredFile.of(blobs.path(ref))
    if (file.sha256, file.size) != (ref.sha256, ref.size):
        raise Refused("BLOB_CORRUPT", f"the bytes stored as {ref.sha256} are not those", "restore the blobs folder from a backup")
    return file


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
    stamp = read_stamp(data)
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
