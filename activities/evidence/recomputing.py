"""The Regression Gate's report once more, of nothing but what executors vouch for (threats 5.1)."""

from __future__ import annotations

from itertools import zip_longest

from activities.evidence.witnessing import AGAIN, Circumstances, Supplies, Witness
from schemas.capabilities import RegressionInput, SealBundle
from schemas.error import Refused
from schemas.evidence import timestamp_of
from schemas.gates import GateReport

_SHOWN = 300
_AGAIN = f"{AGAIN}; should it happen again, worker and signer are of two versions: `gen4 down`, then `gen4 up`"


def recompute(
    request: SealBundle, supplies: Supplies, witness: Witness, circumstances: Circumstances, harness_tree: str
) -> set[str]:
    """The Regression Gate's report, computed again of what executors vouch for; public keys of those who do so here."""
    base, result = request.source.base_tree, request.patch.result_tree
    executors = set()
    if request.base_scan is not None:
        executors.add(witness.scan("base", request.base_scan, base, result))
    if request.patched_scan is not None:
        executors.add(witness.scan("patched", request.patched_scan, result, base))
    samples = witness.samples("base", base, request.base_benchmark)
    samples += witness.samples("patched", harness_tree, request.patched_benchmark)
    if len({(one.receipt.argv, one.receipt.repeat) for one in samples}) > 1:
        raise Refused("RECEIPT_OTHER_RUN", "samples of different benchmarks are compared", AGAIN)
    asked = RegressionInput(
        judged=request.judged, baseline_commit=request.source.base_commit, base_tree=base, result_tree=result,
        base=request.base_runs, patched=request.patched_runs, environment=request.environment, waivers=request.waivers,
        base_scan=request.base_scan, patched_scan=request.patched_scan, in_turn=request.in_turn,
        base_benchmark=request.base_benchmark, patched_benchmark=request.patched_benchmark,
    )  # fmt: skip
    now = timestamp_of(circumstances.now_ms // 1000)
    found = circumstances.regression(asked, supplies.tree(base), supplies.blob, now)
    if found != request.regression:
        raise Refused("GATE_MISMATCH", f"regression: {_difference(found, request.regression)}", _AGAIN)
    return {*executors, *(one.key for one in samples)}


def _difference(found: GateReport, claimed: GateReport) -> str:
    """The first difference between the report that follows from the receipts and the one that was sent."""
    for one, other in zip_longest(_told(found), _told(claimed)):
        if one != other:
            return f"here {one or 'nothing'}, and in the report {other or 'nothing'}"
    return "other waivers were used, or the verdict is another"


def _told(report: GateReport) -> list[str]:
    """What a report says, the worst first: metrics, then checks."""
    metrics = [f"{metric.name} is {metric.verdict}{' and waived' if metric.waived else ''}" for metric in report.metrics]
    checks = [check for check in report.checks if not check.ok and check.checked] + list(report.checks)
    return metrics + [f"{check.code} says {(check.actual or check.reason)[:_SHOWN]!r}" for check in checks]
