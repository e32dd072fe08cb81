"""Who signs: keys of profile K behind securesystemslib's signers, in a file or in a key management service (evidence §3).

Whatever signs gives one DSSE envelope with one signature and an empty key id, and the Sigstore bundle around the same envelope.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey
from securesystemslib.signer._signer import SIGNER_FOR_URI_SCHEME
from securesystemslib.signer._signer import Signer as Backend

from activities.evidence import sigstore_bundle
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, load_or_create, pem_of, public_key
from schemas.error import Gen4Error, InfrastructureError, InputError
from schemas.evidence import BUILDER_ID, PAYLOAD_TYPE, timestamp_of
from schemas.statement import Envelope
from schemas.trust import Trusted

IDENTITY = "gen4:local-signer"
SIGNER_KEY = "signer.pem"
FILE_SCHEME = "file2"
_PUBLIC_LIMIT = 65_536


@dataclass(frozen=True)
class SignedStatement:
    """One envelope in its two forms."""

    envelope: Envelope
    bundle: bytes


class StatementSigner(Protocol):
    """``key_or_issuer``: hint of the key, or the OIDC issuer of a keyless signature. ``root_document``: trusted root, as JSON,
    that a verifier has to pin; empty for a key alone."""

    @property
    def profile(self) -> Literal["key", "keyless"]: ...
    @property
    def identity(self) -> str: ...
    @property
    def key_or_issuer(self) -> str: ...
    @property
    def root_document(self) -> str: ...
    def trusted(self, now_s: int, builder_ids: tuple[str, ...] = (BUILDER_ID,)) -> Trusted:
        """How a trust file names this signer, from ``now_s`` on."""

    def sign_statement(self, payload: bytes) -> SignedStatement: ...


class Signer:
    """An ECDSA P-256 key of profile ``key``; the private part never leaves the object, or was never in it."""

    profile: Literal["key"] = "key"
    root_document: str = ""
    """Trusted root, as JSON, of what proves when it signed."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | Backend, identity: str = IDENTITY) -> None:
        self.backend = CryptoSigner(key, _ssl_key(key.public_key())) if isinstance(key, ec.EllipticCurvePrivateKey) else key
        self.identity = identity

    @property
    def public_pem(self) -> str:
        pem: str = self.backend.public_key.keyval["public"]
        return pem

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        key = public_key(self.public_pem)
        assert key is not None  # noqa: S101  every constructor made it from such a key
        return key

    @property
    def hint(self) -> str:
        return hint_of(self.public_key)

    @property
    def key_or_issuer(self) -> str:
        return self.hint

    def trusted(self, now_s: int, builder_ids: tuple[str, ...] = (BUILDER_ID,)) -> Trusted:
        return Trusted(
            profile=self.profile, identity=self.identity, builder_ids=builder_ids, valid_from=timestamp_of(now_s),
            hint=self.hint, public_key=self.public_pem,
        )  # fmt: skip

    def signature(self, encoded: bytes) -> bytes:
        """Raises InfrastructureError SIGNING_FAILED when the key's service does not sign, or signs with another key."""
        try:
            signature = bytes.fromhex(self.backend.sign(encoded).signature)
            self.public_key.verify(signature, encoded, ec.ECDSA(hashes.SHA256()))
        except Exception as error:  # each service raises its own
            why = f"nothing was signed: {type(error).__name__}: {error}"[:500]
            raise InfrastructureError("SIGNING_FAILED", why, "see that the key's service answers; it is tried again") from error
        return signature

    def sign(self, payload_type: str, payload: bytes) -> Envelope:
        return dsse.wrap(payload_type, payload, self.signature(dsse.pae(payload_type, payload)))

    def sign_statement(self, payload: bytes) -> SignedStatement:
        envelope = self.sign(PAYLOAD_TYPE, payload)
        return SignedStatement(envelope, sigstore_bundle.encode(sigstore_bundle.wrap(envelope, self.hint)))

    def __repr__(self) -> str:
        return f"Signer(hint={self.hint!r})"


def load_signer(folder: Path) -> Signer:
    """The signing key in ``folder``; made on first use, readable by its owner alone.

    Raises:
        InputError: KEY_UNSAFE when others could read or replace it, KEY_INVALID when it is not an ECDSA P-256 key.
    """
    return Signer(load_or_create(folder / SIGNER_KEY))


def open_signer(uri: str, public: Path | None = None) -> Signer:
    """The signer that a securesystemslib URI names: ``file2:/path``, ``awskms:…``, ``gcpkms:…``, ``azurekms:…``, ``hv:…``.

    Args:
        public: PEM file with the public key of a key that is no file.

    Raises:
        InputError: KEY_URI_INVALID, KEY_SERVICE_MISSING when the service's library is not installed, and of :func:`load_signer`.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == FILE_SCHEME:
        path = Path(rest)
        if not path.is_absolute() or not path.exists():
            raise _bad_uri(uri, "it names no file by its absolute path")
        return Signer(load_or_create(path))
    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise _bad_uri(uri, f"known schemes are {', '.join(sorted(SIGNER_FOR_URI_SCHEME))}")
    if public is None:
        raise _bad_uri(uri, "GEN4_SIGNING_PUBLIC_KEY has to name a PEM file with its public key")
    try:
        return Signer(Backend.from_priv_key_uri(uri, _ssl_key(_read_public(public))))
    except Gen4Error:
        raise
    except UnsupportedLibraryError as error:
        remedy = "install the library beside gen4, or use a file2: key"
        raise InputError("KEY_SERVICE_MISSING", f"{scheme}: {error}", remedy) from error
    except Exception as error:  # each service raises its own
        raise _bad_uri(uri, f"{type(error).__name__}: {error}") from error


def _ssl_key(key: ec.EllipticCurvePublicKey) -> SSlibKey:
    return SSlibKey("", "ecdsa", "ecdsa-sha2-nistp256", {"public": pem_of(key)})


def _read_public(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        with path.open("rb") as file:
            key = public_key(file.read(_PUBLIC_LIMIT).decode(errors="replace"))
    except OSError as error:
        raise InputError("KEY_INVALID", f"cannot read {path}: {error.strerror}", "name a PEM file") from error
    if key is None:
        raise InputError("KEY_INVALID", f"{path} is not a public key of ECDSA P-256", "make the service's key an ECDSA P-256 one")
    return key


def _bad_uri(uri: str, why: str) -> InputError:
    return InputError("KEY_URI_INVALID", f"GEN4_SIGNING_KEY {uri!r}: {why}", "correct or unset it")

