"""Receipts: what an executor ran and saw, signed with its own key; the signer believes receipts alone (threats 5.1).

Of each kind there is one schema and one DSSE payload type, so that none can be shown for another. No receipt has a time: two of
equal runs differ in ``receipt_id`` (and in what was measured).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.model import Digest, Door, GitId, Sha256
from schemas.testing import Limits, RunStatus, RunVariant, SandboxFacts, TestPlan

RECEIPT_TYPE = "application/vnd.gen4.run-receipt+json"
"""DSSE payload type; the payload is the JCS of a :class:`RunReceipt`."""
SCAN_RECEIPT_TYPE = "application/vnd.gen4.scan-receipt+json"
BENCHMARK_RECEIPT_TYPE = "application/vnd.gen4.benchmark-receipt+json"

ReceiptId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""Random, made by the executor: two runs are two receipts."""


class ReceiptPlan(Door):
    """How the tests were called: the fields of :class:`schemas.testing.TestPlan` that reach the runner."""

    pytest_args: tuple[str, ...]
    env: dict[str, str]
    python_path: tuple[str, ...]
    frozen_clock: bool
    runner: Literal["pytest", "node"] = "pytest"
    node_args: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: TestPlan) -> ReceiptPlan:
        return cls.model_validate(plan.model_dump(include=set(cls.model_fields)))


class ReceiptLimits(Door):
    memory_mb: int
    cpus: float
    pids: int
    wall_ms: int
    output_bytes: int
    disk_mb: int
    test_ms: int

    @classmethod
    def of(cls, limits: Limits) -> ReceiptLimits:
        return cls.model_validate(limits.model_dump())


class ReceiptVariant(Door):
    hash_seed: int
    order: Literal["collected", "reversed"]
    clock: int | None = None
    only: tuple[str, ...]

    @classmethod
    def of(cls, variant: RunVariant) -> ReceiptVariant:
        return cls.model_validate(variant.model_dump())


class ReceiptSandbox(Door):
    backend: Literal["docker", "bubblewrap"]
    version: str
    profile_sha256: Sha256
    enforcement: dict[str, Literal["cgroup", "rlimit", "kernel", "watchdog", "none"]]

    @classmethod
    def of(cls, facts: SandboxFacts) -> ReceiptSandbox:
        return cls.model_validate(facts.model_dump())


class ReceiptSentinels(Door):
    """Tests that the runner planted and that had to fail; ``caught`` < ``planted`` is HARNESS_TAMPERED."""

    planted: Annotated[int, Field(ge=0)]
    caught: Annotated[int, Field(ge=0)]


class RunReceipt(Door):
    """``run-receipt/1``: one run of a plan's tests."""

    schema_version: Literal["run-receipt/1"] = "run-receipt/1"
    receipt_id: ReceiptId
    tenant_id: str
    run_key: Sha256
    tree: GitId
    environment_digest: Digest
    platform: str
    plan: ReceiptPlan
    limits: ReceiptLimits
    variant: ReceiptVariant
    commit_time: int
    harness_version: Sha256
    sandbox: ReceiptSandbox
    status: RunStatus
    codes: tuple[str, ...]
    exit_code: int
    runner: str
    outcomes_sha256: Sha256
    counts: dict[str, int]
    sentinels: ReceiptSentinels
    coverage_sha256: Sha256 | None = None
    timings_sha256: Sha256 | None = None


class ScanReceipt(Door):
    """``scan-receipt/1``: what the scanners found in those files of ``tree`` that ``against`` does not have just so."""

    schema_version: Literal["scan-receipt/1"] = "scan-receipt/1"
    receipt_id: ReceiptId
    tenant_id: str
    tree: GitId
    against: GitId
    limits: ReceiptLimits
    harness_version: Sha256
    scanners_sha256: Sha256
    """Of the lock that pins the scanners."""
    sandbox: ReceiptSandbox
    findings_sha256: Sha256 | None = None
    """Absent where the scanners came to no end; ``message`` says why."""
    message: str
    scanners_missing: bool
    """The caller had none to send: nothing was said about the tree but its size and what is gone."""
    files: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=0)]
    gone_sha256: Sha256
    """Of the JCS of the list of paths."""
    tools: dict[str, str]


class BenchmarkReceipt(Door):
    """``benchmark-receipt/1``: how long a command took in one sandbox. ``ordinal`` is as the caller numbered it."""

    schema_version: Literal["benchmark-receipt/1"] = "benchmark-receipt/1"
    receipt_id: ReceiptId
    tenant_id: str
    tree: GitId
    environment_digest: Digest
    platform: str
    plan: ReceiptPlan
    argv: tuple[str, ...]
    limits: ReceiptLimits
    commit_time: int
    repeat: Annotated[int, Field(ge=1)]
    ordinal: int
    harness_version: Sha256
    sandbox: ReceiptSandbox
    micros: tuple[int, ...]
    exit_code: int
    message: str
