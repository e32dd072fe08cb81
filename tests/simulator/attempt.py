"""One attempt of one activity, as the gate takes it, with a step between any two things that it does."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from activities.kernel.acting import Acting
from activities.kernel.admission import Call, Refusal, first_refusal
from activities.kernel.identity import keys_of
from activities.kernel.outcome import Outcome, is_effect, leaves_receipt
from activities.kernel.standing import scopes, server_of
from activities.record.executions import ExecutionRow
from schemas.capabilities import CAPABILITIES
from schemas.capability import Capability
from schemas.error import InfrastructureError, Refused
from schemas.event import Actor
from schemas.ledger import Unit
from schemas.policy import PolicyDecision, PolicyRule
from schemas.request import ReleaseRequest

if TYPE_CHECKING:
    from tests.simulator.world import Pending, Worker, World

Steps = Generator[str, None, Any]
OWN_FAULTS = 3
"""After so many failures of its own an effect is given up."""
PHASES = {
    "control": ("control.open_session", "control.request_approval", "control.judge_decision", "control.close_session",
                "forge.fetch_source", "forge.seal_commit"),
    "compile": ("testbed.run_tests",),
    "release": ("control.redeem_approval", "forge.deliver"),
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the server is told: a result, a final failure by its code, or when to try again."""

    result: str = ""
    code: str = ""
    retry_after_ms: int | None = None


def run(world: World, pending: Pending, number: int, worker: Worker) -> Generator[str, None, Answer]:
    from tests.simulator.world import Outage

    try:
        return (yield from _attempt(world, pending, number, worker))
    except Outage:
        return Answer(retry_after_ms=1_000)


def _attempt(world: World, pending: Pending, number: int, worker: Worker) -> Generator[str, None, Answer]:
    kernel, tenant_id = world.kernel, pending.session.tenant_id
    capability = CAPABILITIES[pending.capability_id]

    def clock() -> int:
        return world.now_ms + worker.skew_ms

    # 1 who acts: rows of the run and of the runs above it, made from the server's record
    row: ExecutionRow | None = None
    for workflow in dict.fromkeys(("Remediation", pending.workflow)):
        yield "looking up"
        row = world.keep(pending.session, pending.run_id, workflow, clock())
    who = _acting(row, pending, number, tenant_id)
    request = _request(world, pending, capability)
    server = server_of(capability, request)
    call = Call(
        activity_type=capability.id, workflow_type=pending.workflow, row=row, capability=capability, served=True,
        catalogued=True, request=request,
    )  # fmt: skip
    if row is None:
        return Answer(code="EXECUTION_UNKNOWN")
    yield "standing"
    standing = world.read(tenant_id, lambda tx: kernel.standing(tx, row, capability, server, who.attempt_key, clock()))
    if kernel.lacks_lease(standing):
        yield "its lease has run out"
        seen = standing.identity.lease
        world.write(tenant_id, lambda tx: kernel.renew_lease(tx, row, clock(), seen))
        standing = world.read(tenant_id, lambda tx: kernel.standing(tx, row, capability, server, who.attempt_key, clock()))
    call = replace(call, standing=standing)

    # 5 and 9 what policy says, now
    yield "asking policy"
    call = replace(call, policy=_ask_phase(world, row, capability))
    if capability.side_effect == "irreversible":
        yield "asking policy about the release"
        call = replace(call, approval=_ask_release(world, call, who, clock()))
    refused = first_refusal(call, kernel.cores.checks)
    if refused is not None:
        world.write(tenant_id, lambda tx: kernel.refused(tx, who, refused, clock()))
        return _refusal(refused)
    yield "admitted"
    if leaves_receipt(capability):
        before = world.monitor.before(who, scopes(tenant_id, capability, server))
        begun = world.write(tenant_id, lambda tx: kernel.begin(tx, call, capability, who, row, server, clock()))
        if isinstance(begun, Refusal):
            return _refusal(begun)
        if begun is not None:
            return Answer(begun)
        world.monitor.began(who, row, capability, before, world.now_ms, clock())
    yield "begun"
    outcome, used = yield from _perform(world, pending, capability, who, row, worker)
    yield "done, and not recorded"
    failures = world.write(
        tenant_id, lambda tx: kernel.settle(tx, capability, who, row, server, outcome, used, clock())
    )
    yield "recorded, and not reported"
    if outcome.error is None:
        return Answer(outcome.message)
    if isinstance(outcome.error, Refused) or failures >= OWN_FAULTS:
        return Answer(code=outcome.code)
    return Answer(retry_after_ms=1_000)


