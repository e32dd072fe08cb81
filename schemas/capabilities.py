"""Everything the fabric can do, each thing declared once. Workflows call these, workers register them, the gate admits them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from schemas.approval import Action, ApprovalRequest, Ruling, SignedDecision
from schemas.candidate import Exploration
from schemas.canonical import sha256_hex
from schemas.capability import Capability
from schemas.checkpoint import CheckpointTaken, TakeCheckpoint
from schemas.error import Refused
from schemas.gates import GateReport
from schemas.ledger import Unit
from schemas.limits import RequestedLimits
from schemas.model import BlobRef, Digest, GitId, Payload, Sha256
from schemas.operations import (
    AbandonedFound,
    Expired,
    ExpireReservations,
    FindAbandoned,
    FindUnsettled,
    Observed,
    ReadBack,
    Reaped,
    ReapSession,
    Reconciled,
    ReconcileEffect,
    UnsettledFound,
)
from schemas.policy import PolicyDecision
from schemas.regression import BenchmarkSample, RunBenchmark, ScannedTree, ScanTree, Waiver
from schemas.request import BundleRef, ReleaseMode, ReleaseRequest, ReleaseResult
from schemas.session import CloseReason, IllegalTransition, Outcome, TransitionRecord
from schemas.status import Stage
from schemas.task import SessionContext, Source
from schemas.testing import Environment, Flake, Limits, Patch, RunVariant, TestPlan, TestRun
from schemas.verdict import Completeness, Verdict

DIFF_TYPE = "text/x-diff"
_BEAT = timedelta(seconds=5)
"""A dead worker is noticed after this long, so a running activity loses little."""


# --- control: sessions and approvals ---------------------------------------------------------------------------------


class OpenSession(Payload):
    kind: Literal["remediation", "compile"]
    repository: str
    ref: str
    goal: str = ""
    limits: RequestedLimits = RequestedLimits()
    budget: dict[Unit, int] | None = None
    """The most that it may spend, by unit; default: what policy gives."""


class RecordTransition(Payload):
    records: tuple[TransitionRecord, ...] = ()
    refused: IllegalTransition | None = None
    codes: tuple[str, ...] = ()


class Recorded(Payload):
    """Sequence number of the last event written."""

    seq: int


class RequestApproval(Payload):
    action: Action
    stamp_id: str
    fix: Literal["complete", "partial"]
    expiry_ms: int


class JudgeDecision(Payload):
    approval_id: str
    signed: SignedDecision


class RedeemApproval(Payload):
    approval_id: str
    action_digest: Digest
    deliver_within_ms: int


class Redeemed(Payload):
    deliver_by_ms: int


class CloseSession(Payload):
    reason_code: CloseReason
    reason: str = ""
    outcome: Outcome | None = None
    """None: a Compile that accepted its patch; nothing was delivered."""
    expired_approval_id: str | None = None
    """The pending request that ran out, if that is why; other open approvals are cancelled."""


OPEN_SESSION = Capability(
    id="control.open_session", input=OpenSession, output=SessionContext, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
)
RECORD_TRANSITION = Capability(
    id="control.record_transition", input=RecordTransition, output=Recorded, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
    containment=True,
)
REQUEST_APPROVAL = Capability(
    id="control.request_approval", input=RequestApproval, output=ApprovalRequest, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
)
JUDGE_DECISION = Capability(
    id="control.judge_decision", input=JudgeDecision, output=Ruling, side_effect="write", risk="medium", pool="stable",
    timeout=timedelta(seconds=30),
)
REDEEM_APPROVAL = Capability(
    id="control.redeem_approval", input=RedeemApproval, output=Redeemed, side_effect="write", risk="high", pool="stable",
    timeout=timedelta(seconds=30),
)
CLOSE_SESSION = Capability(
    id="control.close_session", input=CloseSession, output=Recorded, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
    containment=True,
)

# --- policy ----------------------------------------------------------------------------------------------------------


class ReviewRequest(Payload):
    repository: str
    ref: str
    release_mode: ReleaseMode | None = None
    release_target: str | None = None
    wall_ms: int | None = None
    candidates: int | None = None
    """None: the request searches nothing."""
    budget: dict[Unit, int] = {}


class ReviewPatch(Payload):
    patch: Patch


REVIEW_REQUEST = Capability(
    id="policy.review_request", input=ReviewRequest, output=PolicyDecision, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
)
REVIEW_PATCH = Capability(
    id="policy.review_patch", input=ReviewPatch, output=PolicyDecision, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(seconds=60),
)

# --- forge -----------------------------------------------------------------------------------------------------------


class FetchSource(Payload):
    repository: str
    ref: str


class SealCommit(Payload):
    source: Source
    result_tree: GitId
    bundle: BundleRef
    goal: str
    explorer: str
    """``Assisted-by`` trailer value, e.g. ``gen4:templates/1``."""
    mode: ReleaseMode
    target: str | None


class SealedCommit(Payload):
    """A signed commit in our own object store, not yet anywhere else."""

    commit_id: GitId
    target_ref: str
    expected_head: GitId
    """What the target ref must still be: the zero id for a new branch."""


FETCH_SOURCE = Capability(
    id="forge.fetch_source", input=FetchSource, output=Source, side_effect="read", risk="medium", pool="forge",
    timeout=timedelta(minutes=15), heartbeat=_BEAT,
    server="forge",
)
SEAL_COMMIT = Capability(
    id="forge.seal_commit", input=SealCommit, output=SealedCommit, side_effect="write", risk="medium", pool="forge",
    timeout=timedelta(minutes=1),
)
DELIVER = Capability(
    id="forge.deliver", input=ReleaseRequest, output=ReleaseResult, side_effect="irreversible", risk="critical", pool="forge",
    timeout=timedelta(minutes=5), heartbeat=_BEAT,
    server="forge",
)

# --- testbed ---------------------------------------------------------------------------------------------------------


class PrepareEnvironment(Payload):
    base_tree: GitId
    requirements: tuple[str, ...] = ()
    """From the request; empty: from the repository's own metadata, as read from ``base_tree``."""
    runner: Literal["pytest", "node"] = "pytest"
    """``node``: Node and the packages of the tree's package lock."""


