"""Tenants, sessions, workers, a server, a forge and everything that goes wrong with them, in one thread and by one seed.

The server keeps what Temporal keeps: which activity of a session is wanted, which attempt of it runs, when it is tried again.
A worker runs an attempt as a generator; between any two of its steps anything may happen, and a crash is a generator that is
never resumed. Time is a number that the world moves on; each worker's clock is off by its own skew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from activities.kernel.identity import Started
from activities.record.executions import ExecutionRow
from schemas.approval import Action, ApprovalRequest, Decision, SignedDecision
from schemas.capabilities import CAPABILITIES
from schemas.identity import PolicyBinding, Principal, RoleBinding, Tenant
from tests.simulator.attempt import Answer, run
from tests.simulator.cores import Cores
from tests.simulator.invariants import Monitor, Violation
from tests.simulator.kernel import Kernel
from tests.simulator.rows import Rows, Transaction

T = TypeVar("T")

START_MS = 1_700_000_000_000
SKEW_MS = 300_000
HEARTBEAT_MS = 5_000
APPROVAL_EXPIRY_MS = 7_200_000
BOUND_MS = 86_400_000
"""With faults off every open session ends within this much simulated time: the wait for a decision, breakers, and a margin."""
BOUND_STEPS = 6_000
STEPS = 240
"""With faults, a seed: about as many as two sessions need from their start to their end."""
TENANTS = ("a", "b")
PROGRAM: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Remediation", ("control.open_session",)),
    ("Remediation", ("forge.fetch_source",)),
    ("Compile", ("testbed.run_tests", "testbed.run_tests")),
    ("Remediation", ("forge.seal_commit",)),
    ("Remediation", ("control.request_approval",)),
    ("Release", ("control.redeem_approval",)),
    ("Release", ("forge.deliver",)),
)
"""What a session does: in which workflow, which activities at once."""
ASKED = 5
"""After so many parts the session waits for a decision."""

FAULTS = (
    "crash_worker", "lost_heartbeat", "store", "engine", "clocks", "kill", "revoke", "suspend", "reset", "terminate",
    "new_policy", "moved_target", "outage", "pause", "impatience", "hostility",
)  # fmt: skip
"""What may go wrong by itself; besides, answers get lost, transactions time out after their commit, decisions are forged."""

SHOTS = dict.fromkeys(("pause", "kill", "revoke", "suspend", "reset", "terminate", "moved_target", "new_policy"), (1, 1, 1, 2))
"""What ends sessions happens rarely, or it would always come before anything worth ending."""

AIMS = (
    ("", ""), ("", ""), ("testbed.run_tests", ""), ("testbed.run_tests", "tests run"), ("control.redeem_approval", ""),
    ("forge.deliver", ""), ("forge.deliver", "before the push"),
)  # fmt: skip

Engine = Literal["up", "down", "broken"]


class Outage(Exception):
    """Store or policy engine did not answer. What was asked may have been done."""


@dataclass
class Worker:
    name: int
    skew_ms: int


@dataclass
class Pending:
    """An activity that the server wants done."""

    session: Session
    workflow: str
    capability_id: str
    effect_key: str
    run_id: str
    signed: SignedDecision | None = None
    forged: bool = False
    attempt: int = 1
    running: bool = False
    next_at_ms: int = 0
    started_at_ms: int = 0


@dataclass
class Attempt:
    pending: Pending
    number: int
    worker: Worker
    steps: Generator[str, None, Answer]
    key: str
    at: str = "received"


@dataclass
class Session:
    """A workflow, as the server knows it."""

    tenant_id: str
    name: str
    run_id: str
    part: int = 0
    pending: list[Pending] = field(default_factory=list)
    waits_until_ms: int | None = None
    """It waits for a decision until then."""
    closing: str = ""
    ended: str = ""
    """How the workflow ended, on the server."""
    generation: int = 1
    asked: int = 0
    approval_id: str = ""
    decision: str = ""

    @property
    def session_id(self) -> str:
        return f"{self.name}.1"

    @property
    def waits_on(self) -> str:
        """The named event that moves it on; empty: none, and that is a defect."""
        if self.ended:
            return "nothing: it has ended"
        if self.pending:
            return f"activity {self.pending[0].capability_id}"
        return "decision" if self.waits_until_ms is not None else ""


class World:
    def __init__(
        self, seed: int, cores: Cores | None = None, kernel: type[Kernel] = Kernel, trouble: tuple[str, str, str] | None = None
    ) -> None:
        """Args: ``trouble``: the one kind of fault that is wanted, and where; default: whatever the seed says."""
        self.seed = seed
        self.random = random.Random(seed)
        self.cores = cores or Cores()
        self.kernel = kernel(self.cores)
        self.rows = Rows()
        self.monitor = Monitor(self.rows)
        self.now_ms = START_MS
        self.faults = True
        self.store_up = True
        self.engine: Engine = "up"
        self.policy = "sha256:" + "a" * 64
        self.swarm = self.random.sample(FAULTS, self.random.choice((1, 2, 3, 3, 4)))
        """A few kinds of fault a seed: with all at once, nothing ever gets far."""
        self.aim, self.point = self.random.choice(AIMS)
        """What ends sessions happens only while this runs, if anything is named: at once is rarely the worst moment."""
        if self.aim:
            self.swarm = [*self.swarm[:1], self.random.choice(sorted(SHOTS))]
        self.shots = {kind: self.random.choice(SHOTS.get(kind, (1, 3, 8))) for kind in self.swarm}
        """How often each may still happen."""
        if trouble is not None:
            self.swarm, self.aim, self.point, self.shots = [trouble[0]], *trouble[1:], {trouble[0]: 20}
        self.outage = False
        """Whatever lies outside fails: capabilities that depend on a server."""
        self.workers = [Worker(number, self.random.choice((-SKEW_MS, -1_000, 0, 0, 1_000, SKEW_MS))) for number in range(3)]
        self.attempts: list[Attempt] = []
        self.sessions: list[Session] = []
        self.forge: dict[str, str] = {}
        self.executed = 0
        self.log: list[str] = []
        for tenant_id in TENANTS:
            self._found(tenant_id)
        many = (("a0",), ("a0", "a1"), ("a0", "b0"), ("a0", "b0"), ("a0", "a1", "b0", "b1"))
        for name in self.random.choice(many[: 3 if self.aim else 5]):
            self.sessions.append(Session(name[0], name, run_id=f"{name}.1"))
        self._advance_all()

    def _found(self, tenant_id: str) -> None:
        tx = Transaction(self.rows, tenant_id)
        tx.put("tenant", Tenant(tenant_id=tenant_id, name=tenant_id))
        who = f"operator@{tenant_id}"
        principal = Principal(principal_id=who, tenant_id=tenant_id, kind="human", issuer="local", subject=tenant_id)
        tx.put("principal", principal, who)
        tx.put("binding", RoleBinding(tenant_id=tenant_id, principal_id=who, role="operator", granted_by="sim"), who, "operator")
        policy = PolicyBinding(
            policy_id="p", tenant_id=tenant_id, role="operator", allowed_actions=("none", "read", "write", "irreversible"),
            capability_prefixes=("control.", "forge.", "testbed."), path_tier_max="T2", autonomy_tier="A1", max_memory_mb=8_192,
            max_tokens=0, policy_digest="sha256:" + "a" * 64,
        )  # fmt: skip
        tx.put("policy", policy, "operator")
        self.kernel.grant(tx, {"micros": self.random.choice((250, 900, 900)), "cpu_ms": 9_000}, "first")
        tx.commit()

    # --- what attempts ask of the world ------------------------------------------------------------------------------

    def write(self, tenant_id: str, work: Callable[[Transaction], T]) -> T:
        """One transaction. It may be committed although the answer is an outage."""
        if not self.store_up:
            raise Outage("store")
        tx = Transaction(self.rows, tenant_id)
        result = work(tx)
        tx.commit()
        if self.faults and self.random.random() < 0.02:
            raise Outage("store: timeout after commit")
        return result

    def read(self, tenant_id: str, work: Callable[[Transaction], T]) -> T:
        if not self.store_up:
            raise Outage("store")
        return work(Transaction(self.rows, tenant_id))

    def started(self, session: Session, run_id: str, workflow: str) -> Started:
        """The server's record of how a run began: the root, or a child of it."""
        root = (session.name, run_id)
        if workflow != "Remediation":
            run = f"{run_id}/{workflow}"
            return Started(
                workflow_id=f"{session.name}/{workflow}", run_id=run, workflow_type=workflow, original_run_id=run,
                first_run_id=run, parent=root,
            )  # fmt: skip
        number = int(run_id.rpartition(".")[2])
        original = run_id if number == 1 else f"{session.name}.{number - 1}"
        return Started(
            workflow_id=session.name, run_id=run_id, workflow_type=workflow, original_run_id=original,
            first_run_id=session.session_id,
        )  # fmt: skip

    def keep(self, session: Session, run_id: str, workflow: str, clock_ms: int) -> ExecutionRow | None:
        """The row of a run, made when it first shows itself. A reset run's is made from the row of the run before."""
        tenant_id, started = session.tenant_id, self.started(session, run_id, workflow)
        known: ExecutionRow | None = self.read(
            tenant_id, lambda tx: tx.get("execution", started.workflow_id, started.run_id)
        )
        if known is None and started.original_run_id != run_id and workflow == "Remediation":
            self.keep(session, started.original_run_id, workflow, clock_ms)
        who = f"operator@{tenant_id}"
        return known or self.write(tenant_id, lambda tx: self.kernel.keep(tx, started, tenant_id, who, clock_ms))

    # --- the server --------------------------------------------------------------------------------------------------

    def _advance_all(self) -> None:
        for session in self.sessions:
            self._advance(session)

    def _advance(self, session: Session) -> None:
        """The next part of the program, once the last one is done."""
        if session.ended or session.pending or session.waits_until_ms is not None:
            return
        if session.closing:
            self._schedule(session, "Remediation", "control.close_session")
            return
        if session.part == ASKED and session.decision == "":
            session.waits_until_ms = self.now_ms + APPROVAL_EXPIRY_MS
            return
        if session.part == len(PROGRAM) or session.decision == "rejected":
            session.closing = "merged" if session.part == len(PROGRAM) else "rejected"
            self._advance(session)
            return
        workflow, capabilities = PROGRAM[session.part]
        session.part += 1
        for capability_id in capabilities:
            self._schedule(session, workflow, capability_id)

    def _schedule(self, session: Session, workflow: str, capability_id: str, **more: Any) -> None:
        session.asked += 1
        run_id = session.run_id if workflow == "Remediation" else f"{session.run_id}/{workflow}"
        pending = Pending(
            session, workflow, capability_id, f"{run_id}/{session.asked}", session.run_id, next_at_ms=self.now_ms, **more
        )
        session.pending.append(pending)

    def _dispatch(self, pending: Pending) -> None:
        pending.running, pending.started_at_ms = True, self.now_ms
        worker = self.random.choice(self.workers)
        key = f"{pending.effect_key}/{pending.attempt}"
        self.attempts.append(Attempt(pending, pending.attempt, worker, run(self, pending, pending.attempt, worker), key))

    def _report(self, attempt: Attempt, answer: Answer) -> None:
        """What comes late, from an attempt that was given up, changes nothing."""
        pending = attempt.pending
        if pending.attempt != attempt.number or pending not in pending.session.pending or not pending.running:
            return
        if self.faults and self.random.random() < 0.03:
            return  # the answer is lost; the heartbeat stops, and another attempt follows
        if answer.retry_after_ms is not None:
            self._again(pending, answer.retry_after_ms)
            return
        self._done(pending, answer)

    def _again(self, pending: Pending, delay_ms: int) -> None:
        pending.running = False
        pending.attempt += 1
        pending.next_at_ms = self.now_ms + max(100, delay_ms)

    def _done(self, pending: Pending, answer: Answer) -> None:
        session = pending.session
        session.pending.remove(pending)
        if pending.capability_id == "control.close_session":
            session.ended = session.closing if not answer.code else f"failed: {answer.code}"
            return
        if pending.capability_id == "control.judge_decision":
            if answer.result in ("approved", "rejected"):
                session.decision, session.waits_until_ms = answer.result, None
        elif answer.code:
            session.closing = session.closing or answer.code
            session.waits_until_ms = None
        elif pending.capability_id == "control.request_approval":
            session.approval_id = answer.result
        self._advance(session)

    def _timers(self) -> None:
        running = {id(attempt.pending): attempt for attempt in self.attempts if attempt.number == attempt.pending.attempt}
        for session in self.sessions:
            for pending in session.pending:
                ceiling = CAPABILITIES[pending.capability_id].timeout.total_seconds() * 1000
                dead = id(pending) not in running and self.now_ms >= pending.started_at_ms + HEARTBEAT_MS
                if pending.running and (dead or self.now_ms >= pending.started_at_ms + ceiling):
                    self._again(pending, 0)
            if session.waits_until_ms is not None and self.now_ms >= session.waits_until_ms and not session.ended:
                session.waits_until_ms, session.closing = None, session.closing or "expired"
                self._advance(session)

    @property
    def over(self) -> bool:
        return not self.attempts and all(session.ended for session in self.sessions)

    # --- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        actions: list[tuple[int, Callable[[], None]]] = [(2, self._tick)]
        due = [one for session in self.sessions for one in session.pending if not one.running and one.next_at_ms <= self.now_ms]
        if due and len(self.attempts) < 6:
            actions.append((8, lambda: self._dispatch(self.random.choice(due))))
        if self.attempts:
            actions.append((24, self._resume))
        if any(session.waits_until_ms is not None and not session.pending for session in self.sessions):
            actions.append((3, self._decide))
        actions.append((6 if "pause" in self.swarm else 1, self._look_after))
        if self.faults:
            actions.append(((60 if self.point else 12) if self._targets() else 2, self._fault))
        weights = [weight for weight, _ in actions]
        [(_, act)] = self.random.choices(actions, weights)
        act()
        self.monitor.step(self.now_ms)
        for session in self.sessions:
            if not session.waits_on:
                raise Violation(f"session {session.name} neither ended nor waits for anything")

    def _resume(self) -> None:
        attempt = self.random.choice(self.attempts)
        try:
            attempt.at = next(attempt.steps)
        except StopIteration as stop:
            self.attempts.remove(attempt)
            self.monitor.ended(attempt.key)
            self._report(attempt, stop.value)

    def _tick(self) -> None:
        self.now_ms += self.random.choice((10, 1_000, 1_000, 30_000, 200_000, 1_000_000 if self.faults else 30_000))
        if not self.faults and not self.attempts:
            self._skip_to_what_is_next()
        self._timers()

    def _skip_to_what_is_next(self) -> None:
        waits = [one.next_at_ms for session in self.sessions for one in session.pending if not one.running]
        waits += [session.waits_until_ms for session in self.sessions if session.waits_until_ms is not None and not session.ended]
        if waits:
            self.now_ms = max(self.now_ms, min(waits))

    def _decide(self) -> None:
        """A captain sends a decision, or somebody sends something that looks like one."""
        session = self.random.choice([one for one in self.sessions if one.waits_until_ms is not None and not one.pending])
        approvals = {key[1]: row for key, row in self.rows.tables["approval"].items()}
        mine = approvals.get(session.approval_id)
        if mine is None or (self.faults and self.random.random() < 0.2):
            return  # nobody decides now
        digest, approval_id, forged = mine.request.action_digest, session.approval_id, False
        if self.faults:
            match self.random.randrange(3 if "hostility" in self.swarm else 12):
                case 0:
                    digest = "sha256:" + "f" * 64
                case 1:
                    approval_id = self.random.choice(sorted(approvals))
                    digest = approvals[approval_id].request.action_digest
                case 2:
                    forged = True
                case _:
                    pass
        kind: Literal["approve", "reject"] = "approve" if self.random.random() < 0.85 else "reject"
        decision = Decision(approval_id=approval_id, action_digest=digest)
        signed = SignedDecision(kind=kind, decision=decision, received_at_ms=self.now_ms)
        for _ in range(2 if self.faults and self.random.random() < 0.2 else 1):  # a signal may come twice
            self._schedule(session, "Remediation", "control.judge_decision", signed=signed, forged=forged)

    def _look_after(self) -> None:
        if self.store_up and self.random.random() < (0.1 if self.faults else 0.4):
            self.reap()
        elif self.store_up:
            self._expire()

    def reap(self) -> None:
        """What was terminated is closed."""
        for session in self.sessions:
            tx = Transaction(self.rows, session.tenant_id)
            if session.ended and self.kernel.leaves_something(tx, session.session_id):
                self.kernel.close(tx, session.session_id, "reaped", self.now_ms)
                tx.commit()

    def _expire(self) -> None:
        """What can no longer be settled is let go."""
        for tenant_id in TENANTS:
            tx = Transaction(self.rows, tenant_id)
            self.kernel.expire(tx, self.now_ms)
            tx.commit()

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        """Where something is going on, rather than anywhere."""
        targets = self._targets()
        kind = self.swarm[-1] if targets else self.random.choice(self.swarm)
        if self.shots[kind] == 0 or (self.aim and not targets and kind in SHOTS):
            return
        self.shots[kind] -= 1
        busy = targets or [attempt.pending.session for attempt in self.attempts]
        getattr(self, f"_{kind}")(self.random.choice(busy or self.sessions))

    def _targets(self) -> list[Session]:
        here = [one for one in self.attempts if one.pending.capability_id == self.aim and self.point in ("", one.at)]
        return [attempt.pending.session for attempt in here]

    def _crash_worker(self, session: Session) -> None:
        self._crash(self.random.choice(self.workers))

    def _store(self, session: Session) -> None:
        self.store_up = not self.store_up

    def _engine(self, session: Session) -> None:
        self.engine = "up" if self.engine != "up" else self.random.choice(("down", "down", "broken"))

    def _kill(self, session: Session) -> None:
        capability_id = self.aim or self.random.choice(("forge.deliver", "testbed.run_tests"))
        narrow = (("session", session.session_id), ("capability", capability_id))
        self._turn(session.tenant_id, *self.random.choice((*narrow, ("tenant", ""), ("everything", ""))))

    def _revoke(self, session: Session) -> None:
        tx = Transaction(self.rows, session.tenant_id)
        self.kernel.revoke_lease(tx, session.session_id, "sim", self.now_ms)
        tx.commit()

    def _clocks(self, session: Session) -> None:
        for worker in self.workers:
            worker.skew_ms = self.random.randint(-SKEW_MS, SKEW_MS)

    def _outage(self, session: Session) -> None:
        self.outage = not self.outage

    def _impatience(self, session: Session) -> None:
        """Its workflow is not ours: it delivers what was asked for, and waits for nobody."""
        if session.waits_until_ms is not None and not session.ended and not session.pending:
            session.waits_until_ms, session.part = None, len(PROGRAM) - self.random.choice((1, 2))
            session.decision = "none"
            self._advance(session)

    def _hostility(self, session: Session) -> None:
        """Decisions are more often wrong than right; see :meth:`_decide`."""

    def _pause(self, session: Session) -> None:
        """Everything stands still for hours, and then goes on where it was."""
        self.now_ms += self.random.randint(1_800_000, 10_800_000)
        self._timers()

    def _new_policy(self, session: Session) -> None:
        self.policy = "sha256:" + "b" * 64

    def _moved_target(self, session: Session) -> None:
        self.forge.setdefault(session.name, "somebody else's")

    def _crash(self, worker: Worker) -> None:
        for attempt in [attempt for attempt in self.attempts if attempt.worker is worker]:
            self.attempts.remove(attempt)
            self.monitor.ended(attempt.key)

    def _lost_heartbeat(self, session: Session) -> None:
        """The server gives up an attempt that goes on all the same."""
        if self.attempts:
            pending = self.random.choice(self.attempts).pending
            if pending.running and pending in pending.session.pending:
                self._again(pending, 0)

    def _turn(self, tenant_id: str, scope: str, target: str) -> None:
        for one in TENANTS if scope == "everything" else (tenant_id,):
            on = self.rows.tables["kill"].get((one, scope, target))
            active = not (on and on.active)
            tx = Transaction(self.rows, one)
            self.kernel.turn(tx, scope, target, active, self.now_ms)
            tx.commit()

    def _suspend(self, session: Session) -> None:
        tenant_id = session.tenant_id
        tx = Transaction(self.rows, tenant_id)
        if self.random.random() < 0.5:
            tenant = tx.get("tenant")
            tx.put("tenant", tenant.model_copy(update={"status": "active" if tenant.status != "active" else "suspended"}))
        else:
            who = f"operator@{tenant_id}"
            principal = tx.get("principal", who)
            status = "active" if principal.status != "active" else "suspended"
            tx.put("principal", principal.model_copy(update={"status": status}), who)
        tx.commit()

    def _reset(self, session: Session) -> None:
        """The server ends the run and begins another one, at the last decision or at the start."""
        if session.ended or session.part < 3:
            return
        session.pending.clear()
        number = int(session.run_id.rpartition(".")[2]) + 1
        session.run_id = f"{session.name}.{number}"
        session.waits_until_ms, session.decision = None, session.decision if self.random.random() < 0.5 else ""
        session.part = min(session.part, self.random.choice((1, 4, ASKED)))
        self._advance(session)

    def _terminate(self, session: Session) -> None:
        if not session.ended and session.part > 2:
            session.pending.clear()
            session.waits_until_ms, session.ended = None, "terminated"

    # --- requests ----------------------------------------------------------------------------------------------------

    def approval_request(self, pending: Pending, now_ms: int) -> ApprovalRequest:
        session = pending.session
        action = Action.model_construct(
            verb="deliver", repository=f"/{session.name}", target_ref="refs/heads/fix", expected_head="0" * 40,
            commit_id=session.name.ljust(40, "c"), result_tree="2" * 40, bundle_digest="sha256:" + "3" * 64,
            stamp_sha256="4" * 64, policy_digest=self.policy, approvers_digest="sha256:" + "5" * 64,
            tenant_id=session.tenant_id, session_id=session.session_id, mode="branch", revert="delete-branch",
        )  # fmt: skip
        return ApprovalRequest.model_construct(
            approval_id=f"approval:{pending.effect_key}", action=action, action_digest=action.digest, stamp_id="stm",
            fix="complete", requester_id="sim", eligible_approvers=("captain",), run_id=pending.run_id, nonce="n",
            requested_at_ms=now_ms, expires_at_ms=now_ms + APPROVAL_EXPIRY_MS, rollback="", residual_risk=(), status="pending",
        )  # fmt: skip


