"""Identity tokens for development: whoever may read the authority's folder may be anybody in its certificates."""

from __future__ import annotations

import base64
import re
from typing import Any

import jwt

from schemas.canonical import sha256_hex
from schemas.error import InputError, Refused
from workers.authority.folder import AuthorityFolder, spki

AUDIENCE = "sigstore"
LONGEST_S = 3_600
_ALGORITHM = "ES256"
_IDENTITY = re.compile(r"[^@\s]{1,64}@[A-Za-z0-9.-]{1,190}|[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,250}")
"""An e-mail address or a URI: what a certificate can name."""


def mint(folder: AuthorityFolder, identity: str, lifetime_s: int, now_s: int) -> str:
    """Raises InputError IDENTITY_INVALID, LIFETIME_INVALID."""
    if not _IDENTITY.fullmatch(identity) or not identity.isascii():
        raise InputError("IDENTITY_INVALID", f"{identity!r} is no e-mail address and no URI", "for instance urn:gen4:signer")
    if not 1 <= lifetime_s <= LONGEST_S:
        raise InputError("LIFETIME_INVALID", f"{lifetime_s} s", f"ask for 1 to {LONGEST_S} seconds")
    claims: dict[str, Any] = {"iss": folder.facts.url, "aud": AUDIENCE, "sub": identity, "iat": now_s, "exp": now_s + lifetime_s}
    if "@" in identity:
        claims |= {"email": identity, "email_verified": True}
    return jwt.encode(claims, folder.key("issuer"), algorithm=_ALGORITHM, headers={"kid": _key_id(folder)})


def subject_of(folder: AuthorityFolder, token: str) -> str:
    """Raises Refused IDENTITY_TOKEN."""
    try:
        claims = jwt.decode(
            token, folder.key("issuer").public_key(), algorithms=[_ALGORITHM], audience=AUDIENCE, issuer=folder.facts.url,
            options={"require": ["iss", "aud", "sub", "iat", "exp"]},
        )  # fmt: skip
    except jwt.PyJWTError as error:
        raise Refused("IDENTITY_TOKEN", f"the token is refused: {error}", "get a new one: gen4 authority token") from error
    return str(claims["sub"])


def discovery(folder: AuthorityFolder) -> dict[str, Any]:
    url = folder.facts.url
    return {
        "issuer": url, "jwks_uri": f"{url}/keys", "authorization_endpoint": f"{url}/none", "token_endpoint": f"{url}/none",
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [_ALGORITHM],
    }  # fmt: skip


def key_set(folder: AuthorityFolder) -> dict[str, Any]:
    numbers = folder.key("issuer").public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(one.to_bytes(32, "big")).rstrip(b"=").decode() for one in (numbers.x, numbers.y))
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": _ALGORITHM, "use": "sig", "kid": _key_id(folder), "x": x, "y": y}]}


def _key_id(folder: AuthorityFolder) -> str:
    return sha256_hex(spki(folder.key("issuer").public_key()))[:16]
