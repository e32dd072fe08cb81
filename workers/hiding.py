"""A process that holds a key hides its memory from others of its user."""

from __future__ import annotations

import ctypes

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """No other process of this user may read this one's memory or attach to it."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
