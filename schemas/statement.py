"""The signed statement of an Evidence Bundle: DSSE envelope, Sigstore bundle, in-toto statement, provenance (evidence §8, §9).

Read from files that may be forged: every model is a door.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from schemas.canonical import jcs
from schemas.model import Door, Sha256


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
