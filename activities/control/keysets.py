"""The public keys of OIDC issuers: fetched with bounds, kept for a while, and only those that may check a signature.

What an issuer's server answers is not trusted beyond its keys: no redirect is followed, size and time are bounded, a
symmetric, private, weak or ambiguous key is left out.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from schemas.canonical import StrictJsonError, strict_json
from schemas.error import InfrastructureError

if TYPE_CHECKING:
    import requests

REFRESH_S = 10.0
"""A key that is not known makes us ask again, but not more often than this: anybody can send any ``kid``."""
KEPT_S = 300.0
"""A key that the issuer took back is accepted at most this much longer."""
SIZE_LIMIT = 262_144
TOTAL_S, STEP_S = 10.0, 5.0
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_EDWARDS = ("Ed25519", "Ed448")


@dataclass(frozen=True)
class KeySource:
    """Where an issuer's keys are: at ``jwks_uri``, else where its discovery document says."""

    issuer: str
    jwks_uri: str | None = None


@dataclass
class _Cached:
    keys: Mapping[str, Mapping[str, Any]]
    fetched_s: float
    asked_s: float
    error: InfrastructureError | None = None


class KeySets:
    """One per process. Threads may share it."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._cached: dict[KeySource, _Cached] = {}
        self._lock = threading.Lock()

    def find(self, source: KeySource, kid: str) -> Mapping[str, Any] | None:
        """The key of that name as a JWK, or None. A key in the cache is used without asking.

        Raises:
            InfrastructureError: ISSUER_UNAVAILABLE.
        """
        with self._lock:
            cached, now = self._cached.get(source), self._clock_s()
            if cached is not None and now - cached.fetched_s <= KEPT_S and kid in cached.keys:
                return cached.keys[kid]
            if cached is None or now - cached.asked_s >= REFRESH_S:
                cached = self._cached[source] = self._ask(source, cached, now)
            if cached.error is not None:
                raise cached.error
            return cached.keys.get(kid)

    def _ask(self, source: KeySource, before: _Cached | None, now: float) -> _Cached:
        try:
            return _Cached(usable_keys(_fetch_keys(source)), now, now)
        except InfrastructureError as error:
            return _Cached(before.keys if before else {}, before.fetched_s if before else now - KEPT_S - 1, now, error)


def usable_keys(document: object) -> dict[str, Mapping[str, Any]]:
    """The keys of a JWK set by ``kid``; two of one name are none."""
    listed = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        raise _unavailable("the key set has no list `keys`")
    named = [key for key in listed if isinstance(key, Mapping) and isinstance(key.get("kid"), str) and key["kid"]]
    count = Counter(key["kid"] for key in named)
    return {key["kid"]: key for key in named if count[key["kid"]] == 1 and _may_verify(key)}


def fits(key: Mapping[str, Any], algorithm: str) -> bool:
    """Whether a key is of the kind that the algorithm needs, and not set aside for another one."""
    if key.get("alg", algorithm) != algorithm:
        return False
    if algorithm == "EdDSA":
        return (key["kty"], key.get("crv")) in [("OKP", curve) for curve in _EDWARDS]
    if algorithm in _CURVES:
        return (key["kty"], key.get("crv")) == ("EC", _CURVES[algorithm])
    return bool(key["kty"] == "RSA")


def is_allowed_url(url: str) -> bool:
    """https, or http to this machine; no credentials and no fragment in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None or parts.fragment or not url.isprintable():
        return False
    if not url.startswith(f"{parts.scheme}://"):
        return False  # written otherwise than it is read
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _may_verify(key: Mapping[str, Any]) -> bool:
    if key.get("kty") not in ("RSA", "EC", "OKP") or "d" in key:
        return False  # a shared secret, or a private key that everybody has read
    operations = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return False
    return key["kty"] != "RSA" or MIN_RSA_BITS <= _bits(key.get("n")) <= MAX_RSA_BITS


def _bits(number: object) -> int:
    try:
        text = str(number)
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big").bit_length()
    except ValueError:
        return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetch_keys(source: KeySource) -> object:
    uri = source.jwks_uri
    if uri is None:
        document = _fetch(source.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, Mapping) or document.get("issuer") != source.issuer:
            raise _unavailable("the discovery document is another issuer's")
        uri = document.get("jwks_uri")
    if not isinstance(uri, str) or not is_allowed_url(uri):
        raise _unavailable("its jwks_uri is neither https nor on this machine")
    if source.issuer.startswith("https:") and not uri.startswith("https:"):
        raise _unavailable("an https issuer does not keep its keys on http")
    return _fetch(uri)


def _fetch(url: str) -> object:
    """In a thread of its own: a server that sends a byte now and then cannot hold the caller."""
    answer: queue.SimpleQueue[bytes | InfrastructureError] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_download(url)), name="oidc-keys", daemon=True).start()
    try:
        data = answer.get(timeout=TOTAL_S)
    except queue.Empty:
        raise _unavailable(f"no whole answer within {TOTAL_S:.0f} s") from None
    if isinstance(data, InfrastructureError):
        raise data
    try:
        return strict_json(data)
    except StrictJsonError as error:
        raise _unavailable(f"its answer is no strict JSON: {error}") from error


def _download(url: str) -> bytes | InfrastructureError:
    import requests  # slow to import, and who could ask for keys mostly never does

    try:
        with requests.Session() as session:
            session.auth = _no_credentials
            session.trust_env = urlsplit(url).scheme == "https"  # proxies; never for this machine
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            with session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=STEP_S) as response:
                if response.status_code != 200:
                    return _unavailable(f"it answered with status {response.status_code}")
                data = response.raw.read(SIZE_LIMIT + 1, decode_content=False)
    except (requests.RequestException, OSError, ValueError) as error:
        return _unavailable(type(error).__name__)
    except Exception as error:  # noqa: BLE001  urllib3 raises its own; the caller must get an answer
        return _unavailable(type(error).__name__)
    return bytes(data) if len(data) <= SIZE_LIMIT else _unavailable(f"its answer is larger than {SIZE_LIMIT} bytes")


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Otherwise requests would send what the user's netrc has for the host."""
    return request


def _unavailable(why: str) -> InfrastructureError:
    remedy = "check issuer and jwks_uri in keys/issuers.json, and that the issuer answers"
    return InfrastructureError("ISSUER_UNAVAILABLE", f"the issuer's keys cannot be fetched: {why}", remedy)


def as_json(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key))
