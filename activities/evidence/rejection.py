"""The Rejection Report: which gate refused a patch, with what evidence, and what would make it pass (threats 5.3). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from activities.evidence.sources import public_repository
from activities.evidence.statements import Unsigned, encode_statement
from schemas.canonical import jcs
from schemas.capabilities import SealRejection
from schemas.details import escaped, fenced
from schemas.evidence import PATCH
from schemas.rejection import REJECTION_PREDICATE, STATEMENT, RejectedCheck, RejectedTests, RejectionReport
from schemas.remedies import REMEDIES
from schemas.task import TraceKeys
from schemas.verdict import Judgement

BASE = "base-tree"
_TEXT = 2_000
_SHOWN = 40
_REPEAT = "nothing is known against the patch: compile it again"


def report(
    request: SealRejection, keys: TraceKeys, *, report_id: str, base_snapshot_sha256: str, judgement: Judgement | None = None
) -> RejectionReport:
    """Args:
    report_id: ``rej_`` and 32 hex digits.
    base_snapshot_sha256: of the base tree's files.
    judgement: that ``request.judged`` names, read or computed again.
    """
    checks = tuple(_checks(request))
    return RejectionReport(
        report_id=report_id, tenant_id=keys.tenant_id, trace_id=keys.trace_id, session_id=keys.session_id, task_id=keys.task_id,
        candidate_id=request.candidate_id, repository=public_repository(request.source.repository), ref=request.source.ref,
        base_commit=request.source.base_commit, base_tree=request.source.base_tree, base_snapshot_sha256=base_snapshot_sha256,
        patch_sha256=request.about.sha256, failed_gate=_failed_gate(request),
        verdict="rejected" if request.verdict == "accepted" else request.verdict,
        codes=request.codes, message=request.message[:_TEXT], checks=checks,
        gates={report.gate: report.verdict for report in request.gates},
        tests=_tests(judgement), evidence_refs=_evidence(request), next=_next(request),
    )  # fmt: skip


def document(report: RejectionReport) -> bytes:
    """``rejection.json``."""
    return jcs(report)


def statement(report: RejectionReport) -> Unsigned:
    """The report as a statement about the patch and its base. Its predicate type is not that of provenance."""
    subjects = {PATCH: report.patch_sha256, BASE: report.base_snapshot_sha256}
    predicate = report.model_dump(mode="json", exclude_none=True)
    return Unsigned(STATEMENT, encode_statement(REJECTION_PREDICATE, subjects, predicate))


def markdown(report: RejectionReport) -> str:
    """For people. Everything foreign in it is inert (threats 6.10)."""
    head = f"# {_TITLES[report.verdict]} by the {report.failed_gate} gate"
    facts = [
        ("Repository", report.repository), ("Ref", report.ref), ("Base commit", report.base_commit),
        ("Patch", f"sha256:{report.patch_sha256}"), ("Codes", ", ".join(report.codes)), ("Report", report.report_id),
        *((f"{name.capitalize()} gate", verdict) for name, verdict in sorted(report.gates.items())),
    ]  # fmt: skip
    table = ["| | |", "|---|---|", *(f"| {name} | {escaped(value)} |" for name, value in facts)]
    parts = [head, "\n".join(table)]
    if report.message:
        parts.append(fenced(report.message))
    if report.checks:
        parts.append("## What would make it pass")
        parts += [_shown(check) for check in report.checks[:_SHOWN]]
    if len(report.checks) > _SHOWN:
        parts.append(f"And {len(report.checks) - _SHOWN} more: see `rejection.json`.")
    return "\n\n".join(parts) + "\n"


_TITLES = {"rejected": "Rejected", "irreproducible": "Irreproducible: stopped", "infra_error": "No verdict: stopped"}


def _failed_gate(request: SealRejection) -> str:
    """The first gate that the codes come from; ``compile`` where the judgement of the tests itself refused."""
    if _denied(request):
        return "policy"
    for report in request.gates:
        if report.verdict != "pass" and {*report.codes, f"{report.gate.upper()}_GATE"} & set(request.codes):
            return report.gate
    return "compile"


def _denied(request: SealRejection) -> bool:
    return request.policy is not None and request.policy.decision != "allow"


def _checks(request: SealRejection) -> Iterator[RejectedCheck]:
    """What explains the codes comes first: rules that denied, then codes of the judgement, then checks of the gates."""
    denials = tuple(_denials(request))
    gates = tuple(_of_gates(request))
    told = {check.code for check in (*denials, *gates)} | ({"POLICY_DENIED"} if denials else set())
    yield from denials
    for code in request.codes:
        if code not in told:
            remedy = REMEDIES.get(code, _REPEAT if request.verdict == "infra_error" else "")
            yield RejectedCheck(gate="compile", code=code, reason=request.message[:_TEXT], remedy=remedy)
    yield from gates


def _denials(request: SealRejection) -> Iterator[RejectedCheck]:
    for rule in request.policy.denials if request.policy is not None and _denied(request) else ():
        where = f"{rule.path or ''}{f':{rule.line}' if rule.line is not None else ''}"
        yield RejectedCheck(
            gate="policy", code=rule.rule_id, reason=rule.message, member=where, remedy=REMEDIES["POLICY_DENIED"]
        )


def _of_gates(request: SealRejection) -> Iterator[RejectedCheck]:
    for report in request.gates:
        for check in report.checks:
            if check.checked and not check.ok:
                yield RejectedCheck(
                    gate=report.gate, code=check.code, reason=check.reason, member=check.member, expected=check.expected,
                    actual=check.actual, remedy=check.remedy or REMEDIES.get(check.code, ""),
                )  # fmt: skip


def _tests(judgement: Judgement | None) -> RejectedTests | None:
    if judgement is None:
        return None
    return RejectedTests(
        fail_to_pass=judgement.fail_to_pass, still_failing=judgement.still_failing, lost=judgement.lost,
        pass_to_pass=judgement.pass_to_pass,
    )  # fmt: skip


def _evidence(request: SealRejection) -> tuple[str, ...]:
    """The patch, receipts and outcomes of the runs, and the whole judgement."""
    found = [run.receipt.sha256 for run in request.runs if run.receipt is not None]
    found += [run.outcomes.sha256 for run in request.runs]
    found += [request.judged.judgement.sha256] if request.judged is not None else []
    return tuple(sorted({*found, request.about.sha256}))


def _next(request: SealRejection) -> str:
    if request.verdict == "infra_error":
        return "close"
    return "replan" if _failed_gate(request) == "policy" else "revise"


def _shown(check: RejectedCheck) -> str:
    head = f"### {escaped(check.code)}"
    lines = [
        f"- {name}: {escaped(value[:_TEXT])}"
        for name, value in (("where", check.member), ("why", check.reason), ("expected", check.expected), ("found", check.actual))
        if value
    ]
    todo = f"**→ {escaped(check.remedy)}**" if check.remedy else ""
    return "\n\n".join(part for part in (head, "\n".join(lines), todo) if part)
