"""The stamp of an Evidence Bundle, ``stamp/1`` and ``stamp/2``: what was compiled, how, and what the gates said (contracts §10).

Read from files that may be forged: every model is a door. Optional fields are absent, never null; a new field is a new version.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from schemas.evidence import EngineVersion, Timestamp
from schemas.gates import GateVerdict, MetricName
from schemas.model import Digest, Door, GitId, Sha256
from schemas.testing import Limits

_STAMP_ID = re.compile(r"stm_[0-9a-f]{32}")


def is_stamp_id(value: str) -> bool:
    return _STAMP_ID.fullmatch(value) is not None


class MemberDigest(Door):
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class StampSource(Door):
    repo: str
    ref: str
    base_commit: GitId
    base_tree: GitId
    result_tree: GitId


class RunKeys(Door):
    base: Sha256
    patched: Sha256


class Seeds(Door):
    PYTHONHASHSEED: str
    SOURCE_DATE_EPOCH: str


class StampLimits(Door):
    """The limits of every run, in the units of :class:`schemas.testing.Limits`."""

    memory_mb: int
    cpus: float
    pids: int
    wall_ms: int
    output_bytes: int
    disk_mb: int
    test_ms: int

    @classmethod
    def of(cls, limits: Limits) -> StampLimits:
        return cls.model_validate(limits.model_dump())


class StampCompile(Door):
    run_keys: RunKeys
    environment_digest: Digest
    platform: str
    commands_sha256: Sha256
    env_sha256: Sha256
    limits: StampLimits
    seeds: Seeds
    network: Literal["none"]
    runs: Annotated[int, Field(ge=1)]


class StampSandbox(Door):
    backend: Literal["docker", "bubblewrap"]
    profile_sha256: Sha256
    enforcement: dict[str, Literal["cgroup", "rlimit", "kernel", "watchdog", "none"]]


class StampFix(Door):
    completeness: Literal["complete", "partial", "none"]
    targets_sha256: Sha256


class Engines(Door):
    gen4: str
    python: str
    git: str
    sandbox: str
    policy: str
    explorer: EngineVersion


class StampPolicy(Door):
    policy_id: str
    policy_digest: Digest


class Metric(Door):
    """A metric that was not measured is absent, never assumed."""

    name: Literal["tests"]
    verdict: GateVerdict


class RegressionStamp(Door):
    verdict: GateVerdict
    baseline_commit: GitId
    report_sha256: Sha256
    metrics: tuple[Metric, ...]


class DeterminismStamp(Door):
    verdict: GateVerdict
    runs: int
    rerun_bundle_digest: Digest
    isolation: Literal["other_worker", "fresh_sandbox"]


class TrustStampCheck(Door):
    code: str
    ok: bool


class TrustStamp(Door):
    """What was checked before sealing. A verifier never believes it: it checks again."""

    verdict: GateVerdict
    checks: tuple[TrustStampCheck, ...]


class StampGates(Door):
    regression: RegressionStamp
    determinism: DeterminismStamp
    trust: TrustStamp


class StampSigner(Door):
    profile: Literal["key"]
    identity: str
    key_or_issuer: str
    """Hint of the key: base64 of the sha256 of its DER SubjectPublicKeyInfo."""


class Stamp(Door):
    """``stamp/1``. ``stamp_id`` is checked by its own code, so it is any string here."""

    schema_version: Literal["stamp/1"]
    stamp_id: str
    created_at: Timestamp
    tenant_id: str
    trace_id: str
    session_id: str
    task_id: str
    capability_id: str
    version: str
    candidate_id: str
    bundle_digest: Digest
    members: dict[str, MemberDigest]
    source: StampSource
    compile: StampCompile
    sandbox: StampSandbox
    fix: StampFix
    engines: Engines
    policy: StampPolicy
    gates: StampGates
    signer: StampSigner


class StampCompile2(StampCompile):
    """``cache``: ``hit`` when no run of the verdict was made for this bundle. ``receipts``: sha256 of the run receipts' payloads,
    ascending. ``probe``: whether the targets failed while the touched functions raised (threats 4.1)."""

    cache: Literal["hit", "miss"]
    receipts: tuple[Sha256, ...]
    sentinels: Annotated[int, Field(ge=0)]
    probe: Literal["failed_as_it_must", "not_applicable"]
    frozen_clock: bool


class StampMetric(Door):
    """A metric that was not measured is absent, never assumed."""

    name: MetricName
    verdict: GateVerdict
    waived: bool


class StampWaiver(Door):
    """A waiver that was used. ``metric`` and ``subject``: exactly what it covers, so that a verifier can judge again."""

    id: str
    metric: MetricName
    subject: str
    owner: str
    expires_at: Timestamp


class RegressionStamp2(Door):
    verdict: GateVerdict
    baseline_commit: GitId
    report_sha256: Sha256
    metrics: tuple[StampMetric, ...]
    waivers: tuple[StampWaiver, ...]


class DeterminismStamp2(DeterminismStamp):
    """``reused``: the re-run came from the run cache, so nothing was executed for it."""

    reused: bool


class StampGates2(Door):
    regression: RegressionStamp2
    determinism: DeterminismStamp2
    trust: TrustStamp


class StampSigner2(Door):
    """``key_or_issuer``: hint of the key, or the OIDC issuer of a keyless signature."""

    profile: Literal["key", "keyless"]
    identity: str
    key_or_issuer: str


class StampCheckpoint(Door):
    """The last signed checkpoint of the record when this was sealed (threats 7.1)."""

    number: Annotated[int, Field(ge=0)]
    root_sha256: Sha256


class Stamp2(Door):
    """``stamp/2``. ``checkpoint`` and ``supersedes`` are absent, never null."""

    schema_version: Literal["stamp/2"]
    stamp_id: str
    created_at: Timestamp
    tenant_id: str
    trace_id: str
    session_id: str
    task_id: str
    capability_id: str
    version: str
    candidate_id: str
    bundle_digest: Digest
    members: dict[str, MemberDigest]
    source: StampSource
    compile: StampCompile2
    sandbox: StampSandbox
    fix: StampFix
    engines: Engines
    policy: StampPolicy
    gates: StampGates2
    signer: StampSigner2
    checkpoint: StampCheckpoint | None = None
    supersedes: str | None = None


AnyStamp = Stamp | Stamp2
"""A verifier reads both; only ``stamp/2`` is written."""
