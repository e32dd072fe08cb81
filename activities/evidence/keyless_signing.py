"""Profile S: signing without a key of one's own, by the unmodified Sigstore client against the services of a trust configuration.

The client knows no time limits, so a signature is made on a thread of its own that is left behind when it takes too long.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import requests
from pydantic import ValidationError
from sigstore._internal.fulcio.client import FulcioClientError  # it is raised, but not exported
from sigstore.dsse import Statement
from sigstore.errors import Error as SigstoreError
from sigstore.models import ClientTrustConfig
from sigstore.oidc import ExpiredIdentity, IdentityError, IdentityToken
from sigstore.sign import SigningContext
from sigstore_models.bundle.v1 import Bundle

from activities.evidence import keyless
from activities.evidence.log_entries import KEY_DETAILS, by_public_key
from activities.evidence.short_answers import shorten
from activities.evidence.signing import SignedStatement
from activities.evidence.sigstore_material import read_sigstore_bundle
from activities.kernel import dsse
from schemas.canonical import StrictJsonError, jcs, sha256_hex, strict_json
from schemas.error import InfrastructureError, InputError, Refused
from schemas.evidence import BUILDER_ID, PAYLOAD_TYPE, timestamp_of
from schemas.statement import Envelope, EnvelopeSignature
from schemas.trust import Trusted

TIMEOUT_S = 60.0
"""A log answers when its next checkpoint is out: a second with Rekor v2's usual settings, twenty at worst."""
_CONFIG_LIMIT = 1024 * 1024
_NAME_CONFIG = "name a client trust configuration"
_TOKEN_LIMIT = 65_536
_RENEW = "put a fresh token with audience sigstore into the file that GEN4_IDENTITY_TOKEN_FILE names"
_SERVICES = "see that the services of GEN4_SIGSTORE_CONFIG answer; it is tried again"
T = TypeVar("T")


