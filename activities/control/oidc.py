"""OIDC tokens: which issuers this home believes, and what a token must be to count (contracts §3).

Steps of :meth:`Tokens.verify`, each with its code; the first that fails decides. No claim is believed before step 6.

 1. TOKEN_MALFORMED      three base64url parts, at most 16 KiB, JSON without duplicate keys, a header without tricks
 2. ALG_NOT_ALLOWED      never ``none``, never a shared secret
 3. WRONG_ISSUER         byte-equal to a configured one
 4. ALG_NOT_ALLOWED      one of those that this issuer uses
 5. KEY_UNKNOWN          a key of that name and kind in the issuer's key set; keys in the token are refused at step 1
 6. BAD_SIGNATURE
 7. WRONG_AUDIENCE
 8. TOKEN_EXPIRED, TOKEN_NOT_YET_VALID
 9. TENANT_MISMATCH      the tenant that the issuer, and the token where configured, speak for
10. JTI_MISSING
11. STALE_AUTH           the person logged in too long ago

That a token acts once (JTI_REPLAY) is the store's to say: see ``authentication``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jwt
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from activities.control.keysets import KeySets, KeySource, as_json, fits, is_allowed_url
from schemas.canonical import StrictJsonError, sha256_hex, strict_json
from schemas.error import InputError, Refused
from schemas.model import Door, Payload

FILE_NAME = "issuers.json"
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones, all that are ever believed."""
SIZE_LIMIT = 16_384
TEXT_LIMIT = 512
_PART = re.compile(r"[A-Za-z0-9_-]+\Z")
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_TRICKS = ("crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc")
"""Header fields that would change what is checked, or bring a key along."""

REMEDIES: dict[str, str] = {
    "TOKEN_MALFORMED": "pass the token exactly as the issuer gave it",
    "ALG_NOT_ALLOWED": "let the issuer sign with one of `algorithms` in keys/issuers.json",
    "WRONG_ISSUER": "use a token of an issuer in keys/issuers.json; its `iss` must be equal to the last character",
    "KEY_UNKNOWN": "use a token that was signed with a key of the issuer's present key set",
    "BAD_SIGNATURE": "fetch a new token from the issuer",
    "WRONG_AUDIENCE": "request the token for the audience in keys/issuers.json",
    "TOKEN_EXPIRED": "fetch a new token from the issuer",
    "TOKEN_NOT_YET_VALID": "check the clocks of this machine and of the issuer",
    "TENANT_MISMATCH": "use a token that speaks for this home's tenant",
    "JTI_MISSING": "let the issuer put a `jti` into its tokens; without one a token could act twice",
    "JTI_REPLAY": "fetch a new token: each acts once",
    "STALE_AUTH": "log in again",
}


def _url(value: str) -> str:
    if not is_allowed_url(value) or "?" in value:
        raise ValueError("must be https, or http to this machine, without credentials, query and fragment")
    return value


class Issuer(Door):
    """Whose tokens count, for which tenant."""

    issuer: Annotated[str, AfterValidator(_url), Field(max_length=TEXT_LIMIT)]
    audience: Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]
    jwks_uri: Annotated[str, AfterValidator(_url)] | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    tenant_id: Annotated[str, Field(min_length=1)]
    tenant_claim: Annotated[str, Field(min_length=1)] | None = None
    """Claim that must name the tenant, for an issuer that serves several."""
    max_age_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3_600
    leeway_s: Annotated[int, Field(ge=0, le=60)] = 30


class Claims(Payload):
    """What a verified token says."""

    issuer: str
    subject: str
    tenant_id: str
    jti: str
    expires_at_ms: int
    authenticated_at_s: int
    acr: str | None = None
    token_sha256: str


_LIST: TypeAdapter[tuple[Issuer, ...]] = TypeAdapter(tuple[Issuer, ...])


