"""Members 1-6, byte-identical for the same input and trajectory (contracts §10). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from activities.evidence.checksums import write_checksums
from activities.evidence.content import Content, lines_of, size_of
from activities.evidence.coverage_share import coverage_share
from activities.evidence.sbom import Target, write_sbom
from activities.evidence.sources import repository_name
from schemas.canonical import StrictJsonError, digest_of, jcs, sha256_hex, strict_json
from schemas.error import Refused
from schemas.evidence import (
    CHECKSUMS,
    PATCH,
    POLICY_CHECK,
    SBOM,
    SIZE_LIMITS,
    TEST_RESULTS,
    TRAJECTORY,
    CommandResult,
    EngineVersion,
    PolicyCheck,
    PolicyResult,
    Suite,
    TestResults2,
)
from schemas.policy import PolicyDecision
from schemas.task import Source
from schemas.testing import Coverage, EnvironmentLock, Outcomes, TestPlan, TestRun, counts_of, outcomes_sha256
from schemas.verdict import Judgement

_DEFAULT_ARGV = ("python", "-m", "pytest")


@dataclass(frozen=True, kw_only=True)
class MemberInputs:
    """Everything that members 1-6 are made of, already read from the content store."""

    source: Source
    diff: bytes
    lock: EnvironmentLock
    plan: TestPlan
    base: TestRun
    base_outcomes: Outcomes
    patched: TestRun
    patched_outcomes: Outcomes
    judgement: Judgement
    policy: PolicyDecision
    trajectory: Content
    coverage: Coverage | None = None
    """Of the patched tree; None where it was not measured."""
    base_packages: Mapping[str, str] = field(default_factory=dict)


def assemble(inputs: MemberInputs) -> dict[str, Content]:
    """Members 1-6 by name, in bundle order.

    Raises:
        Refused: BUNDLE_MEMBER_INVALID when the trajectory is not strict JSON lines, BUNDLE_MEMBER_SIZE over a limit.
    """
    _refuse_bad_lines(inputs.trajectory)
    sbom = write_sbom(
        Target(repository_name(inputs.source.repository), inputs.source.base_commit), inputs.lock, inputs.base_packages
    )
    members: dict[str, Content] = {
        PATCH: inputs.diff,
        TEST_RESULTS: write_test_results(inputs),
        POLICY_CHECK: jcs(_policy_check(inputs.policy, sha256_hex(sbom))),
        TRAJECTORY: inputs.trajectory,
        SBOM: sbom,
    }
    members[CHECKSUMS] = write_checksums(members)
    _refuse_large(members)
    return members


def write_test_results(inputs: MemberInputs) -> bytes:
    """The one member that depends on runs."""
    return jcs(_test_results(inputs).model_dump(mode="json", exclude_none=True))


def bundle_digest(members: Mapping[str, Content]) -> str:
    checksums = members[CHECKSUMS]
    assert isinstance(checksums, bytes)  # noqa: S101  only a trajectory is ever a file
    return digest_of(checksums)


def _test_results(inputs: MemberInputs) -> TestResults2:
    argv = inputs.plan.argv or (*_DEFAULT_ARGV, *inputs.plan.pytest_args)
    judgement = inputs.judgement
    return TestResults2(
        commands=tuple(CommandResult(argv=argv, exit_code=run.exit_code) for run in (inputs.base, inputs.patched)),
        suites=(
            _suite("base", inputs.base, inputs.base_outcomes),
            _suite("patched", inputs.patched, inputs.patched_outcomes),
        ),
        targets=judgement.targets, fail_to_pass=judgement.fail_to_pass, pass_to_pass=judgement.pass_to_pass,
        canonical_sha256=outcomes_sha256(inputs.patched_outcomes),
        coverage=None if inputs.coverage is None else coverage_share(inputs.coverage, inputs.diff),
    )  # fmt: skip


def _suite(name: str, run: TestRun, outcomes: Outcomes) -> Suite:
    runner, _, version = run.runner.partition(" ")
    return Suite.model_validate(
        {"name": name, "runner": runner, "version": version, "outcomes": outcomes, "counts": counts_of(outcomes)}
    )


def _policy_check(policy: PolicyDecision, sbom_sha256: str) -> PolicyCheck:
    return PolicyCheck(
        engine=EngineVersion(name=policy.engine_name, version=policy.engine_version),
        policy_id=policy.policy_id,
        policy_digest=policy.policy_digest,
        input_sha256=policy.input_sha256,
        required_checks=tuple(sorted(policy.required_checks)),
        results=tuple(
            PolicyResult(rule_id=rule.rule_id, outcome=rule.outcome, message=rule.message, path=rule.path, line=rule.line)
            for rule in sorted(policy.results, key=lambda rule: (rule.rule_id, rule.message))
        ),
        sbom_sha256=sbom_sha256,
        decision=policy.decision,
    )


def _refuse_bad_lines(trajectory: Content) -> None:
    line = b""
    for number, line in enumerate(lines_of(trajectory), start=1):
        try:
            strict_json(line.removesuffix(b"\n"))
        except StrictJsonError as error:
            raise Refused(
                "BUNDLE_MEMBER_INVALID", f"{TRAJECTORY} line {number}: {error}", "record the trajectory again"
            ) from error
    if not line.endswith(b"\n"):
        raise Refused("BUNDLE_MEMBER_INVALID", f"{TRAJECTORY} does not end with LF", "record the trajectory again")


def _refuse_large(members: Mapping[str, Content]) -> None:
    for name, data in members.items():
        if size_of(data) > SIZE_LIMITS[name]:
            raise Refused(
                "BUNDLE_MEMBER_SIZE",
                f"{name} has {size_of(data)} bytes; the limit is {SIZE_LIMITS[name]}",
                "run fewer tests, or split the change",
            )
