"""Small forms that everything rests on: checksums, base64, repository names, limits."""

from __future__ import annotations

import base64
import dataclasses
import io

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from activities.evidence.checksums import ChecksumFormatError, parse_checksums, write_checksums
from activities.evidence.members import assemble
from activities.evidence.sbom import Target, write_sbom
from activities.evidence.scanning import scan
from activities.evidence.sources import git_uri, public_repository, repository_name
from activities.kernel import dsse
from schemas.canonical import sha256_hex
from schemas.error import Refused
from schemas.evidence import PATCH, SIZE_LIMITS, milliseconds_of, timestamp_of
from schemas.stamp import StampLimits
from schemas.testing import Limits, Outcomes
from schemas.verdict import judge
from tests.evidence.workshop import make_inputs, make_run

_NAMES = st.from_regex(r"[a-z0-9_]+(\.[a-z0-9_]+){0,3}", fullmatch=True)


@given(st.dictionaries(_NAMES, st.binary(max_size=8)))
def test_checksums_read_back_sorted(members: dict[str, bytes]) -> None:
    data = write_checksums(members)
    if not members:
        assert data == b""
        return
    assert parse_checksums(data) == [(sha256_hex(members[name]), name) for name in sorted(members)]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_lines_or_the_one_error(data: bytes) -> None:
    try:
        assert write_lines(parse_checksums(data)) == data
    except ChecksumFormatError:
        pass


def write_lines(lines: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{digest}  {name}\n".encode() for digest, name in lines)


@given(st.binary(max_size=60))
def test_base64_has_one_spelling(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert dsse.decode_base64(text) == data
    for other in (text + "\n", text + "=", " " + text, text.replace("=", "")):
        if other != text:
            with pytest.raises(ValueError, match="base64"):
                dsse.decode_base64(other)


@pytest.mark.parametrize("text", ["YR==", "YWK=", "_-__", "Y", "YQ=", "ÿ"])
def test_loose_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|ASCII"):
        dsse.decode_base64(text)


@given(st.text(max_size=20), st.binary(max_size=60), st.text(max_size=20), st.binary(max_size=60))
def test_the_signed_bytes_tell_type_and_body_apart(one: str, body: bytes, other: str, other_body: bytes) -> None:
    encodable = [text.encode("utf-8", "ignore").decode() for text in (one, other)]
    if (encodable[0], body) != (encodable[1], other_body):
        assert dsse.pae(encodable[0], body) != dsse.pae(encodable[1], other_body)


def test_a_signature_is_good_for_its_key_type_and_body_alone() -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    envelope = dsse.sign(key, "t", b"body")
    signature = dsse.decode_base64(envelope.signatures[0].sig)
    assert dsse.verify(key.public_key(), "t", b"body", signature)
    assert not dsse.verify(other.public_key(), "t", b"body", signature)
    assert not dsse.verify(key.public_key(), "u", b"body", signature)
    assert not dsse.verify(key.public_key(), "t", b"bodY", signature)
    assert not dsse.verify(key.public_key(), "t", b"body", signature[:-1])
    assert not dsse.verify(key.public_key(), "t", b"body", b"")


@pytest.mark.parametrize(
    ("repository", "public", "uri", "name"),
    [
        ("/srv/git/my repo.git", "/srv/git/my repo.git", "git+file:///srv/git/my%20repo.git", "my repo"),
        ("https://u:p@forge.example/a/b.git", "https://forge.example/a/b.git", "git+https://forge.example/a/b.git", "b"),
        ("https://token@forge.example/a/b?x=secret#y", "https://forge.example/a/b", "git+https://forge.example/a/b", "b"),
        ("ssh://git@forge.example:22/a/b", "ssh://forge.example:22/a/b", "git+ssh://forge.example:22/a/b", "b"),
        ("/", "/", "git+file:///", "repository"),
    ],
)
def test_repositories_are_named_without_secrets(repository: str, public: str, uri: str, name: str) -> None:
    assert (public_repository(repository), git_uri(repository), repository_name(repository)) == (public, uri, name)


@given(st.integers(0, 4_000_000_000))
def test_times_read_back(seconds: int) -> None:
    assert milliseconds_of(timestamp_of(seconds)) == seconds * 1000


def test_a_member_that_no_verifier_would_read_is_refused_when_made() -> None:
    inputs = make_inputs()
    assert assemble(inputs) == assemble(inputs)
    with pytest.raises(Refused) as caught:
        assemble(dataclasses.replace(inputs, diff=b"x" * (SIZE_LIMITS[PATCH] + 1)))
    assert caught.value.code == "BUNDLE_MEMBER_SIZE" and caught.value.remedy


def test_the_stamp_states_every_limit() -> None:
    assert StampLimits.of(Limits()).model_dump() == Limits().model_dump()


def test_a_licence_text_in_place_of_its_name_is_cut() -> None:
    lock = make_inputs().lock
    wheel = lock.wheels[0].model_copy(update={"license": "Permission is hereby granted\n" + "x" * 50_000})
    sbom = write_sbom(Target("calc", "1"), lock.model_copy(update={"wheels": (wheel,)}), {})
    assert b"Permission is hereby granted" in sbom and len(sbom) < 2_000


def test_results_of_twenty_thousand_tests_fit() -> None:
    names = [f"tests/module_{index // 100}/test_something_long.py::TestClass::test_case[{index}]" for index in range(20_000)]
    base: Outcomes = {**dict.fromkeys(names, "passed"), "tests/t.py::a": "failed"}
    patched: Outcomes = {**base, "tests/t.py::a": "passed"}
    inputs = dataclasses.replace(
        make_inputs(), base=make_run(base, "1"), base_outcomes=base, patched=make_run(patched, "2"), patched_outcomes=patched,
        judgement=judge(base, patched),
    )  # fmt: skip
    assert assemble(inputs)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"{}", b'{"a":1,"a":2}', b"[]", b"\xff", b""])), max_size=12))
def test_a_scan_hashes_what_it_reads_whatever_that_is(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    found = scan(io.BytesIO(data), 10_000)
    assert (found.sha256, found.size) == (sha256_hex(data), len(data))
    assert found.not_strict is not None or found.broken is not None, "no such lines are steps"


@given(st.binary(min_size=1, max_size=200), st.integers(0, 199))
def test_a_scan_stops_behind_the_limit(data: bytes, limit: int) -> None:
    assert (scan(io.BytesIO(data), limit).size > limit) == (len(data) > limit)
