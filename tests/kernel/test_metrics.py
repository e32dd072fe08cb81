"""What the gate counts: by bounded labels, and what the store holds only when somebody asks."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from activities.kernel import metrics as module
from activities.kernel.metrics import MAX_ROWS, MAX_VALUES, STAGES, KernelMetrics, Watched
from schemas.breaker import BreakerState
from schemas.ledger import Account
from schemas.task import TraceKeys

KEYS = TraceKeys(tenant_id="acme", trace_id="0af7651916cd43dd8448eb211c80319c", session_id="s", task_id="t")


def sample(metrics: KernelMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def of_decision(capability: str, version: str, decision: str = "allow", code: str = "ALLOW") -> dict[str, str]:
    return {"tenant": "acme", "capability": capability, "version": version, "decision": decision, "code": code}


def state(accounts: list[Account] | None = None, breakers: list[BreakerState] | None = None) -> Watched:
    return Watched(lambda: accounts or [], lambda: breakers or [], lambda: 2, lambda: 3)


def test_decisions_are_counted_by_capability_and_code() -> None:
    metrics = KernelMetrics()
    metrics.decision(KEYS, "forge.fetch_source", "allow", "ALLOW")
    metrics.decision(KEYS, "forge.fetch_source", "allow", "ALLOW")
    metrics.decision(KEYS, "forge.fetch_source", "blocked", "KILL_SWITCH")
    assert sample(metrics, "gen4_gate_decisions_total", **of_decision("forge.fetch_source", "1")) == 2
    blocked = of_decision("forge.fetch_source", "1", "blocked", "KILL_SWITCH")
    assert sample(metrics, "gen4_gate_decisions_total", **blocked) == 1


@pytest.mark.parametrize("name", ["forge.fetch_source ", "FORGE.FETCH_SOURCE", "", "evil\n# HELP x", "a" * 10_000])
def test_a_name_that_nobody_declared_is_unknown(name: str) -> None:
    metrics = KernelMetrics()
    metrics.decision(KEYS, name, "blocked", "CAP_UNKNOWN")
    labels = of_decision("unknown", "unknown", "blocked", "CAP_UNKNOWN")
    assert sample(metrics, "gen4_gate_decisions_total", **labels) == 1


def test_ten_thousand_names_tenants_and_codes_stay_a_bounded_number_of_series() -> None:
    metrics = KernelMetrics()
    for number in range(10_000):
        keys = KEYS.model_copy(update={"tenant_id": f"tenant-{number}"})
        metrics.decision(keys, f"forge.{number}", "blocked", f"CODE_{number}")
    lines = [line for line in generate_latest(metrics.registry).splitlines() if line.startswith(b"gen4_gate_decisions_total{")]
    assert len(lines) == MAX_VALUES + 1
    assert b'tenant="other"' in lines[-1] and b'code="other"' in lines[-1] and lines[-1].endswith(b" 9900.0")


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
        metrics.effect(outcome, KEYS)
    counts = {name: sample(metrics, "gen4_effects_total", outcome=name) for name in ("succeeded", "failed", "unknown")}
    assert counts == {"succeeded": 1, "failed": 1, "unknown": 2}


def test_trace_ids_are_exemplars_and_never_labels() -> None:
    metrics = KernelMetrics()
    metrics.decision(KEYS, "forge.fetch_source", "allow", "ALLOW")
    plain, detailed = generate_latest(metrics.registry).decode(), openmetrics(metrics.registry).decode()
    assert KEYS.trace_id not in plain
    assert f'# {{trace_id="{KEYS.trace_id}"}} 1.0' in detailed


@pytest.mark.parametrize("trace_id", ["x" * 65, 'a"} 1', "ä", "a b"])
def test_a_trace_id_that_is_none_is_left_out(trace_id: str) -> None:
    metrics = KernelMetrics()
    metrics.decision(KEYS.model_copy(update={"trace_id": trace_id}), "forge.fetch_source", "allow", "ALLOW")
    assert "trace_id" not in openmetrics(metrics.registry).decode()


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
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    metrics.watch(Watched(lambda: reads.append(1) or [], list, lambda: 0, lambda: 0))  # type: ignore[func-returns-value]
    assert reads == []
    for seconds, expected in ((0, 1), (4.9, 1), (0.2, 2), (1, 2)):
        clock[0] += seconds
        generate_latest(metrics.registry)
        assert len(reads) == expected


def test_a_store_that_cannot_be_read_leaves_its_series_out_and_the_rest_in() -> None:
    def broken() -> list[Account]:
        raise OSError("disk gone")

    metrics = KernelMetrics()
    metrics.watch(Watched(broken, list, lambda: 0, lambda: 0))
    metrics.effect("succeeded")
    text = generate_latest(metrics.registry).decode()
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
    generate_latest(metrics.registry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STATE_TTL_S", -1.0)
        waiting = threading.Thread(target=generate_latest, args=(metrics.registry,))
        waiting.start()
        assert entered.wait(5)
        assert b"gen4_store_readable 1.0" in generate_latest(metrics.registry)
        slow.set()
        waiting.join()


def test_a_thousand_breakers_are_cut_off() -> None:
    metrics = KernelMetrics()
    metrics.watch(state(breakers=[BreakerState(scope_key=f"acme:tool:{n}", threshold=3, cooldown_ms=1) for n in range(1_000)]))
    assert generate_latest(metrics.registry).count(b"gen4_breaker_state{") == MAX_ROWS


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
