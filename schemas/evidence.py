"""The Evidence Bundle: members, stamp, statement, trust root (contracts §10, evidence §2, §8-10).

Everything here is read from files that may be forged, so every model is a door: unknown fields are refused.
Optional fields are absent, never null.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from schemas.canonical import jcs
from schemas.gates import GateVerdict, MetricName
from schemas.model import Digest, Door, GitId, Sha256
from schemas.testing import Limits, TestOutcome

# --- names, types and limits ------------------------------------------------------------------------------------------

PATCH = "diff.patch"
TEST_RESULTS = "test_results.json"
POLICY_CHECK = "policy_check.json"
TRAJECTORY = "trajectory.jsonl"
SBOM = "sbom.cdx.json"
CHECKSUMS = "checksums.sha256"
STAMP = "stamp.json"
PROVENANCE = "provenance.intoto.json"
SIGSTORE_BUNDLE = "provenance.sigstore.json"

CONTENT_MEMBERS: tuple[str, ...] = (PATCH, TEST_RESULTS, POLICY_CHECK, TRAJECTORY, SBOM)
"""Members 1-5: what ``checksums.sha256`` lists."""
STABLE_MEMBERS: tuple[str, ...] = (*CONTENT_MEMBERS, CHECKSUMS)
"""Members 1-6: byte-identical on a re-run from the same trajectory."""
SUBJECT_MEMBERS: tuple[str, ...] = (*STABLE_MEMBERS, STAMP)
"""Members 1-7: the subject of the signed statement."""
REQUIRED_MEMBERS: tuple[str, ...] = (*SUBJECT_MEMBERS, PROVENANCE)
OPTIONAL_MEMBERS: tuple[str, ...] = (SIGSTORE_BUNDLE,)

_MIB = 1024 * 1024
SIZE_LIMITS: dict[str, int] = {
    PATCH: 2 * _MIB,
    TEST_RESULTS: 16 * _MIB,
    POLICY_CHECK: 4 * _MIB,
    TRAJECTORY: 1024 * _MIB,
    SBOM: 4 * _MIB,
    CHECKSUMS: 64 * 1024,
    STAMP: 4 * _MIB,
    PROVENANCE: _MIB,
    SIGSTORE_BUNDLE: _MIB,
}
"""Largest size in bytes; checked before anything is parsed. A trajectory is streamed: it is never in memory as a whole."""
VALUE_LIMIT = 1_000_000
"""Commas and opening brackets of one JSON file, counted before it is parsed: small values take much more memory than bytes."""
SUBJECT_LIMIT = 64

TYPE_BASE = "urn:gen4:attest"
"""Prefix of every type of ours; a changed meaning is a new version behind it."""
BUILD_TYPE = f"{TYPE_BASE}/compile/v1"
BUILDER_ID = "urn:gen4:builder/embedded"
"""``/embedded``: signer, worker and approver share one uid, and no isolation is claimed (threats 1.4)."""
SEPARATED_BUILDER_ID = "urn:gen4:builder/separated"
"""Executor and signer run under uids of their own, and neither is the worker's nor root's."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
SIGSTORE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

_STAMP_ID = re.compile(r"stm_[0-9a-f]{32}")

def timestamp_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds_of(timestamp: str) -> int:
    """UTC milliseconds of a timestamp in whole seconds. Raises ValueError for a date that does not exist."""
    return int(datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() * 1000)


def _existing(timestamp: str) -> str:
    milliseconds_of(timestamp)
    return timestamp


Timestamp = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"), AfterValidator(_existing)
]
"""RFC 3339 UTC in whole seconds, of a date that exists."""


def is_stamp_id(value: str) -> bool:
    return _STAMP_ID.fullmatch(value) is not None


# --- member 2: test results (Track A) ---------------------------------------------------------------------------------


class CommandResult(Door):
    argv: tuple[str, ...]
    exit_code: int


class Suite(Door):
    """Outcomes of one tree: ``base`` or ``patched``."""

    name: Literal["base", "patched"]
    runner: str
    version: str
    outcomes: dict[str, TestOutcome]
    counts: dict[str, int]


class TestResults(Door):
    """No durations, times or machine paths. ``canonical_sha256``: digest of the patched outcomes."""

    __test__ = False

    commands: tuple[CommandResult, ...]
    suites: tuple[Suite, Suite]
    targets: tuple[str, ...]
    """The failing tests that the patch had to mend: those named, else all that fail on base."""
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    canonical_sha256: Sha256


