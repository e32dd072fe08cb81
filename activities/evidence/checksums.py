"""``checksums.sha256``: 64 hex digits, two spaces, name, LF; sorted by bytes (evidence §10). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from activities.evidence.content import Content, sha256_of

_LINE = re.compile(rb"([0-9a-f]{64})  ([a-z0-9_]+(?:\.[a-z0-9_]+)*)")


class ChecksumFormatError(ValueError):
    """The bytes are not what :func:`write_checksums` would have written."""


def write_checksums(members: Mapping[str, Content]) -> bytes:
    return _serialise([(sha256_of(data), name) for name, data in sorted(members.items())])


def parse_checksums(data: bytes) -> list[tuple[str, str]]:
    """``(sha256, name)`` in the order of the file.

    Raises:
        ChecksumFormatError: comments, escapes, other separators, duplicates, a missing final LF.
    """
    if not data.endswith(b"\n"):
        raise ChecksumFormatError("the file does not end with LF")
    lines: list[tuple[str, str]] = []
    for number, line in enumerate(data[:-1].split(b"\n"), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ChecksumFormatError(f"line {number} is not 64 hex digits, two spaces and a name")
        lines.append((match[1].decode(), match[2].decode()))
    names = [name for _, name in lines]
    if len(set(names)) != len(names):
        raise ChecksumFormatError("a name appears twice")
    if _serialise(lines) != data:
        raise ChecksumFormatError("the file is not in its canonical form")
    return lines


def _serialise(lines: list[tuple[str, str]]) -> bytes:
    return "".join(f"{digest}  {name}\n" for digest, name in lines).encode()
