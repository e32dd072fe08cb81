"""What is refused on its way through a Compile, and the signed report that it gets (contracts §10)."""

from __future__ import annotations

from temporalio.exceptions import ActivityError, is_cancelled_exception

from schemas.capabilities import SEAL_REJECTION, CompileResult, Judged, SealedRejection, SealRejection
from schemas.gates import GateReport
from schemas.jobs import CompileJob
from schemas.model import BlobRef
from schemas.policy import PolicyDecision
from schemas.testing import Patch, TestRun
from schemas.verdict import Verdict
from workflows.calling import call
from workflows.progress import Progress

_ATTEMPTS = 3


class NotAccepted(Exception):
    """A Compile ends here, without a bundle. Never leaves the workflow.

    ``offered``: what was sent, where it never became a ``patch``; the other parts are what was found until then.
    """

    def __init__(
        self, verdict: Verdict, codes: tuple[str, ...], message: str, *, patch: Patch | None = None,
        offered: BlobRef | None = None, policy: PolicyDecision | None = None, judged: Judged | None = None,
        runs: tuple[TestRun, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self._verdict, self._codes, self._message = verdict, codes, message[:2_000]
        self._patch, self._offered, self._policy, self._judged, self._runs = patch, offered, policy, judged, runs

    def result(self, gates: tuple[GateReport, ...]) -> CompileResult:
        return CompileResult(
            verdict=self._verdict, codes=self._codes, message=self._message, patch=self._patch, policy=self._policy, gates=gates,
            fix=self._judged.fix if self._judged else "none", flakes=self._judged.flakes if self._judged else (),
        )  # fmt: skip

    def sealing(self, job: CompileJob, result: CompileResult) -> SealRejection:
        """What the signer has to know for its report."""
        return SealRejection(
            source=job.source, patch=self._patch, offered=self._offered, candidate_id=job.candidate_id(self._sha256),
            verdict=result.verdict, codes=result.codes, message=result.message, policy=result.policy, judged=self._judged,
            gates=result.gates, runs=self._runs,
        )  # fmt: skip

    @property
    def _sha256(self) -> str:
        if self._patch is not None:
            return self._patch.patch_sha256
        return self._offered.sha256 if self._offered else ""


async def seal_rejection(progress: Progress, sealing: SealRejection) -> SealedRejection | None:
    """The signed report. The refusal stands without it: a signer that does not answer changes no verdict."""
    with progress.stage("report the rejection") as note:
        try:
            return await call(SEAL_REJECTION, sealing, summary="why, and what would pass", attempts=_ATTEMPTS)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            note("no signed report")
            return None
