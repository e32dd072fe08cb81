"""Whole Evidence Bundles signed by way of a Sigstore authority: accepted by the Trust Gate and by other people's tools, and
refused by all of them once altered. Profile S, and profile K with proof of time."""

from __future__ import annotations

import base64
import copy
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from activities.evidence.keyless_signing import KeylessSigner, add_proof_of_time
from activities.evidence.seal import sign_members, write_stamp
from activities.evidence.signing import Signer
from activities.evidence.verification import verify_bundle
from schemas.canonical import jcs
from schemas.evidence import (
    BUILDER_ID,
    CHECKSUMS,
    PAYLOAD_TYPE,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SIGSTORE_BUNDLE,
    STAMP,
    timestamp_of,
)
from schemas.gates import Check, GateReport
from schemas.trust import Trust
from tests.evidence.mutations import SIGNATURE, STRICT, edits
from tests.evidence.sigstore.authority import IDENTITY, LONG_AGO, Authority, encoded
from tests.evidence.tools import JavaScript, Verdict, javascript, run
from tests.evidence.workshop import NOW_S, Workshop, establish, in_memory, make_trust, trusted
from workers.toolchain import locate

LATER_MS = 4_000_000_000_000
"""Verified decades later: certificates have long expired, and what was signed in time stays valid."""
FOREIGN = frozenset({"SIGNATURE_INVALID", "SIGNER_UNTRUSTED", "JSON_DUPLICATE_KEY"})
Files = dict[str, bytes]
Place = Callable[[Files], Path]