def _acting(row: ExecutionRow | None, pending: Pending, number: int, tenant_id: str) -> Acting:
    return Acting(
        keys=keys_of(row, tenant_id), actor=Actor.model_construct(principal_id="sim", kind="human"),
        phase=row.phase if row else "control", workflow_id=row.workflow_id if row else "", run_id=row.run_id if row else "",
        effect_key=pending.effect_key, attempt_key=f"{pending.effect_key}/{number}", attempt=number,
        capability_id=pending.capability_id, generation=row.generation if row else 1,
    )  # fmt: skip


def _request(world: World, pending: Pending, capability: Capability[Any, Any]) -> Any:
    if capability.id != "forge.deliver":
        return capability.input.model_construct()
    stored = world.rows.tables["approval"].get((pending.session.tenant_id, pending.session.approval_id))
    action = stored.request.action if stored else None
    names = ("repository", "commit_id", "expected_head", "target_ref", "mode")
    asked: dict[str, Any] = {name: getattr(action, name, "") for name in names}
    return ReleaseRequest.model_construct(
        approval_id=pending.session.approval_id, action_digest=action.digest if action else "",
        session_id=pending.session.session_id, **asked,
    )  # fmt: skip


def _refusal(refused: Refusal) -> Answer:
    return Answer(code="" if refused.retry_after_ms is not None else refused.code, retry_after_ms=refused.retry_after_ms)


# --- the policy engine -----------------------------------------------------------------------------------------------


def _ask_phase(world: World, row: ExecutionRow, capability: Capability[Any, Any]) -> PolicyDecision:
    return _decision(world, capability.id in PHASES[row.phase])


def _ask_release(world: World, call: Call, who: Acting, now_ms: int) -> PolicyDecision | None:
    """policies/release.rego in Python."""
    request = call.request
    assert isinstance(request, ReleaseRequest)
    tenant_id = who.keys.tenant_id
    stored = world.read(tenant_id, lambda tx: world.kernel.find_approval(tx, request.approval_id))
    if stored is None:
        return None
    resuming = world.read(tenant_id, lambda tx: tx.get("effect", who.effect_key)) is not None
    action = stored.request.action
    return _decision(
        world,
        stored.request.status == "redeemed" and stored.request.action_digest == action.digest == request.action_digest
        and action.session_id == who.keys.session_id == request.session_id and action.tenant_id == tenant_id
        and stored.deliver_by_ms is not None and (resuming or now_ms < stored.deliver_by_ms),
    )  # fmt: skip


def _decision(world: World, allow: bool) -> PolicyDecision:
    from tests.simulator.world import Outage

    if world.engine == "down":
        raise Outage("policy engine")
    allow = allow and world.engine != "broken"
    rule = PolicyRule.model_construct(rule_id="sim", outcome="pass" if allow else "deny", message="", path=None, line=None)
    return PolicyDecision.model_construct(
        decision="allow" if allow else "deny", policy_id="sim", policy_digest=world.policy, engine_name="sim", engine_version="1",
        input_sha256="0" * 64, required_checks=(), results=(rule,),
    )  # fmt: skip


# --- what the capabilities do ----------------------------------------------------------------------------------------


