"""Strict JSON: whatever is accepted reads the same in every parser; canonical bytes: equal values, equal bytes."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.canonical import MAX_DEPTH, StrictJsonError, digest_of, jcs, jcs_sha256, sha256_hex, strict_json
from schemas.model import Payload

_TEXT = st.text(st.characters(codec="utf-8"))
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_canonical_bytes_read_back_as_the_same_value(value: Any) -> None:
    data = jcs(value)
    assert strict_json(data) == value
    assert jcs(strict_json(data)) == data


_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4) | st.binary(max_size=1),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner)
    | st.dictionaries(st.text(st.characters(), max_size=2) | st.integers(0, 1), inner, max_size=4),
    max_leaves=8,
)


def _or_error(write: Callable[[Any], bytes], value: Any) -> bytes | None:
    try:
        return write(value)
    except ValueError:
        return None


@given(_ANY)
@example({"\U00010000": 1, "\ue000": 2})
@example({"\x7f\u2028": ["\x00\x1f\"\\/\b"]})
def test_canonical_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert _or_error(jcs, value) == _or_error(rfc8785.dumps, value)


class _Kind(enum.StrEnum):
    ONE = "one"


def test_what_only_looks_like_json_is_left_to_rfc_8785() -> None:
    assert jcs({"kind": _Kind.ONE, "number": True, "float": 1.0}) == b'{"float":1,"kind":"one","number":true}'


@given(st.dictionaries(_TEXT, st.integers(0, 9), max_size=6))
def test_the_order_of_keys_leaves_no_trace(value: dict[str, int]) -> None:
    assert jcs(dict(reversed(value.items()))) == jcs(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"result":"FAILED","result":"PASSED"}', "duplicate"),
        (b'[{"a":{"b":1,"b":1}}]', "duplicate"),
        (b'{"a":1,"\\u0061":2}', "duplicate"),
        (b"[NaN]", "constant"),
        (b"[Infinity]", "constant"),
        (b"[-Infinity]", "constant"),
        (b"[1e999]", "number"),
        (b"[-1e999]", "number"),
        (b"[9007199254740993]", "number"),
        (b"[-9007199254740993]", "number"),
        (b"[" + b"9" * 5000 + b"]", "number"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b"\xef\xbb\xbf{}", "bom"),
        (b"{} {}", "trailing"),
        (b"{}x", "trailing"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "depth"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "depth"),
        (b"[" * 100_000, "depth"),
        (b'["\xff"]', "utf8"),
        (b'["\xed\xa0\x80"]', "utf8"),
        (b"", "syntax"),
        (b"{'a':1}", "syntax"),
        (b"[1,]", "syntax"),
        (b"[01]", "syntax"),
        (b'["\x01"]', "syntax"),
        (b'["\\x41"]', "syntax"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        strict_json(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
        (b'"' + b"[{" * 200 + b'"', "[{" * 200),
        (b'["\\"[[[[", "\\\\"]', ['"[[[[', "\\"]),
        (b"9007199254740991", 9007199254740991),
        (b"-9007199254740991", -9007199254740991),
        (b"100000000000000000000", 1e20),
        (b" [1] \n", [1]),
        ('"\U0001f600"'.encode(), "\U0001f600"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_what_is_strict_is_accepted(data: bytes, value: Any) -> None:
    assert strict_json(data) == (json.loads(data) if value is None else value)


@given(st.binary(max_size=40))
def test_any_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    try:
        strict_json(data)
    except StrictJsonError as error:
        assert error.reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", {"\udfff": 1}])
def test_what_has_no_canonical_form_raises(value: Any) -> None:
    with pytest.raises((rfc8785.CanonicalizationError, ValueError)):
        jcs(value)


class _Model(Payload):
    first: int
    second: str | None = None


def test_an_absent_field_is_left_out_and_never_null() -> None:
    assert jcs(_Model(first=1)) == b'{"first":1}'
    assert jcs_sha256(_Model(first=1)) == sha256_hex(b'{"first":1}')
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
