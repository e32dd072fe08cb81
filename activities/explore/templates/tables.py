"""Tables of words as text, so that they can be read as tables."""

from __future__ import annotations


def siblings(text: str) -> dict[str, tuple[str, ...]]:
    """One line per word: ``word: other other``."""
    rows = (line.partition(":") for line in text.strip().splitlines())
    return {word.strip(): tuple(others.split()) for word, _, others in rows}


def weighted(rows: dict[float, str]) -> tuple[tuple[str, float], ...]:
    """Words with their prior, from rows of words that share one."""
    return tuple((word, prior) for prior, words in rows.items() for word in words.split())
