"""Verify: verdict, Regression Gate, Determinism Gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from activities.kernel.acting import acting
from activities.kernel.implementing import implements
from activities.kernel.judging import PolicyPort
from activities.record.blobs import BlobStore
from activities.record.chain import EventChain
from activities.record.objects import ObjectStore
from activities.verify.determinism import Rerun, determinism_report, executions
from activities.verify.diagnosing import ObservedRun, Tree, TreeRuns
from activities.verify.gating import METRICS, RegressionGate
from activities.verify.judging import Evidence, agrees_with_digest, rule
from schemas.canonical import jcs, jcs_sha256
from schemas.capabilities import (
    DETERMINISM_GATE,
    JUDGE_RUNS,
    REGRESSION_GATE,
    DeterminismInput,
    Judged,
    JudgeRuns,
    Members,
    RegressionInput,
)
from schemas.error import Refused
from schemas.event import EventDraft
from schemas.gates import GateReport, UsedWaiver
from schemas.policy import PolicyDecision
from schemas.testing import Outcomes, TestRun

_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)


class VerifyActivities:
    """Reads raw outcomes from the content store; never believes a count or a status alone."""

    def __init__(self, blobs: BlobStore, policy: PolicyPort) -> None:
        self._blobs = blobs
        self._policy = policy

    @implements(JUDGE_RUNS)
    def judge_runs(self, request: JudgeRuns) -> Judged:
        evidence = Evidence(
            base=TreeRuns(self._each(request.base), self._diagnostics(request, "base")),
            patched=TreeRuns(self._each(request.patched), self._diagnostics(request, "patched")),
            probe=self._observe(request.probe) if request.probe else None,
        )
        ruling = rule(evidence, request.named_targets, request.waived_tests)
        judgement = ruling.judgement
        return Judged(
            verdict=judgement.verdict,
            codes=judgement.codes,
            message=ruling.message,
            fix=judgement.fix,
            fail_to_pass=len(judgement.fail_to_pass),
            lost=len(judgement.lost),
            judgement=self._blobs.put(jcs(judgement), "application/json"),
            flakes=ruling.flakes,
            mended=ruling.mended,
        )

    @implements(DETERMINISM_GATE)
    def determinism_gate(self, request: DeterminismInput) -> GateReport:
        how = Rerun(
            runs=executions(request.first_runs) if request.first_runs else request.runs,
            reused=request.reused,
            again=request.rerun_runs,
            environment=request.environment,
            rerun_environment=request.rerun_environment,
        )
        return determinism_report(self._members(request.first), self._members(request.rerun), how, self._may_be_reused)

    def _may_be_reused(self, reused: bool) -> PolicyDecision:
        return self._policy.decide("gen4.determinism", {"reused": reused})

    def _members(self, members: Members) -> Mapping[str, bytes]:
        return {name: self._blobs.get(ref) for name, ref in members.blobs.items()}

    def _diagnostics(self, request: JudgeRuns, tree: Tree) -> list[ObservedRun]:
        return [self._observe(item.run) for item in request.diagnostics if item.tree == tree]

    def _each(self, runs: tuple[TestRun, ...]) -> list[ObservedRun]:
        return [self._observe(run) for run in runs]

    def _observe(self, run: TestRun) -> ObservedRun:
        if run.status == "infra_error":
            return ObservedRun(run, {})
        try:
            observed = ObservedRun(run, _OUTCOMES.validate_python(self._blobs.get_json(run.outcomes)))
        except ValidationError as error:
            raise Refused("OUTCOMES_INVALID", f"outcomes of run {run.run_key} do not fit their model: {error}") from error
        if not agrees_with_digest(observed):
            raise Refused("OUTCOMES_DIGEST", f"outcomes of run {run.run_key} are not those it reported", "run the tree again")
        return observed


class RegressionActivities:
    """The Regression Gate; who answers for what got worse is an event."""

    def __init__(self, blobs: BlobStore, objects: ObjectStore, policy: PolicyPort, chain: EventChain) -> None:
        self._gate = RegressionGate(objects, blobs.get, lambda question: policy.decide(METRICS, question))
        self._chain = chain

    @implements(REGRESSION_GATE)
    def regression_gate(self, request: RegressionInput) -> GateReport:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        report = self._gate.report(request, now)
        over = [waiver for waiver in request.waivers if waiver.expires_at <= now]
        self._record("waiver.granted", report.waivers)
        self._record("waiver.expired", [UsedWaiver(**waiver.model_dump(include=set(UsedWaiver.model_fields))) for waiver in over])
        return report

    def _record(self, kind: Literal["waiver.granted", "waiver.expired"], waivers: Iterable[UsedWaiver]) -> None:
        """Who answered for what, and until when; or whose word was given after its end. Once for each decision."""
        who = acting()
        for waiver in waivers:
            payload = waiver.model_dump(mode="json")
            draft = EventDraft(
                kind=kind, task_id=who.keys.task_id, capability_id=REGRESSION_GATE.id,
                version=REGRESSION_GATE.version, idempotency_key=f"{who.effect_key}/{kind}/{jcs_sha256(payload)}",
                payload=payload,
            )  # fmt: skip
            self._chain.append(who.keys, who.actor, draft)
