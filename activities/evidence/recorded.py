"""What was recorded of a Compile, read back. The worker reads its content store, the signer what it was sent by hash.

What follows from something else is never taken as recorded: it is made again and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from activities.evidence.content import Content
from activities.evidence.coverage_share import read_coverage
from activities.evidence.members import MemberInputs
from schemas.canonical import StrictJsonError, sha256_hex, strict_json
from schemas.capabilities import AssembleMembers, Judged, SealBundle
from schemas.error import Refused
from schemas.model import BlobRef
from schemas.testing import EnvironmentLock, Outcomes, TestRun, outcomes_sha256
from schemas.verdict import Judgement, judge_recorded

Read = Callable[[BlobRef], bytes]
"""The bytes of a blob, which are those that it names."""
_OUTCOMES: TypeAdapter[Outcomes] = TypeAdapter(Outcomes)
_AGAIN = "start the remediation again; what was recorded is kept"


def read_outcomes(read: Read, run: TestRun) -> Outcomes:
    """Not to be changed: runs that saw the same share it.

    Raises Refused OUTCOMES_INVALID, OUTCOMES_DIGEST.
    """
    try:
        outcomes, digest = _parsed(read(run.outcomes))
    except (StrictJsonError, ValidationError) as error:
        raise Refused("OUTCOMES_INVALID", f"outcomes of run {run.run_key} do not fit their model", _AGAIN) from error
    if digest != run.outcomes_sha256:
        raise Refused("OUTCOMES_DIGEST", f"outcomes of run {run.run_key} are not those it reported", _AGAIN)
    return outcomes


@lru_cache(maxsize=8)
def _parsed(data: bytes) -> tuple[Outcomes, str]:
    """With their digest. Of the runs of a Compile most have the same."""
    outcomes = _OUTCOMES.validate_python(strict_json(data))
    return outcomes, outcomes_sha256(outcomes)


def read_judgement(read: Read, judged: Judged, base: Outcomes, patched: Outcomes) -> Judgement:
    """The recorded judgement, which must be the one that the outcomes give. Raises Refused VERDICT_MISMATCH."""
    try:
        recorded = Judgement.model_validate_json(read(judged.judgement))
    except ValidationError as error:
        raise Refused("VERDICT_MISMATCH", "the recorded judgement does not fit its model", _AGAIN) from error
    found = judge_recorded(base, patched, recorded.targets, recorded.waived)
    if found != recorded or (judged.verdict, judged.fix) != (found.verdict, found.fix):
        raise Refused("VERDICT_MISMATCH", "the recorded verdict does not follow from the outcomes", _AGAIN)
    return found


def member_inputs(
    request: AssembleMembers | SealBundle, read: Read, lock: EnvironmentLock, outcomes: tuple[Outcomes, Outcomes],
    judgement: Judgement, trajectory: Content, base_packages: Mapping[str, str],
) -> MemberInputs:  # fmt: skip
    """What members 1-6 are made of. ``outcomes``: of base and of the patched tree.

    Raises:
        Refused: PATCH_DIGEST, COVERAGE_INVALID.
    """
    diff = read(request.patch.diff)
    if sha256_hex(diff) != request.patch.patch_sha256:
        raise Refused("PATCH_DIGEST", "the diff is not the patch", _AGAIN)
    coverage = request.patched.coverage
    return MemberInputs(
        source=request.source,
        diff=diff,
        lock=lock,
        plan=request.plan,
        base=request.base,
        base_outcomes=outcomes[0],
        patched=request.patched,
        patched_outcomes=outcomes[1],
        judgement=judgement,
        policy=request.policy,
        trajectory=trajectory,
        base_packages=base_packages,
        coverage=None if coverage is None else read_coverage(read(coverage)),
    )
