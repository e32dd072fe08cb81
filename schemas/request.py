"""The public doors: what an engineer, CI or the Temporal UI sends, and the document that comes back (contracts §18)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from schemas.ledger import LARGEST, Unit
from schemas.limits import LimitRequest
from schemas.model import BlobRef, Digest, Door, GitId, Payload, Sha256
from schemas.regression import Waivers
from schemas.session import Outcome, State

ReleaseMode = Literal["branch", "merge"]
Text = Annotated[str, Field(min_length=1, max_length=8_192)]
Word = Annotated[str, Field(min_length=1, max_length=4_096)]
"""Of a command line."""
NodeId = Annotated[str, Field(min_length=1, max_length=4_096)]


class ReleaseChoice(Door):
    """How the fix is delivered: a new branch ``gen4/<task>``, or a fast-forward of ``target``."""

    mode: ReleaseMode = "branch"
    target: str | None = None
    """Branch to fast-forward in mode ``merge``; default: the branch that ``ref`` names."""


_Amount = Annotated[int, Field(ge=1, le=LARGEST)]


class Budget(Door):
    """The most that a session may spend. What is left out comes from policy; what is more than policy allows is refused."""

    micros: _Amount | None = None
    """Money, in millionths."""
    tokens: _Amount | None = None
    cpu_ms: _Amount | None = None
    wall_ms: _Amount | None = None
    """Of all sandboxes together."""

    @property
    def amounts(self) -> dict[Unit, int]:
        """By unit, without what is left out."""
        return self.model_dump(exclude_none=True)  # type: ignore[return-value]


class RemediationRequest(Door):
    """Start of a Remediation. Only ``repository`` and ``goal`` are required."""

    repository: Text
    """Local path under the operator's roots, or an allowlisted https/ssh URL."""
    goal: Text
    """What is wrong, in words. Data: it is recorded and shown, never executed or interpreted."""
    ref: str = "HEAD"
    test_command: tuple[str, ...] = ()
    """argv such as ``["python", "-m", "pytest", "-q", "tests"]``; default: pytest on the repository's root."""
    requirements: tuple[str, ...] = ()
    """Requirement lines (PEP 508); default: from the repository's own metadata."""
    failing_tests: tuple[NodeId, ...] = ()
    release: ReleaseChoice = ReleaseChoice()
    candidates: Annotated[int, Field(ge=1, le=16)] = 3
    """How many plausible patches Explore keeps before it stops."""
    wall_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 1_800_000
    """Longest Explore, in milliseconds."""
    limits: LimitRequest = LimitRequest()
    """What a sandbox of this session may use; what is left out comes from policy, what is more than policy allows is refused."""
    budget: Budget | None = None


class CompileRequest(Door):
    """Start of a Compile by CI: exactly one of ``patch`` and ``patch_ref``, on the commit that ``ref`` names."""

    repository: Text
    ref: str = "HEAD"
    patch: str | None = None
    """A git diff as text (CI)."""
    patch_ref: BlobRef | None = None
    """The same as a blob of the content store."""
    test_command: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    failing_tests: tuple[NodeId, ...] = ()
    limits: LimitRequest = LimitRequest()
    """As in a RemediationRequest."""
    budget: Budget | None = None
    frozen_clock: bool = False
    """Whether the wall clock of the tests stands at the commit time."""
    cache: bool = True
    """Whether results of equal runs may be used again; False runs everything."""
    waivers: Waivers = ()
    runs: Annotated[int, Field(ge=2, le=10)] | None = None
    """Of the tests on each tree, side by side; default: as policy says, two. With three or more their times are compared,
    unless the cache had them."""
    benchmark: Annotated[tuple[Word, ...], Field(max_length=256)] = ()
    """argv of a command whose time counts; run on both trees in turn, inside the sandbox, whatever the cache has."""
    benchmark_runs: Annotated[int, Field(ge=3, le=20)] = 5
    """Sandboxes of the benchmark on each tree."""


class ApprovalSummary(Payload):
    approval_id: str
    action_digest: Digest
    expires_at: str
    status: str


class ReleaseSummary(Payload):
    mode: ReleaseMode
    ref: str
    commit: GitId


class Rejection(Payload):
    """Why a result is not a fix: the gate or stage, its codes, and what would make it pass."""

    stage: str
    codes: tuple[str, ...]
    message: str
    remedy: str = ""
    report: str | None = None
    """Folder of the signed Rejection Report, where there is one."""
    infrastructure: bool = False
    """Nobody refused anything: the machine failed, and the same request may be sent again."""


class SessionResult(Payload):
    """The result of every public workflow and what ``--json`` prints."""

    workflow_id: str
    run_id: str
    session_id: str
    state: State
    outcome: Outcome | None = None
    fix: str | None = None
    codes: tuple[str, ...] = ()
    approval: ApprovalSummary | None = None
    bundle: str | None = None
    """Directory of the Evidence Bundle."""
    bundle_digest: Digest | None = None
    trust: str | None = None
    """Trust root file that verifies it on this machine."""
    release: ReleaseSummary | None = None
    rejection: Rejection | None = None


class InvalidRequest(ValueError):
    """A readable reason for a request that does not fit its model; never retried."""


def parse_request(model: type[Any], request: Any, extra: tuple[Any, ...]) -> Any:
    """Validate one JSON argument of a start form. Total: raises only :class:`InvalidRequest`."""
    if extra:
        raise InvalidRequest(f"expected one JSON object, got {1 + len(extra)} inputs; send a single {model.__name__}")
    if request is None:
        raise InvalidRequest(f"no input: send one JSON object, a {model.__name__} with at least {_required(model)}")
    try:
        # JSON mode: lists become tuples, exactly as they would from a file.
        return model.model_validate_json(_to_json(request)) if not isinstance(request, model) else request
    except ValidationError as error:
        raise InvalidRequest(explain(error, model)) from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"not a JSON object: {error}") from error


def explain(error: ValidationError, model: type[Any]) -> str:
    """One line per mistake: where, what is wrong; then what the model requires. Echoes no value."""
    lines = [f"{'.'.join(str(part) for part in item['loc']) or 'input'}: {item['msg']}" for item in error.errors()]
    required = _required(model)
    return "; ".join(lines) + (f" (a {model.__name__} needs {required})" if required else "")


def _required(model: type[Any]) -> str:
    return ", ".join(name for name, field in model.model_fields.items() if field.is_required())


def _to_json(value: Any) -> str:
    return json.dumps(value)


class ReleaseRequest(Payload):
    """What Remediation hands to Release once an approval was accepted."""

    repository: Text
    approval_id: str
    action_digest: Digest
    commit_id: GitId
    expected_head: GitId
    target_ref: str
    mode: ReleaseMode
    session_id: str


class ReleaseResult(Payload):
    release: ReleaseSummary | None = None
    codes: tuple[str, ...] = ()
    message: str = ""
    remedy: str = ""
    redeemed: bool = False
    """The approval was used up, whatever came of the delivery."""


class BundleRef(Payload):
    """A sealed Evidence Bundle."""

    directory: str
    bundle_digest: Digest
    stamp_id: str
    stamp_sha256: Sha256
