"""Run receipts: an executor says under its own key what it ran and saw, so that nobody has to believe a worker (threats 5.1)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from rfc8785 import CanonicalizationError

from activities.kernel import dsse
from activities.kernel.signing_keys import public_key
from schemas.canonical import jcs, strict_json
from schemas.capabilities import RunTests
from schemas.error import Refused
from schemas.evidence import Envelope
from schemas.receipt import (
    RECEIPT_TYPE,
    ReceiptLimits,
    ReceiptPlan,
    ReceiptSandbox,
    ReceiptSentinels,
    ReceiptVariant,
    RunReceipt,
)
from schemas.testing import TestRun

MAX_BYTES = 4 * 1024 * 1024
_AGAIN = "run the tests again through an executor"


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


def sign(key: ec.EllipticCurvePrivateKey, receipt: RunReceipt) -> bytes:
    """The JCS of a DSSE envelope around a receipt."""
    return jcs(dsse.sign(key, RECEIPT_TYPE, jcs(receipt)))


def verify(envelope: bytes, keys: Iterable[str]) -> RunReceipt:
    """The receipt in an envelope that one of the executors signed.

    Args:
        keys: public keys of the executors that are believed, as PEM; none: nothing is.

    Raises:
        Refused: RECEIPT_INVALID for anything but one canonical receipt in one envelope, RECEIPT_UNTRUSTED for another's.
    """
    if len(envelope) > MAX_BYTES:
        raise _invalid(f"it has more than {MAX_BYTES} bytes")
    try:
        outer = Envelope.model_validate(strict_json(envelope))
        payload, signature = dsse.decode_base64(outer.payload), dsse.decode_base64(outer.signatures[0].sig)
    except ValueError as error:
        raise _invalid(f"it is no envelope with one signature: {_short(error)}") from error
    if outer.payloadType != RECEIPT_TYPE:
        raise _invalid(f"it is signed as {outer.payloadType[:80]!r}, not as {RECEIPT_TYPE}")
    believed = [key for pem in keys if (key := public_key(pem)) is not None]
    if not any(dsse.verify(key, RECEIPT_TYPE, payload, signature) for key in believed):
        raise Refused("RECEIPT_UNTRUSTED", "the run receipt is not signed by a listed executor", _AGAIN)
    try:
        receipt = RunReceipt.model_validate(strict_json(payload))
        canonical = jcs(receipt) == payload
    except (ValueError, CanonicalizationError) as error:
        raise _invalid(f"its payload is no run-receipt/1: {_short(error)}") from error
    if not canonical:
        raise _invalid("its payload is not canonical JSON")
    return receipt


def agrees(receipt: RunReceipt, run: TestRun) -> bool:
    """Whether ``run`` claims exactly what the receipt says was seen, of the same input in the same sandbox."""
    claimed = {
        **_results(run),
        "run_key": run.run_key,
        "sandbox": ReceiptSandbox.of(run.sandbox),
        "variant": ReceiptVariant.of(run.variant),
    }
    return all(getattr(receipt, name) == value for name, value in claimed.items())


def _results(run: TestRun) -> dict[str, object]:
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
    return Refused("RECEIPT_INVALID", f"the run receipt is refused: {why}", _AGAIN)


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)[:200]
