"""The local authority: what it certifies and logs, what it refuses, and that its log survives restarts and refuses to fork."""

from __future__ import annotations

import base64
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rfc3161_client import decode_timestamp_response
from rfc3161_client.tsp import PKIStatus

from activities.evidence import keyless
from activities.record.merkle import merkle_root
from activities.record.notes import NoteKey, signed_text
from cli.main import run
from schemas.canonical import jcs
from schemas.error import InfrastructureError, InputError
from schemas.evidence import PAYLOAD_TYPE
from tests.evidence.sigstore.authority import IDENTITY, Authority, b64, encoded, free_port, proof_of, running_authority
from workers.authority.certifying import requested_key
from workers.authority.folder import AuthorityFolder
from workers.authority.log import LogSigner, TransparencyLog
from workers.authority.server import AuthorityServer
from workers.authority.tokens import mint

KEY = ec.generate_private_key(ec.SECP256R1())


def csr(key: Any = KEY) -> dict[str, Any]:
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return {"certificateSigningRequest": b64(made.public_bytes(Encoding.PEM))}


def ask(authority: Authority, body: Any, token: str | None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(f"{authority.folder.facts.url}/api/v2/signingCert", json=body, headers=headers, timeout=10)


def signed_with(secret: bytes, claims: dict[str, Any]) -> str:
    """A token under HMAC, whose secret is what everybody knows."""
    head = ".".join(base64.urlsafe_b64encode(jcs(part)).rstrip(b"=").decode() for part in ({"alg": "HS256"}, claims))
    return head + "." + base64.urlsafe_b64encode(hmac.digest(secret, head.encode(), "sha256")).rstrip(b"=").decode()


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_token_is_certified_for_ten_minutes(authority: Authority) -> None:
    answer = ask(authority, csr(), authority.token("someone@example.org")).json()
    chain = answer["signedCertificateEmbeddedSct"]["chain"]["certificates"]
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == ["someone@example.org"]
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 600
    assert len(chain) == 2


@pytest.mark.parametrize("fault", ["none", "stranger", "expired", "audience", "unsigned", "symmetric", "garbage", "no subject"])
def test_a_token_that_is_not_its_own_is_refused(fault: str, authority: Authority, stranger: Authority) -> None:
    now = int(time.time())
    claims = {"iss": authority.folder.facts.url, "aud": "sigstore", "sub": IDENTITY, "iat": now, "exp": now + 60}
    key = authority.folder.key("issuer")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    tokens = {
        "none": None, "stranger": stranger.token(), "expired": authority.token(at_s=now - 3600), "garbage": "a.b.c",
        "audience": jwt.encode({**claims, "aud": "other"}, key, algorithm="ES256"),
        "unsigned": jwt.encode(claims, "", algorithm="none"), "symmetric": signed_with(public, claims),
        "no subject": jwt.encode({name: claims[name] for name in claims if name != "sub"}, key, algorithm="ES256"),
    }  # fmt: skip
    answer = ask(authority, csr(), tokens[fault])
    assert answer.status_code == 401 and "IDENTITY_TOKEN" in answer.json()["message"]


def test_only_the_holder_of_a_key_gets_it_certified(authority: Authority) -> None:
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    proof = b64(KEY.sign(IDENTITY.encode(), ec.ECDSA(hashes.SHA256())))
    good = {"publicKeyRequest": {"publicKey": {"algorithm": "ECDSA", "content": public}, "proofOfPossession": proof}}
    assert requested_key(good, IDENTITY) == KEY.public_key()
    assert requested_key(csr(), IDENTITY) == KEY.public_key()
    swapped = bytearray(base64.b64decode(csr()["certificateSigningRequest"]))
    swapped[-60] ^= 1
    for bad in (
        {}, {"publicKeyRequest": {}}, {"certificateSigningRequest": "x"}, csr(ec.generate_private_key(ec.SECP384R1())),
        {"certificateSigningRequest": b64(bytes(swapped))},
    ):  # fmt: skip
        with pytest.raises(InputError, match="REQUEST_INVALID"):
            requested_key(bad, IDENTITY)
    with pytest.raises(InputError, match="REQUEST_INVALID"):
        requested_key(good, "somebody else")


def test_its_tokens_can_be_checked_by_anyone(authority: Authority) -> None:
    url = authority.folder.facts.url
    found = requests.get(f"{url}/.well-known/openid-configuration", timeout=10).json()
    (key,) = requests.get(found["jwks_uri"], timeout=10).json()["keys"]
    claims = jwt.decode(authority.token(), jwt.PyJWK(key), algorithms=["ES256"], audience="sigstore", issuer=url)
    assert claims["sub"] == IDENTITY and found["issuer"] == url


@pytest.mark.parametrize("identity", ["", "someone", "a b@example.org", "two@at@example.org", "urn:ä", "urn:x\n"])
def test_what_no_certificate_can_name_gets_no_token(identity: str, authority: Authority) -> None:
    with pytest.raises(InputError, match="IDENTITY_INVALID"):
        mint(authority.folder, identity, 600, 0)


# --- log --------------------------------------------------------------------------------------------------------------


def test_the_log_takes_only_valid_signatures(authority: Authority) -> None:
    good = authority.signed()
    before, url = len(authority.server.log), f"{authority.folder.facts.url}/api/v2/log/entries"
    body = json.loads(base64.b64decode(good["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"]))
    spec = body["spec"]["hashedRekordV002"]
    request = {"digest": spec["data"]["digest"], "signature": spec["signature"]}
    for bad in (
        {}, [], {"hashedRekordRequestV002": {}}, {"dsseRequestV002": {}},
        {"hashedRekordRequestV002": {**request, "digest": b64(b"\0" * 32)}},
        {"hashedRekordRequestV002": {**request, "signature": {**spec["signature"], "content": b64(b"no signature")}}},
    ):  # fmt: skip
        assert requests.post(url, json=bad, timeout=10).status_code == 400
    assert len(authority.server.log) == before
    assert requests.post(url, json={"hashedRekordRequestV002": request}, timeout=10).status_code == 201


def test_after_a_restart_older_proofs_hold_and_the_log_goes_on(tmp_path: Path) -> None:
    with running_authority(tmp_path / "home") as first:
        made = [first.signed() for _ in range(3)]
        key, before = LogSigner(first.folder).key, first.server.log.checkpoint()
    with running_authority(tmp_path / "home") as second:
        made += [second.signed() for _ in range(2)]
        assert (second.folder, second.root) == (first.folder, first.root)
        for number, bundle in enumerate(made):
            facts = keyless.verify(encoded(bundle), PAYLOAD_TYPE, second.trusted(), second.root)
            assert facts.log_index == number
        leaves = (second.folder.path / "entries.jsonl").read_bytes().split(b"\n")[:-1]
        for note in (before, *(proof_of(bundle)["checkpoint"]["envelope"] for bundle in made), second.server.log.checkpoint()):
            assert_prefix(note, key, leaves)


def assert_prefix(note: str, key: NoteKey, leaves: list[bytes]) -> None:
    """Each checkpoint is about a beginning of the log as it is now."""
    text = signed_text(note, key)
    assert text is not None
    _, size, root = text.splitlines()
    assert b64(merkle_root(leaves[: int(size)])) == root


def test_an_entry_that_was_cut_off_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    with running_authority(tmp_path / "home") as first:
        first.signed()
    with (tmp_path / "home" / "entries.jsonl").open("ab") as file:
        file.write(b'{"half": ')
    with running_authority(tmp_path / "home") as second:
        bundle = second.signed()
        assert keyless.verify(encoded(bundle), PAYLOAD_TYPE, second.trusted(), second.root).log_index == 1


@pytest.mark.parametrize("damage", ["entry", "shorter", "checkpoint"])
def test_a_log_that_is_not_what_it_signed_is_not_served(damage: str, tmp_path: Path) -> None:
    with running_authority(tmp_path / "home") as first:
        folder = first.folder
        first.signed(), first.signed()
    entries, checkpoint = folder.path / "entries.jsonl", folder.path / "checkpoint"
    if damage == "entry":
        entries.write_bytes(entries.read_bytes().replace(b"SHA2_256", b"SHA2_257", 1))
    elif damage == "shorter":
        entries.write_bytes(entries.read_bytes().split(b"\n")[0] + b"\n")
    else:
        checkpoint.write_text(checkpoint.read_text().replace("\n2\n", "\n1\n"))
    with pytest.raises(InputError, match="LOG_FORKED"):
        TransparencyLog(folder)


def test_two_processes_never_serve_one_log(authority: Authority) -> None:
    with pytest.raises(InputError, match="LOG_IN_USE"):
        TransparencyLog(authority.folder)


# --- the folder and the service ---------------------------------------------------------------------------------------


def test_its_keys_are_read_by_nobody_else_and_never_replaced(tmp_path: Path) -> None:
    made = AuthorityFolder.create(tmp_path / "home", 40_000, 0)
    keys = {path.name: path.read_bytes() for path in made.path.glob("*.key")}
    assert made.path.stat().st_mode & 0o777 == 0o700 and len(keys) == 5
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.path.glob("*.key"))
    again = AuthorityFolder.create(tmp_path / "home", 50_000, 9)
    assert again == made and keys == {path.name: path.read_bytes() for path in made.path.glob("*.key")}
    made.path.chmod(0o750)
    with pytest.raises(InputError, match="AUTHORITY_UNSAFE"):
        AuthorityFolder.open(made.path)
    with pytest.raises(InputError, match="AUTHORITY_MISSING"):
        AuthorityFolder.open(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(made.path)
    made.path.chmod(0o700)
    with pytest.raises(InputError, match="AUTHORITY_UNSAFE"):
        AuthorityFolder.open(tmp_path / "link")


def test_only_its_own_address_is_answered(authority: Authority) -> None:
    url = authority.folder.facts.url
    assert requests.get(f"{url}/keys", headers={"Host": "evil.example"}, timeout=10).status_code == 421
    assert requests.get(f"{url}/elsewhere", timeout=10).status_code == 404
    reply = requests.post(f"{url}/api/v1/timestamp", data=b"not a query", timeout=10).content
    assert PKIStatus(decode_timestamp_response(reply).status) == PKIStatus.REJECTION
    assert requests.post(f"{url}/api/v2/signingCert", data=b"x" * 70_000, timeout=10).status_code in (400, 401)
    assert requests.post(f"{url}/api/v2/log/entries", data=b'{"a":1,"a":2}', timeout=10).status_code == 400


def test_a_port_that_is_taken_is_told(authority: Authority, tmp_path: Path) -> None:
    folder = AuthorityFolder.create(tmp_path / "home", authority.folder.facts.port, 0)
    with pytest.raises(InfrastructureError, match="PORT_TAKEN"):
        AuthorityServer(folder)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, out = str(tmp_path / "home"), tmp_path / "token.jwt"
    assert run(["authority", "token", IDENTITY, "--home", home, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "AUTHORITY_MISSING"
    assert run(["authority", "init", "--home", home, "--port", str(free_port()), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["authority", "token", IDENTITY, "--home", home, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"identity": IDENTITY, "issuer": made["url"], "file": str(out)}
    assert out.stat().st_mode & 0o777 == 0o600 and out.read_text().count(".") == 2
    assert run(["authority", "token", IDENTITY, "--home", home, "--lifetime", "9999", "--json"]) == 2
    serving = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "authority", "serve", "--home", home, "--json"], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}, text=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None and serving.stdout.readline() == "{\n"
        for _ in range(100):
            try:
                assert requests.get(f"{made['url']}/keys", timeout=10).status_code == 200
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(10) == 0
    finally:
        serving.kill()
        serving.communicate()