@pytest.fixture(scope="module")
def keyless(workshop: Workshop, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A bundle that the unmodified Sigstore client signed."""
    folder = tmp_path_factory.mktemp("keyless")
    (folder / "config").write_text(authority.config)
    (folder / "token").write_text(authority.token())
    return sealed(workshop, KeylessSigner(folder / "config", folder / "token"))


def sealed(workshop: Workshop, signer: Any) -> Files:
    members = {name: workshop.files[name] for name in REQUIRED_MEMBERS if name not in (STAMP, PROVENANCE)}
    stamp = write_stamp(workshop.request, establish(dict(members), workshop.inputs.judgement), signer, workshop.facts)
    return in_memory(sign_members(dict(members), stamp, signer, BUILDER_ID))


@pytest.fixture(scope="module")
def stamped(workshop: Workshop, authority: Authority) -> Files:
    """A bundle of the long-lived key, with a time stamp and an entry in the log."""
    spki = workshop.signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bundle = add_proof_of_time(workshop.files[SIGSTORE_BUNDLE], spki, authority.config, log=True)
    return {**workshop.files, SIGSTORE_BUNDLE: bundle}


def believing(authority: Authority, **changes: Any) -> Trust:
    pinned = [{"sha256": authority.trusted().trusted_root_sha256, "document": authority.root}]
    signer = authority.trusted(builder_ids=(BUILDER_ID,), **changes)
    return Trust.model_validate({**make_trust(signer).model_dump(), "trusted_roots": pinned})


def believing_key(workshop: Workshop, authority: Authority, **changes: Any) -> Trust:
    root = authority.trusted().trusted_root_sha256
    signer = trusted(workshop.signer).model_copy(update={"require": "timestamp", "trusted_root_sha256": root, **changes})
    return believing(authority).model_copy(update={"signers": (signer,)})


def first(report: GateReport) -> Check:
    assert report.verdict == "fail"
    return next(check for check in report.checks if check.checked and not check.ok)


def refusal(folder: Path, trust: Trust) -> tuple[str, str]:
    check = first(verify_bundle(folder, trust, now_ms=LATER_MS))
    return check.code, check.reason


# --- profile S --------------------------------------------------------------------------------------------------------


def test_a_keyless_bundle_passes_long_after_its_certificate_expired(keyless: Files, authority: Authority, place: Place) -> None:
    assert json.loads(keyless[STAMP])["signer"] == {
        "profile": "keyless", "identity": IDENTITY, "key_or_issuer": authority.folder.facts.url,
    }  # fmt: skip
    assert verify_bundle(place(keyless), believing(authority), now_ms=LATER_MS).verdict == "pass"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"identity": "somebody"}, ("SIGNER_UNTRUSTED", "not_listed")),
        ({"issuer": "https://elsewhere"}, ("SIGNER_UNTRUSTED", "not_listed")),
        ({"trusted_root_sha256": "0" * 64}, ("SIGNER_UNTRUSTED", "root_missing")),
        ({"builder_ids": ()}, ("SIGNER_UNTRUSTED", "builder")),
        ({"revoked_at": LONG_AGO}, ("SIGNER_UNTRUSTED", "revoked")),
        ({"valid_until": LONG_AGO}, ("SIGNER_UNTRUSTED", "expired")),
        ({"valid_from": "2999-01-01T00:00:00Z"}, ("SIGNER_UNTRUSTED", "not_yet_valid")),
    ],
)
def test_a_keyless_signer_that_is_not_the_listed_one(
    keyless: Files, authority: Authority, place: Place, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    trust = believing(authority).model_copy(update={"signers": (authority.trusted(**{"builder_ids": (BUILDER_ID,), **changes}),)})
    assert refusal(place(keyless), trust) == expected


def test_what_was_signed_before_the_revocation_stays_valid(keyless: Files, authority: Authority, place: Place) -> None:
    trust = believing(authority, revoked_at="2999-01-01T00:00:00Z", valid_until="2999-01-01T00:00:00Z")
    assert verify_bundle(place(keyless), trust, now_ms=LATER_MS).verdict == "pass"


def test_a_certificate_of_an_authority_that_is_not_pinned(
    keyless: Files, authority: Authority, stranger: Authority, place: Place
) -> None:
    trust = believing(stranger).model_copy(
        update={"signers": (stranger.trusted(issuer=authority.folder.facts.url, builder_ids=(BUILDER_ID,)),)}
    )
    assert refusal(place(keyless), trust)[0] == "SIGNATURE_INVALID"


def test_a_keyless_bundle_needs_its_sigstore_file(keyless: Files, authority: Authority, place: Place) -> None:
    plain = {name: keyless[name] for name in REQUIRED_MEMBERS}
    assert refusal(place(plain), believing(authority)) == ("SIGNATURE_INVALID", "hint_unknown")


def test_a_stamp_that_names_another_signer_than_the_certificate(
    workshop: Workshop, keyless: Files, authority: Authority, place: Place
) -> None:
    """The stamp only selects an entry of the trust file; the certificate has to name the same."""
    files = {**keyless, STAMP: keyless[STAMP].replace(IDENTITY.encode(), b"urn:gen4:other")}
    other = authority.trusted(identity="urn:gen4:other", builder_ids=(BUILDER_ID,))
    trust = believing(authority).model_copy(update={"signers": (other,)})
    assert refusal(place(files), trust) == ("SIGNER_UNTRUSTED", "identity")


# --- profile K with proof of time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("require", ["none", "timestamp", "log"])
def test_a_stamped_bundle_passes_whatever_is_asked_for(
    workshop: Workshop, stamped: Files, authority: Authority, place: Place, require: str
) -> None:
    assert verify_bundle(place(stamped), believing_key(workshop, authority, require=require), now_ms=LATER_MS).verdict == "pass"


@pytest.mark.parametrize(
    ("revoked_at", "expected"),
    [("2999-01-01T00:00:00Z", None), (timestamp_of(NOW_S), ("SIGNER_UNTRUSTED", "revoked"))],
)
def test_a_proven_time_decides_whether_a_revocation_came_first(
    workshop: Workshop, stamped: Files, authority: Authority, place: Place, revoked_at: str, expected: tuple[str, str] | None
) -> None:
    folder, trust = place(stamped), believing_key(workshop, authority, revoked_at=revoked_at)
    if expected is None:
        assert verify_bundle(folder, trust, now_ms=LATER_MS).verdict == "pass"
    else:
        assert refusal(folder, trust) == expected


def test_a_proof_that_no_root_can_check_counts_for_nothing(
    workshop: Workshop, stamped: Files, authority: Authority, place: Place
) -> None:
    assert refusal(place(stamped), make_trust(trusted(workshop.signer))) == ("SIGNER_UNTRUSTED", "root_missing")


def test_a_time_that_was_proven_stays_proven_when_the_services_change(
    workshop: Workshop, stamped: Files, authority: Authority, stranger: Authority, place: Place
) -> None:
    """The next start names the key under its new trusted root, and goes on pinning the old one."""
    folder, roots = place(stamped), (*believing(stranger).trusted_roots, *believing(authority).trusted_roots)
    changed = believing_key(workshop, authority, trusted_root_sha256=roots[0].sha256)
    assert refusal(folder, changed.model_copy(update={"trusted_roots": roots[:1]}))[0] == "SIGNATURE_INVALID"
    assert verify_bundle(folder, changed.model_copy(update={"trusted_roots": roots}), now_ms=LATER_MS).verdict == "pass"


@pytest.mark.parametrize(("require", "reason"), [("timestamp", "timestamp_missing"), ("log", "tlog_missing")])
def test_a_bundle_without_the_proof_that_is_asked_for(
    workshop: Workshop, authority: Authority, place: Place, require: str, reason: str
) -> None:
    trust = believing_key(workshop, authority, require=require)
    assert refusal(place(workshop.files), trust) == ("SIGNATURE_INVALID", reason)


# --- every change of the signature file -------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["S", "K"])
def test_no_altered_signature_file_is_accepted(
    workshop: Workshop, keyless: Files, stamped: Files, authority: Authority, place: Place, profile: str
) -> None:
    asked = believing_key(workshop, authority, require="log")
    files, trust = (keyless, believing(authority)) if profile == "S" else (stamped, asked)
    folder, good = place(files), files[SIGSTORE_BUNDLE]
    rng, accepted = random.Random(7), []
    changed = [(f"{edit.place} {edit.how}", jcs(edit.apply(json.loads(good)))) for edit in edits(json.loads(good))]
    for _ in range(150):
        at = rng.randrange(len(good))
        changed.append((f"byte {at}", good[:at] + bytes([rng.randrange(256)]) + good[at + 1 :]))
    for name, data in changed:
        (folder / SIGSTORE_BUNDLE).write_bytes(data)
        report = verify_bundle(folder, trust, now_ms=LATER_MS)
        if data != good and (report.verdict == "pass" or first(report).code not in FOREIGN):
            accepted.append(name)
    assert accepted == []
    assert {SIGNATURE, STRICT} <= FOREIGN


# --- other people's tools ---------------------------------------------------------------------------------------------


def alterations(files: Files) -> list[bytes]:
    """The Sigstore bundle with another payload, signature, certificate, log entry and time stamp."""

    def made(change: Callable[[dict[str, Any]], None]) -> bytes:
        bundle = copy.deepcopy(json.loads(files[SIGSTORE_BUNDLE]))
        change(bundle)
        return encoded(bundle)

    def payload(bundle: dict[str, Any]) -> None:
        text = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"builder/embedded", b"builder/separated")
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(text).decode()

    def signature(bundle: dict[str, Any]) -> None:
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = _flipped(bundle["dsseEnvelope"]["signatures"][0]["sig"])

    def certificate(bundle: dict[str, Any]) -> None:
        inner = bundle["verificationMaterial"]["certificate"]
        inner["rawBytes"] = _flipped(inner["rawBytes"])

    def entry(bundle: dict[str, Any]) -> None:
        entry = bundle["verificationMaterial"]["tlogEntries"][0]
        entry["canonicalizedBody"] = _flipped(entry["canonicalizedBody"])

    def no_entry(bundle: dict[str, Any]) -> None:
        bundle["verificationMaterial"]["tlogEntries"] = []

    return [made(change) for change in (payload, signature, certificate, entry, no_entry)]


def _flipped(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return base64.b64encode(data).decode()


@pytest.fixture
def desk(keyless: Files, authority: Authority, place: Place, tmp_path: Path) -> Path:
    """The good bundle in ``good``, altered signature files and the trusted root beside it."""
    place(keyless).rename(tmp_path / "good")
    for number, data in enumerate(alterations(keyless)):
        (tmp_path / f"altered-{number}.json").write_bytes(data)
    (tmp_path / "root.json").write_text(authority.root)
    (tmp_path / "config.json").write_text(authority.config)
    return tmp_path


def test_cosign_verifies_a_keyless_bundle(desk: Path, authority: Authority) -> None:
    cosign = locate("cosign").path

    def verify(bundle: Path, identity: str = IDENTITY) -> Verdict:
        who = ("--certificate-identity", identity, "--certificate-oidc-issuer", authority.folder.facts.url)
        flags = ("--bundle", bundle, "--trusted-root", desk / "root.json", "--type", "slsaprovenance1", "--use-signed-timestamps")
        return run(cosign, "verify-blob-attestation", *flags, *who, desk / "good" / CHECKSUMS)

    good = verify(desk / "good" / SIGSTORE_BUNDLE)
    assert good.ok, good.said
    assert not verify(desk / "good" / SIGSTORE_BUNDLE, "somebody else").ok
    for altered in sorted(desk.glob("altered-*")):
        assert not verify(altered).ok, altered.name


def test_sigstores_javascript_verifies_a_keyless_bundle(desk: Path, authority: Authority) -> None:
    js: JavaScript = javascript()
    about = {"root": desk / "root.json", "identity": IDENTITY, "issuer": authority.folder.facts.url}
    good, other, *altered = js.verify(
        {"bundle": desk / "good" / SIGSTORE_BUNDLE, **about},
        {"bundle": desk / "good" / SIGSTORE_BUNDLE, **about, "identity": "somebody else"},
        *({"bundle": path, **about} for path in sorted(desk.glob("altered-*"))),
    )
    assert good["ok"], good
    assert [one["ok"] for one in (other, *altered)] == [False] * (1 + len(altered)) and len(altered) == 5


def test_the_sigstore_command_verifies_a_keyless_bundle(desk: Path, authority: Authority) -> None:
    sigstore = Path(sys.executable).parent / "sigstore"

    def verify(bundle: Path) -> Verdict:
        who = ("--cert-identity", IDENTITY, "--cert-oidc-issuer", authority.folder.facts.url)
        command = (sigstore, "--trust-config", desk / "config.json", "verify", "identity", "--bundle", bundle, "--offline", *who)
        return run(*command, desk / "good" / CHECKSUMS)

    good = verify(desk / "good" / SIGSTORE_BUNDLE)
    assert good.ok, good.said
    assert not verify(desk / "altered-0.json").ok
    (desk / "good" / CHECKSUMS).write_bytes(b"x")
    assert not verify(desk / "good" / SIGSTORE_BUNDLE).ok


def test_cosign_verifies_a_logged_key(
    workshop: Workshop, stamped: Files, authority: Authority, place: Place, tmp_path: Path
) -> None:
    cosign, folder = locate("cosign").path, place(stamped)
    (tmp_path / "key.pub").write_text(workshop.signer.public_pem)
    (tmp_path / "other.pub").write_text(Signer(ec.generate_private_key(ec.SECP256R1())).public_pem)
    (tmp_path / "root.json").write_text(authority.root)

    def verify(key: str, member: str = CHECKSUMS) -> Verdict:
        flags = ("--bundle", folder / SIGSTORE_BUNDLE, "--trusted-root", tmp_path / "root.json", "--type", "slsaprovenance1")
        return run(cosign, "verify-blob-attestation", *flags, "--key", tmp_path / key, "--use-signed-timestamps", folder / member)

    good = verify("key.pub")
    assert good.ok, good.said
    assert not verify("other.pub").ok and not verify("key.pub", PROVENANCE).ok
    assert json.loads(stamped[PROVENANCE])["payloadType"] == PAYLOAD_TYPE