class RunTests(Payload):
    tree: GitId
    environment: Environment
    plan: TestPlan
    limits: Limits = Limits()
    commit_time: int
    purpose: Literal["explore", "base", "patched", "rerun", "probe", "diagnosis"]
    ordinal: int = 1
    variant: RunVariant = RunVariant()
    measure: bool = False
    """Also coverage and timings."""


class FindOther(Payload):
    """``executors``: hints of those that have run it already."""

    executors: tuple[str, ...]


class OtherExecutor(Payload):
    """``queue``: of a worker with another executor that polled lately; None: there is none."""

    queue: str | None = None


class RecallRuns(Payload):
    """Runs of the default variant that may be in the run cache, one request for each tree.

    ``probe``: of the tree whose touched functions raise. Where base and patched tree, the two requests, are recalled, so is
    the probe that tests what they show to be mended.
    """

    requests: tuple[RunTests, ...]
    probe: RunTests | None = None
    named_targets: tuple[str, ...] = ()
    waived_tests: tuple[str, ...] = ()


class RecalledRuns(Payload):
    """For each request the agreed runs of its key, or none; ``irreproducible``: keys whose agreed results differed."""

    runs: tuple[tuple[TestRun, ...], ...]
    irreproducible: tuple[Sha256, ...] = ()
    probe: TestRun | None = None


class RememberRuns(Payload):
    """Agreed runs of one key each, of a real verdict."""

    groups: tuple[tuple[TestRun, ...], ...]


class RememberedRuns(Payload):
    """``conflicts``: keys whose agreed results differ from those of an earlier entry; nothing is recalled for them any more."""

    stored: int
    conflicts: tuple[Sha256, ...] = ()


