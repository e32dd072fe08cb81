"""The authority's services on one port of loopback.

    POST /api/v2/signingCert   Fulcio         POST /api/v1/timestamp   RFC 3161
    POST /api/v2/log/entries   Rekor v2       GET  /.well-known/openid-configuration, /keys   OpenID Connect
    GET  /api/v2/checkpoint, /api/v2/trustBundle
"""

from __future__ import annotations

import datetime as dt
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from schemas.canonical import StrictJsonError, strict_json
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from workers.authority import tokens
from workers.authority.certifying import CertificateAuthority, requested_key
from workers.authority.folder import AuthorityFolder
from workers.authority.log import TransparencyLog
from workers.authority.stamping import TimeStampAuthority

_LARGEST = 65_536
_TIMEOUT_S = 10
_STATUS: tuple[tuple[type[Gen4Error], int], ...] = ((Refused, 401), (InputError, 400), (Gen4Error, 500))


class AuthorityServer(ThreadingHTTPServer):
    """``with AuthorityServer(folder) as server: server.serve_forever()``."""

    daemon_threads = True

    def __init__(self, folder: AuthorityFolder) -> None:
        """Raises InfrastructureError PORT_TAKEN, and what :class:`TransparencyLog` raises."""
        self.folder = folder
        self.log = TransparencyLog(folder)
        self.certificates = CertificateAuthority(folder)
        self.stamps = TimeStampAuthority(folder)
        try:
            super().__init__(("127.0.0.1", folder.facts.port), _Handler)
        except OSError as error:
            self.log.close()
            remedy = "stop what listens there: the port is part of the issuer's name"
            raise InfrastructureError("PORT_TAKEN", f"127.0.0.1:{folder.facts.port}: {error.strerror}", remedy) from error

    def server_close(self) -> None:
        super().server_close()
        self.log.close()


class _Handler(BaseHTTPRequestHandler):
    server: AuthorityServer
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/.well-known/openid-configuration": lambda: tokens.discovery(self.server.folder),
            "/keys": lambda: tokens.key_set(self.server.folder),
            "/api/v2/trustBundle": self._trust_bundle,
            "/api/v2/checkpoint": lambda: self.server.log.checkpoint().encode(),
        }
        self._answer(answers.get(self.path))

    def do_POST(self) -> None:
        answers: dict[str, Any] = {
            "/api/v2/signingCert": self._certify,
            "/api/v2/log/entries": lambda: self.server.log.add(self._json()),
            "/api/v1/timestamp": lambda: self.server.stamps.stamp(self._body()),
        }
        self._answer(answers.get(self.path))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: requests carry tokens."""

    def _certify(self) -> dict[str, Any]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        body = self._json()
        if not token and isinstance(body.get("credentials"), dict):
            token = str(body["credentials"].get("oidcIdentityToken"))
        subject = tokens.subject_of(self.server.folder, token)
        key = requested_key(body, subject)
        chain = self.server.certificates.issue(key, subject, dt.datetime.now(dt.UTC))
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _trust_bundle(self) -> dict[str, Any]:
        pem = (self.server.folder.path / "root.pem").read_text()
        return {"chains": [{"certificates": [pem]}]}

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST:
            raise InputError("REQUEST_INVALID", f"a body of at most {_LARGEST} bytes is needed")
        return self.rfile.read(int(length))

    def _json(self) -> dict[str, Any]:
        try:
            value = strict_json(self._body())
        except StrictJsonError as error:
            raise InputError("REQUEST_INVALID", f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError("REQUEST_INVALID", "the body is not a JSON object")
        return value

    def _answer(self, make: Any) -> None:
        # A web page whose name was made to point here must not reach it.
        if self.headers.get("Host") != self.server.folder.facts.url.removeprefix("http://"):
            return self._send(421, {"message": "ask for this host by its address"})
        if make is None:
            return self._send(404, {"message": "there is nothing here"})
        try:
            value = make()
        except Gen4Error as error:
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            return self._send(status, {"code": status, "message": str(error)})
        except OSError as error:
            return self._send(500, {"code": 500, "message": error.strerror})
        return self._send(201 if self.command == "POST" else 200, value)

    def _send(self, status: int, value: dict[str, Any] | bytes) -> None:
        if isinstance(value, dict):
            data, kind = json.dumps(value).encode(), "application/json"
        else:
            data, kind = value, "application/timestamp-reply" if self.command == "POST" else "text/plain; charset=utf-8"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
