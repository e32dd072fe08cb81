"""trust/2: what a verifier believes, versioned, expiring and signed by an offline root key (threats 1.5; contracts §18).

A file holds either the DSSE envelope of a :class:`Trust` (payload type :data:`TRUST_TYPE`) or an unsigned trust/1 of an
earlier release, which reads as version 0 without expiry.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.evidence import Timestamp
from schemas.model import Digest, Door, Sha256

TRUST_TYPE = "application/vnd.gen4.trust+json"


class Trusted(Door):
    """Trust is the pair (signer, builder id). Optional fields are absent, never null."""

    profile: Literal["key", "keyless"]
    identity: str
    """key: the signer's name; keyless: the subject alternative name that the certificate must carry."""
    builder_ids: tuple[str, ...]
    valid_from: Timestamp
    valid_until: Timestamp | None = None
    revoked_at: Timestamp | None = None
    require: Literal["timestamp", "log", "none"] = "none"
    """What proves when it was signed. With ``none`` a revocation voids every bundle of the key but ``kept``."""
    kept: tuple[Digest, ...] = ()
    """Digests of the stamps whose bundles stay valid although the key was revoked."""
    hint: str | None = None
    """key: base64 of the sha256 of the DER SubjectPublicKeyInfo."""
    public_key: str | None = None
    """key: PEM SubjectPublicKeyInfo of an ECDSA P-256 key."""
    issuer: str | None = None
    """keyless: OIDC issuer that the certificate must carry."""
    trusted_root_sha256: Sha256 | None = None
    """keyless: which of ``trusted_roots`` must have certified it."""


class PinnedRoot(Door):
    """A Sigstore trusted root. ``document``: its JSON text, byte for byte; ``sha256`` of those bytes."""

    sha256: Sha256
    document: str


class Trust(Door):
    schema_version: Literal["trust/2"] = "trust/2"
    version: Annotated[int, Field(ge=0)]
    """Counts up; a verifier refuses one that is lower than the last it saw of the same root key."""
    issued_at: Timestamp
    expires_at: Timestamp | None
    """None only for a trust/1 of an earlier release."""
    assurance: Literal["single_operator", "separated"]
    """``separated`` refuses bundles of a builder whose id ends in ``/embedded``."""
    signers: Annotated[tuple[Trusted, ...], Field(max_length=256)]
    executors: tuple[str, ...] = ()
    """PEM public keys of executors whose run receipts count."""
    policy_digests: tuple[Digest, ...]
    trusted_roots: tuple[PinnedRoot, ...] = ()


class Wanted(Door):
    """What a start wants a trust file to name besides, while its root key is away. Unsigned: it counts for nothing."""

    signer: Trusted
    policy_digests: tuple[Digest, ...]
    executors: tuple[str, ...]
    trusted_roots: tuple[str, ...]
    """JSON texts."""


def from_trust_1(old: TrustRoot) -> Trust:
    """What a trust/1 says, in the words of trust/2."""
    signers = tuple(
        Trusted(
            profile="key", identity=key.identity, builder_ids=key.builder_ids, valid_from=key.valid_from,
            valid_until=key.valid_until, revoked_at=key.revoked_at, hint=key.hint, public_key=key.public_key,
        )
        for key in old.keys
    )  # fmt: skip
    return Trust(
        version=0, issued_at="1970-01-01T00:00:00Z", expires_at=None, assurance=old.assurance, signers=signers,
        policy_digests=old.policy_digests,
    )  # fmt: skip


# --- trust/1, read for the sake of old files ---


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
