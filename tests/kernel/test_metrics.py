"""What the gate counts: by bounded labels, and what the store holds only when somebody asks."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.exposition import choose_encoder

from activities.kernel import metrics as module
from activities.kernel.metrics import MAX_ROWS, MAX_VALUES, STAGES, KernelMetrics, Watched
from schemas.breaker import BreakerState
from schemas.capabilities import DELIVER, FETCH_SOURCE
from schemas.ledger import Account

TRACE = "0af7651916cd43dd8448eb211c80319c"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scraped(metrics: KernelMetrics, accept: str = "text/plain") -> str:
    return choose_encoder(accept)[0](metrics.registry).decode()


def sample(metrics: KernelMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def of_decision(capability: str, version: str, decision: str = "allow", code: str = "ALLOW") -> dict[str, str]:
    return {"tenant": "acme", "capability": capability, "version": version, "decision": decision, "code": code}


def state(accounts: list[Account] | None = None, breakers: list[BreakerState] | None = None) -> Watched:
    return Watched(lambda: accounts or [], lambda: breakers or [], lambda: 2, lambda: 3)


def test_decisions_are_counted_by_capability_and_code() -> None:
    metrics = KernelMetrics()
    metrics.decision("acme", FETCH_SOURCE, "allow", "ALLOW", TRACE)
    metrics.decision("acme", FETCH_SOURCE, "allow", "ALLOW", TRACE)
    metrics.decision("acme", FETCH_SOURCE, "blocked", "KILL_SWITCH")
    assert sample(metrics, "gen4_gate_decisions_total", **of_decision("forge.fetch_source", "1")) == 2
    blocked = of_decision("forge.fetch_source", "1", "blocked", "KILL_SWITCH")
    assert sample(metrics, "gen4_gate_decisions_total", **blocked) == 1


def test_what_nobody_declared_is_unknown() -> None:
    metrics = KernelMetrics({FETCH_SOURCE.id: FETCH_SOURCE})
    for capability in (None, DELIVER):
        metrics.decision("acme", capability, "blocked", "CAP_UNKNOWN")
    labels = of_decision("unknown", "unknown", "blocked", "CAP_UNKNOWN")
    assert sample(metrics, "gen4_gate_decisions_total", **labels) == 2


def test_ten_thousand_tenants_and_codes_stay_a_bounded_number_of_series() -> None:
    metrics = KernelMetrics()
    for number in range(10_000):
        metrics.decision(f"tenant-{number}", None, "blocked", f"CODE_{number}")
    lines = [line for line in scraped(metrics).splitlines() if line.startswith("gen4_gate_decisions_total{")]
    assert len(lines) == MAX_VALUES + 1
    assert 'tenant="other"' in lines[-1] and 'code="other"' in lines[-1] and lines[-1].endswith(" 9900.0")


def test_every_stage_is_timed_also_one_that_raises_and_stages_may_overlap() -> None:
    metrics = KernelMetrics()
    for stage in STAGES:
        with pytest.raises(ZeroDivisionError), metrics.stage("run"), metrics.stage(stage):
            raise ZeroDivisionError
    counts = {stage: sample(metrics, "gen4_gate_stage_seconds_count", stage=stage) for stage in STAGES}
    assert counts == {**dict.fromkeys(STAGES, 1), "run": len(STAGES) + 1}


def test_attempts_are_counted_by_outcome_and_a_strange_one_is_unknown() -> None:
    metrics = KernelMetrics()
    for outcome in ("succeeded", "failed", "unknown", "who knows"):
        metrics.effect(outcome, TRACE)
    counts = {name: sample(metrics, "gen4_effects_total", outcome=name) for name in ("succeeded", "failed", "unknown")}
    assert counts == {"succeeded": 1, "failed": 1, "unknown": 2}


def test_trace_ids_are_exemplars_and_never_labels() -> None:
    metrics = KernelMetrics()
    metrics.decision("acme", FETCH_SOURCE, "allow", "ALLOW", TRACE)
    plain, detailed = scraped(metrics), scraped(metrics, OPENMETRICS)
    assert TRACE not in plain
    assert f'# {{trace_id="{TRACE}"}} 1.0' in detailed


@pytest.mark.parametrize("trace_id", ["x" * 65, 'a"} 1', "ä", "a b"])
def test_a_trace_id_that_is_none_is_left_out(trace_id: str) -> None:
    metrics = KernelMetrics()
    metrics.decision("acme", FETCH_SOURCE, "allow", "ALLOW", trace_id)
    assert "trace_id" not in scraped(metrics, OPENMETRICS)


def test_balances_breakers_switches_and_sandboxes_are_read_on_scrape() -> None:
    account = Account(account_id="a", tenant_id="acme", unit="micros", debits_pending=5, debits_posted=20, credits_posted=100)
    breakers = [
        BreakerState(scope_key=f"acme:tool:{phase}", phase=phase, threshold=3, cooldown_ms=1)
        for phase in ("closed", "half_open", "open")
    ]
    metrics = KernelMetrics()
    metrics.watch(state([account], breakers))
    balance = {
        kind: sample(metrics, "gen4_ledger_balance", tenant="acme", unit="micros", account="tenant", kind=kind)
        for kind in ("available", "pending", "posted")
    }
    assert balance == {"available": 75, "pending": 5, "posted": 20}
    scopes = ("tool:closed", "tool:half_open", "tool:open")
    assert [sample(metrics, "gen4_breaker_state", tenant="acme", scope=scope) for scope in scopes] == [0, 1, 2]
    assert (sample(metrics, "gen4_kill_switches_active"), sample(metrics, "gen4_sandboxes_running")) == (2, 3)
    assert sample(metrics, "gen4_store_readable") == 1


def test_the_store_is_read_at_most_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    metrics, clock = KernelMetrics(), [1_000.0]
    monkeypatch.setattr("activities.kernel.metrics.time.monotonic", lambda: clock[0])
    metrics.watch(Watched(lambda: reads.append(1) or [], list, lambda: 0, lambda: 0))  # type: ignore[func-returns-value]
    assert reads == []
    for seconds, expected in ((0, 1), (4.9, 1), (0.2, 2), (1, 2)):
        clock[0] += seconds
        scraped(metrics)
        assert len(reads) == expected


def test_a_store_that_cannot_be_read_leaves_its_series_out_and_the_rest_in() -> None:
    def broken() -> list[Account]:
        raise OSError("disk gone")

    metrics = KernelMetrics()
    metrics.watch(Watched(broken, list, lambda: 0, lambda: 0))
    metrics.effect("succeeded")
    text = scraped(metrics)
    assert "gen4_store_readable 0.0" in text and 'gen4_effects_total{outcome="succeeded"} 1.0' in text
    assert "gen4_ledger_balance" not in text and "disk gone" not in text


def test_a_slow_store_holds_up_one_scrape_not_all() -> None:
    slow, entered = threading.Event(), threading.Event()
    metrics = KernelMetrics()
    calls: list[int] = []

    def balances() -> list[Account]:
        calls.append(1)
        if len(calls) > 1:
            entered.set()
            slow.wait(20)
        return []

    metrics.watch(Watched(balances, list, lambda: 0, lambda: 0))
    scraped(metrics)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STATE_TTL_S", -1.0)
        waiting = threading.Thread(target=scraped, args=(metrics,))
        waiting.start()
        assert entered.wait(5)
        assert "gen4_store_readable 1.0" in scraped(metrics)
        slow.set()
        waiting.join()


def test_a_thousand_breakers_are_cut_off() -> None:
    metrics = KernelMetrics()
    metrics.watch(state(breakers=[BreakerState(scope_key=f"acme:tool:{n}", threshold=3, cooldown_ms=1) for n in range(1_000)]))
    assert scraped(metrics).count("gen4_breaker_state{") == MAX_ROWS


def test_commits_show_how_many_writes_shared_them() -> None:
    metrics = KernelMetrics()
    metrics.on_commit(1, 0.001)
    metrics.on_commit(7, 0.002)
    assert sample(metrics, "gen4_store_commit_batch_size_sum") == 8
    assert sample(metrics, "gen4_store_commit_batch_size_bucket", le="4.0") == 1
    assert sample(metrics, "gen4_store_commit_seconds_count") == 2


def test_two_objects_in_one_process_count_apart() -> None:
    one, other = KernelMetrics(), KernelMetrics()
    one.effect("succeeded")
    assert [sample(metrics, "gen4_effects_total", outcome="succeeded") for metrics in (one, other)] == [1, 0]
