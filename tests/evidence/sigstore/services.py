"""Sigstore's own services on loopback: Fulcio, Rekor v2 and the timestamp authority, from their Go modules, without containers.

The one part that is ours is a certificate log's front, which only signs: no such log can be had as a module.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from activities.evidence.certificates import sct_payload
from activities.evidence.timestamps import der_parts
from schemas.canonical import jcs, sha256_hex
from schemas.trust import Trusted
from tests.evidence.sigstore.authority import LONG_AGO, Authority, b64, free_port
from workers.authority.folder import key_usage, spki
from workers.toolchain import locate

IDENTITY = "signer@example.org"
ORIGIN = "rekor.gen4.local"
_PASSWORD = "not-a-secret"
_POISON = bytes.fromhex("060a2b06010401d679020403")
_STARTED_WITHIN_S = 30


@dataclass(frozen=True)
class Services:
    """``config`` is what clients sign with, ``root`` what verifiers pin."""

    config: str
    root: str
    issuer: str

    def trusted(self, **changes: Any) -> Trusted:
        given = {
            "profile": "keyless", "identity": IDENTITY, "issuer": self.issuer, "builder_ids": (), "valid_from": LONG_AGO,
            "trusted_root_sha256": sha256_hex(self.root.encode()),
        }  # fmt: skip
        return Trusted.model_validate(given | changes)


class CertificateLogFront(ThreadingHTTPServer):
    """``add-pre-chain`` of RFC 6962: stamps a precertificate, and keeps nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        super().__init__(("127.0.0.1", 0), _Front)

    def stamp(self, chain: list[str]) -> dict[str, Any]:
        precertificate, issuer = (x509.load_der_x509_certificate(base64.b64decode(one)) for one in chain[:2])
        at_ms = time.time_ns() // 1_000_000
        issuer_key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        data = sct_payload(at_ms, issuer_key, without_poison(precertificate.tbs_certificate_bytes))
        signature = self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        log_id = hashlib.sha256(spki(self.key.public_key())).digest()
        return {
            "sct_version": 0, "id": b64(log_id), "timestamp": at_ms, "extensions": "",
            "signature": b64(b"\x04\x03" + len(signature).to_bytes(2, "big") + signature),
        }  # fmt: skip


