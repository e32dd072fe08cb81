"""What a real gate counts while it works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from activities.kernel.metrics import KernelMetrics
from schemas.error import Refused
from tests.kernel.gated import Forge, Server, gated
from tests.kernel.test_gate import FETCH, SEAL
from tests.policy.running import RunningOpa

OUTCOMES = ("succeeded", "failed")


def test_decisions_outcomes_and_stages_of_real_calls(server: Server, opa: RunningOpa, folder: Path) -> None:
    calls: list[str] = []

    def trouble(name: str, who: object) -> None:
        calls.append(name)
        if calls.count(name) > 1:
            raise Refused("HEAD_MOVED", "somebody was faster")

    async def scenario() -> KernelMetrics:
        async with gated(server, folder, opa.engine, Forge(trouble=trouble)) as it:
            wrong = {"call": "forge.fetch_sourcE", "args": []}
            answers = await it.run("Remediation", FETCH, SEAL, FETCH, wrong, {"call": "forge.deliver", "args": SEAL["args"]})
            assert ["ok" in answer for answer in answers] == [True, True, False, False, False]
            return it.kernel.metrics

    metrics = asyncio.run(scenario())
    counted = {
        (sample.labels["capability"], sample.labels["decision"], sample.labels["code"]): sample
        for family in metrics.registry.collect() if family.name == "gen4_gate_decisions"
        for sample in family.samples if sample.name.endswith("_total")
    }  # fmt: skip
    assert {key: sample.value for key, sample in counted.items()} == {
        ("forge.fetch_source", "allow", "ALLOW"): 2,
        ("forge.seal_commit", "allow", "ALLOW"): 1,
        ("unknown", "blocked", "CAP_UNKNOWN"): 1,
        ("forge.deliver", "blocked", "INPUT_INVALID"): 1,
    }
    assert all(sample.exemplar and set(sample.exemplar.labels) == {"trace_id"} for sample in counted.values())
    value = metrics.registry.get_sample_value
    assert {name: value("gen4_effects_total", {"outcome": name}) for name in OUTCOMES} == {"succeeded": 2, "failed": 1}
    stages = ("execution", "capability", "standing", "policy", "begin", "run", "settle")
    timed = {stage: value("gen4_gate_stage_seconds_count", {"stage": stage}) for stage in stages}
    assert timed == {"execution": 5, "capability": 5, "standing": 5, "policy": 3, "begin": 1, "run": 3, "settle": 3}


@pytest.mark.parametrize("stage", ["approval", "candidate", "limits"])
def test_every_stage_of_the_gate_has_a_series(stage: str) -> None:
    assert KernelMetrics().registry.get_sample_value("gen4_gate_stage_seconds_count", {"stage": stage}) == 0
