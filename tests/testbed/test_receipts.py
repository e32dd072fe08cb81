"""A receipt is believed only as one of the listed executors wrote it, and only for the run that it describes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.kernel import dsse
from activities.kernel.signing_keys import pem_of
from activities.testbed.receipts import (
    Seen,
    Tools,
    agrees,
    agrees_with_sample,
    agrees_with_scan,
    receipt_of,
    receipt_of_benchmark,
    receipt_of_scan,
    sign,
    verify,
    verify_as,
)
from schemas.canonical import jcs
from schemas.capabilities import RunTests
from schemas.error import Refused
from schemas.model import BlobRef
from schemas.receipt import RECEIPT_TYPE, BenchmarkReceipt, RunReceipt, ScanReceipt
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree
from schemas.test_command import parse_test_command
from schemas.testing import Environment, RunVariant, SandboxFacts, TestRun

KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
BLOB = BlobRef(sha256="1" * 64, size=2)
REQUEST = RunTests(
    tree="a" * 40, plan=parse_test_command(()), commit_time=1_700_000_000, purpose="base", variant=RunVariant(hash_seed=1),
    environment=Environment(
        environment_digest="sha256:" + "b" * 64, base_digest="sha256:" + "c" * 64, lock=BLOB, python_version="3.13", platform="p"
    ),
)  # fmt: skip
RUN = TestRun(
    status="passed", outcomes=BLOB, outcomes_sha256="2" * 64, counts={"passed": 1}, exit_code=0, runner="pytest 9",
    sandbox=SandboxFacts(backend="bubblewrap", version="b", profile_sha256="4" * 64, enforcement={"memory": "cgroup"}),
    run_key="3" * 64, variant=RunVariant(hash_seed=1), coverage=BlobRef(sha256="5" * 64, size=2),
)  # fmt: skip
RECEIPT = receipt_of(REQUEST, RUN, Seen("local", "6" * 64, 3, 3))
ENVELOPE = sign(KEY, RECEIPT)
SCANNED = ScannedTree(findings=BLOB, files=1, size_bytes=2, gone=("a",), tools={"bandit": "1"})
SAMPLE = BenchmarkSample(micros=(1, 2))
TOOLS = Tools("local", "6" * 64, RUN.sandbox)
SCAN = receipt_of_scan(ScanTree(tree="a" * 40, against="b" * 40), SCANNED, "7" * 64, TOOLS)
BENCHMARK = receipt_of_benchmark(
    RunBenchmark(tree="a" * 40, environment=REQUEST.environment, plan=REQUEST.plan, argv=("python", "b.py"), commit_time=1),
    SAMPLE, TOOLS,
)  # fmt: skip


def keys(*private: ec.EllipticCurvePrivateKey) -> list[str]:
    return [pem_of(one.public_key()) for one in private]


def refusal(envelope: bytes, *private: ec.EllipticCurvePrivateKey) -> str:
    with pytest.raises(Refused) as caught:
        verify(envelope, keys(*private))
    return caught.value.code


def signed(payload: bytes, kind: str = RECEIPT_TYPE) -> bytes:
    return jcs(dsse.sign(KEY, kind, payload))


def test_a_receipt_is_read_back_as_it_was_signed() -> None:
    assert verify(ENVELOPE, keys(OTHER, KEY)) == RECEIPT
    assert agrees(RECEIPT, RUN)


def test_two_receipts_of_equal_runs_differ_in_their_id_alone() -> None:
    again = receipt_of(REQUEST, RUN, Seen("local", "6" * 64, 3, 3))
    assert again.receipt_id != RECEIPT.receipt_id
    assert again.model_copy(update={"receipt_id": RECEIPT.receipt_id}) == RECEIPT


@pytest.mark.parametrize("private", [(), (OTHER,)], ids=["nobody is listed", "another is listed"])
def test_the_signature_of_an_executor_that_is_not_listed_counts_nothing(private: tuple[ec.EllipticCurvePrivateKey, ...]) -> None:
    assert refusal(ENVELOPE, *private) == "RECEIPT_UNTRUSTED"


def test_keys_that_are_no_p256_keys_are_believed_by_nobody() -> None:
    pem = pem_of(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(Refused, match="RECEIPT_UNTRUSTED"):
        verify(ENVELOPE, [pem, "no key"])


def changed(**fields: Any) -> bytes:
    return signed(jcs({**RECEIPT.model_dump(mode="json", exclude_none=True), **fields}))


def altered(change: Callable[[dict[str, Any]], Any]) -> bytes:
    outer = json.loads(ENVELOPE)
    change(outer)
    return json.dumps(outer).encode()


@pytest.mark.parametrize(
    ("name", "envelope"),
    [
        ("unknown field", changed(extra=1)), ("null", changed(timings_sha256=None)),
        ("other version", changed(schema_version="run-receipt/2")),
        ("id of another form", changed(receipt_id="1")), ("other payload type", signed(jcs(RECEIPT), "application/json")),
        ("white space", signed(json.dumps(json.loads(jcs(RECEIPT)), indent=1).encode())), ("no object", signed(b"[]")),
        ("duplicate key", b'{"payload":"","payload":""}'), ("empty", b""), ("too large", b" " * (5 << 20)),
        ("two signatures", altered(lambda outer: outer["signatures"].append(outer["signatures"][0]))),
        ("no signature", altered(lambda outer: outer["signatures"].clear())),
        ("key id", altered(lambda outer: outer["signatures"][0].update(keyid="x"))),
        ("padding", altered(lambda outer: outer.update(payload=outer["payload"] + "="))),
        ("line break", altered(lambda outer: outer.update(payload=outer["payload"][:4] + "\n" + outer["payload"][4:]))),
    ],
)  # fmt: skip
def test_anything_but_one_canonical_receipt_in_one_envelope_is_invalid(name: str, envelope: bytes) -> None:
    assert refusal(envelope, KEY) == "RECEIPT_INVALID", name


def test_a_payload_changed_after_signing_is_not_the_executors() -> None:
    other = jcs(RECEIPT.model_copy(update={"status": "failed"}))
    assert refusal(altered(lambda outer: outer.update(payload=base64.b64encode(other).decode())), KEY) == "RECEIPT_UNTRUSTED"


@pytest.mark.parametrize(
    "claim",
    [
        {"status": "failed"}, {"codes": ("X",)}, {"exit_code": 1}, {"runner": "pytest 8"}, {"outcomes_sha256": "9" * 64},
        {"counts": {"passed": 2}}, {"coverage": None}, {"timings": BLOB}, {"run_key": "9" * 64}, {"variant": RunVariant()},
        {"sandbox": RUN.sandbox.model_copy(update={"profile_sha256": "9" * 64})},
    ],
    ids=lambda claim: next(iter(claim)),
)  # fmt: skip
def test_a_run_that_claims_anything_else_does_not_agree(claim: dict[str, Any]) -> None:
    assert not agrees(RECEIPT, RUN.model_copy(update=claim))


def test_no_receipt_passes_for_one_of_another_kind() -> None:
    made = {RunReceipt: RECEIPT, ScanReceipt: SCAN, BenchmarkReceipt: BENCHMARK}
    for kind, receipt in made.items():
        envelope = sign(KEY, receipt)  # type: ignore[arg-type]
        assert verify_as(kind, envelope, keys(KEY)) == receipt  # type: ignore[type-var]
        for other in made.keys() - {kind}:
            with pytest.raises(Refused, match="RECEIPT_INVALID"):
                verify_as(other, envelope, keys(KEY))  # type: ignore[type-var]


@pytest.mark.parametrize(
    "claim",
    [
        {"findings": None}, {"findings": BLOB.model_copy(update={"sha256": "9" * 64})}, {"message": "x"}, {"files": 0},
        {"scanners_missing": True}, {"size_bytes": 1}, {"gone": ()}, {"tools": {}},
    ],
    ids=lambda claim: next(iter(claim)),
)  # fmt: skip
def test_a_scan_that_claims_anything_else_does_not_agree(claim: dict[str, Any]) -> None:
    assert agrees_with_scan(SCAN, SCANNED) and not agrees_with_scan(SCAN, SCANNED.model_copy(update=claim))


@pytest.mark.parametrize("claim", [{"micros": (1, 1)}, {"micros": ()}, {"exit_code": 1}, {"message": "x"}])
def test_a_sample_that_claims_anything_else_does_not_agree(claim: dict[str, Any]) -> None:
    assert agrees_with_sample(BENCHMARK, SAMPLE) and not agrees_with_sample(BENCHMARK, SAMPLE.model_copy(update=claim))
