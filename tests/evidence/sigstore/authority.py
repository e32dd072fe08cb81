"""A local authority of the test's own, and bundles that are made part by part, so that each part can be a forged one."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import TimestampRequestBuilder

from activities.evidence.log_entries import KEY_DETAILS, by_certificate, by_public_key
from activities.kernel import dsse
from activities.kernel.signing_keys import hint_of, pem_of
from activities.record.notes import sign_note
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import PAYLOAD_TYPE, SIGSTORE_MEDIA_TYPE
from schemas.trust import Trusted
from workers.authority.certifying import CertificateAuthority
from workers.authority.configuration import TRUST_CONFIG, TRUSTED_ROOT, write_configuration
from workers.authority.folder import AuthorityFolder, spki
from workers.authority.log import LogSigner
from workers.authority.server import AuthorityServer
from workers.authority.tokens import mint

IDENTITY = "urn:gen4:signer"
LONG_AGO = "2020-01-01T00:00:00Z"
STATEMENT = jcs({
    "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1", "predicate": {},
    "subject": [{"name": "diff.patch", "digest": {"sha256": "0" * 64}}],
})  # fmt: skip


class Authority:
    """A served authority, with what its clients and verifiers hold."""

    def __init__(self, folder: AuthorityFolder, server: AuthorityServer) -> None:
        self.folder = folder
        self.server = server
        self.config = (folder.path / TRUST_CONFIG).read_text()
        self.root = (folder.path / TRUSTED_ROOT).read_text()

    def token(self, identity: str = IDENTITY, at_s: int | None = None) -> str:
        return mint(self.folder, identity, 600, int(time.time()) if at_s is None else at_s)

    def trusted(self, **changes: Any) -> Trusted:
        """The entry of a trust file for who signs with this authority."""
        given = {
            "profile": "keyless", "identity": IDENTITY, "issuer": self.folder.facts.url, "builder_ids": (),
            "valid_from": LONG_AGO, "trusted_root_sha256": sha256_hex(self.root.encode()),
        }  # fmt: skip
        return Trusted.model_validate(given | changes)

    def trusted_key(self, key: ec.EllipticCurvePublicKey, **changes: Any) -> Trusted:
        key_facts = {"profile": "key", "issuer": None, "hint": hint_of(key), "public_key": pem_of(key), "require": "timestamp"}
        return self.trusted(**(key_facts | changes))

    # --- bundles, part by part ----------------------------------------------------------------------------------------

    def certificate(
        self, key: ec.EllipticCurvePublicKey, identity: str = IDENTITY, now: dt.datetime | None = None,
        by: AuthorityFolder | None = None,
    ) -> bytes:  # fmt: skip
        pem = CertificateAuthority(by or self.folder).issue(key, identity, now or dt.datetime.now(dt.UTC))[0]
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)

    def entry(self, payload: bytes, signature: bytes, verifier: dict[str, Any], kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
        digest = hashlib.sha256(dsse.pae(kind, payload)).digest()
        signed = {"content": b64(signature), "verifier": {"keyDetails": KEY_DETAILS, **verifier}}
        return self.server.log.add({"hashedRekordRequestV002": {"digest": b64(digest), "signature": signed}})

    def stamp(self, signature: bytes) -> dict[str, Any]:
        query = TimestampRequestBuilder().data(signature).nonce(nonce=True).build()
        return {"signedTimestamp": b64(self.server.stamps.stamp(query.as_bytes()))}

    def signed(self, certificate: bytes | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> dict[str, Any]:
        """A good bundle of profile S; with another ``certificate`` one that is as good as that."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        der = certificate or self.certificate(key.public_key())
        return self._bundle(key, {"certificate": {"rawBytes": b64(der)}}, by_certificate(der))

    def signed_by_key(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        """A good bundle of profile K with a time stamp and a log entry."""
        return self._bundle(key, {"publicKey": {"hint": hint_of(key.public_key())}}, by_public_key(spki(key.public_key())))

    def _bundle(self, key: ec.EllipticCurvePrivateKey, who: dict[str, Any], verifier: dict[str, Any]) -> dict[str, Any]:
        signature = key.sign(dsse.pae(PAYLOAD_TYPE, STATEMENT), ec.ECDSA(hashes.SHA256()))
        material = {
            **who, "tlogEntries": [self.entry(STATEMENT, signature, verifier)],
            "timestampVerificationData": {"rfc3161Timestamps": [self.stamp(signature)]},
        }  # fmt: skip
        envelope = {"payload": b64(STATEMENT), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": b64(signature)}]}
        return {"mediaType": SIGSTORE_MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}

    def checkpoint(self, size: str, root: str, origin: str | None = None) -> str:
        """What the log never signed, signed with its key."""
        signer = LogSigner(self.folder)
        return sign_note(f"{origin or signer.key.name}\n{size}\n{root}\n", signer)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(bundle: dict[str, Any]) -> bytes:
    return jcs(json.loads(json.dumps(bundle)))


def proof_of(bundle: dict[str, Any]) -> dict[str, Any]:
    proof: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    return proof


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_authority(path: Path) -> Iterator[Authority]:
    """Served from ``path``, where one may have been before."""
    folder = AuthorityFolder.create(path, free_port(), int(time.time()) - 3600)
    write_configuration(folder)
    with AuthorityServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Authority(folder, server)
        finally:
            server.shutdown()
            thread.join()
