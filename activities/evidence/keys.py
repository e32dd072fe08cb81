"""The local signing key and the trust root that names it; both live in the user's state directory (threats 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from activities.kernel.signing_keys import hint_of, load_or_create, pem_of
from activities.record.key_files import replace
from schemas.canonical import StrictJsonError, jcs, strict_json
from schemas.error import InputError
from schemas.evidence import BUILDER_ID, TrustedKey, TrustRoot, timestamp_of

SIGNER_KEY = "signer.pem"
TRUST_FILE = "trust.json"
IDENTITY = "gen4:local-signer"
_TRUST_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Signer:
    """An ECDSA P-256 key of profile ``key``; the private part never leaves the object."""

    private_key: ec.EllipticCurvePrivateKey
    identity: str = IDENTITY

    @property
    def hint(self) -> str:
        return hint_of(self.private_key.public_key())

    @property
    def public_pem(self) -> str:
        return pem_of(self.private_key.public_key())

    def __repr__(self) -> str:
        return f"Signer(hint={self.hint!r})"


def load_signer(keys: Path) -> Signer:
    """The signing key of this state directory; made on first use, readable by its owner alone.

    Raises:
        InputError: KEY_UNSAFE when others could read or replace it, KEY_INVALID when it is not an ECDSA P-256 key.
    """
    return Signer(load_or_create(keys / SIGNER_KEY))


def load_trust(path: Path) -> TrustRoot:
    """Raises InputError TRUST_INVALID; never looks anywhere but at ``path``."""
    try:
        with path.open("rb") as file:
            data = file.read(_TRUST_LIMIT + 1)
    except OSError as error:
        raise _bad_trust(f"cannot read trust root {path}: {error.strerror}") from error
    if len(data) > _TRUST_LIMIT:
        raise _bad_trust(f"trust root {path} is larger than {_TRUST_LIMIT} bytes")
    try:
        strict_json(data)
        return TrustRoot.model_validate_json(data)
    except (StrictJsonError, ValidationError) as error:
        raise _bad_trust(f"{path} is not a trust/1 document: {error}") from error


def _bad_trust(message: str) -> InputError:
    return InputError("TRUST_INVALID", message, "name with --trust the trust.json of the fabric that sealed the bundle")


def ensure_trust(keys: Path, signer: Signer, policy_digests: tuple[str, ...], now_s: int) -> Path:
    """Write, or extend, the trust root of this state directory so that it names ``signer`` and ``policy_digests``.

    What it lists already stays, revocations too: older bundles go on verifying, revoked keys stay revoked.
    """
    path = keys / TRUST_FILE
    trust = load_trust(path) if path.exists() else _empty_trust()
    known = {key.hint for key in trust.keys}
    added = () if signer.hint in known else (trusted_key(signer, now_s),)
    policies = tuple(sorted({*trust.policy_digests, *policy_digests}))
    wanted = trust.model_copy(update={"keys": (*trust.keys, *added), "policy_digests": policies})
    if wanted != trust or not path.exists():
        replace(path, jcs(wanted) + b"\n", 0o644)
    return path


def trusted_key(signer: Signer, now_s: int) -> TrustedKey:
    return TrustedKey(
        hint=signer.hint,
        public_key=signer.public_pem,
        profile="key",
        identity=signer.identity,
        valid_from=timestamp_of(now_s),
        builder_ids=(BUILDER_ID,),
    )


def _empty_trust() -> TrustRoot:
    return TrustRoot(schema_version="trust/1", assurance="single_operator", keys=(), policy_digests=())
