"""Right before a step that cannot be undone, an implementation asks once more whether it still may (threats 6.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_recheck: ContextVar[Callable[[], None]] = ContextVar("recheck")


def recheck() -> None:
    """Reads lease, revocations and kill switches again.

    Raises:
        Refused: the code of the gate's check that no longer passes.
        LookupError: outside the gate.
    """
    _recheck.get()()


@contextmanager
def as_rechecked(check: Callable[[], None]) -> Iterator[None]:
    """Used by the gate around every activity, and by tests."""
    token = _recheck.set(check)
    try:
        yield
    finally:
        _recheck.reset(token)