def sign(statement: bytes, trust_config_json: str, identity_token: str, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """A Sigstore bundle, in JCS, whose payload is exactly ``statement``.

    Raises:
        InputError: SIGSTORE_CONFIG.
        Refused: IDENTITY_TOKEN when the token is malformed or too old, or the certificate authority refuses it.
        InfrastructureError: SIGNING_SERVICE when a service fails, is not reached or takes too long.
    """
    config = _config(trust_config_json)
    token = _identity(identity_token)

    def work() -> str:
        context = SigningContext.from_trust_config(config)
        shorten(context._fulcio, context._rekor, *context._tsa_clients)
        with context.signer(token) as signer:
            return signer.sign_dsse(Statement(statement)).to_json()

    bundle = jcs(json.loads(_within(timeout_s, work)))
    envelope = read_sigstore_bundle(bundle).dsse_envelope
    if envelope is None or (envelope.payload, envelope.payload_type) != (statement, PAYLOAD_TYPE):
        raise InfrastructureError("SIGNING_SERVICE", "the client signed other bytes than it was given", "report this as a defect")
    return bundle


def add_proof_of_time(bundle: bytes, spki: bytes, trust_config_json: str, *, log: bool, timeout_s: float = TIMEOUT_S) -> bytes:
    """A bundle of profile K with a time stamp of each configured authority and, if asked for, an entry in the log.

    Args:
        spki: the public key in DER; a log keeps it.

    Raises:
        InputError: SIGSTORE_CONFIG, also when it names no time stamp authority.
        InfrastructureError: SIGNING_SERVICE.
    """
    services = _config(trust_config_json).signing_config
    stampers = services.get_tsas()
    if not stampers:
        raise InputError("SIGSTORE_CONFIG", "no time stamp authority is configured", "add one under tsaUrls")
    read = read_sigstore_bundle(bundle)
    assert read.dsse_envelope is not None  # it was refused otherwise
    envelope = read.dsse_envelope
    signature = envelope.signatures[0].sig
    request: Any = {
        "hashedRekordRequestV002": {
            "digest": _b64(bytes.fromhex(sha256_hex(dsse.pae(envelope.payload_type, envelope.payload)))),
            "signature": {"content": _b64(signature), "verifier": {"keyDetails": KEY_DETAILS, **by_public_key(spki)}},
        }
    }

    def work() -> dict[str, Any]:
        logs = services.get_tlogs()[:1] if log else []
        shorten(*stampers, *logs)
        stamps = [{"signedTimestamp": _b64(one.request_timestamp(signature).as_bytes())} for one in stampers]
        entries = [one.create_entry(request)._inner.to_dict() for one in logs]
        return {"timestampVerificationData": {"rfc3161Timestamps": stamps}, "tlogEntries": entries}

    document = strict_json(bundle)
    document["verificationMaterial"] |= _within(timeout_s, work)
    return jcs(Bundle.from_json(jcs(document)).to_dict())


def read_config(path: Path) -> str:
    """Raises InputError SIGSTORE_CONFIG."""
    return _read(path, _CONFIG_LIMIT, InputError, "SIGSTORE_CONFIG", _NAME_CONFIG)


def trusted_root_document(trust_config_json: str) -> str:
    """The trusted root of a trust configuration, as the text whose digest verifiers pin."""
    _config(trust_config_json)
    return jcs(strict_json(trust_config_json.encode())["trustedRoot"]).decode()


class KeylessSigner:
    """Signs as whoever the token in ``token_file`` names; the file is read anew for each signature.

    Args:
        config_file: client trust configuration (``GEN4_SIGSTORE_CONFIG``).
        identity: what certificates name, where that is not what tokens name as subject (or e-mail address).
    """

    profile: Literal["keyless"] = "keyless"

    def __init__(self, config_file: Path, token_file: Path, identity: str | None = None) -> None:
        self._config = read_config(config_file)
        self.root_document = trusted_root_document(self._config)
        self._token_file = token_file
        self._identity = identity

    @property
    def identity(self) -> str:
        return self._identity or self._token().identity

    @property
    def issuer(self) -> str:
        return self._token().federated_issuer

    @property
    def key_or_issuer(self) -> str:
        return self.issuer

    def trusted(self, now_s: int, builder_ids: tuple[str, ...] = (BUILDER_ID,)) -> Trusted:
        return Trusted(
            profile=self.profile, identity=self.identity, issuer=self.issuer, builder_ids=builder_ids,
            valid_from=timestamp_of(now_s), trusted_root_sha256=sha256_hex(self.root_document.encode()),
        )  # fmt: skip

    def sign_statement(self, payload: bytes) -> SignedStatement:
        """Raises what :func:`sign` raises; Refused IDENTITY_TOKEN too when the certificate names somebody else."""
        trusted = self.trusted(now_s=0)
        bundle = sign(payload, self._config, str(self._token()))
        try:
            facts = keyless.verify(bundle, PAYLOAD_TYPE, trusted, self.root_document)
        except keyless.KeylessRefused as error:
            if error.untrusted:
                remedy = f"set the signing identity to the one that is certified; {_RENEW}"
                raise Refused("IDENTITY_TOKEN", f"the certificate does not name {trusted.identity}: {error}", remedy) from error
            raise InfrastructureError("SIGNING_SERVICE", f"what the services gave does not verify: {error}", _SERVICES) from error
        signature = EnvelopeSignature(keyid="", sig=_b64(facts.signature))
        return SignedStatement(Envelope(payload=_b64(payload), payloadType=PAYLOAD_TYPE, signatures=(signature,)), bundle)

    def _token(self) -> IdentityToken:
        text = _read(self._token_file, _TOKEN_LIMIT, Refused, "IDENTITY_TOKEN", _RENEW).strip()
        return _identity(text)

    def __repr__(self) -> str:
        return f"KeylessSigner(identity={self._identity!r})"


def _identity(token: str) -> IdentityToken:
    """Raises Refused IDENTITY_TOKEN; what the client says is wrong is in its cause."""
    try:
        return IdentityToken(token)
    except IdentityError as error:
        why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise Refused("IDENTITY_TOKEN", why, _RENEW) from error


def _config(text: str) -> ClientTrustConfig:
    try:
        strict_json(text.encode())
        config = ClientTrustConfig.from_json(text)
        config.signing_config  # noqa: B018  # judged when it is read
    except (StrictJsonError, ValidationError, SigstoreError, ValueError) as error:
        why = f"not a usable client trust configuration: {str(error)[:200]}"
        raise InputError("SIGSTORE_CONFIG", why, "take it from who runs the services, or `gen4 authority init`") from error
    return config


def _within(timeout_s: float, work: Callable[[], T]) -> T:
    """What ``work`` gives, unless it takes longer."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # the client's own, requests', and what parsing foreign answers raises
            failed.append(error)

    thread = threading.Thread(target=run, name="sigstore", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if failed:
        raise _explained(failed[0]) from failed[0]
    if not done:
        raise InfrastructureError("SIGNING_SERVICE", f"no signature within {timeout_s:.0f} s", _SERVICES)
    return done[0]


def _explained(error: Exception) -> Refused | InfrastructureError:
    """Only the certificate authority sees the token, and 400, 401 and 403 are how it says that it is not believed."""
    cause = error.__cause__
    certifying = isinstance(error, FulcioClientError | ExpiredIdentity)
    status = cause.response.status_code if isinstance(cause, requests.HTTPError) and cause.response is not None else None
    if isinstance(error, ExpiredIdentity) or (certifying and status in (400, 401, 403)):
        return Refused("IDENTITY_TOKEN", f"the certificate authority refuses it (HTTP {status or 'not asked'})", _RENEW)
    return InfrastructureError("SIGNING_SERVICE", f"{type(error).__name__}: {error}"[:300], _SERVICES)


def _read(path: Path, limit: int, kind: type[InputError | Refused], code: str, remedy: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise kind(code, f"cannot read {path}: {error.strerror}", remedy) from error
    if len(data) > limit or not data.strip():
        raise kind(code, f"{path} is empty or too large", remedy)
    return data.decode("utf-8", errors="replace")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
