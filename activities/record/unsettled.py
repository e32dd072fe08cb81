"""Effects whose outcome nobody observed: what reconciliation reads and settles, by compare-and-set (contracts §2)."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, tuple_

from activities.record.effects import EffectOutcome
from activities.record.store import TenantStore
from activities.record.tables import EFFECT, EVENT, RESERVATION
from schemas.model import Payload
from schemas.task import TraceKeys

_OF_THE_GATE = ("task.", "gate.", "budget.", "lease.")


class UnsettledEffect(Payload):
    """One effect as it was found; it settles only if it is still so."""

    keys: TraceKeys
    effect_key: str
    attempt_key: str
    capability_id: str
    outcome: EffectOutcome
    updated_at_ms: int

    @property
    def run(self) -> tuple[str, str, str]:
        """Workflow id, run id and activity id: an effect key is made of them."""
        workflow_id, run_id, activity_id = self.effect_key.rsplit("/", 2)
        return workflow_id, run_id, activity_id


class UnsettledEffects:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def before(self, time_ms: int, limit: int, after: UnsettledEffect | None = None) -> list[UnsettledEffect]:
        """Effects that are unknown, or were begun and not ended, and that nobody touched since; oldest first.

        Args:
            after: the last of the page before.
        """
        wanted = and_(EFFECT.c.outcome.in_(("started", "unknown")), EFFECT.c.updated_at_ms < time_ms)
        order = (EFFECT.c.updated_at_ms, EFFECT.c.effect_key)
        if after is not None:
            wanted = and_(wanted, tuple_(*order) > tuple_(after.updated_at_ms, after.effect_key))
        query = select(EFFECT).where(self._mine(), wanted).order_by(*order).limit(limit)
        return [_effect(row) for row in self._store.read(lambda connection: connection.execute(query).all())]

    def get(self, effect_key: str) -> UnsettledEffect | None:
        """The effect, if its outcome is still not known."""
        wanted = and_(EFFECT.c.effect_key == effect_key, EFFECT.c.outcome.in_(("started", "unknown")))
        row = self._store.read(lambda connection: connection.execute(select(EFFECT).where(self._mine(), wanted)).first())
        return None if row is None else _effect(row)

    def settle(
        self, connection: Connection, effect: UnsettledEffect, outcome: Literal["succeeded", "failed"],
        result_json: str | None, now_ms: int,
    ) -> bool:  # fmt: skip
        """False when an attempt touched it since it was read: that attempt knows better."""
        same = and_(
            EFFECT.c.effect_key == effect.effect_key, EFFECT.c.attempt_key == effect.attempt_key,
            EFFECT.c.outcome == effect.outcome, EFFECT.c.updated_at_ms == effect.updated_at_ms,
        )  # fmt: skip
        change = EFFECT.update().where(self._mine(), same)
        values = {"outcome": outcome, "result_json": result_json, "updated_at_ms": now_ms}
        return connection.execute(change.values(**values)).rowcount == 1

    def touch(self, effect: UnsettledEffect, now_ms: int) -> None:
        """It was examined and cannot be settled yet: the others come first now."""
        same = and_(EFFECT.c.effect_key == effect.effect_key, EFFECT.c.updated_at_ms == effect.updated_at_ms)
        change = EFFECT.update().where(self._mine(), same).values(updated_at_ms=now_ms)
        self._store.write(lambda connection: connection.execute(change))

    def held_by(self, connection: Connection, effect: UnsettledEffect) -> dict[str, int]:
        """What is still held back for the effect, by unit."""
        wanted = and_(RESERVATION.c.effect_key == effect.effect_key, RESERVATION.c.status == "open")
        query = select(RESERVATION.c.unit, RESERVATION.c.amount).where(RESERVATION.c.tenant_id == self._store.tenant_id, wanted)
        return {row.unit: row.amount for row in connection.execute(query).all()}

    def records_of(self, effect: UnsettledEffect) -> list[str]:
        """Ids of the events that the effect itself wrote: their idempotency keys begin with its own.

        What the gate wrote about the effect, its budget and its lease among that, is no sign of it.
        """
        prefix = f"{effect.effect_key}/"
        begins = func.substr(EVENT.c.idempotency_key, 1, len(prefix)) == prefix
        mine = and_(EVENT.c.tenant_id == self._store.tenant_id, EVENT.c.session_id == effect.keys.session_id)
        query = select(EVENT.c.event_id, EVENT.c.kind).where(mine, begins).order_by(EVENT.c.seq)
        rows = self._store.read(lambda connection: connection.execute(query).all())
        return [str(row.event_id) for row in rows if not row.kind.startswith(_OF_THE_GATE)]

    def _mine(self) -> ColumnElement[bool]:
        return EFFECT.c.tenant_id == self._store.tenant_id


def _effect(row: Row[Any]) -> UnsettledEffect:
    values = dict(row._mapping)
    return UnsettledEffect.model_validate({**values, "keys": TraceKeys.model_validate(values)})
