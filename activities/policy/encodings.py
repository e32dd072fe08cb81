"""How the bytes of a changed file are read: as UTF-8 by most, and by Python as its first two lines say (PEP 263). Pure.

Text that runs as something else than people read is refused. So a Python file may declare only UTF-8, or an encoding in which
every byte is one character, always the same, and no byte but an ASCII one gives a character of ASCII.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

SINGLE_BYTE = frozenset(
    {
        "ascii", "koi8-r", "koi8-u", "mac-roman", "cp437", "cp850", "cp852", "cp858", "cp866",
        *(f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
        *(f"cp125{page}" for page in range(9)),
    }
)  # fmt: skip
"""Names that Python gives to encodings which extend ASCII byte by byte. UTF-7 and the like do not: ``+ACI-`` is a quote there."""

_UTF_8 = frozenset({"utf-8", "utf-8-sig"})
_LENIENT = "iso8859-1"
"""Gives every byte a character; those of 0x80 to 0x9f are controls, which no text has."""
_LINE_END = rb"(?:\r\n|\r|\n)"
_DECLARED = re.compile(rb"(?:[ \t\f]*(?:#[^\r\n]*)?" + _LINE_END + rb")??[ \t\f]*#[^\r\n]*?coding[:=][ \t]*([-\w.]+)")
"""In the first line, or in the second if the first holds no code; a lone carriage return ends a line for Python, too."""
_INTERPRETER = re.compile(rb"#![^\r\n]*python")
_SOURCE = (".py", ".pyw", ".pyi")
_SHOWN = 40


class Reading(NamedTuple):
    """``encodings``: in each of them somebody may read the text. ``problem``: why it must not be read at all; or empty."""

    encodings: tuple[str, ...]
    problem: str = ""

    def texts(self, line: bytes) -> tuple[str, ...]:
        return tuple(line.decode(encoding, "replace") for encoding in self.encodings)


def reading_of(path: str, content: bytes) -> Reading:
    """Of a text file; UTF-8 is always among the encodings, as that is what people and tools try first."""
    declared = _declared(path, content)
    if declared is not None:
        try:
            name = codecs.lookup(declared).name
        except LookupError:
            return Reading(("utf-8",), f"it declares the encoding {declared[:_SHOWN]}, which Python does not know")
        if name in SINGLE_BYTE:
            return Reading(("utf-8", name))
        if name not in _UTF_8:
            return Reading(("utf-8",), f"it declares the encoding {name}, in which bytes of ASCII may stand for something else")
    return Reading(("utf-8",) if _is_utf_8(content) else ("utf-8", _LENIENT))


def _declared(path: str, content: bytes) -> str | None:
    if not path.lower().endswith(_SOURCE) and not _INTERPRETER.match(content):
        return None
    found = _DECLARED.match(content.removeprefix(codecs.BOM_UTF8))
    return found[1].decode("ascii", "replace") if found else None


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
