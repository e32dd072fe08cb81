"""The ledger's rows: read under a lock, and written only if they are still as they were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, String, and_, bindparam, or_, select

from activities.record.prepared import Prepared
from activities.record.store import TenantStore
from activities.record.tables import BUDGET_ACCOUNT, COST_ATTRIBUTION, LEDGER_ENTRY, QUOTA_WINDOW, RESERVATION
from activities.record.upserting import insert_or_ignore
from schemas.error import InfrastructureError
from schemas.ledger import Account, Entry, Posting, QuotaWindow, Reservation, Shortage, Unit, Usage
from schemas.model import Payload
from schemas.tariff import Cost
from schemas.task import TraceKeys

_ACCOUNT = tuple(Account.model_fields)
_WINDOW = tuple(QuotaWindow.model_fields)
_COUNTED = ("debits_pending", "debits_posted", "credits_posted", "frozen")

_PARENT = BUDGET_ACCOUNT.alias("parent")


@cache
def _accounts(count: int) -> Select[Any]:
    """``count`` accounts by id, locked until the transaction ends; whether a parent is frozen is only looked at."""
    row = BUDGET_ACCOUNT.c
    parent = and_(_PARENT.c.tenant_id == row.tenant_id, _PARENT.c.account_id == row.parent_account_id)
    frozen = select(_PARENT.c.frozen).where(parent).scalar_subquery()
    ids = [bindparam(f"id{n}", type_=String) for n in range(count)]
    return (
        select(*(row[name] for name in _ACCOUNT), frozen.label("parent_frozen"))
        .where(row.tenant_id == bindparam("tenant"), or_(*(row.account_id == one for one in ids)))
        .order_by(row.account_id)
        .with_for_update()
    )


_POST = Prepared(
    lambda: (
        BUDGET_ACCOUNT.update()
        .where(BUDGET_ACCOUNT.c.tenant_id == bindparam("tenant"), BUDGET_ACCOUNT.c.account_id == bindparam("id"))
        .where(*(BUDGET_ACCOUNT.c[name] == bindparam(f"old_{name}") for name in _COUNTED))
        .values({name: bindparam(f"new_{name}") for name in _COUNTED} | {"updated_at_ms": bindparam("now")})
    )
)
_HELD = (
    select(RESERVATION)
    .where(RESERVATION.c.tenant_id == bindparam("tenant"), RESERVATION.c.effect_key == bindparam("effect"))
    .order_by(RESERVATION.c.pending_id)
    .with_for_update()
)
_END = Prepared(
    lambda: (
        RESERVATION.update()
        .where(RESERVATION.c.tenant_id == bindparam("tenant"), RESERVATION.c.pending_id == bindparam("id"))
        .values(
            status=bindparam("new_status"), settled=bindparam("new_settled"), overrun=bindparam("new_overrun"),
            updated_at_ms=bindparam("now"),
        )
    )
)  # fmt: skip
_EXTEND = Prepared(
    lambda: (
        RESERVATION.update()
        .where(RESERVATION.c.tenant_id == bindparam("tenant"), RESERVATION.c.pending_id == bindparam("id"))
        .values(expires_at_ms=bindparam("later"), updated_at_ms=bindparam("now"))
    )
)
_RESERVE = Prepared(RESERVATION.insert)
_ENTER = Prepared(LEDGER_ENTRY.insert)
_ATTRIBUTE = Prepared(COST_ATTRIBUTION.insert)


class Priced(Payload):
    """What the entries of a posting say of money."""

    cost: Cost = Cost()
    version: str = ""


@dataclass(frozen=True)
class StoredReservation:
    """A reservation and whose it is."""

    held: Reservation
    keys: TraceKeys
    capability_id: str | None

    @property
    def base(self) -> str:
        """Names all that was reserved at once: ``pending_id`` without its unit."""
        return self.held.pending_id.rpartition("/")[0]


class LedgerRows:
    """Statements on the ledger's tables, for one tenant. Every method joins the caller's transaction."""

    def __init__(self, store: TenantStore) -> None:
        self._tenant = store.tenant_id

    # --- reading -----------------------------------------------------------------------------------------------------

    def accounts(self, connection: Connection, ids: Iterable[str]) -> dict[str, Account]:
        """Those of ``ids`` that exist; locked until the transaction ends, in the order of their ids."""
        return {row.account_id: _account(row) for row in self._locked(connection, ids)}

    def spendable(self, connection: Connection, ids: Iterable[str]) -> tuple[dict[str, Account], Shortage | None]:
        """As :meth:`accounts`, and the first parent that gives nothing more."""
        rows = self._locked(connection, ids)
        frozen = next((row for row in rows if row.parent_frozen), None)
        short = frozen and Shortage(
            code="BUDGET_FROZEN", account_id=frozen.parent_account_id, unit=frozen.unit, needed=0, available=0
        )
        return {row.account_id: _account(row) for row in rows}, short

    def _locked(self, connection: Connection, ids: Iterable[str]) -> Sequence[Row[Any]]:
        ids = list(ids)
        if not ids:
            return []
        values = {"tenant": self._tenant} | {f"id{n}": one for n, one in enumerate(ids)}
        return connection.execute(_accounts(len(ids)), values).all()

    def of_effect(self, connection: Connection, effect_key: str) -> list[StoredReservation]:
        """All that was ever reserved for an effect, by ``pending_id``; locked until the transaction ends."""
        return [_stored(row) for row in connection.execute(_HELD, {"tenant": self._tenant, "effect": effect_key})]

    def open_of_session(self, connection: Connection, session_id: str) -> list[StoredReservation]:
        row = RESERVATION.c
        mine = and_(row.tenant_id == self._tenant, row.session_id == session_id, row.status == "open")
        query = select(RESERVATION).where(mine).order_by(row.pending_id).with_for_update()
        return [_stored(found) for found in connection.execute(query)]

    def entry(self, connection: Connection, ledger_id: str) -> Row[Any] | None:
        """The entry of this id, if there is one."""
        mine = and_(LEDGER_ENTRY.c.tenant_id == self._tenant, LEDGER_ENTRY.c.ledger_id == ledger_id)
        return connection.execute(select(LEDGER_ENTRY).where(mine)).first()

    def window(self, connection: Connection, keys: TraceKeys, fresh: QuotaWindow, now_ms: int) -> QuotaWindow:
        """The stored window of this id, locked; ``fresh`` if there was none."""
        values = {**fresh.model_dump(), **_trace(keys, None, now_ms, updated=True)}
        insert_or_ignore(connection, QUOTA_WINDOW, values)
        row = QUOTA_WINDOW.c
        mine = and_(row.tenant_id == self._tenant, row.window_id == fresh.window_id)
        found = connection.execute(select(*(row[name] for name in _WINDOW)).where(mine).with_for_update()).one()
        return QuotaWindow(**found._mapping)

    # --- writing -----------------------------------------------------------------------------------------------------

    def open_accounts(self, connection: Connection, keys: TraceKeys, accounts: Iterable[Account], now_ms: int) -> None:
        """Make those that are not there yet."""
        for account in accounts:
            insert_or_ignore(
                connection, BUDGET_ACCOUNT, {**account.model_dump(), **_trace(keys, None, now_ms, updated=True)}
            )

    def apply(
        self,
        connection: Connection,
        keys: TraceKeys,
        before: Mapping[str, Account],
        posting: Posting,
        now_ms: int,
        *,
        capability_id: str | None = None,
        priced: Priced | None = None,
    ) -> None:
        """Write what a posting says, all of it or none.

        Args:
            before: the accounts as they were read; new reservations are told from old ones by their status.
        """
        self._post(connection, before, posting.accounts, now_ms)
        trace = _trace(keys, capability_id, now_ms)
        made = [one for one in posting.reservations if one.status == "open"]
        if made:
            _RESERVE.run_all(connection, [{**one.__dict__, **trace, "updated_at_ms": now_ms} for one in made])
        ended = [one for one in posting.reservations if one.status != "open"]
        if ended:
            self._end(connection, ended, now_ms)
        if posting.entries:
            _ENTER.run_all(connection, [_entry_values(one, trace, priced) for one in posting.entries])

    def block(self, connection: Connection, keys: TraceKeys, entry: Entry, now_ms: int, capability_id: str) -> bool:
        """Write the row of a refusal; False if it is there already."""
        if self.entry(connection, entry.ledger_id) is not None:
            return False
        _ENTER.run(connection, _entry_values(entry, _trace(keys, capability_id, now_ms), None))
        return True

    def keep_window(self, connection: Connection, window: QuotaWindow, now_ms: int) -> None:
        row = QUOTA_WINDOW.c
        mine = and_(row.tenant_id == self._tenant, row.window_id == window.window_id)
        connection.execute(
            QUOTA_WINDOW.update()
            .where(mine)
            .values(consumed=window.consumed, blocked_count=window.blocked_count, updated_at_ms=now_ms)
        )

    def attribute(
        self,
        connection: Connection,
        keys: TraceKeys,
        attribution_id: str,
        capability_id: str,
        role: str,
        usage: Usage,
        priced: Priced,
        now_ms: int,
    ) -> None:
        """Who used what, and what it cost."""
        cost = priced.cost
        _ATTRIBUTE.run(
            connection,
            {
                "attribution_id": attribution_id, "role": role, "model": usage.model, "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens, "cached_tokens": usage.cached_tokens,
                "tool_invocations": usage.tool_calls, "cpu_ms": usage.cpu_ms, "duration_ms": usage.wall_ms,
                "egress_bytes": usage.egress_bytes, "token_cost_micros": cost.token_micros,
                "tool_cost_micros": cost.tool_micros, "duration_cost_micros": cost.duration_micros,
                "total_cost_micros": cost.total_micros, "price_table_version": priced.version,
                **_trace(keys, capability_id, now_ms),
            },
        )  # fmt: skip

    def _post(self, connection: Connection, before: Mapping[str, Account], after: Sequence[Account], now_ms: int) -> None:
        rows = []
        for account in after:
            old = before[account.account_id]
            row: dict[str, Any] = {"tenant": self._tenant, "id": account.account_id, "now": now_ms}
            for name in _COUNTED:
                row[f"old_{name}"], row[f"new_{name}"] = getattr(old, name), getattr(account, name)
            rows.append(row)
        if rows and _POST.run_all(connection, rows).rowcount != len(rows):
            raise InfrastructureError("LEDGER_RACED", "an account changed although it was locked", "try again")

    def extend(self, connection: Connection, held: Sequence[Reservation], expires_at_ms: int, now_ms: int) -> None:
        """A new attempt of the same effect has a deadline of its own."""
        _EXTEND.run_all(
            connection,
            [{"tenant": self._tenant, "id": one.pending_id, "later": expires_at_ms, "now": now_ms} for one in held],
        )

    def _end(self, connection: Connection, ended: Sequence[Reservation], now_ms: int) -> None:
        _END.run_all(
            connection,
            [
                {
                    "tenant": self._tenant, "id": one.pending_id, "now": now_ms, "new_status": one.status,
                    "new_settled": one.settled, "new_overrun": one.overrun,
                }
                for one in ended
            ],
        )  # fmt: skip


def joined(postings: Iterable[Posting]) -> Posting:
    """Postings on different accounts as one."""
    postings = list(postings)
    return Posting(
        accounts=tuple(account for one in postings for account in one.accounts),
        reservations=tuple(held for one in postings for held in one.reservations),
        entries=tuple(entry for one in postings for entry in one.entries),
    )


def amounts_of(entries: Iterable[Entry]) -> dict[str, dict[Unit, int]]:
    """``{kind: {unit: amount}}``, as events tell it: an entry's id is the event's ``id``, its kind and its unit."""
    told: dict[str, dict[Unit, int]] = {}
    for entry in entries:
        told.setdefault(entry.kind, {})[entry.unit] = entry.amount
    return told


def _account(row: Row[Any]) -> Account:
    return Account(**row._mapping)


def _stored(row: Row[Any]) -> StoredReservation:
    held = Reservation(**row._mapping)
    keys = TraceKeys(
        tenant_id=row.tenant_id, trace_id=row.trace_id, session_id=row.session_id, task_id=row.task_id or row.session_id
    )
    return StoredReservation(held, keys, row.capability_id)


def _trace(keys: TraceKeys, capability_id: str | None, now_ms: int, *, updated: bool = False) -> dict[str, Any]:
    times = {"created_at_ms": now_ms, "updated_at_ms": now_ms} if updated else {"created_at_ms": now_ms}
    return {**keys.__dict__, "capability_id": capability_id, "version": "1", **times}


def _entry_values(entry: Entry, trace: Mapping[str, Any], priced: Priced | None) -> dict[str, Any]:
    # Only the entries of money carry what it consists of, so that their sum is the cost.
    cost = priced.cost if priced is not None and entry.unit == "micros" and entry.kind == "settle" else Cost()
    return {
        **entry.__dict__, **trace, "token_cost": cost.token_micros, "tool_cost": cost.tool_micros,
        "duration_cost": cost.duration_micros, "price_table_version": "" if priced is None else priced.version,
    }  # fmt: skip
