"""Breakers: one row per scope, shared by all workers. A scope without a row has never failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import BREAKER
from activities.record.upserting import insert_or_ignore
from schemas import breaker as rules
from schemas.breaker import Admission, BreakerKind, BreakerRule, BreakerState, Recovery
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.task import TENANT_CHAIN, tenant_keys

ENGINE = Actor(principal_id="gen4", kind="engine")
_COLUMNS = tuple(BreakerState.model_fields)
_ONE = select(BREAKER).where(BREAKER.c.tenant_id == bindparam("tenant"), BREAKER.c.scope_key == bindparam("scope"))
_ONE_LOCKED = _ONE.with_for_update()
"""Asked before every call: making it anew each time costs more than running it."""


class Breakers:
    """Every change of phase is an event ``breaker.changed`` in the tenant's chain, in the same transaction as the row.

    Args:
        thresholds: by kind of scope, ``tool``, ``server``, ``model``; what a row was made with stays until it is reset.
        chain: where changes are recorded; default: the tenant's own.
    """

    def __init__(
        self, store: TenantStore, thresholds: Mapping[BreakerKind, BreakerRule], chain: EventChain | None = None
    ) -> None:
        self._store = store
        self._thresholds = thresholds
        self._chain = chain or EventChain(store)

    def state(self, connection: Connection, scope_key: str) -> BreakerState:
        """As it is now, without a lock; :func:`schemas.breaker.admit` says what it would answer.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        return self._load(connection, scope_key, lock=False) or self._fresh(scope_key)

    def admit(
        self, connection: Connection, scope_key: str, probe_id: str, now_ms: int, *, probe_ms: int | None = None
    ) -> Admission:
        """May the attempt ``probe_id`` run? See :func:`schemas.breaker.admit`. A closed breaker is read and not written.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        state = self._load(connection, scope_key) or self._fresh(scope_key)
        admission = rules.admit(state, probe_id, now_ms, probe_ms=probe_ms)
        self._keep(connection, state, admission.state, now_ms)
        return admission

    def settle(
        self,
        connection: Connection,
        scope_key: str,
        probe_id: str,
        ok: bool | None,
        reason: str,
        now_ms: int,
        *,
        generation: int | None = None,
    ) -> BreakerState | None:
        """How the attempt ended: ``ok`` None says nothing about the scope (cancelled, refused, a fault of the request).

        Args:
            reason: code of the failure.
            generation: of the admission's state, so that a result that comes after an outage does not count.

        Returns:
            The state if it changed. A success of a clean breaker writes nothing.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        state = self._load(connection, scope_key)
        if state is None:
            if ok is not False:
                return None
            state = self._insert(connection, self._fresh(scope_key), now_ms)
        match ok:
            case True:
                settled = rules.succeeded(state, probe_id, now_ms, generation=generation)
            case False:
                settled = rules.failed(state, probe_id, reason, now_ms, generation=generation)
            case None:
                settled = rules.abandoned(state, probe_id)
        return settled if self._keep(connection, state, settled, now_ms) else None

    def reset(self, scope_key: str, reason: str, actor: Actor, now_ms: int) -> BreakerState:
        """Closed by a person, with the thresholds of now.

        Raises:
            InputError: BREAKER_UNKNOWN for a scope that never failed.
            Refused: TENANT_MISMATCH.
        """

        def run(connection: Connection) -> BreakerState:
            state = self._load(connection, scope_key)
            if state is None:
                raise InputError("BREAKER_UNKNOWN", f"{scope_key} never failed", "list them with `gen4 breakers`")
            rule = self._fresh(scope_key)
            closed = rules.reset(state, now_ms).model_copy(
                update={"threshold": rule.threshold, "cooldown_ms": rule.cooldown_ms, "last_reason": reason[: rules.REASON_CHARS]}
            )
            self._keep(connection, state, closed, now_ms, actor)
            return closed

        return self._store.write(run)

    def all(self) -> list[BreakerState]:
        """Every scope that ever failed, by its key."""
        query = select(BREAKER).where(BREAKER.c.tenant_id == self._store.tenant_id).order_by(BREAKER.c.scope_key)
        return [_state_of(row) for row in self._store.read(lambda connection: connection.execute(query).all())]

    def recoveries(self) -> list[Recovery]:
        """Outages and how long they took, from the recorded events alone."""
        events = self._chain.read(TENANT_CHAIN)
        return rules.recoveries(payload for event, payload in events if event.kind == "breaker.changed")

    def _fresh(self, scope_key: str) -> BreakerState:
        return rules.fresh(scope_key, self._thresholds[_kind(scope_key, self._store.tenant_id)])

    def _load(self, connection: Connection, scope_key: str, *, lock: bool = True) -> BreakerState | None:
        _kind(scope_key, self._store.tenant_id)
        # The lock holds until the transaction ends, so that of several workers one gets the probe.
        query = _ONE_LOCKED if lock else _ONE
        row = connection.execute(query, {"tenant": self._store.tenant_id, "scope": scope_key}).first()
        return None if row is None else _state_of(row)

    def _insert(self, connection: Connection, state: BreakerState, now_ms: int) -> BreakerState:
        """The row as it is afterwards: another worker may have been first."""
        values = {**state.model_dump(), **tenant_keys(self._store.tenant_id).model_dump(), "version": "1"}
        insert_or_ignore(connection, BREAKER, {**values, "created_at_ms": now_ms, "updated_at_ms": now_ms})
        return self._load(connection, state.scope_key) or state

    def _keep(
        self, connection: Connection, before: BreakerState, after: BreakerState, now_ms: int, actor: Actor = ENGINE
    ) -> bool:
        if after == before:
            return False
        values: dict[str, Any] = {name: value for name, value in after.model_dump().items() if name != "scope_key"}
        connection.execute(BREAKER.update().where(*self._at(after.scope_key)).values(**values, updated_at_ms=now_ms))
        if after.generation != before.generation:
            self._record(connection, before, after, now_ms, actor)
        return True

    def _record(self, connection: Connection, before: BreakerState, after: BreakerState, now_ms: int, actor: Actor) -> None:
        payload: dict[str, Any] = {
            "scope_key": after.scope_key, "from": before.phase, "to": after.phase, "generation": after.generation,
            "failure_count": max(before.failure_count, after.failure_count), "reason": after.last_reason, "at_ms": now_ms,
        }  # fmt: skip
        if after.phase == "closed" and before.failing_since_ms is not None:
            payload["mttr_ms"] = max(0, now_ms - before.failing_since_ms)
        draft = EventDraft(
            kind="breaker.changed", payload=payload, idempotency_key=f"breaker/{after.scope_key}/{after.generation}"
        )
        self._chain.append(tenant_keys(self._store.tenant_id), actor, draft, connection=connection)

    def _at(self, scope_key: str) -> tuple[Any, ...]:
        return (BREAKER.c.tenant_id == self._store.tenant_id, BREAKER.c.scope_key == scope_key)


def _kind(scope_key: str, tenant_id: str) -> BreakerKind:
    """Raises Refused(TENANT_MISMATCH) for a scope of another tenant."""
    kinds: tuple[BreakerKind, ...] = ("tool", "server", "model")
    for kind in kinds:
        if scope_key.startswith(f"{tenant_id}:{kind}:"):
            return kind
    raise Refused("TENANT_MISMATCH", f"{scope_key!r} is no scope of {tenant_id!r}", "name it <tenant>:tool|server|model:<id>")


def _state_of(row: Row[Any]) -> BreakerState:
    return BreakerState.model_validate({name: row._mapping[name] for name in _COLUMNS})
