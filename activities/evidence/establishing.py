"""What the signer finds out by itself before it signs (threats 5.1). It trusts no argument of its caller.

1. The base commit, whose hash the request names, has the base tree and the commit time.
2. The patch, applied here to that tree, gives the result tree; base's tests laid over it give the harness tree, and that with
   every touched function raising the probe tree.
3. Every run has a receipt of an executor that the operator listed, for this tenant, tree, environment, plan and limits, with
   every sentinel caught. At least two different ones per tree, all of one mind, and those of the re-run.
4. Outcomes are those of the receipts; verdict and members 1-6 are made of them again.
5. The report of the Regression Gate comes out the same when it is computed again, from receipts of runs, scans and benchmarks; a
   waiver that was used has not expired. The Determinism Gate passed; the policy is a listed one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from activities.evidence.content import Content, sha256_of
from activities.evidence.coverage_share import read_coverage
from activities.evidence.members import MemberInputs, assemble, bundle_digest, write_test_results
from activities.evidence.recomputing import recompute
from activities.evidence.recorded import member_inputs, read_judgement, read_outcomes
from activities.evidence.seal import Established, is_complete
from activities.evidence.witnessing import AGAIN, PLAIN, Believed, Circumstances, Supplies, Witness, Witnessed
from activities.record.objects import ObjectStore
from activities.testbed import receipts
from activities.testbed.importing import Imported, import_patch
from activities.testbed.probing import probe_tree
from schemas.canonical import digest_of, sha256_hex
from schemas.capabilities import SealBundle, SealRejection
from schemas.error import InputError, Refused
from schemas.evidence import (
    BUILDER_ID,
    SEPARATED_BUILDER_ID,
    STABLE_MEMBERS,
    TEST_RESULTS,
    TRAJECTORY,
    milliseconds_of,
)
from schemas.gates import GateReport
from schemas.regression import Waiver
from schemas.request import InvalidRequest
from schemas.test_command import parse_test_command
from schemas.testing import EnvironmentLock, Outcomes, read_lock
from schemas.verdict import PROBED, PYTEST_CHANGED, Judgement, mended_tests, unproven


@dataclass(frozen=True)
class Derived:
    """``raising``: the probe tree; None where the patch touches no function."""

    imported: Imported
    raising: str | None


Derive = Callable[[ObjectStore, str, bytes, tuple[str, ...]], Derived]


def derive(objects: ObjectStore, base_tree: str, diff: bytes, named_tests: tuple[str, ...]) -> Derived:
    """All trees that follow from a base tree, a patch and the tests that a plan names, and from nothing else.

    Raises:
        InputError, Refused: of :func:`activities.testbed.importing.import_patch`.
    """
    imported = import_patch(objects, base_tree, diff, named_tests)
    return Derived(imported, probe_tree(objects, base_tree, imported.harness_tree))


def establish(
    request: SealBundle, supplies: Supplies, believed: Believed, circumstances: Circumstances, derive: Derive = derive
) -> Established:
    """Raises: Refused, with a code that says what does not hold."""
    derived = _patch(request, supplies, derive)
    lock = _environment(request, supplies)
    _plan(request)
    witness = Witness(request, supplies, believed, circumstances)
    harness = derived.imported.harness_tree
    base = witness.agreed("base", request.source.base_tree, request.base_runs, request.base)
    patched = witness.agreed("patched", harness, request.patched_runs, request.patched)
    rerun = witness.rerun(request.source.base_tree, harness)
    outcomes = read_outcomes(supplies.blob, base[0].run), read_outcomes(supplies.blob, patched[0].run)
    waivers = _unexpired(request, circumstances.now_ms)
    judgement = _judgement(request, supplies, outcomes, waivers)
    probe = _probe(request, supplies, witness, derived.raising, judgement, outcomes[1])
    _same_pytest(base, [*patched, *rerun, *probe])
    _isolated(request, [*base, *patched], rerun)
    _policy(request, believed)
    _passed(request.regression, "regression")
    executors = recompute(request, supplies, witness, circumstances, harness)
    _passed(request.determinism, "determinism")
    packages = circumstances.base_packages(lock.base_digest)
    inputs = member_inputs(request, supplies.blob, lock, outcomes, judgement, _trajectory(request, supplies), packages)
    members = _members(request, inputs)
    _same_again(request, supplies, inputs, rerun, members)
    runs = [*base, *patched, *rerun, *probe]
    return Established(
        members=members,
        judgement=judgement,
        receipts=tuple(sorted({one.payload_sha256 for one in runs})),
        runs=min(len(base), len(patched)),
        sentinels=sum(one.receipt.sentinels.caught for one in runs),
        probe="failed_as_it_must" if probe else "not_applicable",
        cache="hit" if all(one.run.cached for one in (*base, *patched)) else "miss",
        reused={one.receipt.receipt_id for one in rerun} <= {one.receipt.receipt_id for one in (*base, *patched)},
        rerun_bundle_digest=bundle_digest(members),
        builder_id=_builder_id({*executors, *(one.executor for one in runs)}, believed, circumstances),
        waivers=waivers,
    )


def witness_rejection(request: SealRejection, supplies: Supplies, believed: Believed, tenant_id: str) -> None:
    """A refusal needs no proof, but what it shows as evidence is real: receipts of runs for this tenant, and this patch.

    Of what is said to be no patch, that is tried again here.

    Raises:
        Refused: REJECTION_ACCEPTED, REJECTION_WITHOUT_CODE, PATCH_DIGEST, PATCH_MISSING, REJECTION_MISMATCH, and of receipts.
    """
    if request.verdict == "accepted" and all(report.verdict == "pass" for report in request.gates):
        raise Refused("REJECTION_ACCEPTED", "nothing refused this patch", "seal it instead")
    if not request.codes:
        raise Refused("REJECTION_WITHOUT_CODE", "a refusal names at least one code", AGAIN)
    if request.patch is None:
        _no_patch(request, supplies)
    elif sha256_hex(supplies.blob(request.patch.diff)) != request.patch.patch_sha256:
        raise Refused("PATCH_DIGEST", "the diff is not the patch", AGAIN)
    for run in request.runs:
        if run.receipt is not None and run.status != "infra_error":
            receipt = receipts.verify(supplies.blob(run.receipt), believed.executors)
            if receipt.tenant_id != tenant_id or not receipts.agrees(receipt, run):
                raise Refused("RECEIPT_MISMATCH", f"the receipt of run {run.run_key} says something else", AGAIN)


def _no_patch(request: SealRejection, supplies: Supplies) -> None:
    beyond = (request.policy, request.judged, *request.gates, *request.runs)
    if request.verdict != "rejected" or any(found is not None for found in beyond):
        raise Refused("REJECTION_MISMATCH", "what is no patch was neither reviewed nor run", AGAIN)
    tree = request.source.base_tree
    objects, sent = supplies.tree(tree), supplies.blob(request.about)
    try:
        import_patch(objects, tree, sent)
    except (InputError, Refused) as error:
        if (error.code,) != request.codes:
            raise Refused("REJECTION_MISMATCH", f"it is refused with {error.code}: {error.message}", AGAIN) from error
    else:
        raise Refused("REJECTION_MISMATCH", "what was sent is a patch of the base tree", AGAIN)


# --- source, patch, environment ---------------------------------------------------------------------------------------


def _patch(request: SealBundle, supplies: Supplies, derive: Derive) -> Derived:
    source, patch = request.source, request.patch
    commit = supplies.commit(source.base_commit)
    if (commit.tree, commit.commit_time) != (source.base_tree, source.commit_time):
        raise Refused("SOURCE_MISMATCH", f"commit {source.base_commit} has another tree or time than the request says", AGAIN)
    diff = supplies.blob(patch.diff)
    if sha256_hex(diff) != patch.patch_sha256:
        raise Refused("PATCH_DIGEST", "the diff is not the patch", AGAIN)
    derived = derive(supplies.tree(source.base_tree), source.base_tree, diff, request.plan.named_tests)
    imported = derived.imported
    if (patch.base_tree, patch.result_tree) != (source.base_tree, imported.result_tree):
        raise Refused("PATCH_TREE", f"the patch gives tree {imported.result_tree}, not {patch.result_tree}", AGAIN)
    if imported.diff != diff:
        raise Refused("PATCH_DIGEST", "the diff is not git's own diff of the two trees", AGAIN)
    return derived


def _environment(request: SealBundle, supplies: Supplies) -> EnvironmentLock:
    environment = request.environment
    data = supplies.blob(environment.lock)
    try:
        lock = read_lock(data)
    except ValidationError as error:
        raise Refused("ENVIRONMENT_MISMATCH", "the lock does not fit its model", AGAIN) from error
    claimed = (environment.environment_digest, environment.base_digest, environment.python_version, environment.platform)
    if claimed != (digest_of(data), lock.base_digest, lock.python_version, lock.platform):
        raise Refused("ENVIRONMENT_MISMATCH", "the environment is not that of its lock", AGAIN)
    return lock


def _plan(request: SealBundle) -> None:
    """The command that the evidence shows is the one that gives the plan which the executor ran."""
    plan = request.plan
    try:
        shown = parse_test_command(plan.argv)
    except InvalidRequest as error:
        raise Refused("PLAN_MISMATCH", f"the test command is none: {error}", AGAIN) from error
    if shown.model_copy(update={"frozen_clock": plan.frozen_clock}) != plan:
        raise Refused("PLAN_MISMATCH", "the plan is not what the test command says", AGAIN)


# --- runs -------------------------------------------------------------------------------------------------------------


def _same_pytest(base: Sequence[Witnessed], others: Sequence[Witnessed]) -> None:
    """The patch does not begin to replace parts of pytest."""
    if not any(PYTEST_CHANGED in one.receipt.codes for one in base) and (
        begins := next((one.receipt for one in others if PYTEST_CHANGED in one.receipt.codes), None)
    ):
        message = f"in run {begins.receipt_id} parts of pytest were replaced, which the base tree does not do"
        raise Refused("HARNESS_TAMPERED", message, "read what the patch does to its own tests")


def _isolated(request: SealBundle, first: Sequence[Witnessed], rerun: Sequence[Witnessed]) -> None:
    """Another worker is one whose runs another executor makes."""
    if request.isolation == "other_worker" and {one.executor for one in first} & {one.executor for one in rerun}:
        raise Refused("ISOLATION_MISMATCH", "one executor made the first runs and the re-run", AGAIN)


def _builder_id(executors: set[str], believed: Believed, circumstances: Circumstances) -> str:
    separated = circumstances.apart and executors <= set(believed.separated)
    return SEPARATED_BUILDER_ID if separated else BUILDER_ID


# --- verdict and gates ------------------------------------------------------------------------------------------------


def _unexpired(request: SealBundle, now_ms: int) -> tuple[Waiver, ...]:
    """The waivers that the Regression Gate used, each known and in force at this moment (threats 5.5)."""
    known = {waiver.id: waiver for waiver in request.waivers}
    used = []
    for one in request.regression.waivers:
        waiver = known.get(one.id)
        if waiver is None or (waiver.owner, waiver.expires_at) != (one.owner, one.expires_at):
            raise Refused("WAIVER_UNKNOWN", f"waiver {one.id} was used but is not among those of the request", AGAIN)
        if milliseconds_of(waiver.expires_at) <= now_ms:
            remedy = "renew it, or mend what it covered"
            raise Refused("WAIVER_EXPIRED", f"waiver {one.id} expired at {waiver.expires_at}", remedy)
        used.append(waiver)
    return tuple(used)


def _judgement(
    request: SealBundle, supplies: Supplies, outcomes: tuple[Outcomes, Outcomes], waivers: tuple[Waiver, ...]
) -> Judgement:
    """The recorded judgement, which must be the one that the outcomes give, and accept."""
    judged = read_judgement(supplies.blob, request.judged, *outcomes)
    covered = {waiver.subject for waiver in waivers if waiver.metric == "tests"}
    if uncovered := set(judged.waived) - covered:
        raise Refused("WAIVER_UNKNOWN", f"no waiver covers the loss of {min(uncovered)}", AGAIN)
    if judged.verdict != "accepted" or judged.fix == "none":
        raise Refused("GATE_NOT_PASSED", f"regression: the verdict is {judged.verdict}: {', '.join(judged.codes)}", AGAIN)
    return judged


def _probe(
    request: SealBundle, supplies: Supplies, witness: Witness, raising: str | None, judgement: Judgement, patched: Outcomes
) -> list[Witnessed]:
    """With every touched function raising, what the patch mended must not pass (threats 4.1)."""
    if raising is None:
        return []
    if request.probe is None:
        raise Refused("PROBE_MISSING", "the patch touches functions, and no run shows that its tests need them", AGAIN)
    only = request.probe.variant.only
    if only and not set(mended_tests(judgement, patched)[:PROBED]) <= set(only):
        raise Refused("PROBE_MISSING", "the probe left out tests that the patch mended", AGAIN)
    found = witness.run(raising, request.probe, PLAIN.model_copy(update={"only": only}))
    if forged := unproven(judgement, read_outcomes(supplies.blob, request.probe)):
        raise Refused("HARNESS_TAMPERED", f"{forged[0]} passes although all that the patch touches raises", AGAIN)
    return [found]


def _policy(request: SealBundle, believed: Believed) -> None:
    policy = request.policy
    passed = {rule.rule_id for rule in policy.results if rule.outcome == "pass"}
    if policy.decision != "allow" or not passed or passed != set(policy.required_checks):
        raise Refused("GATE_NOT_PASSED", "policy: the patch was not allowed", "change the patch so that the policy allows it")
    if policy.policy_digest not in believed.policy_digests:
        raise Refused("POLICY_UNKNOWN", f"{policy.policy_digest} is not a policy that this signer was given", AGAIN)


def _passed(report: GateReport, gate: str) -> None:
    if report.gate != gate or report.verdict != "pass":
        raise Refused("GATE_NOT_PASSED", f"{gate}: the report is of gate {report.gate} and says {report.verdict}", AGAIN)


# --- members ----------------------------------------------------------------------------------------------------------


def _trajectory(request: SealBundle, supplies: Supplies) -> Content:
    if not is_complete(request.members.blobs):
        raise Refused("MEMBER_MISSING", f"members are {sorted(request.members.blobs)}, not {sorted(STABLE_MEMBERS)}", AGAIN)
    return supplies.content(request.members.blobs[TRAJECTORY])


def _members(request: SealBundle, inputs: MemberInputs) -> dict[str, Content]:
    """Members 1-6 made here, which must be those of the request."""
    made = assemble(inputs)
    for name in STABLE_MEMBERS:
        if sha256_of(made[name]) != request.members.blobs[name].sha256:
            raise Refused("MEMBER_MISMATCH", f"{name} does not follow from the recorded runs", AGAIN)
    if request.members.bundle_digest != bundle_digest(made):
        raise Refused("MEMBER_MISMATCH", "the bundle digest is not that of checksums.sha256", AGAIN)
    return made


def _same_again(
    request: SealBundle, supplies: Supplies, inputs: MemberInputs, rerun: list[Witnessed], members: Mapping[str, Content]
) -> None:
    """The re-run gives the same members; of those, only the test results depend on runs."""
    base, patched = (one.run for one in rerun)
    coverage = patched.coverage
    again = MemberInputs(
        **{
            **vars(inputs), "base": base, "base_outcomes": read_outcomes(supplies.blob, base), "patched": patched,
            "patched_outcomes": read_outcomes(supplies.blob, patched), "trajectory": b"{}\n",
            "coverage": None if coverage is None else read_coverage(supplies.blob(coverage)),
        }
    )  # fmt: skip
    if write_test_results(again) != members[TEST_RESULTS] or request.rerun_bundle_digest != bundle_digest(members):
        raise Refused("GATE_NOT_PASSED", "determinism: the re-run gave something else", "make the tests give the same every time")