PREPARE_ENVIRONMENT = Capability(
    id="testbed.prepare_environment", input=PrepareEnvironment, output=Environment, side_effect="write", risk="medium",
    pool="adaptive", timeout=timedelta(minutes=30), heartbeat=_BEAT,
    server="sandbox", metered=True,
)
RUN_TESTS = Capability(
    id="testbed.run_tests", input=RunTests, output=TestRun, side_effect="none", risk="medium", pool="adaptive",
    timeout=timedelta(hours=1), heartbeat=_BEAT,
    server="sandbox", metered=True,
)
FIND_OTHER = Capability(
    id="testbed.find_other", input=FindOther, output=OtherExecutor, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(seconds=30),
)
RECALL_RUNS = Capability(
    id="testbed.recall_runs", input=RecallRuns, output=RecalledRuns, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(minutes=1),
)
REMEMBER_RUNS = Capability(
    id="testbed.remember_runs", input=RememberRuns, output=RememberedRuns, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(minutes=1),
)
SCAN_TREE = Capability(
    id="testbed.scan_tree", input=ScanTree, output=ScannedTree, side_effect="none", risk="medium", pool="adaptive",
    timeout=timedelta(minutes=30), heartbeat=_BEAT,
    server="sandbox", metered=True,
)
RUN_BENCHMARK = Capability(
    id="testbed.run_benchmark", input=RunBenchmark, output=BenchmarkSample, side_effect="none", risk="medium", pool="adaptive",
    timeout=timedelta(hours=1), heartbeat=_BEAT,
    server="sandbox", metered=True,
)


# --- explore ---------------------------------------------------------------------------------------------------------


class Localize(Payload):
    base_tree: GitId
    environment: Environment
    plan: TestPlan
    limits: Limits = Limits()
    commit_time: int
    baseline: TestRun
    named_targets: tuple[str, ...] = ()


class Localization(Payload):
    """``ranking``: blob of a JSON list of :class:`schemas.candidate.Suspect`, best first."""

    ranking: BlobRef
    suspects: int
    targets: tuple[str, ...]
    tests: int


class Repair(Payload):
    base_tree: GitId
    environment: Environment
    plan: TestPlan
    limits: Limits = Limits()
    commit_time: int
    baseline: TestRun
    localization: Localization
    named_targets: tuple[str, ...] = ()
    keep: int
    wall_ms: int


LOCALIZE = Capability(
    id="explore.localize", input=Localize, output=Localization, side_effect="none", risk="medium", pool="adaptive",
    timeout=timedelta(hours=2), heartbeat=_BEAT,
    server="sandbox", metered=True,
)
REPAIR = Capability(
    id="explore.repair", input=Repair, output=Exploration, side_effect="write", risk="medium", pool="adaptive",
    timeout=timedelta(hours=24), heartbeat=_BEAT,
    server="sandbox", metered=True,
)

# --- compile, verify, evidence ---------------------------------------------------------------------------------------


class ImportPatch(Payload):
    """``patch`` as text, or ``patch_ref``: only a blob holds a diff of files that are not UTF-8."""

    source: Source
    patch: str | None = None
    patch_ref: BlobRef | None = None
    named_tests: tuple[str, ...] = ()
    """Of the plan: further files that are laid over from base."""

    @property
    def text(self) -> bytes:
        """``patch`` as it is applied. JSON allows lone surrogates: bytes that git finds in no file."""
        return (self.patch or "").encode("utf-8", "surrogatepass")

    @property
    def offered(self) -> BlobRef:
        """What was sent, whether it is a patch or not. The content store has a text once it was refused."""
        if self.patch_ref is not None:
            return self.patch_ref
        return BlobRef(sha256=sha256_hex(self.text), size=len(self.text), media_type=DIFF_TYPE)


class ImportedPatch(Payload):
    """``harness_tree``: the patched tree with the tests and test configuration of base laid over it (threats 4.1)."""

    patch: Patch
    harness_tree: GitId
    probe_tree: GitId | None = None
    """``harness_tree`` with the bodies of all touched functions replaced by ``raise``; None: the patch touches no function."""


class DiagnosticRun(Payload):
    tree: Literal["base", "patched"]
    run: TestRun


class JudgeRuns(Payload):
    base: tuple[TestRun, ...]
    patched: tuple[TestRun, ...]
    named_targets: tuple[str, ...] = ()
    probe: TestRun | None = None
    """The targets on ``probe_tree``: each of them must fail."""
    diagnostics: tuple[DiagnosticRun, ...] = ()
    """Runs of other variants that explain a disagreement, or find a flake that the patch brings."""
    waived_tests: tuple[str, ...] = ()
    """Test ids that may be lost, by unexpired waivers."""


