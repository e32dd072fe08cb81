"""What the running activity uses: counted where it is used, read by the gate when the attempt has ended, however it ended.

The meter also stops what goes beyond its allowance, so that the bound that was reserved is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from schemas.error import Stopped
from schemas.ledger import Usage
from schemas.limits import AttemptLimits

_NS_PER_MS = 1_000_000


class Meter:
    """Counters of one attempt; any thread of it may count. ``clock`` counts nanoseconds.

    ``wall_ms`` is the time during which at least one sandbox ran: sandboxes side by side are not counted twice.
    """

    def __init__(self, allowed: AttemptLimits | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._allowed = allowed
        self._clock = clock
        self._lock = threading.Lock()
        self._tool_calls = self._cpu_ms = self._egress_bytes = 0
        self._prompt = self._completion = self._cached = 0
        self._model: str | None = None
        self._running = 0
        self._since_ns = self._wall_ns = 0

    def tool_call(self) -> None:
        """Before a sandbox starts. Raises Stopped(TOOL_CALLS_LIMIT)."""
        with self._lock:
            self._require("tool_calls", self._tool_calls + 1)
            self._tool_calls += 1

    def tokens(self, model: str, *, prompt: int, completion: int, cached: int = 0) -> None:
        """After a model answered: what was used is counted, and then refused if it is too much. Raises Stopped(TOKENS_LIMIT)."""
        with self._lock:
            self._model = model
            self._prompt += prompt
            self._completion += completion
            self._cached += cached
            self._require("tokens", self._prompt + self._completion)

    def cpu(self, ms: int) -> None:
        with self._lock:
            self._cpu_ms += max(0, ms)

    def egress(self, count: int) -> None:
        """Bytes fetched from outside."""
        with self._lock:
            self._egress_bytes += max(0, count)

    @contextmanager
    def sandbox(self) -> Iterator[None]:
        """While a sandbox runs, its start and its end included."""
        with self._lock:
            if self._running == 0:
                self._since_ns = self._clock()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._wall_ns += self._clock() - self._since_ns

    def usage(self) -> Usage:
        """Everything until now, a running sandbox's wall time included."""
        with self._lock:
            wall_ns = self._wall_ns + (self._clock() - self._since_ns if self._running else 0)
            return Usage(
                prompt_tokens=self._prompt, completion_tokens=self._completion, cached_tokens=self._cached, model=self._model,
                tool_calls=self._tool_calls, cpu_ms=self._cpu_ms, wall_ms=wall_ns // _NS_PER_MS, egress_bytes=self._egress_bytes,
            )  # fmt: skip

    def _require(self, name: str, count: int) -> None:
        most: int | None = getattr(self._allowed, name) if self._allowed else None
        if most is not None and count > most:
            raise Stopped(
                f"{name.upper()}_LIMIT", f"{count} {name.replace('_', ' ')} in one attempt, policy allows {most}",
                "ask for less, or raise limits.attempt in policies/data.json",
            )  # fmt: skip


_current: ContextVar[Meter] = ContextVar("metering")


def metering() -> Meter:
    """The meter of the running activity; outside one, a new one that nobody reads."""
    return _current.get(None) or Meter()


@contextmanager
def as_metered(meter: Meter) -> Iterator[Meter]:
    """``with as_metered(Meter(policy.limits.attempt)) as meter: …`` — used by the gate, and by tests."""
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)
