"""What clients need: the trusted root, which verifiers pin, and the client trust configuration around it, to sign with."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from activities.record.key_files import replace
from schemas.canonical import jcs
from workers.authority.folder import NAME, AuthorityFolder, spki
from workers.authority.log import LogSigner

TRUSTED_ROOT = "trusted_root.json"
TRUST_CONFIG = "trust_config.json"
_TYPE = "application/vnd.dev.sigstore"
_OPERATOR = "gen4.local"


def write_configuration(folder: AuthorityFolder) -> None:
    root = trusted_root(folder)
    config = {"mediaType": f"{_TYPE}.clienttrustconfig.v0.1+json", "trustedRoot": root, "signingConfig": signing_config(folder)}
    replace(folder.path / TRUSTED_ROOT, jcs(root), 0o644)
    replace(folder.path / TRUST_CONFIG, jcs(config), 0o644)


def trusted_root(folder: AuthorityFolder) -> dict[str, Any]:
    since = {"start": folder.facts.since}
    certificate_log, log = spki(folder.key("ct").public_key()), folder.log_key.public_key()
    return {
        "mediaType": f"{_TYPE}.trustedroot+json;version=0.1",
        "tlogs": [{
            "baseUrl": f"https://{folder.facts.origin}", "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": _b64(spki(log)), "keyDetails": "PKIX_ED25519", "validFor": since},
            "logId": {"keyId": _b64(LogSigner(folder).key_id)}, "operator": _OPERATOR,
        }],
        "certificateAuthorities": [_authority(folder.facts.url, folder.certificates("root"), since)],
        "ctlogs": [{
            "baseUrl": f"https://ct.{folder.facts.origin}", "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": _b64(certificate_log), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since},
            "logId": {"keyId": _b64(hashlib.sha256(certificate_log).digest())}, "operator": _OPERATOR,
        }],
        "timestampAuthorities": [_authority(f"{folder.facts.url}/api/v1/timestamp", folder.certificates("tsa"), since)],
    }  # fmt: skip


def signing_config(folder: AuthorityFolder) -> dict[str, Any]:
    def service(path: str, version: int) -> dict[str, Any]:
        url, since = folder.facts.url + path, {"start": folder.facts.since}
        return {"url": url, "majorApiVersion": version, "validFor": since, "operator": _OPERATOR}

    return {
        "mediaType": f"{_TYPE}.signingconfig.v0.2+json",
        "caUrls": [service("", 1)], "oidcUrls": [service("", 1)],
        "rekorTlogUrls": [service("", 2)], "rekorTlogConfig": {"selector": "ANY"},
        "tsaUrls": [service("/api/v1/timestamp", 1)], "tsaConfig": {"selector": "ANY"},
    }  # fmt: skip


def _authority(uri: str, chain: list[x509.Certificate], since: dict[str, str]) -> dict[str, Any]:
    return {
        "subject": {"organization": _OPERATOR, "commonName": NAME}, "uri": uri, "validFor": since, "operator": _OPERATOR,
        "certChain": {"certificates": [{"rawBytes": _b64(one.public_bytes(Encoding.DER))} for one in chain]},
    }  # fmt: skip


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