def simulate(
    seed: int, steps: int = STEPS, cores: Cores | None = None, kernel: type[Kernel] = Kernel,
    trouble: tuple[str, str, str] | None = None,
) -> World:  # fmt: skip
    """Play ``steps`` with faults, then without, until every session has ended.

    Raises:
        Violation: naming the invariant; the seed plays the same again.
    """
    world = World(seed, cores, kernel, trouble)
    for _ in range(steps):
        if world.over:
            break
        world.step()
    calm(world)
    return world


def calm(world: World) -> None:
    """Faults are off: everything that began ends, in bounded time."""
    world.faults, world.store_up, world.engine, world.outage = False, True, "up", False
    began_ms = world.now_ms
    for _ in range(BOUND_STEPS):
        if world.over:
            break
        world.step()
    still = [f"{session.name} waits on {session.waits_on}" for session in world.sessions if not session.ended]
    if still or world.attempts or world.now_ms - began_ms > BOUND_MS:
        raise Violation(f"with faults off it does not end: {still}, {(world.now_ms - began_ms) // 1000} s")
    mends_itself = [session.name for session in world.sessions if "LEASE_EXPIRED" in (session.ended, session.closing)]
    if mends_itself and "kill" not in world.swarm:
        raise Violation(f"{mends_itself} ended because of a lease that could have been renewed")
    # Whoever held a reservation cannot come back now; the reaper looks once more, when every clock is past its end.
    world.now_ms += BOUND_MS
    world.reap()
    world.monitor.step(world.now_ms)
    world.monitor.over()
