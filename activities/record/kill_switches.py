"""Kill switches: one row per scope and target, read by the gate before every call and by the watch over running sandboxes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, or_, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import KILL_SWITCH
from activities.record.upserting import insert_or_ignore
from schemas.error import InputError
from schemas.event import Actor, EventDraft
from schemas.kill_switch import EVERYONE, KillScope, KillSwitch
from schemas.task import tenant_keys

_COLUMNS = tuple(KillSwitch.model_fields)


class KillSwitches:
    """A tenant sees its own switches and the one for everything.

    Args:
        chain: where changes are recorded; default: the tenant's own.
    """

    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)

    def covering(self, connection: Connection, session_id: str, capability_id: str) -> KillSwitch | None:
        """The widest active switch that covers a call of ``capability_id`` in ``session_id``."""
        values = {"tenant": self._store.tenant_id, "session": session_id, "capability": capability_id}
        found = [_switch_of(one) for one in connection.execute(_COVERING, values)]
        order: tuple[KillScope, ...] = ("everything", "tenant", "session", "capability")
        return min(found, key=lambda switch: order.index(switch.scope), default=None)

    def active(self) -> list[KillSwitch]:
        """All that are on and concern this tenant."""
        return self._store.read(self.active_in)

    def active_in(self, connection: Connection) -> list[KillSwitch]:
        """As :meth:`active`, on a snapshot that is open already."""
        mine = or_(_EVERYTHING, KILL_SWITCH.c.tenant_id == self._store.tenant_id)
        query = select(KILL_SWITCH).where(KILL_SWITCH.c.active.is_(True), mine)
        return [_switch_of(row) for row in connection.execute(query.order_by(KILL_SWITCH.c.scope, KILL_SWITCH.c.target))]

    def set(
        self,
        scope: KillScope,
        target: str,
        active: bool,
        reason: str,
        actor: Actor,
        now_ms: int,
        connection: Connection | None = None,
    ) -> KillSwitch:
        """Turn a switch on or off. One that is as wanted already stays as it is, with its reason and epoch.

        Args:
            target: id of the session or capability, byte for byte; empty for the other scopes.

        Raises:
            InputError: KILL_TARGET for a target where there is none, or none where there must be one; KILL_REASON
                for an empty reason.
        """
        if bool(target) != (scope in ("session", "capability")):
            raise InputError("KILL_TARGET", f"scope {scope} with target {target!r}", "name a session or a capability, or nothing")
        if not reason.strip():
            raise InputError("KILL_REASON", "a switch is turned with a reason", "say in words why")

        def run(transaction: Connection) -> KillSwitch:
            return self._turn(transaction, scope, target, active, reason, actor, now_ms)

        return run(connection) if connection is not None else self._store.write(run)

    def _turn(
        self, connection: Connection, scope: KillScope, target: str, active: bool, reason: str, actor: Actor, now_ms: int
    ) -> KillSwitch:
        tenant_id = EVERYONE if scope == "everything" else self._store.tenant_id
        off = KillSwitch(
            scope=scope, tenant_id=tenant_id, target=target, active=False, epoch=0, reason="never turned on",
            changed_by=actor.principal_id,
        )  # fmt: skip
        times = {"created_at_ms": now_ms, "updated_at_ms": now_ms}
        insert_or_ignore(
            connection, KILL_SWITCH, {**off.model_dump(), **tenant_keys(tenant_id).model_dump(), "version": "1", **times}
        )
        row = KILL_SWITCH.c
        here = and_(row.tenant_id == tenant_id, row.scope == scope, row.target == target)
        known = _switch_of(connection.execute(select(KILL_SWITCH).where(here).with_for_update()).one())
        if known.active == active:
            return known
        changes = {"active": active, "epoch": known.epoch + 1, "reason": reason[:1024], "changed_by": actor.principal_id}
        connection.execute(KILL_SWITCH.update().where(here).values(**changes, updated_at_ms=now_ms))
        switch = known.model_copy(update=changes)
        draft = EventDraft(
            kind="killswitch.changed",
            idempotency_key=f"killswitch/{scope}/{target}/{switch.epoch}",
            payload={**switch.model_dump(), "at_ms": now_ms},
        )
        self._chain.append(tenant_keys(self._store.tenant_id), actor, draft, connection=connection)
        return switch


def _covering() -> Select[Any]:
    row = KILL_SWITCH.c
    own = row.tenant_id == bindparam("tenant")
    covers = or_(
        _EVERYTHING,
        and_(own, row.scope == "tenant"),
        and_(own, row.scope == "session", row.target == bindparam("session")),
        and_(own, row.scope == "capability", row.target == bindparam("capability")),
    )
    return select(KILL_SWITCH).where(row.active.is_(True), covers)


_EVERYTHING = and_(KILL_SWITCH.c.tenant_id == EVERYONE, KILL_SWITCH.c.scope == "everything")
_COVERING = _covering()
"""Asked before every call: making it anew each time costs more than running it."""


def _switch_of(row: Row[Any]) -> KillSwitch:
    return KillSwitch.model_validate({name: row._mapping[name] for name in _COLUMNS})
