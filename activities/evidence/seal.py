"""Sealing: the stamp, the signed statement, and a directory that appears complete or not at all (evidence §10)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activities.evidence.content import Content, copy, sha256_of, size_of
from activities.evidence.members import bundle_digest
from activities.evidence.provenance import write_statement
from activities.evidence.signing import StatementSigner
from activities.evidence.sources import public_repository
from schemas.canonical import jcs, jcs_sha256
from schemas.capabilities import SealBundle
from schemas.error import Gen4Error, InfrastructureError
from schemas.evidence import (
    CONTENT_MEMBERS,
    OPTIONAL_MEMBERS,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SIGSTORE_BUNDLE,
    STABLE_MEMBERS,
    STAMP,
    EngineVersion,
    timestamp_of,
)
from schemas.regression import Waiver
from schemas.stamp import (
    AnyStamp,
    DeterminismStamp2,
    Engines,
    MemberDigest,
    RegressionStamp2,
    RunKeys,
    Seeds,
    Stamp2,
    StampCheckpoint,
    StampCompile2,
    StampFix,
    StampGates2,
    StampLimits,
    StampMetric,
    StampPolicy,
    StampSandbox,
    StampSigner2,
    StampSource,
    StampWaiver,
    TrustStamp,
    TrustStampCheck,
)
from schemas.task import TraceKeys
from schemas.verdict import Judgement


@dataclass(frozen=True)
class SealFacts:
    """What the sealing process itself knows."""

    keys: TraceKeys
    capability_id: str
    capability_version: str
    gen4_version: str
    git_version: str
    created_s: int
    checkpoint: StampCheckpoint | None = None


@dataclass(frozen=True, kw_only=True)
class Established:
    """What the signer found out by its own work, from receipts and content alone."""

    members: Mapping[str, Content]
    """Members 1-6."""
    judgement: Judgement
    receipts: tuple[str, ...]
    """sha256 of the payloads of all receipts, ascending."""
    runs: int
    """Runs of each tree, by different receipts."""
    sentinels: int
    """Tests that had to fail, in all runs together; every one did."""
    probe: Literal["failed_as_it_must", "not_applicable"]
    cache: Literal["hit", "miss"]
    reused: bool
    """No run was made for the re-run."""
    rerun_bundle_digest: str
    builder_id: str
    waivers: tuple[Waiver, ...] = ()
    """Those that were used; none has expired."""


MEMBERS = (*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS)
PRE_SEAL_CODES = ("MEMBER_MISSING", "CHECKSUM_MISMATCH", "PATCH_TREE")
"""Checks of the Trust Gate that hold by the time of the stamp: the members were made, the patch was applied."""


def write_stamp(request: SealBundle, found: Established, signer: StatementSigner, facts: SealFacts) -> Stamp2:
    source, members = request.source, found.members
    return Stamp2(
        schema_version="stamp/2",
        stamp_id="stm_" + secrets.token_hex(16),
        created_at=timestamp_of(facts.created_s),
        tenant_id=facts.keys.tenant_id,
        trace_id=facts.keys.trace_id,
        session_id=facts.keys.session_id,
        task_id=facts.keys.task_id,
        capability_id=facts.capability_id,
        version=facts.capability_version,
        candidate_id=request.candidate_id,
        bundle_digest=bundle_digest(members),
        members={name: MemberDigest(sha256=sha256_of(members[name]), size=size_of(members[name])) for name in CONTENT_MEMBERS},
        source=StampSource(
            repo=public_repository(source.repository),
            ref=source.ref,
            base_commit=source.base_commit,
            base_tree=source.base_tree,
            result_tree=request.patch.result_tree,
        ),
        compile=_compile(request, found),
        sandbox=_sandbox(request),
        fix=StampFix(completeness=found.judgement.fix, targets_sha256=jcs_sha256(list(found.judgement.targets))),
        engines=_engines(request, facts),
        policy=StampPolicy(policy_id=request.policy.policy_id, policy_digest=request.policy.policy_digest),
        gates=_gates(request, found),
        signer=StampSigner2(profile=signer.profile, identity=signer.identity, key_or_issuer=signer.key_or_issuer),
        checkpoint=facts.checkpoint,
    )


def encode_stamp(stamp: Stamp2) -> bytes:
    """Optional fields are absent, never null."""
    return jcs(stamp.model_dump(mode="json", exclude_none=True))


def sign_members(
    members: Mapping[str, Content], stamp: Stamp2, signer: StatementSigner, builder_id: str
) -> dict[str, Content]:
    """All files of the bundle: members 1-6, stamp, and the one envelope in its two forms."""
    complete: dict[str, Content] = {**members, STAMP: encode_stamp(stamp)}
    signed = signer.sign_statement(write_statement(complete, stamp, builder_id).encode())
    complete[PROVENANCE] = jcs(signed.envelope)
    complete[SIGSTORE_BUNDLE] = signed.bundle
    return complete


def lay_out(files: Mapping[str, Content], directory: Path, names: Iterable[str] = MEMBERS) -> None:
    """Write the files to a new folder, read-only. They may not be on disk when this returns.

    Raises:
        OSError, Refused: what is written is removed with the folder, by the caller.
    """
    directory.mkdir(mode=0o700)
    for name in names:
        _write(directory / name, files[name])
    directory.chmod(0o555)


def publish(
    files: Mapping[str, Content], directory: Path, check: Callable[[Path], object], names: Sequence[str] = MEMBERS
) -> bool:
    """Write to a sibling folder, make it durable and read-only, then rename; False when ``directory`` exists already.

    What a killed earlier attempt left beside it is removed first.

    Args:
        check: verifies the folder before it gets its name; what it refuses is removed again.
        names: of the files, in the order of writing.

    Raises:
        InfrastructureError: BUNDLE_WRITE_FAILED; and all that ``check`` raises.
    """
    if directory.exists():
        return False
    for leftover in directory.parent.glob(f".sealing-{directory.name}-*"):
        _remove(leftover)
    working = directory.parent / f".sealing-{directory.name}-{secrets.token_hex(4)}"
    try:
        working.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lay_out(files, working, names)
        for name in names:
            _sync(working / name)
        _sync(working)
        check(working)
        os.rename(working, directory)
    except Gen4Error:
        _remove(working)
        raise
    except OSError as error:
        _remove(working)
        if directory.exists():
            return False
        raise not_written(error) from error
    _sync(directory.parent)
    return True


def not_written(error: OSError) -> InfrastructureError:
    remedy = "free disk space; the seal is tried again"
    return InfrastructureError("BUNDLE_WRITE_FAILED", f"the bundle was not written: {error.strerror}", remedy)


def attestations_of(root: Path, stamp: AnyStamp) -> Path:
    """Where the statements beside a bundle are. Bundles of equal content share a digest, and each has a stamp of its own."""
    return root / stamp.bundle_digest.removeprefix("sha256:") / stamp.stamp_id


def publish_folder(files: Mapping[str, bytes], directory: Path) -> bool:
    """Like :func:`publish`, of files that nobody has to check."""
    return publish(files, directory, lambda _: None, sorted(files))


def _compile(request: SealBundle, found: Established) -> StampCompile2:
    plan = request.plan
    return StampCompile2(
        run_keys=RunKeys(base=request.base.run_key, patched=request.patched.run_key),
        environment_digest=request.environment.environment_digest,
        platform=request.environment.platform,
        commands_sha256=jcs_sha256([list(plan.argv), list(plan.pytest_args), list(plan.python_path)]),
        env_sha256=jcs_sha256(plan.env),
        limits=StampLimits.of(request.limits),
        seeds=Seeds(PYTHONHASHSEED="0", SOURCE_DATE_EPOCH=str(request.source.commit_time)),
        network="none",
        runs=found.runs,
        cache=found.cache,
        receipts=found.receipts,
        sentinels=found.sentinels,
        probe=found.probe,
        frozen_clock=plan.frozen_clock,
    )


def _sandbox(request: SealBundle) -> StampSandbox:
    facts = request.patched.sandbox
    return StampSandbox(backend=facts.backend, profile_sha256=facts.profile_sha256, enforcement=facts.enforcement)


def _engines(request: SealBundle, facts: SealFacts) -> Engines:
    sandbox = request.patched.sandbox
    return Engines(
        gen4=facts.gen4_version,
        python=request.environment.python_version,
        git=facts.git_version,
        sandbox=f"{sandbox.backend} {sandbox.version}",
        policy=f"{request.policy.engine_name} {request.policy.engine_version}",
        explorer=EngineVersion(name=request.explorer_name, version=request.explorer_version),
    )


def _gates(request: SealBundle, found: Established) -> StampGates2:
    regression = request.regression
    return StampGates2(
        regression=RegressionStamp2(
            verdict=regression.verdict,
            baseline_commit=request.source.base_commit,
            report_sha256=jcs_sha256(regression),
            metrics=tuple(StampMetric(name=one.name, verdict=one.verdict, waived=one.waived) for one in regression.metrics),
            waivers=tuple(_waiver(one) for one in found.waivers),
        ),
        determinism=DeterminismStamp2(
            verdict=request.determinism.verdict,
            runs=found.runs,
            rerun_bundle_digest=found.rerun_bundle_digest,
            isolation=request.isolation,
            reused=found.reused,
        ),
        trust=TrustStamp(verdict="pass", checks=tuple(TrustStampCheck(code=code, ok=True) for code in PRE_SEAL_CODES)),
    )


def _waiver(waiver: Waiver) -> StampWaiver:
    return StampWaiver.model_validate(waiver.model_dump(include=set(StampWaiver.model_fields)))


def is_complete(members: Mapping[str, object]) -> bool:
    return set(members) == set(STABLE_MEMBERS)


def _write(path: Path, content: Content) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        copy(content, file)
        os.fchmod(file.fileno(), 0o444)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        folder.chmod(0o700)
        shutil.rmtree(folder)
