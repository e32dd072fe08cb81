"""``gen4 approvals | approve | reject``: look at exactly what would be released, then sign a decision and send it.

What is shown is computed here, from the store, the bundle and the commit; the text in the Temporal UI is a
convenience of whoever polls the queue (threats 6.6).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.control.approvers import sign_decision
from cli import session
from cli.fabric import Json, ensure
from cli.local import LocalStore, open_local
from cli.output import emit, say, show
from cli.review import Review, review
from schemas.approval import ApprovalRequest, Decision, DecisionKind
from schemas.error import InputError, Refused
from schemas.status import SessionStatus
from workers.client import connect
from workers.fabric import FabricState
from workers.settings import read_settings

MIN_PREFIX = 12
ANSWER_TIMEOUT_S = 30.0
_LOST = ("cancelled", "revoked", "expired")
"""What became of a request whose session ended before the decision on it was judged."""

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Workflow id, or at least 12 hex digits of the action digest.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", exists=True, dir_okay=False, help="SSH key of the approver; default: the local operator's."),
]
PrintOption = Annotated[bool, typer.Option("--print", help="Print the JSON to paste in the Temporal UI; send nothing.")]


@dataclass(frozen=True)
class Pending:
    workflow_id: str
    request: ApprovalRequest


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Pending approvals, and what exactly each would release.", invoke_without_command=True)
    app.add_typer(group, name="approvals")

    @group.callback()
    def listing(context: typer.Context, as_json: Json = False) -> None:
        if context.invoked_subcommand is None:
            pending = session.run(_pending())
            if as_json:
                emit([{"workflow_id": item.workflow_id, **item.request.model_dump(mode="json")} for item in pending])
                return
            for item in pending:
                show(f"{item.workflow_id}  {item.request.fix}  {item.request.action.target_ref}  {item.request.action_digest}")
            if not pending:
                show("nothing waits for an approval")

    @group.command(name="show")
    def show_one(id: IdArgument, as_json: Json = False) -> None:
        """Fetch bundle and commit, recompute the digest, and show what an approval would release."""
        found, local = session.run(_find(id))
        seen = review(found.request, local)
        emit(seen.document(found.workflow_id)) if as_json else _print_review(found, seen)
        raise typer.Exit(0 if seen.consistent else 1)

    @app.command()
    def approve(
        id: IdArgument,
        digest: Annotated[str, typer.Option(help="The action digest, all 64 hex digits, as `gen4 approvals show` printed it.")],
        reason: Annotated[str, typer.Option(help="Why; recorded and signed.")] = "",
        pin: Annotated[
            list[str] | None, typer.Option(help="k=v: approve only if the action has this value; may be repeated.")
        ] = None,
        key: KeyOption = None,
        print_only: PrintOption = False,
        as_json: Json = False,
    ) -> None:
        """Approve one release. Signs the whole decision with an approver's key and sends the signal.

        Example: `gen4 approve remediation-… --digest sha256:… --reason "read the diff"`
        """
        _decide("approve", id, digest, reason, pin, key, print_only, as_json)

    @app.command()
    def reject(
        id: IdArgument,
        reason: Annotated[str, typer.Option(help="Why; recorded and signed.")],
        digest: Annotated[str | None, typer.Option(help="The action digest; default: that of the pending request.")] = None,
        key: KeyOption = None,
        print_only: PrintOption = False,
        as_json: Json = False,
    ) -> None:
        """Reject one release; one rejection is final.

        Example: `gen4 reject remediation-… --reason "wrong place to fix this"`
        """
        _decide("reject", id, digest, reason, None, key, print_only, as_json)


def _decide(
    kind: DecisionKind,
    id: str,
    digest: str | None,
    reason: str,
    pin: list[str] | None,
    key: Path | None,
    print_only: bool,
    as_json: bool,
) -> None:
    found, local = session.run(_find(id))
    request = found.request
    wanted = digest if digest is None or digest.startswith("sha256:") else f"sha256:{digest}"
    if wanted is not None and wanted != request.action_digest:
        raise Refused(
            "DIGEST_MISMATCH",
            f"the pending request is {request.action_digest}",
            f"look again: gen4 approvals show {found.workflow_id}",
        )
    if kind == "approve":
        _refuse_inconsistent(review(request, local))
    pins = _pins(pin)
    signature = sign_decision(request, kind, reason, pins, key or local.home.keys / "operator")
    decision = Decision(
        approval_id=request.approval_id,
        action_digest=request.action_digest,
        reason=reason,
        argument_pins=pins,
        signature=signature,
    )
    document = decision.model_dump(mode="json", exclude_defaults=True)
    if print_only:
        emit(document)
        return
    answer = session.run(_send(found, kind, document))
    if kind == "approve" and answer.approval is not None and answer.approval.status in _LOST:
        why = answer.result.rejection if answer.result else None
        if why is None:
            message = f"the request is {answer.approval.status}: the session ended before it was judged"
            raise Refused("APPROVAL_LOST", message, f"see `gen4 session {found.workflow_id}`")
        raise Refused(next(iter(why.codes), "APPROVAL_LOST"), why.message, why.remedy)
    emit(answer) if as_json else show(
        f"{kind}: {found.workflow_id} is {answer.approval.status if answer.approval else answer.state}"
    )


def _pins(values: list[str] | None) -> dict[str, str]:
    pins: dict[str, str] = {}
    for value in values or []:
        name, separator, wanted = value.partition("=")
        if not separator or not name:
            raise InputError("PIN_INVALID", f"{value!r} is not k=v", "give pins as --pin target_ref=refs/heads/main")
        pins[name] = wanted
    return pins


async def _connect() -> tuple[Client, FabricState]:
    fabric = ensure(read_settings())
    return await connect(fabric.temporal_address, fabric.namespace, external=fabric.external), fabric


async def _pending() -> list[Pending]:
    client, _ = await _connect()
    local = open_local(read_settings())
    return [Pending(await _workflow_of(client, request.run_id), request) for request in local.pending_approvals()]


async def _workflow_of(client: Client, run_id: str) -> str:
    async for execution in client.list_workflows(f"RunId = '{run_id}'"):
        return execution.id
    raise InputError("SESSION_UNKNOWN", "the workflow of this request is gone", "its retention may have ended")


async def _find(id: str) -> tuple[Pending, LocalStore]:
    """By workflow id, or by a digest prefix of at least 12 hex digits (which only finds, threats 6.2)."""
    client, _ = await _connect()
    local = open_local(read_settings())
    prefix = id.removeprefix("sha256:")
    if len(prefix) >= MIN_PREFIX and all(char in "0123456789abcdef" for char in prefix):
        request = local.find_approval(prefix)
        return Pending(await _workflow_of(client, request.run_id), request), local
    status = await session.status_of(client.get_workflow_handle(id))
    if status is None or status.approval is None:
        raise InputError("NOTHING_PENDING", f"{id} has no approval request", f"see `gen4 session {id}`")
    return Pending(id, local.approval(status.approval.approval_id)), local


async def _send(found: Pending, kind: DecisionKind, document: dict[str, Any]) -> SessionStatus:
    """Signal, then wait until the workflow says what became of the decision."""
    client, _ = await _connect()
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(found.workflow_id, run_id=found.request.run_id)
    before = await session.status_of(handle)
    known = len(before.refused) if before else 0
    try:
        await handle.signal(kind, document)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        outcome = f" with {before.result.outcome}" if before and before.result else ""
        remedy = f"see `gen4 session {found.workflow_id}`; to change the outcome, start a new remediation"
        raise Refused("ALREADY_FINAL", f"the session has ended{outcome}: nothing waits for a decision", remedy) from error
    deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        now = await session.status_of(handle)
        if now is not None and len(now.refused) > known:
            last = now.refused[-1]
            raise Refused(last.code, last.message, last.remedy)
        if now is not None and (now.approval is None or now.approval.status != "pending"):
            return now
        await asyncio.sleep(session.POLL_S)
    raise Refused(
        "NO_ANSWER", "the signal was sent, but no worker has judged it yet", "see `gen4 status`, then `gen4 session ID`"
    )


def _refuse_inconsistent(seen: Review) -> None:
    """Nobody signs what is not there, whatever text he copied the digest from."""
    differs = [name for name, ok in seen.checks.items() if not ok]
    if differs:
        raise Refused("REVIEW_DIFFERS", f"not so: {'; '.join(differs)}", "reject it, and find out who asked for it")


def _print_review(found: Pending, seen: Review) -> None:
    request, action = found.request, found.request.action
    show(f"{found.workflow_id}: {request.status}, {request.fix} fix, requested by {request.requester_id}")
    show(f"  deliver   {action.commit_id} → {action.target_ref} of {action.repository} ({action.mode})")
    show(f"  expects   {action.expected_head} there; undo: {action.revert}")
    show(f"  evidence  {action.bundle_digest}")
    for line in seen.message.splitlines():
        show(f"  message   {line}")
    for name, ok in seen.checks.items():
        show(f"  {'ok     ' if ok else 'DIFFERS'} {name}")
    if request.checkpoint is not None:
        show(f"  record    checkpoint {request.checkpoint.number}, root {request.checkpoint.root_sha256}")
    for risk in request.residual_risk:
        show(f"  note      {risk}")
    show(f"  digest    {request.action_digest}")
    say("")
    for line in seen.diff.splitlines():
        show(line)
    if seen.consistent:
        show(f"approve it: gen4 approve {found.workflow_id} --digest {request.action_digest}")
