"""How names and text are read by people, by file systems and by git, where these three differ."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_MISLEADING = {"\r": re.compile(r"\r(?!\n|\Z)"), "\f": re.compile(r"[^\n]\f")}
"""Where these are more than the end of a line or of a page. Behind a form feed Python counts indentation from 0 again."""


def fold(segment: str) -> str:
    """A path segment as the most lenient of the usual file systems sees it (HFS+, APFS, NTFS)."""
    visible = "".join(char for char in segment if not _ignorable(char))
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", visible).casefold())
    return text.split(":", 1)[0].rstrip(". ") or text


def is_git_name(segment: str) -> bool:
    """``.git``, everything that starts with it, and the short name that NTFS gives it."""
    name = fold(segment)
    return name.startswith((".git", "git~"))


def is_plain_path(path: str) -> bool:
    """One spelling everywhere: relative, no empty, dot or padded segment, no backslash or stream, composed, printable."""
    segments = path.split("/")
    return (
        all(segment and segment == segment.strip() and not segment.endswith(".") for segment in segments)
        and unicodedata.normalize("NFC", path) == path
        and not any(char in '\\:*?"<>|' or _unprintable(char) for char in path)
    )


def hidden_characters(text: str) -> Iterator[str]:
    """Names (``U+202E``) of the characters that a reader cannot see or that reorder what he sees, each once.

    Tab, line feed, a form feed that begins a line, and a carriage return before a line feed or at the end are ordinary.
    """
    for char in sorted(set(text)):
        misleading = _MISLEADING.get(char)
        if _unprintable(char) and (misleading.search(text) if misleading else char not in "\t\n"):
            yield f"U+{ord(char):04X}"


def _unprintable(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or _ignorable(char)


def _ignorable(char: str) -> bool:
    """Default-ignorable code points: format characters, fillers, variation selectors, tags."""
    code = ord(char)
    return (
        unicodedata.category(char) == "Cf"
        or code in (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)
        or 0x180B <= code <= 0x180F
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
    )


def printable(path: str) -> str:
    return "".join(f"\\u{ord(char):04x}" if _unprintable(char) else char for char in path)