class _Front(BaseHTTPRequestHandler):
    server: CertificateLogFront

    def do_POST(self) -> None:
        chain = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["chain"]
        data = json.dumps(self.server.stamp(chain)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def without_poison(tbs: bytes) -> bytes:
    """A precertificate's TBS without the extension that makes it one."""
    fields = der_parts(der_parts(tbs)[0][1])
    extensions = der_parts(der_parts(fields[-1][1])[0][1])
    kept = b"".join(_der(0x30, content) for _, content in extensions if not content.startswith(_POISON))
    return _der(0x30, b"".join(_der(tag, content) for tag, content in fields[:-1]) + _der(0xA3, _der(0x30, kept)))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


@contextlib.contextmanager
def running_services(folder: Path, issuer: Authority) -> Iterator[Services]:
    """All of them, until the end; ``issuer`` says who signs."""
    ports = [free_port() for _ in range(7)]
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    ca, tsa = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    log_key = ed25519.Ed25519PrivateKey.generate()
    ca_certificate = _certificate("Test CA", ca.public_key(), ca, None, now)
    tsa_root = ec.generate_private_key(ec.SECP384R1())
    tsa_root_certificate = _certificate("Test time stamps' CA", tsa_root.public_key(), tsa_root, None, now)
    tsa_certificate = _certificate("Test time stamps", tsa.public_key(), tsa_root, tsa_root_certificate, now)
    _write(folder / "ca.key", _private(ca))
    _write(folder / "ca.pem", ca_certificate.public_bytes(Encoding.PEM))
    _write(folder / "tsa.key", _private(tsa))
    _write(folder / "tsa.pem", b"".join(one.public_bytes(Encoding.PEM) for one in (tsa_certificate, tsa_root_certificate)))
    _write(folder / "log.key", log_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    url = issuer.folder.facts.url
    # No JSON: Fulcio would expect other names in it.
    (folder / "fulcio.yaml").write_text(
        f"oidc-issuers:\n  {url}:\n    issuer-url: {url}\n    client-id: sigstore\n    type: email\n"
    )
    with CertificateLogFront() as front, contextlib.ExitStack() as stack:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        stack.callback(front.shutdown)
        _write(folder / "ct.pub", front.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        fulcio = [
            "serve", "--host=127.0.0.1", f"--port={ports[0]}", "--grpc-host=127.0.0.1", f"--grpc-port={ports[1]}",
            f"--metrics-port={ports[2]}", f"--legacy-unix-domain-socket={folder}/fulcio.sock", "--ca=fileca",
            "--fileca-cert=ca.pem", "--fileca-key=ca.key", f"--fileca-key-passwd={_PASSWORD}", "--fileca-watch=false",
            f"--ct-log-url=http://127.0.0.1:{front.server_port}", "--ct-log-public-key-path=ct.pub", "--config-path=fulcio.yaml",
        ]  # fmt: skip
        rekor = [
            "serve", "--http-address=127.0.0.1", f"--http-port={ports[3]}", f"--grpc-port={ports[4]}",
            f"--http-metrics-port={ports[5]}", f"--hostname={ORIGIN}", "--storage-dir=log", "--signer-filepath=log.key",
            "--checkpoint-interval=1s", "--batch-max-age=50ms",
        ]  # fmt: skip
        stamps = [
            "serve", "--host=127.0.0.1", f"--port={ports[6]}", "--disable-ntp-monitoring", "--timestamp-signer=file",
            "--file-signer-key-path=tsa.key", f"--file-signer-passwd={_PASSWORD}", "--certificate-chain-path=tsa.pem",
        ]  # fmt: skip
        started = [
            (stack.enter_context(_process(name, arguments, folder)), f"http://127.0.0.1:{port}{path}")
            for name, arguments, port, path in (
                ("fulcio", fulcio, ports[0], "/api/v2/trustBundle"), ("rekor", rekor, ports[3], "/healthz"),
                ("timestamp-authority", stamps, ports[6], "/ping"),
            )
        ]  # fmt: skip
        for process, address in started:
            _wait(process, address, folder)
        keys = {"log": spki(log_key.public_key()), "ct": spki(front.key.public_key())}
        chains = {"ca": [ca_certificate], "tsa": [tsa_certificate, tsa_root_certificate]}
        config = _config(json.loads(issuer.config), keys, chains, (ports[0], ports[3], ports[6]))
        yield Services(json.dumps(config), jcs(config["trustedRoot"]).decode(), url)


def _config(
    config: dict[str, Any], keys: dict[str, bytes], chains: dict[str, list[x509.Certificate]], ports: tuple[int, int, int]
) -> dict[str, Any]:
    """The local authority's configuration, with everything in it replaced by what these services have."""
    root, signing = config["trustedRoot"], config["signingConfig"]
    log, certificate_log = root["tlogs"][0], root["ctlogs"][0]
    log["baseUrl"] = f"https://{ORIGIN}"
    log["publicKey"]["rawBytes"] = b64(keys["log"])
    log["logId"]["keyId"] = b64(hashlib.sha256(f"{ORIGIN}\n\x01".encode() + keys["log"][-32:]).digest())
    certificate_log["publicKey"]["rawBytes"] = b64(keys["ct"])
    certificate_log["logId"]["keyId"] = b64(hashlib.sha256(keys["ct"]).digest())
    for name, place in (("ca", "certificateAuthorities"), ("tsa", "timestampAuthorities")):
        found = [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in chains[name]]
        root[place][0]["certChain"] = {"certificates": found}
    for place, port, path in zip(("caUrls", "rekorTlogUrls", "tsaUrls"), ports, ("", "", "/api/v1/timestamp"), strict=True):
        signing[place][0]["url"] = f"http://127.0.0.1:{port}{path}"
    return config


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey, by: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, now: dt.datetime
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer.subject if issuer else subject, public_key=key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    if issuer is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        return builder.add_extension(key_usage(certificates=True), critical=True).sign(by, hashes.SHA384())
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    builder = builder.add_extension(key_usage(signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(by, hashes.SHA384())


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(_PASSWORD.encode()))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@contextlib.contextmanager
def _process(name: str, arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        argv = [str(locate(name).path), *arguments]
        process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"HOME": str(folder)}, start_new_session=True
        )
        try:
            yield process
        finally:
            process.kill()  # nothing of theirs outlives the tests
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, folder: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(address, timeout=2).status_code < 500:
                return
        time.sleep(0.05)
    logs = {path.name: path.read_text(errors="replace")[-1500:] for path in folder.glob("*.log")}
    raise AssertionError(f"{address} does not answer: {logs}")