class Judged(Payload):
    """``judgement``: blob of the whole :class:`schemas.verdict.Judgement`."""

    verdict: Verdict
    codes: tuple[str, ...]
    message: str = ""
    fix: Completeness
    fail_to_pass: int
    lost: int
    judgement: BlobRef
    flakes: tuple[Flake, ...] = ()
    mended: tuple[str, ...] = ()
    """Targets that pass now, at most 50: what the probe runs."""


class AssembleMembers(Payload):
    """Inputs of members 1-6. ``trajectory``: of the candidate; None for a patch from CI."""

    source: Source
    patch: Patch
    environment: Environment
    plan: TestPlan
    base: TestRun
    patched: TestRun
    judged: Judged
    policy: PolicyDecision
    trajectory: BlobRef | None


class Members(Payload):
    """Members 1-6 in the content store; ``bundle_digest`` is the digest of ``checksums.sha256``."""

    blobs: dict[str, BlobRef]
    bundle_digest: Digest


class ReadMembers(Payload):
    members: Members
    source: Source


class RegressionInput(Payload):
    judged: Judged
    baseline_commit: GitId
    base_tree: GitId | None = None
    result_tree: GitId | None = None
    base: tuple[TestRun, ...] = ()
    patched: tuple[TestRun, ...] = ()
    environment: Environment | None = None
    waivers: tuple[Waiver, ...] = ()
    patched_environment: Environment | None = None
    """Of the patched tree, where it has its own; else both have ``environment``."""
    base_scan: ScannedTree | None = None
    patched_scan: ScannedTree | None = None
    in_turn: bool = False
    """Runs of both trees took turns: only then may their times be compared."""
    base_benchmark: tuple[BenchmarkSample, ...] = ()
    patched_benchmark: tuple[BenchmarkSample, ...] = ()


class DeterminismInput(Payload):
    first: Members
    rerun: Members
    runs: int
    isolation: Literal["other_worker", "fresh_sandbox"]
    reused: bool = False
    """The re-run came from the run cache."""
    first_runs: tuple[TestRun, ...] = ()
    """All runs of both trees; where they are given their receipts are counted in place of ``runs``."""
    rerun_runs: tuple[TestRun, ...] = ()
    environment: Environment | None = None
    rerun_environment: Environment | None = None


class SealBundle(Payload):
    source: Source
    patch: Patch
    environment: Environment
    plan: TestPlan
    limits: Limits
    base: TestRun
    patched: TestRun
    judged: Judged
    policy: PolicyDecision
    members: Members
    regression: GateReport
    determinism: GateReport
    rerun_bundle_digest: Digest
    candidate_id: str
    explorer_name: str
    explorer_version: str
    isolation: Literal["other_worker", "fresh_sandbox"] = "fresh_sandbox"
    """Where the re-run behind ``determinism`` ran."""
    base_runs: tuple[TestRun, ...] = ()
    """All runs of the base tree, and below of the others: the signer believes their receipts alone."""
    patched_runs: tuple[TestRun, ...] = ()
    rerun_runs: tuple[TestRun, ...] = ()
    """The re-run of the base tree, then of the patched one."""
    probe: TestRun | None = None
    waivers: tuple[Waiver, ...] = ()
    base_scan: ScannedTree | None = None
    """This and what follows: as in the :class:`RegressionInput` behind ``regression``, which the signer computes again."""
    patched_scan: ScannedTree | None = None
    in_turn: bool = False
    base_benchmark: tuple[BenchmarkSample, ...] = ()
    patched_benchmark: tuple[BenchmarkSample, ...] = ()


class SealRejection(Payload):
    """What is known of a refused patch; parts that were not reached are None."""

    source: Source
    patch: Patch | None = None
    """None for what never became one: then ``offered`` is what was sent."""
    offered: BlobRef | None = None
    candidate_id: str
    verdict: Verdict
    codes: tuple[str, ...]
    message: str
    policy: PolicyDecision | None = None
    judged: Judged | None = None
    gates: tuple[GateReport, ...] = ()
    runs: tuple[TestRun, ...] = ()
    """Base and patched; their receipts are the evidence."""

    @property
    def about(self) -> BlobRef:
        """Git's diff, or what was sent for one. Raises Refused PATCH_MISSING where there is neither."""
        found = self.offered if self.patch is None else self.patch.diff
        if found is None:
            raise Refused("PATCH_MISSING", "a rejection is about a patch, or what was sent for one", "send one of them")
        return found