def load_issuers(keys: Path) -> tuple[Issuer, ...] | None:
    """``issuers.json`` of the home's keys folder; None where there is none, so that no token counts.

    Raises:
        InputError: ISSUERS_INVALID.
    """
    path = keys / FILE_NAME
    try:
        issuers = _LIST.validate_python(strict_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, StrictJsonError, ValidationError) as error:
        reason = "; ".join(_problem(item) for item in error.errors()) if isinstance(error, ValidationError) else str(error)
        raise _invalid(path, reason) from error
    if len({issuer.issuer for issuer in issuers}) != len(issuers):
        raise _invalid(path, "an issuer is listed twice")
    return issuers


@dataclass(frozen=True)
class Tokens:
    """Checks tokens of the given issuers for one tenant."""

    issuers: tuple[Issuer, ...]
    tenant_id: str
    keys: KeySets

    def verify(self, token: str, now_ms: int) -> Claims:
        """Raises:
        Refused: with one of the codes above.
        InfrastructureError: ISSUER_UNAVAILABLE.
        """
        header, claims, signed, signature = _parse(token)
        algorithm = header.get("alg")
        if algorithm not in get_args(Algorithm):
            raise _no("ALG_NOT_ALLOWED", f"tokens signed with {str(algorithm)[:40]!r} are never believed")
        issuer = next((issuer for issuer in self.issuers if issuer.issuer == claims.get("iss")), None)
        if issuer is None:
            raise _no("WRONG_ISSUER", "the token is not from a configured issuer")
        if algorithm not in issuer.algorithms:
            raise _no("ALG_NOT_ALLOWED", f"{issuer.issuer} does not sign with {algorithm}")
        self._check_signature(issuer, algorithm, header.get("kid"), signed, signature)
        _check_audience(issuer, claims)
        _check_times(issuer, claims, now_ms)
        self._check_tenant(issuer, claims)
        return _claims(issuer, claims, token, now_ms)

    def _check_signature(self, issuer: Issuer, algorithm: str, kid: object, signed: bytes, signature: bytes) -> None:
        if not isinstance(kid, str) or not 0 < len(kid) <= TEXT_LIMIT:
            raise _no("KEY_UNKNOWN", "the token names no key")
        key = self.keys.find(KeySource(issuer.issuer, issuer.jwks_uri), kid)
        if key is None or not fits(key, algorithm):
            raise _no("KEY_UNKNOWN", f"the issuer has no usable {algorithm} key of that name")
        checker = jwt.get_algorithm_by_name(algorithm)
        try:
            public = checker.from_jwk(as_json(key))
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _no("KEY_UNKNOWN", "the issuer's key of that name is malformed") from error
        if not checker.verify(signed, public, signature):
            raise _no("BAD_SIGNATURE", "the signature is not by the issuer's key")

    def _check_tenant(self, issuer: Issuer, claims: Mapping[str, Any]) -> None:
        if issuer.tenant_id != self.tenant_id:
            raise _no("TENANT_MISMATCH", "the issuer speaks for another tenant")
        if issuer.tenant_claim is not None and claims.get(issuer.tenant_claim) != self.tenant_id:
            raise _no("TENANT_MISMATCH", f"the token's {issuer.tenant_claim} is another tenant")


