"""What a worker counts about its gate, for Prometheus: bounded labels, one registry an object, nothing global (contracts §0).

Each label takes a bounded number of values, whatever callers send: a capability that is not declared is ``unknown``. Trace ids
are exemplars, which only OpenMetrics shows. What lies in the store (balances, breakers, switches) is read when somebody
scrapes, at most every five seconds; a store that cannot be read leaves those series out and says so, and the scrape still
answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from schemas.breaker import BreakerPhase, BreakerState
from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability
from schemas.ledger import Account

Stage = Literal[
    "execution", "standing", "capability", "policy", "limits", "approval", "candidate", "begin", "run", "settle",
]  # fmt: skip
"""``standing``: identity, lease, kill switches and breakers, which are one read. ``begin``: what can have changed looked at
once more, the reservation and the decision event, in one commit. ``settle``: cost, breakers and receipt event, in another."""
STAGES: tuple[Stage, ...] = get_args(Stage)

STAGE_BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60, 600,
)  # fmt: skip
"""Seconds: a check takes microseconds, a question to the policy engine milliseconds, a run minutes."""
COMMIT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 30)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)

UNKNOWN, OTHER = "unknown", "other"
MAX_VALUES = 100
"""So many different tenants or codes are told apart in one process; those that come later count as ``other``."""
MAX_ROWS = 500
"""So many accounts and breakers are shown."""
STATE_TTL_S = 5.0
MAX_TRACE_ID = 64
"""OpenMetrics allows an exemplar 128 characters, its name included."""

_PHASES: Mapping[BreakerPhase, int] = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(frozen=True)
class Watched:
    """What is read when somebody scrapes. Each function may be slow or raise; none is called twice within five seconds."""

    balances: Callable[[], Iterable[Account]]
    """Of the tenant itself, one account a unit."""
    breakers: Callable[[], Iterable[BreakerState]]
    kill_switches: Callable[[], int]
    """How many are on, those for everything included."""
    sandboxes: Callable[[], int]
    """How many run in this process."""


class KernelMetrics:
    """Counts whether or not somebody serves it; safe to use from several threads."""

    def __init__(self, capabilities: Mapping[str, Capability[Any, Any]] = CAPABILITIES) -> None:
        self.registry = CollectorRegistry()
        self._versions = {name: capability.version for name, capability in capabilities.items()}
        self._tenants, self._codes = _Few(), _Few()
        self._decisions = Counter(
            "gen4_gate_decisions", "Decisions of the gate", ("tenant", "capability", "version", "decision", "code"),
            registry=self.registry,
        )  # fmt: skip
        effects = Counter("gen4_effects", "How attempts ended", ("outcome",), registry=self.registry)
        self._effects = {outcome: effects.labels(outcome) for outcome in ("succeeded", "failed", "unknown")}
        stages = Histogram(
            "gen4_gate_stage_seconds", "Time of one stage of one attempt", ("stage",), buckets=STAGE_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batches = Histogram(
            "gen4_store_commit_batch_size", "Writes that one commit of the store made durable", buckets=BATCH_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self._commits = Histogram(
            "gen4_store_commit_seconds", "Time of one commit of the store", buckets=COMMIT_BUCKETS, registry=self.registry
        )

    def decision(
        self, tenant_id: str, capability: Capability[Any, Any] | None, decision: str, code: str, trace_id: str = ""
    ) -> None:
        """The gate said ``allow``, ``requires_approval`` or ``blocked``. ``capability``: None where nobody declared it."""
        version = self._versions.get(capability.id) if capability is not None else None
        named = capability.id if capability is not None and version else UNKNOWN
        labels = (self._tenants.value(tenant_id), named, version or UNKNOWN, decision, self._codes.value(code))
        self._decisions.labels(*labels).inc(exemplar=_exemplar(trace_id))

    def effect(self, outcome: str, trace_id: str = "") -> None:
        """An attempt ended: ``succeeded``, ``failed`` or ``unknown``."""
        counter = self._effects.get(outcome) or self._effects["unknown"]
        counter.inc(exemplar=_exemplar(trace_id))

    def stage(self, name: Stage) -> Timed:
        """``with metrics.stage("policy"): …`` also counts what raises."""
        return Timed(self._stages[name])

    def on_commit(self, size: int, seconds: float) -> None:
        """The store committed ``size`` writes at once."""
        self._batches.observe(size)
        self._commits.observe(seconds)

    def watch(self, watched: Watched) -> None:
        """Show the state of the store and of the sandboxes from now on. Once per object."""
        Gauge("gen4_sandboxes_running", "Sandboxes that this worker runs", registry=self.registry).set_function(watched.sandboxes)
        self.registry.register(_State(watched))


class Timed:
    """Measures the time of its block. Made anew for every use, so that several may overlap."""

    __slots__ = ("_began", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(time.perf_counter() - self._began)


class _Few:
    """Keeps the number of values of one label bounded."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def value(self, value: str) -> str:
        if value in self._seen:
            return value
        with self._lock:
            if len(self._seen) >= MAX_VALUES:
                return OTHER
            self._seen.add(value)
            return value


class _State(Collector):
    """Gauges of what the store holds, as old as :data:`STATE_TTL_S` at most. One thread reads, others show what there is."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._lock = threading.Lock()
        self._families: tuple[Metric, ...] = ()
        self._read_at: float | None = None

    def describe(self) -> Iterator[Metric]:
        yield from ()  # registering must not read the store

    def collect(self) -> Iterator[Metric]:
        if self._lock.acquire(blocking=self._read_at is None):
            try:
                if self._read_at is None or time.monotonic() - self._read_at > STATE_TTL_S:
                    self._families = self._read()
                    self._read_at = time.monotonic()
            finally:
                self._lock.release()
        yield from self._families

    def _read(self) -> tuple[Metric, ...]:
        readable = GaugeMetricFamily("gen4_store_readable", "Whether the last look at the store succeeded")
        try:
            families: tuple[Metric, ...] = (
                _balances(self._watched.balances()),
                _breakers(self._watched.breakers()),
                GaugeMetricFamily("gen4_kill_switches_active", "Kill switches that are on", self._watched.kill_switches()),
            )
        except Exception:  # whatever keeps the store from being read, the counters are shown
            readable.add_metric((), 0)
            return (readable,)
        readable.add_metric((), 1)
        return (readable, *families)


def _balances(accounts: Iterable[Account]) -> Metric:
    family = GaugeMetricFamily(
        "gen4_ledger_balance", "Balance of the tenant", labels=("tenant", "unit", "account", "kind")
    )
    for account in islice(accounts, MAX_ROWS):
        amounts = {"available": account.available, "pending": account.debits_pending, "posted": account.debits_posted}
        for kind, amount in amounts.items():
            family.add_metric((account.tenant_id, account.unit, "tenant", kind), amount)
    return family


def _breakers(states: Iterable[BreakerState]) -> Metric:
    family = GaugeMetricFamily(
        "gen4_breaker_state", "0 closed, 1 half open, 2 open", labels=("tenant", "scope")
    )
    for state in islice(states, MAX_ROWS):
        tenant, _, scope = state.scope_key.partition(":")
        family.add_metric((tenant, scope), _PHASES[state.phase])
    return family


def _exemplar(trace_id: str) -> dict[str, str] | None:
    if not 0 < len(trace_id) <= MAX_TRACE_ID or not trace_id.isascii() or not trace_id.isalnum():
        return None
    return {"trace_id": trace_id}
