"""An OIDC issuer of our own on loopback: discovery, key set, and any token, right or wrong."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW_S = 1_800_000_000
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, bits)


def public_jwk(key: Key, kid: str, **changes: Any) -> dict[str, Any]:
    match key:
        case rsa.RSAPrivateKey():
            made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            made = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, "use": "sig", **changes}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def assembled(header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes, sign: Callable[[bytes], bytes]) -> str:
    """A token put together by hand, for what no library writes."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    return ".".join((*parts, b64(sign(".".join(parts).encode()))))


class TestIssuer:
    """Serves until :meth:`close`. ``requests`` lists the paths that were asked for."""

    __test__ = False

    def __init__(self) -> None:
        self.key = rsa_key()
        self.keys: list[Any] = [public_jwk(self.key, "k1")]
        self.requests: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        """Paths that are answered otherwise."""
        self.discovery_changes: dict[str, Any] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good ones; a change to None removes a claim."""
        claims: dict[str, Any] = {
            "iss": self.url, "aud": "gen4", "sub": "alice-sub", "jti": f"jti-{time.monotonic_ns()}", "iat": NOW_S,
            "exp": NOW_S + 300, "auth_time": NOW_S - 5,
        }  # fmt: skip
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(
        self, *, key: Any = None, algorithm: str = "RS256", kid: str | None = "k1", header: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:  # fmt: skip
        """Signed by PyJWT."""
        headers = {**({"kid": kid} if kid is not None else {}), **(header or {})}
        return jwt.encode(self.claims(**changes), self.key if key is None else key, algorithm=algorithm, headers=headers)

    def sign(self, data: bytes) -> bytes:
        return RSAAlgorithm(RSAAlgorithm.SHA256).sign(data, self.key)

    def document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"} | self.discovery_changes
        return {"keys": self.keys} if path == "/jwks" else None


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _handler(issuer: TestIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            if self.path in issuer.answers:
                issuer.answers[self.path](self)
                return
            document = issuer.document(self.path)
            send(self, json.dumps(document).encode(), 200 if document is not None else 404)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