class SealedRejection(Payload):
    """``directory`` holds rejection.json, rejection.md and rejection.intoto.json."""

    directory: str
    report_id: str


class SealedBundle(Payload):
    bundle: BundleRef
    trust: str
    """Path of the trust root file that verifies it on this machine."""


class VerifyBundle(Payload):
    bundle: BundleRef
    source: Source


IMPORT_PATCH = Capability(
    id="compile.import_patch", input=ImportPatch, output=ImportedPatch, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(minutes=5),
)
JUDGE_RUNS = Capability(
    id="verify.judge_runs", input=JudgeRuns, output=Judged, side_effect="none", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
)
REGRESSION_GATE = Capability(
    id="verify.regression_gate", input=RegressionInput, output=GateReport, side_effect="none", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
)
DETERMINISM_GATE = Capability(
    id="verify.determinism_gate", input=DeterminismInput, output=GateReport, side_effect="none", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
)
ASSEMBLE_MEMBERS = Capability(
    id="evidence.assemble_members", input=AssembleMembers, output=Members, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(minutes=5),
)
REREAD_PATCH = Capability(
    id="evidence.reread_patch", input=ReadMembers, output=ImportPatch, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
)
SEAL_BUNDLE = Capability(
    id="evidence.seal_bundle", input=SealBundle, output=SealedBundle, side_effect="write", risk="high", pool="signing",
    timeout=timedelta(minutes=5),
    server="signer",
)
SEAL_REJECTION = Capability(
    id="evidence.seal_rejection", input=SealRejection, output=SealedRejection, side_effect="write", risk="medium", pool="signing",
    timeout=timedelta(minutes=5),
    server="signer",
)
TRUST_GATE = Capability(
    id="evidence.trust_gate", input=VerifyBundle, output=GateReport, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(minutes=5),
)

# --- operations: what the fabric's own schedules do ------------------------------------------------------------------

FIND_ABANDONED = Capability(
    id="control.find_abandoned", input=FindAbandoned, output=AbandonedFound, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
    containment=True,
)
REAP_SESSION = Capability(
    id="control.reap_session", input=ReapSession, output=Reaped, side_effect="write", risk="medium", pool="stable",
    timeout=timedelta(minutes=5),
    containment=True,
)
EXPIRE_RESERVATIONS = Capability(
    id="control.expire_reservations", input=ExpireReservations, output=Expired, side_effect="write", risk="low", pool="stable",
    timeout=timedelta(minutes=1),
    containment=True,
)
FIND_UNSETTLED = Capability(
    id="control.find_unsettled", input=FindUnsettled, output=UnsettledFound, side_effect="read", risk="low", pool="stable",
    timeout=timedelta(minutes=2),
)
RECONCILE_EFFECT = Capability(
    id="control.reconcile_effect", input=ReconcileEffect, output=Reconciled, side_effect="write", risk="medium", pool="stable",
    timeout=timedelta(minutes=1),
)
READ_BACK = Capability(
    id="forge.read_back", input=ReadBack, output=Observed, side_effect="read", risk="medium", pool="forge",
    timeout=timedelta(minutes=5),
)
"""A target that does not answer is an answer here, so it says nothing to the breaker of the forge."""
TAKE_CHECKPOINT = Capability(
    id="evidence.take_checkpoint", input=TakeCheckpoint, output=CheckpointTaken, side_effect="write", risk="medium",
    pool="signing", timeout=timedelta(minutes=5),
    server="signer",
)

CAPABILITIES: dict[str, Capability[Any, Any]] = {
    value.id: value for value in list(globals().values()) if isinstance(value, Capability)
}
"""By id; byte-equal or unknown (threats 7.4)."""


class CompileResult(Payload):
    """What the Compile workflow returns to its parent (CI gets the same inside a SessionResult)."""

    verdict: Verdict
    codes: tuple[str, ...] = ()
    message: str = ""
    fix: Completeness = "none"
    source: Source | None = None
    patch: Patch | None = None
    bundle: BundleRef | None = None
    trust: str | None = None
    policy: PolicyDecision | None = None
    gates: tuple[GateReport, ...] = ()
    stages: tuple[Stage, ...] = ()
    flakes: tuple[Flake, ...] = ()
    rejection: SealedRejection | None = None
    """Of every refused patch that could be reported on."""
