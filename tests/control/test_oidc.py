"""Every wrong token is refused by its own code; a right one says who its bearer is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.control import keysets
from activities.control.keysets import REFRESH_S, KeySets
from activities.control.oidc import REMEDIES, Claims, Issuer, Tokens, load_issuers
from schemas.error import InfrastructureError, InputError, Refused
from tests.control.issuer import NOW_S, TestIssuer, assembled, b64, public_jwk, rsa_key, send

NOW_MS = NOW_S * 1000


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def shared() -> Iterator[TestIssuer]:
    """For tests that do not change its answers."""
    issuer = TestIssuer()
    yield issuer
    issuer.close()


@pytest.fixture
def issuer() -> Iterator[TestIssuer]:
    made = TestIssuer()
    yield made
    made.close()


def config(issuer: TestIssuer, **changes: Any) -> Issuer:
    return Issuer(issuer=issuer.url, audience="gen4", tenant_id="acme", **changes)


def tokens(issuer: TestIssuer, clock: Clock | None = None, **changes: Any) -> Tokens:
    return Tokens((config(issuer, **changes),), "acme", KeySets(clock or Clock()))


def refusal(checker: Tokens, token: str, now_ms: int = NOW_MS) -> str:
    with pytest.raises(Refused) as refused:
        checker.verify(token, now_ms)
    assert refused.value.remedy == REMEDIES[refused.value.code]
    assert token[:20] not in str(refused.value) or not token[:20]
    return refused.value.code


def test_a_good_token_says_who_its_bearer_is(shared: TestIssuer) -> None:
    token = shared.token(jti="once", acr="mfa")
    assert tokens(shared).verify(token, NOW_MS) == Claims(
        issuer=shared.url, subject="alice-sub", tenant_id="acme", jti="once", expires_at_ms=(NOW_S + 300) * 1000,
        authenticated_at_s=NOW_S - 5, acr="mfa", token_sha256=hashlib.sha256(token.encode()).hexdigest(),
    )  # fmt: skip


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("WRONG_ISSUER", {"iss": "https://other.example"}), ("WRONG_ISSUER", {"iss": None}), ("WRONG_ISSUER", {"iss": ["x"]}),
    ("WRONG_AUDIENCE", {"aud": "temporal"}), ("WRONG_AUDIENCE", {"aud": None}), ("WRONG_AUDIENCE", {"aud": ["a", "GEN4"]}),
    ("WRONG_AUDIENCE", {"aud": "gen4 "}), ("WRONG_AUDIENCE", {"aud": [["gen4"]]}), ("WRONG_AUDIENCE", {"aud": {"gen4": 1}}),
    ("TOKEN_EXPIRED", {"exp": NOW_S - 30}), ("TOKEN_EXPIRED", {"exp": 0}), ("TOKEN_MALFORMED", {"exp": None}),
    ("TOKEN_MALFORMED", {"exp": str(NOW_S + 300)}), ("TOKEN_MALFORMED", {"exp": True}), ("TOKEN_MALFORMED", {"exp": 2**41}),
    ("TOKEN_MALFORMED", {"exp": -1}), ("TOKEN_NOT_YET_VALID", {"nbf": NOW_S + 31}), ("TOKEN_NOT_YET_VALID", {"iat": NOW_S + 31}),
    ("TOKEN_NOT_YET_VALID", {"auth_time": NOW_S + 31}), ("TOKEN_MALFORMED", {"nbf": "soon"}),
    ("STALE_AUTH", {"auth_time": NOW_S - 3_631}), ("STALE_AUTH", {"auth_time": None, "iat": NOW_S - 3_631}),
    ("TOKEN_MALFORMED", {"auth_time": None, "iat": None}),
    ("JTI_MISSING", {"jti": None}), ("JTI_MISSING", {"jti": ""}), ("JTI_MISSING", {"jti": 7}),
    ("JTI_MISSING", {"jti": "x" * 513}),
    ("JTI_MISSING", {"jti": "a\x00"}), ("TOKEN_MALFORMED", {"sub": "alice-sub\x00"}), ("TOKEN_MALFORMED", {"sub": "a\u202eb"}),
    ("TOKEN_MALFORMED", {"sub": None}), ("TOKEN_MALFORMED", {"sub": ""}), ("TOKEN_MALFORMED", {"sub": "x" * 513}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "changes"), WRONG, ids=str)
def test_wrong_claims(shared: TestIssuer, code: str, changes: dict[str, Any]) -> None:
    if changes.get("sub", "") is None or not isinstance(changes.get("iss", ""), str):  # PyJWT would not write them
        claims = shared.claims(**changes)
        token = assembled({"alg": "RS256", "kid": "k1"}, claims, shared.sign)
    else:
        token = shared.token(**changes)
    assert refusal(tokens(shared), token) == code


def test_an_issuer_is_equal_to_the_last_character(shared: TestIssuer) -> None:
    for other in (shared.url + "/", shared.url.replace("127.0.0.1", "localhost"), shared.url.upper(), shared.url + "\u200b"):
        assert refusal(tokens(shared), shared.token(iss=other)) == "WRONG_ISSUER"


def test_leeway_is_small_and_bounded(shared: TestIssuer) -> None:
    checker = tokens(shared, leeway_s=10)
    assert checker.verify(shared.token(exp=NOW_S - 9), NOW_MS).subject == "alice-sub"
    assert refusal(checker, shared.token(exp=NOW_S - 10)) == "TOKEN_EXPIRED"
    with pytest.raises(ValueError, match="60"):
        config(shared, leeway_s=61)


# --- algorithms and keys ---------------------------------------------------------------------------------------------


def test_unsigned_tokens(shared: TestIssuer) -> None:
    claims = shared.claims()
    for alg in ("none", "None", "NONE", "nOnE", "", None, 1, ["RS256"], "RS256 ", "rs256"):
        token = assembled({"alg": alg, "kid": "k1"}, claims, lambda _: b"")
        assert refusal(tokens(shared), token) == "ALG_NOT_ALLOWED"
    assert refusal(tokens(shared), assembled({"kid": "k1"}, claims, shared.sign)) == "ALG_NOT_ALLOWED"


@pytest.mark.parametrize("secret", ["pem", "der", "jwk", "empty"])
def test_the_public_key_is_no_shared_secret(shared: TestIssuer, secret: str) -> None:
    public = shared.key.public_key()
    known = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(shared.keys[0]).encode(), "empty": b"",
    }[secret]  # fmt: skip
    token = assembled({"alg": "HS256", "kid": "k1"}, shared.claims(), lambda data: hmac.digest(known, data, "sha256"))
    assert refusal(tokens(shared), token) == "ALG_NOT_ALLOWED"


def test_an_algorithm_that_the_issuer_does_not_use(shared: TestIssuer) -> None:
    for algorithm in ("RS384", "PS256"):
        assert refusal(tokens(shared), shared.token(algorithm=algorithm)) == "ALG_NOT_ALLOWED"
    with pytest.raises(ValueError, match="algorithms"):
        config(shared, algorithms=("HS256",))
    with pytest.raises(ValueError, match="algorithms"):
        config(shared, algorithms=())


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_allowed_algorithm_works_with_its_own_kind_of_key_only(issuer: TestIssuer, algorithm: str) -> None:
    made: dict[str, Any] = {
        "RS256": issuer.key, "PS512": issuer.key, "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()), "ES512": ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }  # fmt: skip
    issuer.keys = [public_jwk(key, name) for name, key in made.items()]
    checker = tokens(issuer, algorithms=tuple(made))
    assert checker.verify(issuer.token(key=made[algorithm], algorithm=algorithm, kid=algorithm), NOW_MS)
    for other in (name for name, key in made.items() if key is not made[algorithm]):
        assert refusal(checker, issuer.token(key=made[algorithm], algorithm=algorithm, kid=other)) == "KEY_UNKNOWN"


def test_another_key_or_a_changed_token(shared: TestIssuer) -> None:
    assert refusal(tokens(shared), shared.token(key=rsa_key())) == "BAD_SIGNATURE"
    header, claims, signature = shared.token().split(".")
    swapped = b64(json.dumps(shared.claims(sub="admin")).encode())
    assert refusal(tokens(shared), f"{header}.{swapped}.{signature}") == "BAD_SIGNATURE"
    assert refusal(tokens(shared), f"{header}.{claims}.") == "BAD_SIGNATURE"
    assert refusal(tokens(shared), f"{header}.{claims}.{signature[:-10]}") == "BAD_SIGNATURE"


@pytest.mark.parametrize("kid", [None, "", "K1", "k1 ", "../../../dev/null", "k1\x00", "x" * 513, "' OR 1=1 --", "http://evil/"])
def test_unknown_key_names(shared: TestIssuer, kid: str | None) -> None:
    assert refusal(tokens(shared), shared.token(kid=kid)) == "KEY_UNKNOWN"


def test_a_key_name_is_a_string(shared: TestIssuer) -> None:
    for kid in (1, ["k1"], {"k1": 1}, True):
        assert refusal(tokens(shared), assembled({"alg": "RS256", "kid": kid}, shared.claims(), shared.sign)) == "KEY_UNKNOWN"


def oct_key(secret: bytes) -> dict[str, str]:
    return {"kty": "oct", "kid": "k1", "k": b64(secret), "alg": "RS256"}


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
def test_keys_that_must_not_be_used(issuer: TestIssuer) -> None:
    weak = rsa_key(1024)
    good = public_jwk(issuer.key, "k1")
    private = {**good, "d": b64(b"private")}
    point = {"kty": "EC", "crv": "P-256", "x": b64(b"\1" * 32), "y": b64(b"\1" * 32), "kid": "k1"}
    bad: list[Any] = [
        [], [oct_key(b"s" * 32)], [public_jwk(weak, "k1")], [good, good], [good, public_jwk(weak, "k1")], [private], [point],
        [{**good, "use": "enc"}], [{**good, "key_ops": ["encrypt"]}], [{**good, "key_ops": 3}], [{**good, "alg": "PS256"}],
        [{**good, "n": "!"}], [{**good, "n": 5}], [{**good, "e": b64(b"\2")}], [{**good, "kty": "rsa"}], ["k1", None, 3],
        [{key: value for key, value in good.items() if key != "e"}], [{**good, "kid": 1}],
    ]  # fmt: skip
    for keys in bad:
        issuer.keys = keys
        signer = weak if keys == [public_jwk(weak, "k1")] else issuer.key
        assert refusal(tokens(issuer, algorithms=("RS256", "ES256")), issuer.token(key=signer)) == "KEY_UNKNOWN"


# --- shape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc"])
def test_keys_and_rules_in_the_token_are_refused(shared: TestIssuer, name: str) -> None:
    evil = rsa_key()
    value: Any = {"jwk": public_jwk(evil, "k1"), "crit": ["exp"], "x5c": ["MII"]}.get(name, f"{shared.url}/evil")
    before = len(shared.requests)
    token = assembled({"alg": "RS256", "kid": "k1", name: value}, shared.claims(), shared.sign)
    assert refusal(tokens(shared), token) == "TOKEN_MALFORMED"
    assert len(shared.requests) == before


def malformed(issuer: TestIssuer) -> Iterator[str]:
    good = issuer.token()
    header, claims, signature = good.split(".")
    yield from ("", ".", "..", "a.b", good + ".x", good + "\n", " " + good, f"Bearer {good}", good + "=", "\u00e4" + good)
    yield f"{header}=.{claims}.{signature}"
    yield f"{header}.{claims}.{signature.replace('-', '+').replace('_', '/')}+"
    yield "x" * 16_385
    yield assembled({"alg": "RS256", "kid": "k1"}, {**issuer.claims(), "pad": "x" * 16_384}, issuer.sign)
    duplicate = json.dumps(issuer.claims())[:-1] + ', "sub": "admin"}'
    yield assembled({"alg": "RS256", "kid": "k1"}, duplicate.encode(), issuer.sign)
    yield assembled(b'{"alg": "RS256", "kid": "k1", "alg": "none"}', issuer.claims(), issuer.sign)
    yield assembled(b"[]", issuer.claims(), issuer.sign)
    yield assembled({"alg": "RS256", "kid": "k1"}, b"\xef\xbb\xbf{}", issuer.sign)
    yield assembled({"alg": "RS256", "kid": "k1"}, b'{"exp": NaN}', issuer.sign)
    yield assembled({"alg": "RS256", "kid": "k1"}, b"[" * 9_000, issuer.sign)
    yield assembled({"alg": "RS256", "kid": "k1", "typ": "logout+jwt"}, issuer.claims(), issuer.sign)


def test_malformed_tokens(shared: TestIssuer) -> None:
    checker = tokens(shared)
    for token in malformed(shared):
        assert refusal(checker, token) == "TOKEN_MALFORMED", token[:80]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noise=st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()), where=st.integers(0, 5))
def test_any_text_is_a_claim_or_a_refusal(shared: TestIssuer, noise: str, where: int) -> None:
    parts = shared.token().split(".")
    token = noise if where > 2 else ".".join(noise if place == where else part for place, part in enumerate(parts))
    with pytest.raises(Refused):
        tokens(shared).verify(token, NOW_MS)


# --- tenants ---------------------------------------------------------------------------------------------------------


def test_a_token_speaks_for_one_tenant(shared: TestIssuer) -> None:
    checker = tokens(shared, tenant_claim="org")
    assert checker.verify(shared.token(org="acme"), NOW_MS).tenant_id == "acme"
    for org in ("other", "Acme", "acme ", None, ["acme"], True):
        assert refusal(checker, shared.token(org=org)) == "TENANT_MISMATCH"
    foreign = Tokens((config(shared),), "other", KeySets())
    assert refusal(foreign, shared.token()) == "TENANT_MISMATCH"


# --- fetching keys ---------------------------------------------------------------------------------------------------


def test_keys_are_kept_and_asked_for_again_at_most_every_ten_seconds(issuer: TestIssuer) -> None:
    clock = Clock()
    checker = tokens(issuer, clock)
    for _ in range(3):
        checker.verify(issuer.token(), NOW_MS)
    assert issuer.requests == ["/.well-known/openid-configuration", "/jwks"]
    new = rsa_key()
    issuer.keys.append(public_jwk(new, "k2"))
    for _ in range(20):
        assert refusal(checker, issuer.token(key=new, kid="k2")) == "KEY_UNKNOWN"
    assert len(issuer.requests) == 2
    clock.seconds += REFRESH_S
    checker.verify(issuer.token(key=new, kid="k2"), NOW_MS)
    assert len(issuer.requests) == 4


def test_a_key_that_the_issuer_took_back_is_soon_forgotten(issuer: TestIssuer) -> None:
    clock = Clock()
    checker = tokens(issuer, clock)
    checker.verify(issuer.token(), NOW_MS)
    issuer.keys = []
    clock.seconds += keysets.KEPT_S + 1
    assert refusal(checker, issuer.token()) == "KEY_UNKNOWN"


def test_an_issuer_that_is_away(issuer: TestIssuer) -> None:
    clock = Clock()
    checker = tokens(issuer, clock)
    issuer.answers["/jwks"] = lambda handler: send(handler, b"", 503)
    for _ in range(5):
        with pytest.raises(InfrastructureError, match=r"ISSUER_UNAVAILABLE: .*503"):
            checker.verify(issuer.token(), NOW_MS)
    assert issuer.requests.count("/jwks") == 1
    del issuer.answers["/jwks"]
    clock.seconds += REFRESH_S
    assert checker.verify(issuer.token(), NOW_MS)
    issuer.close()
    clock.seconds += REFRESH_S
    assert checker.verify(issuer.token(), NOW_MS), "what is kept works without the issuer"


def redirect(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", 302, Location="/elsewhere")


def oversized(handler: BaseHTTPRequestHandler) -> None:
    send(handler, json.dumps({"keys": [], "pad": "x" * 300_000}).encode())


def compressed(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"\x1f\x8b junk", 200, **{"Content-Encoding": "gzip"})


def duplicated(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b'{"keys": [], "keys": []}')


def page(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"<html>log in</html>")


@pytest.mark.parametrize("answer", [redirect, oversized, compressed, duplicated, page])
def test_key_sets_that_are_none(issuer: TestIssuer, answer: Any) -> None:
    issuer.answers["/jwks"] = answer
    with pytest.raises(InfrastructureError, match="ISSUER_UNAVAILABLE"):
        tokens(issuer).verify(issuer.token(), NOW_MS)
    assert "/elsewhere" not in issuer.requests


def test_a_server_that_trickles_does_not_hold_us(issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    monkeypatch.setattr(keysets, "TOTAL_S", 0.3)
    issuer.answers["/jwks"] = trickle
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match="ISSUER_UNAVAILABLE"):
        tokens(issuer).verify(issuer.token(), NOW_MS)
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    "changes",
    [{"issuer": "https://other.example"}, {"issuer": None}, {"jwks_uri": None}, {"jwks_uri": "http://10.0.0.1/jwks"},
     {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": "http://127.0.0.1@evil.example/jwks"}, {"jwks_uri": 7}],
)  # fmt: skip
def test_discovery_must_be_the_issuers_own(issuer: TestIssuer, changes: dict[str, Any]) -> None:
    issuer.discovery_changes = changes
    with pytest.raises(InfrastructureError, match="ISSUER_UNAVAILABLE"):
        tokens(issuer).verify(issuer.token(), NOW_MS)
    assert "/jwks" not in issuer.requests


def test_a_configured_key_set_needs_no_discovery(issuer: TestIssuer) -> None:
    assert tokens(issuer, jwks_uri=f"{issuer.url}/jwks").verify(issuer.token(), NOW_MS)
    assert issuer.requests == ["/jwks"]


# --- the configuration -----------------------------------------------------------------------------------------------


def test_which_issuers_count_is_a_file_of_the_home(tmp_path: Path) -> None:
    assert load_issuers(tmp_path) is None
    good = {"issuer": "https://id.example.org/realm", "audience": "gen4", "tenant_id": "acme"}
    (tmp_path / "issuers.json").write_text(json.dumps([good]))
    assert load_issuers(tmp_path) == (Issuer(**good),)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://id.example.org"}, {"issuer": "http://localhost.evil.example"}, {"issuer": "http://127.0.0.1.evil.org"},
        {"issuer": "https://user:secret@id.example.org"}, {"issuer": "https://id.example.org#x"}, {"issuer": "id.example.org"},
        {"issuer": "https://"}, {"issuer": "https://id.example.org:port"}, {"issuer": "HTTPS://id.example.org"}, {"issuer": ""},
        {"jwks_uri": "http://10.0.0.1/keys"}, {"audience": ""}, {"algorithms": ["none"]}, {"algorithms": ["HS256"]},
        {"leeway_s": 61}, {"leeway_s": -1}, {"max_age_s": 0}, {"verify": False}, {"tenant_id": None}, {"tenant_claim": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_weakens_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    good = {"issuer": "https://id.example.org", "audience": "gen4", "tenant_id": "acme"}
    (tmp_path / "issuers.json").write_text(json.dumps([good | changes]))
    with pytest.raises(InputError, match="ISSUERS_INVALID"):
        load_issuers(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "null", "[", '[{"issuer": "https://a", "issuer": "https://b"}]'])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "issuers.json").write_text(text)
    with pytest.raises(InputError, match="ISSUERS_INVALID"):
        load_issuers(tmp_path)


def test_an_issuer_is_listed_once(tmp_path: Path) -> None:
    one = {"issuer": "https://id.example.org", "audience": "gen4", "tenant_id": "acme"}
    (tmp_path / "issuers.json").write_text(json.dumps([one, one | {"tenant_id": "other"}]))
    with pytest.raises(InputError, match="twice"):
        load_issuers(tmp_path)