class CoverageShare(Door):
    """Of the patched tree, in basis points; ``changed_lines_bp``: of executable lines that the patch added or changed."""

    lines_bp: Annotated[int, Field(ge=0, le=10_000)]
    changed_lines_bp: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Absent where the patch changes no executable line."""


class TestResults2(TestResults):
    """``test-results/2``, with what was covered. Without a schema version it is the first form, :class:`TestResults`."""

    schema_version: Literal["test-results/2"] = "test-results/2"
    coverage: CoverageShare | None = None
    """Absent where it was not measured."""


# --- member 3: policy check (Track B) ---------------------------------------------------------------------------------


class EngineVersion(Door):
    name: str
    version: str


class PolicyResult(Door):
    rule_id: str
    outcome: Literal["pass", "deny", "error"]
    message: str = ""
    path: str | None = None
    line: int | None = None


class PolicyCheck(Door):
    """``allow`` only if the set of passed rules equals ``required_checks``."""

    engine: EngineVersion
    policy_id: str
    policy_digest: Digest
    input_sha256: Sha256
    required_checks: tuple[str, ...]
    results: tuple[PolicyResult, ...]
    sbom_sha256: Sha256
    decision: Literal["allow", "deny"]


# --- member 7: the stamp ----------------------------------------------------------------------------------------------


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


# --- member 8: envelope and statement ---------------------------------------------------------------------------------


class EnvelopeSignature(Door):
    keyid: Literal[""]
    sig: str


class Envelope(Door):
    """A DSSE envelope: exactly one signature, with an empty key id."""

    payload: str
    payloadType: str
    signatures: tuple[EnvelopeSignature]


class PublicKeyHint(Door):
    hint: str


class CertificateBytes(Door):
    rawBytes: str


class LogId(Door):
    keyId: str


class KindVersion(Door):
    kind: str
    version: str


class LogCheckpoint(Door):
    envelope: str


class InclusionProof(Door):
    logIndex: str
    rootHash: str
    treeSize: str
    hashes: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    checkpoint: LogCheckpoint


class InclusionPromise(Door):
    signedEntryTimestamp: str


class LogEntry(Door):
    """An entry of a Rekor log. Its integers are strings, as Protobuf's JSON writes 64 bits.

    ``integratedTime`` and ``inclusionPromise``: of version 1 of the log.
    """

    logIndex: str
    logId: LogId
    kindVersion: KindVersion
    integratedTime: str | None = None
    inclusionPromise: InclusionPromise | None = None
    inclusionProof: InclusionProof
    canonicalizedBody: str


class SignedTimestamp(Door):
    signedTimestamp: str


class TimestampData(Door):
    rfc3161Timestamps: Annotated[tuple[SignedTimestamp, ...], Field(max_length=4)]


class VerificationMaterial(Door):
    """A key's hint (profile K) or a certificate (profile S), and what proves when the signature was made."""

    publicKey: PublicKeyHint | None = None
    certificate: CertificateBytes | None = None
    tlogEntries: Annotated[tuple[LogEntry, ...], Field(max_length=1)]
    timestampVerificationData: TimestampData | None = None


class BundleSignature(Door):
    """Sigstore's JSON leaves an empty key id out; its absence and ``""`` mean the same."""

    keyid: Literal[""] = ""
    sig: str


class BundleEnvelope(Door):
    payload: str
    payloadType: str
    signatures: tuple[BundleSignature]


class SigstoreBundle(Door):
    """Sigstore bundle v0.3 around the same envelope, signed by a key that the verifier holds or by a certified one."""

    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verificationMaterial: VerificationMaterial
    dsseEnvelope: BundleEnvelope


class SubjectDigest(Door):
    sha256: Sha256


class Subject(Door):
    name: str
    digest: SubjectDigest


class Statement(Door):
    """in-toto Statement. Types are any string here: each is checked by its own code."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    type_: str = Field(alias="_type")
    subject: tuple[Subject, ...]
    predicateType: str
    predicate: dict[str, Any]

    def encode(self) -> bytes:
        return jcs(self.model_dump(mode="json", by_alias=True))


class ResourceDescriptor(Door):
    name: str
    uri: str | None = None
    digest: dict[str, str]


class BuildDefinition(Door):
    buildType: str
    externalParameters: dict[str, str]
    internalParameters: dict[str, Any]
    resolvedDependencies: tuple[ResourceDescriptor, ...]


class Builder(Door):
    id: str
    version: dict[str, str]


class RunMetadata(Door):
    invocationId: str


class RunDetails(Door):
    builder: Builder
    metadata: RunMetadata


class Provenance(Door):
    """SLSA provenance v1. Start and finish times are left out: they would differ on every run."""

    buildDefinition: BuildDefinition
    runDetails: RunDetails


class ExternalParameters(Door):
    """Few, and each one checked by the verifier."""

    task_id: str
    repository: str
    ref: str
    profile: Literal["embedded"]


# --- trust/1 ----------------------------------------------------------------------------------------------------------


class TrustedKey(Door):
    """Trust is the pair (key, builder id). Without trusted time, a key is judged at the time of verification:
    once it is revoked or out of date every bundle of the key is refused."""

    hint: str
    public_key: str
    """PEM SubjectPublicKeyInfo of an ECDSA P-256 key."""
    profile: Literal["key"]
    identity: str
    valid_from: Timestamp
    valid_until: Timestamp | None = None
    revoked_at: Timestamp | None = None
    builder_ids: tuple[str, ...]


class TrustRoot(Door):
    """What a verifier believes: nothing else, and an empty list believes nothing."""

    schema_version: Literal["trust/1"]
    assurance: Literal["single_operator", "separated"]
    """``separated`` refuses bundles of a builder whose id ends in ``/embedded``."""
    keys: Annotated[tuple[TrustedKey, ...], Field(max_length=256)]
    policy_digests: tuple[Digest, ...]