def _perform(
    world: World, pending: Pending, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, worker: Worker
) -> Generator[str, None, tuple[Outcome, dict[Unit, int]]]:
    """The implementation. Its outage is an infrastructure error; its refusal is final."""
    used: dict[Unit, int] = {"micros": 0, "cpu_ms": 0}
    try:
        result = yield from _work(world, pending, capability, who, row, worker, used)
    except Refused as error:
        return Outcome("failed", error=error, code=error.code, error_class="policy"), used
    except InfrastructureError as error:
        return Outcome("unknown" if is_effect(capability) else "failed", error=error, code=error.code), used
    except ZeroDivisionError as error:
        return Outcome("unknown" if is_effect(capability) else "failed", error=error, code="UNEXPECTED", error_class="task"), used
    return Outcome("succeeded", message=result), used


def _work(
    world: World, pending: Pending, capability: Capability[Any, Any], who: Acting, row: ExecutionRow, worker: Worker,
    used: dict[Unit, int],
) -> Generator[str, None, str]:  # fmt: skip
    kernel, tenant_id, session = world.kernel, pending.session.tenant_id, pending.session
    now_ms = world.now_ms + worker.skew_ms
    world.executed += 1
    if world.faults and capability.server != "store" and world.random.random() < (0.9 if world.outage else 0.03):
        raise InfrastructureError("FORGE_DOWN", "sim")
    if world.faults and world.random.random() < 0.02:
        raise ZeroDivisionError
    match capability.id:
        case "control.open_session":
            opened = {"tenant_id": tenant_id, "closed": ""}
            known = world.read(tenant_id, lambda tx: tx.get("session", session.session_id))
            world.write(tenant_id, lambda tx: tx.put("session", known or opened, session.session_id))
        case "testbed.run_tests":
            yield "tests run"
            used["cpu_ms"] = world.random.randint(0, 1_000) if world.random.random() < 0.97 else 1_500
            used["micros"] = used["cpu_ms"] // 10
        case "control.request_approval":
            request = world.approval_request(pending, now_ms)
            return world.write(tenant_id, lambda tx: kernel.request_approval(tx, who, request, now_ms))
        case "control.judge_decision":
            signed = pending.signed
            assert signed is not None and signed.decision is not None
            approval_id = signed.decision.approval_id
            return world.write(
                tenant_id, lambda tx: kernel.judge(tx, who, approval_id, signed, pending.forged, world.policy, now_ms)
            )
        case "control.redeem_approval":
            world.write(tenant_id, lambda tx: kernel.redeem(tx, who, session.approval_id, world.policy, now_ms))
        case "forge.deliver":
            yield from _deliver(world, pending, who, row, worker)
        case "control.close_session":
            reason = session.closing
            world.write(tenant_id, lambda tx: kernel.close(tx, session.session_id, reason, now_ms))
        case _:
            yield "at work"
    return "ok"


def _deliver(world: World, pending: Pending, who: Acting, row: ExecutionRow, worker: Worker) -> Steps:
    """Exactly once: look whether it is there, look once more whether it may be, push with a lease on the head."""
    kernel, tenant_id = world.kernel, who.keys.tenant_id
    request = _request(world, pending, CAPABILITIES["forge.deliver"])
    stored = world.read(tenant_id, lambda tx: kernel.find_approval(tx, request.approval_id))
    kernel.cores.refuse_unapproved(stored, request, who)
    yield from ("asks for the head", "reads the head", "before the push")
    if world.forge.get(pending.session.name) == request.commit_id:
        return
    _refuse_late(world, stored, who, row, world.now_ms + worker.skew_ms)
    if pending.session.name in world.forge:
        raise Refused("TARGET_CHANGED", "")
    world.forge[pending.session.name] = request.commit_id
    world.monitor.pushed(row, request.approval_id, request.action_digest)
    yield "pushed"


def _refuse_late(world: World, stored: Any, who: Acting, row: ExecutionRow, now_ms: int) -> None:
    """Time, policy, switch and lease are read again right before the push (threats 6.7)."""
    kernel, tenant_id = world.kernel, who.keys.tenant_id
    kernel.cores.refuse_late(stored, now_ms=now_ms, policy_digest=world.policy)
    if code := world.read(tenant_id, lambda tx: kernel.stopped(tx, row, who.capability_id)):
        raise Refused(code, "")
