"""Foreign text made harmless: for terminals, logs, errors, details (threats 6.10)."""

from __future__ import annotations

import re
import unicodedata

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_SPACES = {ord(char): " " for char in "\t\n\r\v\f\x85\u2028\u2029"}
_REMOVED = ("Cc", "Cf", "Cs", "Co", "Cn")


def plain(text: str) -> str:
    """One line without anything that could steer a terminal or reorder what is read.

    ANSI sequences, C0 and C1 controls, bidi and zero-width characters are removed; tabs and line ends become spaces.
    """
    spaced = _ANSI.sub("", text).translate(_SPACES)
    return "".join(char for char in spaced if unicodedata.category(char) not in _REMOVED)
