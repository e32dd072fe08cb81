"""cosign, Sigstore's JavaScript verifier and slsa-verifier accept what we sign, and refuse it once altered. Profile K."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import vsa
from activities.evidence.signing import Signer
from activities.evidence.verification import verify_bundle
from schemas.canonical import jcs
from schemas.evidence import (
    BUILDER_ID,
    CHECKSUMS,
    PAYLOAD_TYPE,
    POLICY_CHECK,
    PROVENANCE,
    SIGSTORE_BUNDLE,
    STAMP,
    timestamp_of,
)
from schemas.gates import GateReport
from tests.evidence.tools import JavaScript, Verdict, javascript, run
from tests.evidence.workshop import NOW_S, POLICY_DIGEST, Workshop
from workers.toolchain import locate

SLSA = "slsaprovenance1"
Place = Callable[[dict[str, bytes]], Path]


@pytest.fixture(scope="session")
def cosign() -> Path:
    return locate("cosign").path


@pytest.fixture(scope="session")
def slsa_verifier() -> Path:
    return locate("slsa-verifier").path


@pytest.fixture(scope="session")
def js() -> JavaScript:
    return javascript()


@pytest.fixture
def key(workshop: Workshop, tmp_path: Path) -> Path:
    path = tmp_path / "key.pub"
    path.write_text(workshop.signer.public_pem)
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    path = tmp_path / "stranger.pub"
    path.write_text(Signer(ec.generate_private_key(ec.SECP256R1())).public_pem)
    return path


# --- altered envelopes ------------------------------------------------------------------------------------------------


def _payload(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def alter(bundle: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(statement)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(jcs(statement)).decode()

    return alter


def _other_subject(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64


def _other_builder(statement: dict[str, Any]) -> None:
    statement["predicate"]["runDetails"]["builder"]["id"] = "urn:gen4:builder/separated"


def _other_type(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["payloadType"] = "application/json"


def _flipped(bundle: dict[str, Any]) -> None:
    signature = bytearray(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
    signature[-1] ^= 1
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()


def _unsigned(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] = []


ALTERATIONS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _payload(_other_subject), _payload(_other_builder), _other_type, _flipped, _unsigned,
)  # fmt: skip


def altered(workshop: Workshop, folder: Path) -> Iterator[Path]:
    for number, alter in enumerate(ALTERATIONS):
        bundle = json.loads(workshop.files[SIGSTORE_BUNDLE])
        alter(bundle)
        path = folder / f"altered-{number}.json"
        path.write_bytes(jcs(bundle))
        yield path


# --- cosign -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def attested(cosign: Path, key: Path) -> Callable[..., Verdict]:
    def verify(bundle: Path, file: Path, *, key: Path = key, kind: str = SLSA) -> Verdict:
        flags = ("--key", key, "--bundle", bundle, "--type", kind, "--insecure-ignore-tlog")
        return run(cosign, "verify-blob-attestation", *flags, file)

    return verify


def test_cosign_accepts_every_kind_of_subject(
    workshop: Workshop, place: Place, attested: Callable[..., Verdict]
) -> None:
    folder = place(workshop.files)
    for name in (CHECKSUMS, STAMP, POLICY_CHECK):
        assert attested(folder / SIGSTORE_BUNDLE, folder / name).ok, name


def test_cosign_refuses_what_was_altered(
    workshop: Workshop, place: Place, attested: Callable[..., Verdict], stranger: Path, tmp_path: Path
) -> None:
    folder = place({**workshop.files, STAMP: workshop.files[STAMP] + b"\n"})
    bundle = folder / SIGSTORE_BUNDLE
    assert not attested(bundle, folder / STAMP).ok, "another stamp"
    assert not attested(bundle, folder / PROVENANCE).ok, "a file that is no subject"
    assert not attested(bundle, folder / CHECKSUMS, key=stranger).ok, "another key"
    assert not attested(bundle, folder / CHECKSUMS, kind="vuln").ok, "another predicate"
    for path in altered(workshop, tmp_path):
        assert not attested(path, folder / CHECKSUMS).ok, path.name


# --- @sigstore/verify -------------------------------------------------------------------------------------------------


def test_sigstores_javascript_accepts_the_bundle_and_refuses_altered_ones(
    workshop: Workshop, js: JavaScript, key: Path, stranger: Path, tmp_path: Path
) -> None:
    good = tmp_path / SIGSTORE_BUNDLE
    good.write_bytes(workshop.files[SIGSTORE_BUNDLE])
    bad = [{"bundle": path, "key": key} for path in altered(workshop, tmp_path)]
    first, *others = js.verify({"bundle": good, "key": key}, {"bundle": good, "key": stranger}, *bad)
    assert base64.b64decode(first["payload"]) == jcs(workshop.statement())
    assert [one["ok"] for one in others] == [False] * (1 + len(ALTERATIONS))


# --- slsa-verifier ----------------------------------------------------------------------------------------------------


@pytest.fixture
def summary(workshop: Workshop, place: Place) -> tuple[GateReport, str]:
    report = verify_bundle(place(workshop.files), workshop.trust, now_ms=NOW_S * 1000)
    assert report.verdict == "pass"
    return report, workshop.stamp["bundle_digest"]


@pytest.fixture
def summarised(slsa_verifier: Path, key: Path, summary: tuple[GateReport, str], tmp_path: Path) -> Callable[..., Verdict]:
    """Says whether slsa-verifier believes a summary, signed by ``signer``, of what it asks for."""

    def verify(signer: Signer, *, alter: Callable[[bytes], bytes] = bytes, **asked: str) -> Verdict:
        report, digest = summary
        payload = vsa.summary(
            report, digest, policy_digest=POLICY_DIGEST, trust_sha256="ab" * 32, verifier_version="0.1.0",
            time_verified=timestamp_of(NOW_S), levels=vsa.levels_of(BUILDER_ID, "single_operator"),
        ).payload  # fmt: skip
        path = tmp_path / "vsa.json"
        path.write_bytes(alter(jcs(signer.sign(PAYLOAD_TYPE, payload))))
        flags = {
            "subject-digest": digest, "verifier-id": vsa.VERIFIER_ID, "resource-uri": vsa.resource_uri(digest),
            "verified-level": "SLSA_BUILD_LEVEL_1", **{name.replace("_", "-"): value for name, value in asked.items()},
        }  # fmt: skip
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return run(slsa_verifier, "verify-vsa", "--attestation-path", path, "--public-key-path", key, *words)

    return verify


def test_slsa_verifier_accepts_our_summary(workshop: Workshop, summarised: Callable[..., Verdict]) -> None:
    done = summarised(workshop.signer)
    assert done.ok, done.said
    assert summarised(workshop.signer, verified_level=vsa.EMBEDDED_LEVEL).ok, "levels of our own"


@pytest.mark.parametrize(
    "asked",
    [
        {"subject_digest": "sha256:" + "0" * 64},
        {"verifier_id": "urn:gen4:verifier/other"},
        {"resource_uri": "gen4+bundle:sha256:" + "0" * 64},
        {"verified_level": "SLSA_BUILD_LEVEL_2"},
        {"verified_level": vsa.SEPARATED_LEVEL},
    ],
)
def test_slsa_verifier_refuses_a_summary_of_something_else(
    workshop: Workshop, summarised: Callable[..., Verdict], asked: dict[str, str]
) -> None:
    assert not summarised(workshop.signer, **asked).ok


def test_slsa_verifier_refuses_an_altered_summary(workshop: Workshop, summarised: Callable[..., Verdict]) -> None:
    def fail(envelope: bytes) -> bytes:
        value = json.loads(envelope)
        payload = base64.b64decode(value["payload"]).replace(b"SLSA_BUILD_LEVEL_1", b"SLSA_BUILD_LEVEL_3")
        return jcs({**value, "payload": base64.b64encode(payload).decode()})

    assert not summarised(workshop.signer, alter=fail, verified_level="SLSA_BUILD_LEVEL_3").ok
    assert not summarised(workshop.signer, alter=fail).ok
    assert not summarised(Signer(ec.generate_private_key(ec.SECP256R1()))).ok