def token_sha256(token: str) -> str:
    """All that is ever recorded of a token."""
    return sha256_hex(token.encode("utf-8", "surrogatepass"))


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    if not token.isascii() or len(token) > SIZE_LIMIT:
        raise _no("TOKEN_MALFORMED", f"not ASCII, or longer than {SIZE_LIMIT} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise _no("TOKEN_MALFORMED", "a signed token has three parts")
    header, claims = (_object(_decoded(part)) for part in parts[:2])
    if tricks := [name for name in _TRICKS if name in header]:
        raise _no("TOKEN_MALFORMED", f"its header has {', '.join(tricks)}")
    if str(header.get("typ", "JWT")).lower() not in _TYPES:
        raise _no("TOKEN_MALFORMED", "its header says that it is something else than an ID or access token")
    if header.get("alg") == "none":
        raise _no("ALG_NOT_ALLOWED", "the token is not signed")
    return header, claims, f"{parts[0]}.{parts[1]}".encode(), _decoded(parts[2])


def _decoded(part: str) -> bytes:
    """base64url in its one form: no padding, no other alphabet, no loose bits at the end."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if not data and part:
        raise _no("TOKEN_MALFORMED", "a part is not base64url")
    if part and (not _PART.match(part) or base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part):
        raise _no("TOKEN_MALFORMED", "a part is not base64url in its one form")
    return data


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = strict_json(data)
    except StrictJsonError as error:
        raise _no("TOKEN_MALFORMED", f"not strict JSON: {error.reason}") from error
    if not isinstance(value, dict):
        raise _no("TOKEN_MALFORMED", "header and claims are JSON objects")
    return value


def _check_audience(issuer: Issuer, claims: Mapping[str, Any]) -> None:
    named = claims.get("aud")
    audiences = named if isinstance(named, list) else [named]
    if issuer.audience not in [one for one in audiences if isinstance(one, str)]:
        raise _no("WRONG_AUDIENCE", "the token is meant for somebody else")


def _check_times(issuer: Issuer, claims: Mapping[str, Any], now_ms: int) -> None:
    now, leeway = now_ms / 1000, issuer.leeway_s
    expires = _time(claims, "exp")
    if expires is None:
        raise _no("TOKEN_MALFORMED", "the token has no exp: it would live for ever")
    if now >= expires + leeway:
        raise _no("TOKEN_EXPIRED", f"the token expired {now - expires:.0f} s ago")
    for name in ("nbf", "iat", "auth_time"):
        start = _time(claims, name)
        if start is not None and start > now + leeway:
            raise _no("TOKEN_NOT_YET_VALID", f"its {name} is {start - now:.0f} s ahead")


def _claims(issuer: Issuer, claims: Mapping[str, Any], token: str, now_ms: int) -> Claims:
    subject, jti, acr = claims.get("sub"), claims.get("jti"), claims.get("acr")
    if not isinstance(subject, str) or not 0 < len(subject) <= TEXT_LIMIT or not subject.isprintable():
        raise _no("TOKEN_MALFORMED", f"its sub is not 1 to {TEXT_LIMIT} visible characters")
    if not isinstance(jti, str) or not 0 < len(jti) <= TEXT_LIMIT or not jti.isprintable():
        raise _no("JTI_MISSING", f"its jti is not 1 to {TEXT_LIMIT} visible characters")
    authenticated = _time(claims, "auth_time")
    if authenticated is None:
        authenticated = _time(claims, "iat")
    if authenticated is None:
        raise _no("TOKEN_MALFORMED", "neither auth_time nor iat says when the person logged in")
    age = now_ms / 1000 - authenticated
    if age > issuer.max_age_s + issuer.leeway_s:
        raise _no("STALE_AUTH", f"the login is {age:.0f} s old, {issuer.max_age_s} s are allowed")
    return Claims(
        issuer=issuer.issuer, subject=subject, tenant_id=issuer.tenant_id, jti=jti,
        expires_at_ms=int((_time(claims, "exp") or 0) * 1000), authenticated_at_s=int(authenticated),
        acr=acr if isinstance(acr, str) else None, token_sha256=token_sha256(token),
    )  # fmt: skip


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise _no("TOKEN_MALFORMED", f"its {name} is not a time")
    return float(value)


def _no(code: str, message: str) -> Refused:
    return Refused(code, message, REMEDIES[code])


def _problem(item: Mapping[str, Any]) -> str:
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


def _invalid(path: Path, reason: str) -> InputError:
    example = '[{"issuer": "https://id.example.org", "audience": "gen4", "tenant_id": "local"}]'
    return InputError("ISSUERS_INVALID", f"{path}: {reason}", f"write {example}")
