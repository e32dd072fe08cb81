"""Which receipts of executors stand behind a request to seal: what they say is compared with what the request claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from activities.evidence.content import Content
from activities.evidence.recorded import read_outcomes
from activities.record.commits import CommitInfo
from activities.record.objects import ObjectStore
from activities.testbed import receipts
from activities.testbed.harness import harness_version
from activities.testbed.receipts import Opened, R
from activities.testbed.run import run_key
from activities.testbed.scanning import scanners_sha256
from schemas.capabilities import RegressionInput, RunTests, SealBundle
from schemas.error import Refused
from schemas.gates import GateReport
from schemas.model import BlobRef
from schemas.receipt import BenchmarkReceipt, ReceiptLimits, ReceiptPlan, ReceiptVariant, RunReceipt, ScanReceipt
from schemas.regression import BenchmarkSample, ScannedTree
from schemas.testing import RunVariant, TestRun
from schemas.verdict import HARNESS_TAMPERED, INFORMATIVE_CODES, MINIMUM_RUNS

AGAIN = "start the remediation again; what was recorded is kept"
PLAIN = ReceiptVariant.of(RunVariant())
_OTHER_VERSION = "gen4 was upgraded: start executor, signer and worker anew (`gen4 down`, `gen4 up`), then start it again"


class Supplies(Protocol):
    """What the caller sends on demand. Everything was hashed on arrival: it is what its name says."""

    def blob(self, ref: BlobRef) -> bytes: ...
    def content(self, ref: BlobRef) -> Content: ...
    def commit(self, commit: str) -> CommitInfo: ...
    def tree(self, tree: str) -> ObjectStore:
        """Our own store, which has the whole tree by then."""


Recompute = Callable[[RegressionInput, ObjectStore, Callable[[BlobRef], bytes], str], GateReport]
"""The Regression Gate's report, where policy allows it, by content and the time; see :mod:`activities.verify.gating`."""


@dataclass(frozen=True, kw_only=True)
class Believed:
    """Whom the signer believes, told by its operator and nobody else. ``separated``: executors with a uid of their own."""

    executors: tuple[str, ...]
    separated: tuple[str, ...] = ()
    policy_digests: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Of one call. ``apart``: the caller is neither root nor the signer's own user."""

    tenant_id: str
    apart: bool
    now_ms: int
    base_packages: Callable[[str], Mapping[str, str]]
    regression: Recompute


@dataclass(frozen=True)
class Witnessed:
    """A run and the receipt for it. ``payload_sha256``: of the receipt; ``executor``: public key of who signed it."""

    run: TestRun
    receipt: RunReceipt
    payload_sha256: str
    executor: str


