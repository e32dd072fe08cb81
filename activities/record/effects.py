"""Effects: one row per business effect, so that a repeated attempt finds the receipt of the first (contracts §0, two keys)."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from sqlalchemy import Connection, Row, Select, bindparam, func, select

from activities.record.store import TenantStore, now_ms
from activities.record.tables import EFFECT
from schemas.error import Refused
from schemas.model import Payload
from schemas.task import TraceKeys

EffectOutcome = Literal["started", "succeeded", "failed", "unknown"]


class EffectKeys(Protocol):
    """What the gate knows about a call: whose it is, its business identity, this attempt's identity."""

    @property
    def keys(self) -> TraceKeys: ...
    @property
    def effect_key(self) -> str: ...
    @property
    def attempt_key(self) -> str: ...


class StoredReceipt(Payload):
    """``result_json``: output of the effect, once it succeeded. ``attempts``: how often it was begun."""

    effect_key: str
    attempt_key: str
    capability_id: str
    attempts: int
    failures: int = 0
    """Attempts that failed by themselves, not by an outage."""
    outcome: EffectOutcome
    result_json: str | None = None


class Effects:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def begin(self, acting: EffectKeys, capability_id: str, connection: Connection | None = None) -> StoredReceipt | None:
        """Note that an attempt starts.

        Returns:
            The receipt if the effect has succeeded already, and then it must not be done again; else None. A row that
            an earlier attempt left ``started`` or ``unknown`` also gives None: see :meth:`get` before an irreversible step.

        Raises:
            Refused: ID_CONFLICT when the effect key belongs to another capability; TENANT_MISMATCH.
        """
        self._store.require(acting.keys.tenant_id)

        def run(transaction: Connection) -> StoredReceipt | None:
            stored = _find(transaction, acting.keys.tenant_id, acting.effect_key, _BY_KEY_ALONE)
            if stored is None:
                _insert(transaction, acting, capability_id)
                return None
            _refuse_other(stored, capability_id)
            if stored.outcome == "succeeded":
                return stored
            _update(transaction, acting, attempts=stored.attempts + 1, outcome="started", result_json=None)
            return None

        return run(connection) if connection is not None else self._store.write(run)

    def finish(
        self,
        acting: EffectKeys,
        capability_id: str,
        outcome: Literal["succeeded", "failed", "unknown"],
        result_json: str | None,
        connection: Connection | None = None,
        *,
        own_fault: bool = False,
    ) -> StoredReceipt:
        """Record how an attempt ended and return the stored receipt. A success once recorded stays: later ends are no-ops.

        Args:
            own_fault: the work failed by itself, not by an outage; such failures are counted.
        """
        self._store.require(acting.keys.tenant_id)

        def run(transaction: Connection) -> StoredReceipt:
            stored = _find(transaction, acting.keys.tenant_id, acting.effect_key, _BY_KEY_ALONE)
            if stored is None:
                stored = _insert(transaction, acting, capability_id)
            _refuse_other(stored, capability_id)
            if stored.outcome == "succeeded":
                return stored
            failures = stored.failures + own_fault
            _update(transaction, acting, outcome=outcome, result_json=result_json, failures=failures)
            ended = {
                "attempt_key": acting.attempt_key, "outcome": outcome, "result_json": result_json, "failures": failures,
            }  # fmt: skip
            return stored.model_copy(update=ended)

        return run(connection) if connection is not None else self._store.write(run)

    def get(self, effect_key: str, connection: Connection | None = None) -> StoredReceipt | None:
        def run(transaction: Connection) -> StoredReceipt | None:
            return _find(transaction, self._store.tenant_id, effect_key)

        return run(connection) if connection is not None else self._store.read(run)

    def count(self, effect_key: str) -> int:
        """How many effects were recorded under the key, over all attempts."""
        mine = (EFFECT.c.tenant_id == self._store.tenant_id) & (EFFECT.c.effect_key == effect_key)
        query = select(func.count()).select_from(EFFECT).where(mine)
        return self._store.read(lambda connection: connection.execute(query).scalar_one())


_BY_KEY = select(EFFECT).where(EFFECT.c.tenant_id == bindparam("tenant"), EFFECT.c.effect_key == bindparam("key"))
_BY_KEY_ALONE = _BY_KEY.with_for_update()
"""Two processes that count attempts of one effect do so one after the other."""


def _find(
    connection: Connection, tenant_id: str, effect_key: str, query: Select[Any] = _BY_KEY
) -> StoredReceipt | None:
    row: Row[Any] | None = connection.execute(query, {"tenant": tenant_id, "key": effect_key}).first()
    return None if row is None else StoredReceipt.model_validate(dict(row._mapping))


def _insert(connection: Connection, acting: EffectKeys, capability_id: str) -> StoredReceipt:
    time_ms = now_ms()
    connection.execute(
        EFFECT.insert().values(
            effect_key=acting.effect_key, attempt_key=acting.attempt_key, capability_id=capability_id, version="1", attempts=1,
            outcome="started", created_at_ms=time_ms, updated_at_ms=time_ms, **acting.keys.model_dump(),
        )
    )  # fmt: skip
    return StoredReceipt(
        effect_key=acting.effect_key, attempt_key=acting.attempt_key, capability_id=capability_id, attempts=1, outcome="started"
    )


def _update(connection: Connection, acting: EffectKeys, **values: Any) -> None:
    connection.execute(
        EFFECT.update()
        .where(EFFECT.c.tenant_id == acting.keys.tenant_id, EFFECT.c.effect_key == acting.effect_key)
        .values(attempt_key=acting.attempt_key, updated_at_ms=now_ms(), **values)
    )


def _refuse_other(stored: StoredReceipt, capability_id: str) -> None:
    if stored.capability_id != capability_id:
        raise Refused("ID_CONFLICT", f"effect {stored.effect_key} belongs to {stored.capability_id}, not to {capability_id}")
