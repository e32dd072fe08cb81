"""Profile S, signed by the unmodified client with the local authority; and what an operator is told when it does not work."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from activities.evidence import keyless
from activities.evidence.keyless_signing import KeylessSigner, sign, trusted_root_document
from activities.evidence.short_answers import ANSWER_LIMIT
from activities.evidence.signing import StatementSigner
from schemas.error import InfrastructureError, InputError, Refused
from schemas.evidence import PAYLOAD_TYPE
from tests.evidence.sigstore.authority import IDENTITY, STATEMENT, Authority
from workers.authority.configuration import TRUST_CONFIG


@pytest.fixture
def token_file(authority: Authority, tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(authority.token() + "\n")
    return tmp_path / "token"


@pytest.fixture
def signer(authority: Authority, token_file: Path) -> KeylessSigner:
    return KeylessSigner(authority.folder.path / TRUST_CONFIG, token_file)


def test_the_payload_is_what_was_given_byte_for_byte(authority: Authority) -> None:
    odd = STATEMENT.replace(b",", b" ,\n ")
    bundle = sign(odd, authority.config, authority.token())
    facts = keyless.verify(bundle, PAYLOAD_TYPE, authority.trusted(), authority.root)
    assert (facts.payload, facts.identity) == (odd, IDENTITY)


def test_both_files_hold_the_same_envelope(authority: Authority, signer: KeylessSigner) -> None:
    checked: StatementSigner = signer
    signed = checked.sign_statement(STATEMENT)
    inner = json.loads(signed.bundle)["dsseEnvelope"]
    outer = signed.envelope
    assert (inner["payload"], inner["payloadType"]) == (outer.payload, outer.payloadType)
    assert [one["sig"] for one in inner["signatures"]] == [one.sig for one in outer.signatures]
    assert base64.b64decode(outer.payload) == STATEMENT
    trusted = signer.trusted(0)
    assert (trusted.identity, trusted.issuer) == (signer.identity, signer.key_or_issuer) == (IDENTITY, authority.folder.facts.url)
    assert keyless.verify(signed.bundle, PAYLOAD_TYPE, trusted, signer.root_document).payload == STATEMENT


def test_a_token_file_is_read_anew_for_each_signature(authority: Authority, signer: KeylessSigner, token_file: Path) -> None:
    signer.sign_statement(STATEMENT)
    token_file.write_text(authority.token("urn:gen4:next"))
    assert signer.identity == "urn:gen4:next"
    bundle = signer.sign_statement(STATEMENT).bundle
    assert keyless.verify(bundle, PAYLOAD_TYPE, authority.trusted(identity="urn:gen4:next"), authority.root)


def test_the_identity_that_is_expected_has_to_be_certified(authority: Authority, token_file: Path) -> None:
    signer = KeylessSigner(authority.folder.path / TRUST_CONFIG, token_file, "https://ci.example/workflow")
    with pytest.raises(Refused, match="IDENTITY_TOKEN: the certificate does not name https:"):
        signer.sign_statement(STATEMENT)


@pytest.mark.parametrize("fault", ["missing", "empty", "garbage", "expired", "other issuer"])
def test_a_bad_token_is_refused_and_not_shown(
    fault: str, authority: Authority, stranger: Authority, signer: KeylessSigner, token_file: Path
) -> None:
    tokens = {
        "empty": "\n", "garbage": "Zm9v.YmFy.YmF6", "other issuer": stranger.token(),
        "expired": authority.token(at_s=int(time.time()) - 3600),
    }  # fmt: skip
    token_file.unlink()
    if fault in tokens:
        token_file.write_text(tokens[fault])
    with pytest.raises(Refused, match="IDENTITY_TOKEN") as refused:
        signer.sign_statement(STATEMENT)
    shown = str(refused.value) + str(refused.value.__cause__)
    assert not any(part in shown for part in tokens.get(fault, "").split(".") if part.strip())
    assert "GEN4_IDENTITY_TOKEN_FILE" in refused.value.remedy
    assert ("expired" in shown) == (fault == "expired")


def test_a_statement_that_is_none_is_never_signed(authority: Authority) -> None:
    with pytest.raises(InfrastructureError, match="SIGNING_SERVICE: Error: malformed in-toto statement"):
        sign(b'{"_type": "something"}', authority.config, authority.token())


@pytest.mark.parametrize("text", ["", "{}", "not JSON", '{"mediaType": 1, "mediaType": 2}'])
def test_a_configuration_that_is_none_is_a_usage_error(text: str, authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SIGSTORE_CONFIG"):
        sign(STATEMENT, text, authority.token())
    (tmp_path / "config").write_text(text)
    with pytest.raises(InputError, match="SIGSTORE_CONFIG"):
        KeylessSigner(tmp_path / "config", tmp_path / "token")


def redirected(config: str, service: str, url: str) -> str:
    changed: dict[str, Any] = json.loads(config)
    changed["signingConfig"][service][0]["url"] = url
    return json.dumps(changed)


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("service", ["caUrls", "rekorTlogUrls", "tsaUrls"])
def test_services_that_do_not_answer_fail_within_their_time(service: str, authority: Authority, silent: str) -> None:
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match="SIGNING_SERVICE: no signature within"):
        sign(STATEMENT, redirected(authority.config, service, silent), authority.token(), timeout_s=0.3)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("service", ["caUrls", "rekorTlogUrls", "tsaUrls"])
def test_services_that_are_not_there_are_a_failure_of_the_machine(service: str, authority: Authority) -> None:
    with pytest.raises(InfrastructureError, match="SIGNING_SERVICE"):
        sign(STATEMENT, redirected(authority.config, service, "http://127.0.0.1:1/x"), authority.token())


class _Endless(BaseHTTPRequestHandler):
    """Answers with zeros until nobody reads any more; packed, they are few bytes each."""

    def do_POST(self) -> None:
        packed = self.path.startswith("/packed")
        self.send_response(200)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        data = gzip.compress(bytes(ANSWER_LIMIT + 1)) if packed else bytes(1 << 16)
        with suppress(OSError):
            while self.wfile.write(data) and not packed:
                self.server.sent += len(data)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def endless() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        server.sent = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["raw", "packed"])
@pytest.mark.parametrize("service", ["caUrls", "rekorTlogUrls", "tsaUrls"])
def test_services_that_answer_without_end_are_not_read_to_it(
    service: str, path: str, authority: Authority, endless: ThreadingHTTPServer
) -> None:
    url = f"http://127.0.0.1:{endless.server_port}/{path}"
    why = "signed timestamp" if service == "tsaUrls" else f"{ANSWER_LIMIT} bytes"
    with pytest.raises(InfrastructureError, match=f"SIGNING_SERVICE: .*{why}"):
        sign(STATEMENT, redirected(authority.config, service, url), authority.token(), timeout_s=20.0)
    assert endless.sent < 8 * ANSWER_LIMIT  # type: ignore[attr-defined]
    endless.sent = 0  # type: ignore[attr-defined]


def test_what_another_log_says_is_not_passed_on(authority: Authority, stranger: Authority, token_file: Path) -> None:
    """The client takes the log's word; what leaves the signer verifies against the trusted root."""
    url = stranger.folder.facts.url
    config = token_file.parent / "config"
    config.write_text(redirected(authority.config, "rekorTlogUrls", url))
    with pytest.raises(InfrastructureError, match="what the services gave does not verify: log_unknown"):
        KeylessSigner(config, token_file).sign_statement(STATEMENT)


def test_the_pinned_document_is_the_one_that_the_authority_writes(authority: Authority) -> None:
    assert trusted_root_document(authority.config) == authority.root
