"""Sealing: the stamp, the signed statement, and a directory that appears complete or not at all (evidence §10)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from activities.evidence import sigstore_bundle
from activities.evidence.keys import Signer
from activities.evidence.members import bundle_digest
from activities.evidence.provenance import write_statement
from activities.evidence.sources import public_repository
from activities.kernel import dsse
from schemas.canonical import jcs, jcs_sha256, sha256_hex
from schemas.capabilities import SealBundle
from schemas.error import Gen4Error, InfrastructureError, Refused
from schemas.evidence import (
    CONTENT_MEMBERS,
    OPTIONAL_MEMBERS,
    PAYLOAD_TYPE,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SIGSTORE_BUNDLE,
    STABLE_MEMBERS,
    STAMP,
    DeterminismStamp,
    Engines,
    EngineVersion,
    MemberDigest,
    Metric,
    RegressionStamp,
    RunKeys,
    Seeds,
    Stamp,
    StampCompile,
    StampFix,
    StampGates,
    StampLimits,
    StampPolicy,
    StampSandbox,
    StampSigner,
    StampSource,
    TrustStamp,
    TrustStampCheck,
    timestamp_of,
)
from schemas.task import TraceKeys
from schemas.testing import SandboxFacts
from schemas.verdict import Judgement

MINIMUM_RUNS = 2


@dataclass(frozen=True, kw_only=True)
class SealFacts:
    """What the sealing process itself knows; the rest is recomputed from the content store."""

    keys: TraceKeys
    capability_id: str
    capability_version: str
    gen4_version: str
    git_version: str
    created_s: int


def refuse_unless_sealable(request: SealBundle, members: Mapping[str, bytes], judgement: Judgement) -> None:
    """No stamp unless every gate passes on what was recomputed here.

    Raises:
        Refused: GATE_NOT_PASSED naming the gate.
    """
    digest = bundle_digest(members)
    problems = {
        "regression": _gate_problem(request.regression.gate == "regression", request.regression.verdict)
        or (f"verdict is {judgement.verdict} with {', '.join(judgement.codes)}" if judgement.verdict != "accepted" else ""),
        "determinism": _gate_problem(request.determinism.gate == "determinism", request.determinism.verdict)
        or (f"the re-run gave {request.rerun_bundle_digest}, not {digest}" if request.rerun_bundle_digest != digest else "")
        or (f"{request.runs} run(s)" if request.runs < MINIMUM_RUNS else ""),
        "policy": "" if request.policy.decision == "allow" else "the policy denied the patch",
    }
    for gate, problem in problems.items():
        if problem:
            raise Refused("GATE_NOT_PASSED", f"{gate}: {problem}", "make the gate pass; nothing was signed")


def write_stamp(
    request: SealBundle, members: Mapping[str, bytes], judgement: Judgement, checks: tuple[TrustStampCheck, ...],
    signer: Signer, facts: SealFacts,
) -> Stamp:  # fmt: skip
    """``checks``: the pre-seal checks of the Trust Gate, all of them passed."""
    source = request.source
    return Stamp(
        schema_version="stamp/1",
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
        members={name: MemberDigest(sha256=sha256_hex(members[name]), size=len(members[name])) for name in CONTENT_MEMBERS},
        source=StampSource(
            repo=public_repository(source.repository),
            ref=source.ref,
            base_commit=source.base_commit,
            base_tree=source.base_tree,
            result_tree=request.patch.result_tree,
        ),
        compile=_compile(request),
        sandbox=_sandbox(request.patched.sandbox),
        fix=StampFix(completeness=judgement.fix, targets_sha256=jcs_sha256(list(judgement.targets))),
        engines=_engines(request, facts),
        policy=StampPolicy(policy_id=request.policy.policy_id, policy_digest=request.policy.policy_digest),
        gates=_gates(request, checks),
        signer=StampSigner(profile="key", identity=signer.identity, key_or_issuer=signer.hint),
    )


def sign_members(members: Mapping[str, bytes], stamp: Stamp, signer: Signer) -> dict[str, bytes]:
    """All files of the bundle: members 1-6, stamp, and the one envelope in its two forms."""
    complete = {**members, STAMP: jcs(stamp)}
    envelope = dsse.sign(signer.private_key, PAYLOAD_TYPE, write_statement(complete, stamp).encode())
    complete[PROVENANCE] = jcs(envelope)
    complete[SIGSTORE_BUNDLE] = sigstore_bundle.encode(sigstore_bundle.wrap(envelope, signer.hint))
    return complete


def publish(files: Mapping[str, bytes], directory: Path, check: Callable[[Path], object]) -> bool:
    """Write to a sibling folder, make it durable and read-only, then rename; False when ``directory`` exists already.

    What a killed earlier attempt left beside it is removed first.

    Args:
        check: verifies the folder before it gets its name; what it refuses is removed again.

    Raises:
        InfrastructureError: BUNDLE_WRITE_FAILED; and all that ``check`` raises.
    """
    if directory.exists():
        return False
    for leftover in directory.parent.glob(f".sealing-{directory.name}-*"):
        _remove(leftover)
    working = directory.parent / f".sealing-{directory.name}-{secrets.token_hex(4)}"
    try:
        working.mkdir(mode=0o700)
        for name in (*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS):
            _write(working / name, files[name])
        working.chmod(0o555)
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
        raise InfrastructureError(
            "BUNDLE_WRITE_FAILED", f"the bundle was not written: {error.strerror}", "free disk space; the seal is tried again"
        ) from error
    _sync(directory.parent)
    return True


def _gate_problem(right_gate: bool, verdict: str) -> str:
    if not right_gate:
        return "the report is that of another gate"
    return "" if verdict == "pass" else f"verdict is {verdict}"


def _compile(request: SealBundle) -> StampCompile:
    return StampCompile(
        run_keys=RunKeys(base=request.base.run_key, patched=request.patched.run_key),
        environment_digest=request.environment.environment_digest,
        platform=request.environment.platform,
        commands_sha256=jcs_sha256([list(request.plan.argv), list(request.plan.pytest_args), list(request.plan.python_path)]),
        env_sha256=jcs_sha256(request.plan.env),
        limits=StampLimits.of(request.limits),
        seeds=Seeds(PYTHONHASHSEED="0", SOURCE_DATE_EPOCH=str(request.source.commit_time)),
        network="none",
        runs=request.runs,
    )


def _sandbox(facts: SandboxFacts) -> StampSandbox:
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


def _gates(request: SealBundle, checks: tuple[TrustStampCheck, ...]) -> StampGates:
    return StampGates(
        regression=RegressionStamp(
            verdict=request.regression.verdict,
            baseline_commit=request.source.base_commit,
            report_sha256=jcs_sha256(request.regression),
            metrics=(Metric(name="tests", verdict=request.regression.verdict),),
        ),
        determinism=DeterminismStamp(
            verdict=request.determinism.verdict,
            runs=request.runs,
            rerun_bundle_digest=request.rerun_bundle_digest,
            isolation=request.isolation,
        ),
        trust=TrustStamp(verdict="pass" if all(check.ok for check in checks) else "fail", checks=checks),
    )


def is_complete(members: Mapping[str, bytes]) -> bool:
    return set(members) == set(STABLE_MEMBERS)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        folder.chmod(0o700)
        shutil.rmtree(folder)
