"""Remediation: one session, from a request to a released fix, or to a reason that says what would make it pass.

1. Intake: the session is opened for whoever started it.
2. Policy reviews the request before anything of it is touched.
3. Plan: the source is fetched.
4. Explore looks for candidates.
5. Compile takes the candidates in rank order until one passes all gates.
6. The change is sealed as a signed commit that nobody can fetch yet.
7. A release captain approves or rejects exactly this action.
8. Release redeems the approval and delivers, once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

from schemas.approval import REFUSALS, Action, ApprovalRequest, DoorKind, Refusal, Ruling, SignedDecision, parse_decision, refusal
from schemas.capabilities import (
    CLOSE_SESSION,
    FETCH_SOURCE,
    JUDGE_DECISION,
    OPEN_SESSION,
    REQUEST_APPROVAL,
    REVIEW_REQUEST,
    SEAL_COMMIT,
    CloseSession,
    CompileResult,
    FetchSource,
    JudgeDecision,
    OpenSession,
    RequestApproval,
    ReviewRequest,
    SealCommit,
    SealedCommit,
)
from schemas.details import plain, session_details
from schemas.jobs import CompileJob, ExploreJob, ExploreResult, ReleaseJob
from schemas.model import ZERO_ID
from schemas.request import (
    ApprovalSummary,
    Rejection,
    ReleaseRequest,
    ReleaseResult,
    ReleaseSummary,
    RemediationRequest,
    SessionResult,
)
from schemas.session import CloseReason, Outcome, Signal, State
from schemas.status import SessionStatus
from schemas.task import SessionContext, Source
from schemas.testing import TestPlan
from workflows.calling import call
from workflows.children import run_child
from workflows.doors import accepted, invalid_input, not_opened, plan_of
from workflows.failing import Stop, failure_of, rejection_of, stop
from workflows.machine import Machine
from workflows.progress import Progress, label, now_ms
from workflows.verdicts import denial, failed_gate, remedy_of

MAX_REFUSED = 200
"""How many refusals the status keeps; the event chain keeps all."""
EXAMPLE = '{"approval_id": "…", "action_digest": "sha256:… (64 hex digits)", "reason": "…", "signature": "…"}'
APPROVE = f"Release the change. Paste what `gen4 approve ID --digest D --print` prints: {EXAMPLE}"
REJECT = f"Do not release the change; final. Paste what `gen4 reject ID --reason R --print` prints: {EXAMPLE}"
CAPTAIN = "A release captain approves or rejects the change."


@workflow.defn(name="Remediation")
class Remediation:
    """Started by people with one :class:`schemas.request.RemediationRequest`."""

    @workflow.init
    def __init__(self, request: Any = None, *extra: Any) -> None:
        self._request: RemediationRequest | None = None
        self._context: SessionContext | None = None
        self._compiled: CompileResult | None = None
        self._approval: ApprovalRequest | None = None
        self._release: ReleaseSummary | None = None
        self._result: SessionResult | None = None
        self._inbox: deque[SignedDecision] = deque()
        self._refused: tuple[Refusal, ...] = ()
        self._next_step = ""
        self._progress = Progress(self._show)
        self._machine = Machine(self._show)

    # --- the main flow -----------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, request: Any = None, *extra: Any) -> SessionResult:
        asked = self._request = accepted(RemediationRequest, request, extra)
        plan = plan_of(asked.test_command)
        if plan.runner != "pytest":
            raise invalid_input("test_command: no engine repairs JavaScript yet; write the patch and send it to Compile")
        await self._open(asked)
        try:
            await self._remediate(asked, plan)
            await self._close("released", "merged")
        except Stop as stopped:
            await self._close(stopped.reason_code, stopped.outcome, stopped.rejection)
        except (FailureError, asyncio.CancelledError) as error:
            await self._close_failed(error)
        await workflow.wait_condition(workflow.all_handlers_finished)
        assert self._result is not None  # noqa: S101  every way of closing leaves one
        return self._result

    async def _remediate(self, asked: RemediationRequest, plan: TestPlan) -> None:
        await self._review(asked)
        source = await self._fetch(asked)
        explored = await self._explore(asked, plan, source)
        compiled = await self._compile_best(asked, plan, source, explored)
        sealed = await self._seal(asked, compiled, explored)
        approved = await self._approve(asked, compiled, sealed)
        await self._deliver(approved)

    # --- 1 to 3: intake, policy, source ------------------------------------------------------------------------------

    async def _open(self, asked: RemediationRequest) -> None:
        with self._progress.stage("intake"):
            try:
                self._context = await call(
                    OPEN_SESSION,
                    OpenSession(
                        kind="remediation", repository=asked.repository, ref=asked.ref, goal=asked.goal, limits=asked.limits,
                        budget=asked.budget.amounts if asked.budget else None,
                    ),
                    summary="open the session",
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                raise not_opened(rejection_of(error, "intake")) from None
        label(self._context, "control", asked.repository, "high" if asked.release.mode == "merge" else "medium")

    async def _review(self, asked: RemediationRequest) -> None:
        with self._progress.stage("policy review"):
            await self._machine.take(Signal.INTENT_RECEIVED, stage="policy")
            review = await call(
                REVIEW_REQUEST,
                ReviewRequest(
                    repository=asked.repository,
                    ref=asked.ref,
                    release_mode=asked.release.mode,
                    release_target=asked.release.target,
                    wall_ms=asked.wall_ms,
                    candidates=asked.candidates,
                    budget=asked.budget.amounts if asked.budget else {},
                ),
                summary="is the request admitted?",
            )
            if review.decision != "allow":
                codes, message, remedy = denial(review)
                await self._machine.take(Signal.POLICY_REJECTED, stage="policy", reason_code=codes[0], reason=message)
                raise stop("policy review", codes, message, remedy, outcome="rejected")
            await self._machine.take(Signal.POLICY_APPROVED, stage="policy", reason=f"policy {review.policy_digest}")

    async def _fetch(self, asked: RemediationRequest) -> Source:
        with self._progress.stage("fetch source"):
            source = await call(
                FETCH_SOURCE, FetchSource(repository=asked.repository, ref=asked.ref), summary=f"fetch {plain(asked.ref)}"
            )
            self._progress.note(f"{source.ref} at {source.base_commit[:12]}")
        return source

    # --- 4 and 5: candidates -----------------------------------------------------------------------------------------

    async def _explore(self, asked: RemediationRequest, plan: TestPlan, source: Source) -> ExploreResult:
        await self._schedule("explore")
        context = self._opened()
        job = ExploreJob(
            context=context, source=source, plan=plan, requirements=asked.requirements, failing_tests=asked.failing_tests,
            limits=context.config.limits, keep=asked.candidates, wall_ms=asked.wall_ms,
        )  # fmt: skip
        with self._progress.stage("explore"):
            try:
                explored = await run_child("Explore", job, ExploreResult, summary=f"candidates for {source.base_commit[:12]}")
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                await self._execution_failed("explore", rejection_of(error, "explore"), "failed")
            exploration = explored.exploration
            self._progress.note(
                f"{len(exploration.candidates)} candidates, {exploration.tried} of {exploration.space} edits tried"
            )
        self._progress.adopt("explore", explored.stages)
        if not exploration.candidates:
            nothing = Rejection(
                stage="explore", codes=explored.codes, message=exploration.message or exploration.stopped, remedy=explored.remedy
            )
            broken = explored.baseline.status == "infra_error" and "NO_TESTS" not in explored.codes
            await self._execution_failed("explore", nothing, "failed" if broken else "no_fix_found")
        return explored

    async def _compile_best(
        self, asked: RemediationRequest, plan: TestPlan, source: Source, explored: ExploreResult
    ) -> CompileResult:
        """The first candidate, in rank order, that passes all gates; at most one try per plan."""
        context = self._opened()
        candidates = explored.exploration.candidates[: 1 + context.config.max_replan]
        for candidate in candidates:
            if self._machine.state is State.PLANNED:
                self._machine.cycle += 1
                await self._schedule("compile")
            job = CompileJob(
                context=context, source=source, plan=plan, requirements=asked.requirements, failing_tests=asked.failing_tests,
                limits=context.config.limits, candidate=candidate,
            )  # fmt: skip
            name = f"compile {candidate.rank}" if len(candidates) > 1 else "compile"
            with self._progress.stage(name, f"{candidate.path}:{candidate.line} {candidate.template}".strip(" :0")):
                try:
                    compiled = await run_child("Compile", job, CompileResult, summary=f"candidate {candidate.candidate_id}")
                except FailureError as error:
                    if is_cancelled_exception(error):
                        raise
                    await self._execution_failed("compile", rejection_of(error, "compile"), "failed")
                self._progress.note(compiled.verdict if compiled.verdict == "accepted" else ", ".join(compiled.codes))
            self._progress.adopt(name, compiled.stages)
            self._compiled = compiled
            if compiled.verdict == "accepted":
                passed = len(compiled.gates) == 3 and all(report.verdict == "pass" for report in compiled.gates)
                self._machine.attest(candidate_verified=True, gates_passed=passed)
                await self._machine.take(Signal.VERIFY_PASSED, stage="gates")
                return compiled
            await self._machine.take(
                Signal.VERIFY_REJECTED,
                stage="gates",
                reason_code=compiled.codes[0] if compiled.codes else "",
                reason=compiled.message,
            )
        last = self._compiled
        assert last is not None  # noqa: S101  Explore found at least one candidate
        raise stop(
            failed_gate(last) or "compile", last.codes, last.message, remedy_of(last),
            outcome="failed" if last.verdict == "infra_error" else "rejected",
        )  # fmt: skip

    async def _schedule(self, stage: str) -> None:
        """P → S → E: the plan is committed, its one task is scheduled and starts."""
        await self._machine.take(Signal.PLAN_COMMITTED, Signal.TASK_SCHEDULED, Signal.EXECUTION_STARTED, stage=stage)

    async def _execution_failed(self, stage: str, why: Rejection, outcome: Outcome) -> Any:
        await self._machine.take(
            Signal.EXECUTION_FAILED, stage=stage, reason_code=why.codes[0] if why.codes else "", reason=why.message
        )
        raise Stop(outcome, "failed_final", why)

    # --- 6 to 8: seal, approval, release -----------------------------------------------------------------------------

    async def _seal(self, asked: RemediationRequest, compiled: CompileResult, explored: ExploreResult) -> SealedCommit:
        assert compiled.source and compiled.patch and compiled.bundle  # noqa: S101  it was accepted
        candidate = next(item for item in explored.exploration.candidates if item.patch.result_tree == compiled.patch.result_tree)
        with self._progress.stage("seal commit"):
            sealed = await call(
                SEAL_COMMIT,
                SealCommit(
                    source=compiled.source, result_tree=compiled.patch.result_tree, bundle=compiled.bundle, goal=asked.goal,
                    explorer=f"gen4:{candidate.engine}/{candidate.engine_version}", mode=asked.release.mode,
                    target=asked.release.target,
                ),
                summary="a signed commit, not yet anywhere else",
            )  # fmt: skip
            self._progress.note(f"{sealed.commit_id[:12]} for {sealed.target_ref}")
        return sealed

    async def _approve(self, asked: RemediationRequest, compiled: CompileResult, sealed: SealedCommit) -> ApprovalRequest:
        """Wait for one decision that counts. Expiry rejects."""
        action = self._action(asked, compiled, sealed)
        fix: Literal["complete", "partial"] = "complete" if compiled.fix == "complete" else "partial"
        assert compiled.bundle  # noqa: S101  it was accepted
        with self._progress.stage("approval"):
            pending = self._approval = await call(
                REQUEST_APPROVAL,
                RequestApproval(
                    action=action, stamp_id=compiled.bundle.stamp_id, fix=fix, expiry_ms=self._opened().config.approval_expiry_ms
                ),
                summary="ask a release captain",
            )
            self._machine.attest(approval_id=pending.approval_id)
            self._say(CAPTAIN)
            ruling = await self._decision(pending)
            self._say("")
            if ruling is None:
                self._decided("expired")
                raise Stop(
                    "rejected", "approval_rejected",
                    Rejection(stage="approval", codes=("EXPIRED",), message="nobody decided in time", remedy=REFUSALS["EXPIRED"]),
                )  # fmt: skip
            self._progress.note(f"{ruling.kind} by {plain(ruling.approver_id or 'unknown')}")
            if ruling.kind == "reject":
                self._decided("rejected")
                message = f"{plain(ruling.approver_id or '')} rejected the change" + (
                    f": {ruling.reason}" if ruling.reason else ""
                )
                raise Stop(
                    "rejected", "approval_rejected",
                    Rejection(
                        stage="approval", codes=("APPROVAL_REJECTED",), message=message,
                        remedy="start again with the reason in mind",
                    ),
                )  # fmt: skip
            self._decided("approved")
        return pending

    def _action(self, asked: RemediationRequest, compiled: CompileResult, sealed: SealedCommit) -> Action:
        assert compiled.source and compiled.patch and compiled.bundle and compiled.policy  # noqa: S101  it was accepted
        context = self._opened()
        new = sealed.expected_head == ZERO_ID
        return Action(
            repository=compiled.source.repository, target_ref=sealed.target_ref, expected_head=sealed.expected_head,
            commit_id=sealed.commit_id, result_tree=compiled.patch.result_tree, bundle_digest=compiled.bundle.bundle_digest,
            stamp_sha256=compiled.bundle.stamp_sha256, policy_digest=compiled.policy.policy_digest,
            approvers_digest=context.approvers_digest, tenant_id=context.keys.tenant_id, session_id=context.keys.session_id,
            mode=asked.release.mode, revert="delete-branch" if new else f"reset-to:{sealed.expected_head}",
        )  # fmt: skip

    async def _decision(self, pending: ApprovalRequest) -> Ruling | None:
        """The first ruling that counts; None once the request has expired."""
        while (remaining_ms := pending.expires_at_ms - now_ms()) > 0:
            try:
                await workflow.wait_condition(
                    lambda: bool(self._inbox),
                    timeout=timedelta(milliseconds=remaining_ms),
                    timeout_summary="the approval expires",
                )
            except TimeoutError:
                return None
            ruling = await self._judge(pending, self._inbox.popleft())
            if ruling.accepted:
                return ruling
        return None

    async def _judge(self, pending: ApprovalRequest, signed: SignedDecision) -> Ruling:
        """A decision that does not count is shown with its reason; the session goes on."""
        try:
            ruling = await call(
                JUDGE_DECISION,
                JudgeDecision(approval_id=pending.approval_id, signed=signed),
                summary=f"{signed.kind}: does it count?",
            )
        except ActivityError as error:
            failure = failure_of(error)
            if failure is None or failure.type not in REFUSALS:
                raise
            ruling = Ruling(
                accepted=False, kind=signed.kind, refusal=refusal(failure.type, rejection_of(error, "approval").message)
            )
        if not ruling.accepted and ruling.refusal is not None:
            self._refused = (*self._refused, ruling.refusal)[-MAX_REFUSED:]
            self._show()
        return ruling

    async def _deliver(self, pending: ApprovalRequest) -> None:
        context, action = self._opened(), pending.action
        request = ReleaseRequest(
            repository=action.repository, approval_id=pending.approval_id, action_digest=pending.action_digest,
            commit_id=action.commit_id, expected_head=action.expected_head, target_ref=action.target_ref, mode=action.mode,
            session_id=action.session_id,
        )  # fmt: skip
        with self._progress.stage("release"):
            try:
                released = await run_child(
                    "Release",
                    ReleaseJob(context=context, request=request),
                    ReleaseResult,
                    summary=f"deliver {action.commit_id[:12]}",
                )
                failed = None
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                released, failed = ReleaseResult(), rejection_of(error, "release")
            if released.redeemed:
                self._decided("redeemed")
                self._machine.attest(redeemed=True)
            if released.release is None:
                why = failed or Rejection(stage="release", codes=released.codes, message=released.message, remedy=released.remedy)
                await self._machine.take(
                    Signal.VERIFY_REJECTED, stage="merging", reason_code=why.codes[0] if why.codes else "", reason=why.message
                )
                raise Stop("failed", "failed_final", why)
            self._progress.note(f"{released.release.commit[:12]} is {released.release.ref}")
        self._release = released.release
        self._machine.attest(delivered=True)

    # --- closing -----------------------------------------------------------------------------------------------------

    async def _close(self, reason: CloseReason, outcome: Outcome, why: Rejection | None = None) -> None:
        """Record the end, cancel what is open, and leave the result."""
        if why is not None and "KILL_SWITCH" in why.codes:
            reason, outcome = "kill_switch", "cancelled"
        await self._refuse_late()
        text = f"{', '.join(why.codes)}: {why.message}" if why else ""
        if outcome == "merged":
            await self._machine.take(Signal.VERIFY_PASSED, stage="merging", reason_code=reason)
        else:
            await self._machine.take(Signal.CLOSED, stage="closing", reason_code=reason, reason=text, outcome=outcome)
        expired = self._approval.approval_id if self._approval and self._approval.status == "expired" else None
        await call(
            CLOSE_SESSION,
            CloseSession(reason_code=reason, reason=text[:2_000], outcome=outcome, expired_approval_id=expired),
            summary=f"close: {outcome}",
        )
        if self._approval is not None and self._approval.status in ("pending", "approved"):
            self._decided("cancelled" if self._approval.status == "pending" else "revoked")
        self._result = self._session_result(outcome, why)
        self._say("")

    async def _close_failed(self, error: BaseException) -> None:
        """A cancelled session is recorded as such and stays cancelled; a failed one ends with its reason."""
        failure = failure_of(error)
        if failure is not None and failure.type == "RUN_RESET":
            raise failure from None  # a reset run may record nothing any more
        if is_cancelled_exception(error):
            cancelled = Rejection(stage=self._stage(), codes=("CANCELLED",), message="somebody cancelled the session")
            await self._close("cancelled", "cancelled", cancelled)
            raise error
        await self._close("failed_final", "failed", rejection_of(error, self._stage()))

    async def _refuse_late(self) -> None:
        """Decisions that came after the one that counted, or too late, are judged too, so that each is on record."""
        while self._approval is not None and self._inbox:
            try:
                await self._judge(self._approval, self._inbox.popleft())
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                # The gate let nobody judge it, and recorded that; the session closes all the same.

    def _session_result(self, outcome: Outcome, why: Rejection | None) -> SessionResult:
        info, compiled, approval = workflow.info(), self._compiled, self._approval
        bundle = compiled.bundle if compiled else None
        return SessionResult(
            workflow_id=info.workflow_id, run_id=info.run_id, session_id=self._opened().keys.session_id,
            state=self._machine.state, outcome=outcome, fix=compiled.fix if compiled else None, codes=why.codes if why else (),
            approval=summary_of(approval) if approval else None,
            bundle=bundle.directory if bundle else None, bundle_digest=bundle.bundle_digest if bundle else None,
            trust=compiled.trust if compiled else None, release=self._release, rejection=why,
        )  # fmt: skip

    # --- doors -------------------------------------------------------------------------------------------------------

    @workflow.signal(name="approve", description=APPROVE)
    def approve(self, payload: Any = None, *extra: Any) -> None:
        self._receive("approve", payload, extra)

    @workflow.signal(name="reject", description=REJECT)
    def reject(self, payload: Any = None, *extra: Any) -> None:
        self._receive("reject", payload, extra)

    @workflow.signal(dynamic=True)
    def other(self, name: str, args: Sequence[RawValue]) -> None:
        unknown = refusal("UNKNOWN_SIGNAL", f"no signal is called {plain(name)[:100]!r}")
        self._inbox.append(SignedDecision(kind="unknown", refusal=unknown, received_at_ms=now_ms()))

    @workflow.query(name="status", description="State, stages, next human step, pending approval, and the result once closed")
    def status(self) -> SessionStatus:
        return SessionStatus(
            state=self._machine.state, stages=self._progress.stages, next_step=self._next_step, approval=self._approval,
            refused=self._refused, result=self._result,
        )  # fmt: skip

    @workflow.query(name="pending_approvals", description="Approval requests that wait for a decision")
    def pending_approvals(self) -> list[ApprovalRequest]:
        return [self._approval] if self._approval is not None and self._approval.status == "pending" else []

    def _receive(self, kind: DoorKind, payload: Any, extra: tuple[Any, ...]) -> None:
        parsed = parse_decision(payload, extra)
        refused = parsed if isinstance(parsed, Refusal) else None
        decision = None if isinstance(parsed, Refusal) else parsed
        self._inbox.append(SignedDecision(kind=kind, decision=decision, refusal=refused, received_at_ms=now_ms()))

    # --- what people see ---------------------------------------------------------------------------------------------

    def _opened(self) -> SessionContext:
        assert self._context is not None  # noqa: S101  intake comes first
        return self._context

    def _stage(self) -> str:
        return self._progress.stages[-1].name if self._progress.stages else "intake"

    def _decided(self, status: Literal["approved", "rejected", "redeemed", "expired", "cancelled", "revoked"]) -> None:
        if self._approval is not None:
            self._approval = self._approval.model_copy(update={"status": status})
        self._show()

    def _say(self, next_step: str) -> None:
        self._next_step = next_step
        self._show()

    def _show(self) -> None:
        if self._request is not None:
            id = workflow.info().workflow_id
            details = session_details(self.status(), workflow_id=id, repository=self._request.repository, goal=self._request.goal)
            workflow.set_current_details(details)


def summary_of(approval: ApprovalRequest) -> ApprovalSummary:
    expires = datetime.fromtimestamp(approval.expires_at_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ApprovalSummary(
        approval_id=approval.approval_id, action_digest=approval.action_digest, expires_at=expires, status=approval.status
    )
