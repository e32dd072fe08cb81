"""Canonical bytes and digests: everything that is hashed is hashed as RFC 8785 (JCS) bytes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

import rfc8785
from pydantic import BaseModel

MAX_DEPTH = 64
_MOST_DIGITS = 22
"""JCS writes whole doubles below 1e21 without exponent: 21 digits and a sign."""


class StrictJsonError(ValueError):
    """A document that two JSON parsers could read differently. ``reason`` is one of
    ``duplicate constant surrogate bom trailing depth utf8 syntax number``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(data: bytes) -> str:
    """``sha256:`` + hex of ``data``."""
    return "sha256:" + sha256_hex(data)


def jcs(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value or a model (absent optionals are left out, never null).

    Raises ``rfc8785.CanonicalizationError`` on NaN, integers of 2**53 and more, and lone surrogates.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if _is_plain(value):
        text = _ENCODER.encode(value)
        if text.isascii() or not _OTHER_ORDER.search(text):
            return text.encode()
    return rfc8785.dumps(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))
"""Writes what is plain as JCS wants it, several times as fast as ``rfc8785``."""
_OTHER_ORDER = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")
"""Python sorts keys by code point, JCS by UTF-16 unit: not the same beyond the first plane. Lone surrogates have no form."""
_LEAVES = frozenset({str, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """No number but small integers, and nothing that is not just what JSON has."""
    kind = type(value)
    if kind is dict:
        if any(key is not str for key in set(map(type, value))):
            return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _LEAVES or (kind is int and -(2**53) < value < 2**53)
    if _LEAVES.issuperset(map(type, value)):
        return True
    return all(map(_is_plain, value))


def jcs_sha256(value: Any) -> str:
    return sha256_hex(jcs(value))


def strict_json(data: bytes) -> Any:
    """Parse JSON so that every parser would agree on it.

    Raises:
        StrictJsonError: duplicate keys, NaN or infinities, integers that no double holds, lone surrogates,
            a byte order mark, trailing bytes, nesting deeper than 64, or bytes that are not UTF-8.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise StrictJsonError("bom", "the document starts with a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError("utf8", str(error)) from error
    _refuse_deep(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_exact
        )
    except json.JSONDecodeError as error:
        reason = "trailing" if error.msg == "Extra data" else "syntax"
        raise StrictJsonError(reason, str(error)) from error
    if "\\u" in text:  # UTF-8 holds none unescaped
        _refuse_surrogates(value)
    return value


_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
"""Strings, also one that never ends; possessive, so that no text takes long."""


def _refuse_deep(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return  # cannot be too deep
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", _STRINGS.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise StrictJsonError("depth", f"nested deeper than {MAX_DEPTH}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise StrictJsonError("duplicate", f"key {key!r} appears twice")
        result[key] = value
    return result


def _refuse_constant(name: str) -> Any:
    raise StrictJsonError("constant", name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJsonError("number", f"{text} is not finite")
    return number


def _exact(text: str) -> int | float:
    """Beyond 2**53 a parser that reads doubles may see another number, so only what JCS writes for a double passes."""
    if len(text) > _MOST_DIGITS:
        raise StrictJsonError("number", f"an integer of {len(text)} digits")
    number = int(text)
    if abs(number) < 2**53:
        return number
    double = float(number)
    if rfc8785.dumps(double).decode() != text:
        raise StrictJsonError("number", f"{text} is not the canonical text of a double")
    return double


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise StrictJsonError("surrogate", "a lone surrogate cannot be encoded") from error
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_surrogates(key)
            _refuse_surrogates(item)