class Witness:
    """Reads the receipts of one request to seal, and holds each against it.

    Every method raises Refused: RECEIPT_MISSING, RECEIPT_INVALID, RECEIPT_UNTRUSTED, RECEIPT_OTHER_RUN, RECEIPT_OTHER_HARNESS,
    RECEIPT_MISMATCH, RECEIPT_REPEATED, RECEIPTS_TOO_FEW, RUNS_DISAGREE, HARNESS_TAMPERED, RUN_INCONCLUSIVE.
    """

    def __init__(
        self, request: SealBundle, supplies: Supplies, believed: Believed, circumstances: Circumstances
    ) -> None:
        self._request, self._supplies, self._believed = request, supplies, believed
        self._tenant_id = circumstances.tenant_id

    def agreed(self, name: str, tree: str, runs: Sequence[TestRun], first: TestRun) -> list[Witnessed]:
        """Different runs of one tree that saw the same; ``first`` is one of them."""
        if len(runs) < MINIMUM_RUNS:
            raise Refused("RECEIPTS_TOO_FEW", f"{len(runs)} run(s) of the {name} tree; {MINIMUM_RUNS} are needed", AGAIN)
        found = [self.run(tree, run) for run in runs]
        if len({one.receipt.receipt_id for one in found}) != len(found):
            raise Refused("RECEIPT_REPEATED", f"two runs of the {name} tree have one receipt", AGAIN)
        if first not in runs:
            raise Refused("RECEIPT_MISMATCH", f"the run of the {name} tree that is shown is none of those with a receipt", AGAIN)
        found.sort(key=lambda one: one.run != first)
        for other in found[1:]:
            _same(name, found[0], other)
        return found

    def rerun(self, base_tree: str, harness_tree: str) -> list[Witnessed]:
        runs = self._request.rerun_runs
        if len(runs) != 2:
            raise Refused("RECEIPTS_TOO_FEW", f"the re-run has {len(runs)} run(s), not one of each tree", AGAIN)
        return [self.run(tree, run) for tree, run in zip((base_tree, harness_tree), runs, strict=True)]

    def run(self, tree: str, run: TestRun, variant: ReceiptVariant = PLAIN) -> Witnessed:
        """A run whose receipt says what the request claims, about this tree."""
        if run.receipt is None:
            raise Refused("RECEIPT_MISSING", f"run {run.run_key} has no receipt", "run the tests through an executor")
        found = self._opened(RunReceipt, run.receipt)
        receipt = found.receipt
        self._require(receipt, {"tree": tree, "variant": variant, **self._how()})
        if not receipts.agrees(receipt, run):
            raise Refused("RECEIPT_MISMATCH", f"run {run.run_key} is not what its receipt says", AGAIN)
        if receipt.run_key != self._run_key(tree, variant, receipt.harness_version):
            raise Refused("RECEIPT_OTHER_RUN", f"receipt {receipt.receipt_id} is of another run key", AGAIN)
        _same_harness(receipt)
        _untampered(receipt)
        if not variant.only and not (receipt.tree == self._request.source.base_tree and self._none_began(receipt, run)):
            _conclusive(receipt)
        return Witnessed(run, receipt, found.sha256, found.key)

    def scan(self, name: str, scanned: ScannedTree, tree: str, against: str) -> str:
        """Public key of the executor that vouches for a scan of ``tree``."""
        if scanned.receipt is None:
            raise Refused("RECEIPT_MISSING", f"the scan of the {name} tree has no receipt", "scan it through an executor")
        found = self._opened(ScanReceipt, scanned.receipt)
        receipt = found.receipt
        limits = ReceiptLimits.of(self._request.limits)
        self._require(receipt, {"tree": tree, "against": against, "limits": limits})
        if not receipts.agrees_with_scan(receipt, scanned):
            raise Refused("RECEIPT_MISMATCH", f"the scan of the {name} tree is not what its receipt says", AGAIN)
        _same_harness(receipt)
        if receipt.scanners_sha256 != scanners_sha256():
            raise Refused("RECEIPT_OTHER_HARNESS", f"scan {receipt.receipt_id} is by scanners of another version", _OTHER_VERSION)
        return found.key

    def samples(self, name: str, tree: str, samples: Sequence[BenchmarkSample]) -> list[Opened[BenchmarkReceipt]]:
        """Receipts of different sandboxes in which one tree was timed."""
        found = [self._sample(name, tree, sample) for sample in samples]
        if len({one.receipt.receipt_id for one in found}) != len(found):
            raise Refused("RECEIPT_REPEATED", f"two samples of the {name} tree have one receipt", AGAIN)
        return found

    def _sample(self, name: str, tree: str, sample: BenchmarkSample) -> Opened[BenchmarkReceipt]:
        if sample.receipt is None:
            raise Refused("RECEIPT_MISSING", f"a sample of the {name} tree has no receipt", "time it through an executor")
        found = self._opened(BenchmarkReceipt, sample.receipt)
        receipt = found.receipt
        self._require(receipt, {"tree": tree, **self._how()})
        if not receipts.agrees_with_sample(receipt, sample):
            raise Refused("RECEIPT_MISMATCH", f"a sample of the {name} tree is not what its receipt says", AGAIN)
        _same_harness(receipt)
        return found

    def _how(self) -> dict[str, object]:
        request = self._request
        return {
            "environment_digest": request.environment.environment_digest,
            "platform": request.environment.platform,
            "plan": ReceiptPlan.of(request.plan),
            "limits": ReceiptLimits.of(request.limits),
            "commit_time": request.source.commit_time,
        }

    def _require(self, receipt: receipts.Receipt, wanted: Mapping[str, object]) -> None:
        for name, value in {"tenant_id": self._tenant_id, **wanted}.items():
            if getattr(receipt, name) != value:
                raise Refused("RECEIPT_OTHER_RUN", f"receipt {receipt.receipt_id} is of another {name}", AGAIN)

    def _none_began(self, receipt: RunReceipt, run: TestRun) -> bool:
        """Nothing of the tree could be collected, so nothing ran, planted tests neither. Of a base tree that is a finding: a
        patch may mend it."""
        outcomes = read_outcomes(self._supplies.blob, run)
        unread = all(outcome == "error" and "::" not in nodeid for nodeid, outcome in outcomes.items())
        return bool(outcomes) and unread and receipt.status == "failed" and not receipt.codes and not receipt.sentinels.planted

    def _opened(self, kind: type[R], reference: BlobRef) -> Opened[R]:
        return receipts.opened(kind, self._supplies.blob(reference), self._believed.executors)

    def _run_key(self, tree: str, variant: ReceiptVariant, harness: str) -> str:
        request = self._request
        asked = RunTests(
            tree=tree, environment=request.environment, plan=request.plan, limits=request.limits,
            commit_time=request.source.commit_time, purpose="patched", variant=RunVariant.model_validate(variant.model_dump()),
        )  # fmt: skip
        return run_key(asked, self._tenant_id, harness)


def _same_harness(receipt: receipts.Receipt) -> None:
    """All else is as it should be: what differs is the version of what ran it."""
    if receipt.harness_version != harness_version():
        message = f"receipt {receipt.receipt_id} is of a run by another version of gen4 than this signer's"
        raise Refused("RECEIPT_OTHER_HARNESS", message, _OTHER_VERSION)


def _untampered(receipt: RunReceipt) -> None:
    sentinels = receipt.sentinels
    if sentinels.planted != sentinels.caught or HARNESS_TAMPERED in receipt.codes or receipt.status == "infra_error":
        seen = f"{sentinels.caught} of {sentinels.planted} planted tests failed"
        raise Refused("HARNESS_TAMPERED", f"in run {receipt.receipt_id} {seen}", "read what the patch does to its own tests")


def _conclusive(receipt: RunReceipt) -> None:
    """A probe of some tests may find none of them; nothing is concluded from those that it does not find."""
    if not receipt.sentinels.planted or receipt.status not in ("passed", "failed") or set(receipt.codes) - INFORMATIVE_CODES:
        raise Refused("RUN_INCONCLUSIVE", f"run {receipt.receipt_id}: {receipt.status} {', '.join(receipt.codes)}", AGAIN)


def _same(name: str, one: Witnessed, other: Witnessed) -> None:
    for fact in ("outcomes_sha256", "exit_code", "runner", "codes"):
        if getattr(one.receipt, fact) != getattr(other.receipt, fact):
            raise Refused("RUNS_DISAGREE", f"runs of the {name} tree differ in {fact}", "make the tests give the same every time")
