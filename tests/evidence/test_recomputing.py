"""The signer computes the Regression Gate's report again, of what executors vouch for alone (threats 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.kernel.acting import as_acting
from activities.kernel.judging import PolicyPort
from schemas.capabilities import SealBundle
from schemas.error import Gen4Error
from schemas.evidence import STAMP, timestamp_of
from schemas.gates import MeasuredMetric
from schemas.regression import Finding, ScannedTree, Waiver
from schemas.stamp import Stamp2
from schemas.testing import Coverage
from tests.evidence.fabric import Fabric, make_fabric, who
from tests.evidence.workshop import BASE, NOW_S, PATCHED

FINDING = Finding(tool="bandit", rule="B602", severity="high", path="calc.py", line=1, fingerprint="1" * 64, content="2" * 64)
MEASURED = ("tests", "coverage", "performance", "security", "dependencies", "licences", "size")
QUICK, SLOW = (50_000,) * 5, (90_000,) * 5


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory, policy: PolicyPort) -> Iterator[Fabric]:
    with as_acting(who()), make_fabric(tmp_path_factory.mktemp("recomputing"), policy) as made:
        yield made


@pytest.fixture(scope="module")
def honest(fabric: Fabric) -> SealBundle:
    """Everything was measured, and nothing got worse."""
    with as_acting(who()):
        request = fabric.sealing(base_run=covering(fabric, 90), patched_run=covering(fabric, 90))
        return with_benchmark(fabric, request, QUICK, QUICK)


def covering(fabric: Fabric, lines: int) -> dict[str, Any]:
    coverage: Coverage = {"calc.py": {"lines": list(range(1, 101)), "covered": list(range(1, lines + 1))}}
    return {"coverage": fabric.blobs.put_json(coverage)}


def with_benchmark(fabric: Fabric, request: SealBundle, base: tuple[int, ...], patched: tuple[int, ...]) -> SealBundle:
    samples = {
        "base_benchmark": tuple(fabric.sample(fabric.source.base_tree, time) for time in base),
        "patched_benchmark": tuple(fabric.sample(harness(fabric), time) for time in patched),
    }
    return judged(fabric, request.model_copy(update=samples))


def judged(fabric: Fabric, request: SealBundle) -> SealBundle:
    return request.model_copy(update={"regression": fabric.regression(request)})


def harness(fabric: Fabric) -> str:
    with as_acting(who()):
        return fabric.imported().harness_tree


def claimed(request: SealBundle, honest: SealBundle) -> SealBundle:
    """With the report of a Compile in which nothing got worse."""
    return request.model_copy(update={"regression": honest.regression})


def refusal(fabric: Fabric, request: SealBundle, **changes: Any) -> Gen4Error:
    with pytest.raises(Gen4Error) as caught:
        fabric.client.seal(request.model_copy(update=changes), who().keys)
    assert caught.value.remedy
    return caught.value


def stamp_of(fabric: Fabric, request: SealBundle) -> Stamp2:
    return Stamp2.model_validate_json(fabric.client.seal(request, who().keys).files[STAMP])


def test_a_report_that_follows_from_receipts_is_signed_with_every_metric(fabric: Fabric, honest: SealBundle) -> None:
    metrics = stamp_of(fabric, honest).gates.regression.metrics
    assert [(one.name, one.verdict, one.waived) for one in metrics] == [(name, "pass", False) for name in MEASURED]


def test_an_earlier_gate_gives_the_same_report(fabric: Fabric, honest: SealBundle) -> None:
    assert fabric.regression(honest, NOW_S - 3600) == honest.regression


# --- what got worse, and is said to be as good ------------------------------------------------------------------------


def _less_covered(fabric: Fabric, honest: SealBundle) -> SealBundle:
    return fabric.sealing(base_run=covering(fabric, 90), patched_run=covering(fabric, 60))


def _slower(fabric: Fabric, honest: SealBundle) -> SealBundle:
    return with_benchmark(fabric, honest, QUICK, SLOW)


def _less_safe(fabric: Fabric, honest: SealBundle) -> SealBundle:
    base, result = fabric.source.base_tree, honest.patch.result_tree
    return honest.model_copy(update={"patched_scan": fabric.scan(result, base, FINDING)})


def _larger(fabric: Fabric, honest: SealBundle) -> SealBundle:
    base, result = fabric.source.base_tree, honest.patch.result_tree
    return honest.model_copy(update={"patched_scan": fabric.scan(result, base, size_bytes=10_000_000)})


@pytest.mark.parametrize(
    ("change", "metric"),
    [(_less_covered, "coverage"), (_slower, "performance"), (_less_safe, "security"), (_larger, "size")],
)
def test_a_worker_that_claims_a_pass_for_what_got_worse(
    fabric: Fabric, honest: SealBundle, change: Callable[[Fabric, SealBundle], SealBundle], metric: str
) -> None:
    worse = judged(fabric, change(fabric, honest))
    assert refusal(fabric, worse).code == "GATE_NOT_PASSED"
    error = refusal(fabric, claimed(worse, honest))
    assert error.code == "GATE_MISMATCH" and f"{metric} is fail" in error.message


def test_whoever_answers_for_what_got_worse_is_named_in_the_stamp(fabric: Fabric, honest: SealBundle) -> None:
    waiver = Waiver(
        id="w-1", metric="size", subject="*", owner="alice", reason="known", expires_at=timestamp_of(NOW_S + 60)
    )
    larger = _larger(fabric, honest).model_copy(update={"waivers": (waiver,)})
    assert refusal(fabric, claimed(larger, honest)).code == "GATE_MISMATCH"
    found = stamp_of(fabric, judged(fabric, larger)).gates.regression
    assert [(one.name, one.waived) for one in found.metrics if one.verdict == "fail"] == [("size", True)]
    assert [one.owner for one in found.waivers] == ["alice"]


def test_metrics_that_nothing_measured(fabric: Fabric, honest: SealBundle) -> None:
    metrics = (*honest.regression.metrics, MeasuredMetric(name="tests", verdict="pass"))
    more = honest.regression.model_copy(update={"metrics": metrics})
    assert refusal(fabric, honest, regression=more).code == "GATE_MISMATCH"
    error = refusal(fabric, honest, base_benchmark=(), patched_benchmark=())
    assert error.code == "GATE_MISMATCH" and "performance" in error.message


def test_what_a_check_says_is_what_is_signed(fabric: Fabric, honest: SealBundle) -> None:
    checks = tuple(check.model_copy(update={"actual": "all is well"}) for check in honest.regression.checks)
    error = refusal(fabric, honest, regression=honest.regression.model_copy(update={"checks": checks}))
    assert error.code == "GATE_MISMATCH" and "all is well" in error.message


# --- scans ------------------------------------------------------------------------------------------------------------


def _scans(fabric: Fabric, request: SealBundle) -> dict[str, tuple[ScannedTree, str]]:
    """Scans of the patched tree that nobody should take, and the code of the refusal."""
    base, result = fabric.source.base_tree, request.patch.result_tree
    clean, found = fabric.scan(result, base), fabric.scan(result, base, FINDING)
    stranger = ec.generate_private_key(ec.SECP256R1())
    return {
        "no receipt": (clean.model_copy(update={"receipt": None}), "RECEIPT_MISSING"),
        "receipt of another scan": (clean.model_copy(update={"receipt": found.receipt}), "RECEIPT_MISMATCH"),
        "other findings": (found.model_copy(update={"findings": clean.findings}), "RECEIPT_MISMATCH"),
        "another tree": (fabric.scan(base, base), "RECEIPT_OTHER_RUN"),
        "against another tree": (fabric.scan(result, result), "RECEIPT_OTHER_RUN"),
        "another tenant": (fabric.scan(result, base, tenant="other"), "RECEIPT_OTHER_RUN"),
        "unknown executor": (fabric.scan(result, base, key=stranger), "RECEIPT_UNTRUSTED"),
        "another version": (fabric.scan(result, base, harness="0" * 64), "RECEIPT_OTHER_HARNESS"),
        "other scanners": (fabric.scan(result, base, scanners="0" * 64), "RECEIPT_OTHER_HARNESS"),
        "receipt of a run": (clean.model_copy(update={"receipt": request.base.receipt}), "RECEIPT_INVALID"),
    }


def test_scans_that_no_executor_vouches_for(fabric: Fabric, honest: SealBundle) -> None:
    for name, (scanned, code) in _scans(fabric, honest).items():
        assert refusal(fabric, honest, patched_scan=scanned).code == code, name


def test_a_scan_that_is_left_out_measured_nothing(fabric: Fabric, honest: SealBundle) -> None:
    for left_out in ({"base_scan": None, "patched_scan": None}, {"patched_scan": None}):
        assert refusal(fabric, honest, **left_out).code == "GATE_MISMATCH"
        kept = [one.name for one in stamp_of(fabric, judged(fabric, honest.model_copy(update=left_out))).gates.regression.metrics]
        assert kept == [name for name in MEASURED if name not in ("security", "size")]


# --- benchmarks, versions ---------------------------------------------------------------------------------------------


def test_samples_that_no_executor_vouches_for(fabric: Fabric, honest: SealBundle) -> None:
    tree, others = harness(fabric), honest.patched_benchmark[1:]
    good = honest.patched_benchmark[0]
    elsewhere = honest.environment.model_copy(update={"environment_digest": "sha256:" + "0" * 64})
    bad = {
        "no receipt": (good.model_copy(update={"receipt": None}), "RECEIPT_MISSING"),
        "other times": (good.model_copy(update={"micros": (1,)}), "RECEIPT_MISMATCH"),
        "twice the same": (others[0], "RECEIPT_REPEATED"),
        "another tree": (fabric.sample(fabric.source.base_tree, 50_000), "RECEIPT_OTHER_RUN"),
        "another environment": (fabric.sample(tree, 50_000, environment=elsewhere), "RECEIPT_OTHER_RUN"),
        "another tenant": (fabric.sample(tree, 50_000, tenant="other"), "RECEIPT_OTHER_RUN"),
        "another benchmark": (fabric.sample(tree, 50_000, argv=("true",)), "RECEIPT_OTHER_RUN"),
        "another version": (fabric.sample(tree, 50_000, harness="0" * 64), "RECEIPT_OTHER_HARNESS"),
    }
    for name, (sample, code) in bad.items():
        assert refusal(fabric, honest, patched_benchmark=(sample, *others)).code == code, name


def test_a_compile_across_an_upgrade_says_so_and_what_to_do(fabric: Fabric, honest: SealBundle) -> None:
    older = tuple(fabric.run(BASE, fabric.source.base_tree, harness="0" * 64) for _ in range(2))
    error = refusal(fabric, honest, base=older[0], base_runs=older)
    assert error.code == "RECEIPT_OTHER_HARNESS" and "upgraded" in error.remedy and "start it again" in error.remedy
    mixed = fabric.run(PATCHED, harness(fabric)).model_copy(update={"run_key": "0" * 64})
    assert refusal(fabric, honest, patched=mixed, patched_runs=(mixed, honest.patched_runs[1])).code == "RECEIPT_MISMATCH"
