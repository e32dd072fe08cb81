"""Receipts: an executor says under its own key what it ran and saw, so that nobody has to believe a worker (threats 5.1)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from rfc8785 import CanonicalizationError

from activities.kernel import dsse
from activities.kernel.signing_keys import public_key
from schemas.canonical import jcs, jcs_sha256, sha256_hex, strict_json
from schemas.capabilities import RunTests
from schemas.error import Refused
from schemas.receipt import (
    BENCHMARK_RECEIPT_TYPE,
    RECEIPT_TYPE,
    SCAN_RECEIPT_TYPE,
    BenchmarkReceipt,
    ReceiptLimits,
    ReceiptPlan,
    ReceiptSandbox,
    ReceiptSentinels,
    ReceiptVariant,
    RunReceipt,
    ScanReceipt,
)
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.statement import Envelope
from schemas.testing import SandboxFacts, TestRun

MAX_BYTES = 4 * 1024 * 1024
_AGAIN = "run the tests again through an executor"

Receipt = RunReceipt | ScanReceipt | BenchmarkReceipt
R = TypeVar("R", RunReceipt, ScanReceipt, BenchmarkReceipt)
_TYPES: dict[type[Receipt], str] = {
    RunReceipt: RECEIPT_TYPE, ScanReceipt: SCAN_RECEIPT_TYPE, BenchmarkReceipt: BENCHMARK_RECEIPT_TYPE,
}  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """With what something was scanned or timed, and for whom."""

    tenant_id: str
    harness_version: str
    sandbox: SandboxFacts


@dataclass(frozen=True)
class Seen:
    """What belongs into a receipt beside the run: who asked, on which harness, and what the planted tests did."""

    tenant_id: str
    harness_version: str
    planted: int
    caught: int


def receipt_of(request: RunTests, run: TestRun, seen: Seen) -> RunReceipt:
    """The receipt of a run that this process has just made; its id is new each time."""
    return RunReceipt(
        receipt_id=secrets.token_hex(16),
        tenant_id=seen.tenant_id,
        run_key=run.run_key,
        tree=request.tree,
        environment_digest=request.environment.environment_digest,
        platform=request.environment.platform,
        plan=ReceiptPlan.of(request.plan),
        limits=ReceiptLimits.of(request.limits),
        variant=ReceiptVariant.of(request.variant),
        commit_time=request.commit_time,
        harness_version=seen.harness_version,
        sandbox=ReceiptSandbox.of(run.sandbox),
        sentinels=ReceiptSentinels(planted=seen.planted, caught=seen.caught),
        **_results(run),
    )


def receipt_of_scan(request: ScanTree, scanned: ScannedTree, scanners_sha256: str, tools: Tools) -> ScanReceipt:
    """``scanners_sha256``: of the lock that pins them."""
    return ScanReceipt(
        receipt_id=secrets.token_hex(16),
        tenant_id=tools.tenant_id,
        tree=request.tree,
        against=request.against,
        limits=ReceiptLimits.of(request.limits),
        harness_version=tools.harness_version,
        scanners_sha256=scanners_sha256,
        sandbox=ReceiptSandbox.of(tools.sandbox),
        **_found(scanned),
    )


def receipt_of_benchmark(request: RunBenchmark, sample: BenchmarkSample, tools: Tools) -> BenchmarkReceipt:
    return BenchmarkReceipt(
        receipt_id=secrets.token_hex(16),
        tenant_id=tools.tenant_id,
        tree=request.tree,
        environment_digest=request.environment.environment_digest,
        platform=request.environment.platform,
        plan=ReceiptPlan.of(request.plan),
        argv=request.argv,
        limits=ReceiptLimits.of(request.limits),
        commit_time=request.commit_time,
        repeat=request.repeat,
        ordinal=request.ordinal,
        harness_version=tools.harness_version,
        sandbox=ReceiptSandbox.of(tools.sandbox),
        micros=sample.micros,
        exit_code=sample.exit_code,
        message=sample.message,
    )


def sign(key: ec.EllipticCurvePrivateKey, receipt: Receipt) -> bytes:
    """The JCS of a DSSE envelope around a receipt."""
    return jcs(dsse.sign(key, _TYPES[type(receipt)], jcs(receipt)))


def verify(envelope: bytes, keys: Iterable[str]) -> RunReceipt:
    """The run receipt in an envelope; see :func:`verify_as`."""
    return verify_as(RunReceipt, envelope, keys)


@dataclass(frozen=True)
class Opened(Generic[R]):
    """A receipt that is believed. ``sha256``: of its payload; ``key``: whose signature it has, as PEM."""

    receipt: R
    sha256: str
    key: str


def verify_as(kind: type[R], envelope: bytes, keys: Iterable[str]) -> R:
    """The receipt of this kind in an envelope; see :func:`opened`."""
    return opened(kind, envelope, keys).receipt


def opened(kind: type[R], envelope: bytes, keys: Iterable[str]) -> Opened[R]:
    """The receipt of this kind in an envelope that one of the executors signed.

    Args:
        keys: public keys of the executors that are believed, as PEM; none: nothing is.

    Raises:
        Refused: RECEIPT_INVALID for anything but one canonical receipt in one envelope, RECEIPT_UNTRUSTED for another's.
    """
    wanted = _TYPES[kind]
    if len(envelope) > MAX_BYTES:
        raise _invalid(f"it has more than {MAX_BYTES} bytes")
    try:
        outer = Envelope.model_validate(strict_json(envelope))
        payload, signature = dsse.decode_base64(outer.payload), dsse.decode_base64(outer.signatures[0].sig)
    except ValueError as error:
        raise _invalid(f"it is no envelope with one signature: {_short(error)}") from error
    if outer.payloadType != wanted:
        raise _invalid(f"it is signed as {outer.payloadType[:80]!r}, not as {wanted}")
    believed = ((pem, key) for pem in keys if (key := public_key(pem)) is not None)
    signer = next((pem for pem, key in believed if dsse.verify(key, wanted, payload, signature)), None)
    if signer is None:
        raise Refused("RECEIPT_UNTRUSTED", "the receipt is not signed by a listed executor", _AGAIN)
    try:
        receipt = kind.model_validate(strict_json(payload))
        canonical = jcs(receipt) == payload
    except (ValueError, CanonicalizationError) as error:
        raise _invalid(f"its payload is no {kind.__name__}: {_short(error)}") from error
    if not canonical:
        raise _invalid("its payload is not canonical JSON")
    return Opened(receipt, sha256_hex(payload), signer)


def agrees(receipt: RunReceipt, run: TestRun) -> bool:
    """Whether ``run`` claims exactly what the receipt says was seen, of the same input in the same sandbox."""
    claimed = {
        **_results(run),
        "run_key": run.run_key,
        "sandbox": ReceiptSandbox.of(run.sandbox),
        "variant": ReceiptVariant.of(run.variant),
    }
    return all(getattr(receipt, name) == value for name, value in claimed.items())


def agrees_with_scan(receipt: ScanReceipt, scanned: ScannedTree) -> bool:
    return all(getattr(receipt, name) == value for name, value in _found(scanned).items())


def agrees_with_sample(receipt: BenchmarkReceipt, sample: BenchmarkSample) -> bool:
    return (receipt.micros, receipt.exit_code, receipt.message) == (sample.micros, sample.exit_code, sample.message)


def _found(scanned: ScannedTree) -> dict[str, Any]:
    return {
        "findings_sha256": None if scanned.findings is None else scanned.findings.sha256,
        "message": scanned.message,
        "scanners_missing": scanned.scanners_missing,
        "files": scanned.files,
        "size_bytes": scanned.size_bytes,
        "gone_sha256": jcs_sha256(list(scanned.gone)),
        "tools": scanned.tools,
    }


def _results(run: TestRun) -> dict[str, Any]:
    return {
        "status": run.status,
        "codes": run.codes,
        "exit_code": run.exit_code,
        "runner": run.runner,
        "outcomes_sha256": run.outcomes_sha256,
        "counts": run.counts,
        "coverage_sha256": run.coverage.sha256 if run.coverage is not None else None,
        "timings_sha256": run.timings.sha256 if run.timings is not None else None,
    }


def _invalid(why: str) -> Refused:
    return Refused("RECEIPT_INVALID", f"the receipt is refused: {why}", _AGAIN)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)[:200]
