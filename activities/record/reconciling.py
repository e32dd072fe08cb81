"""The ledger compared with itself: balances, reservations, costs and events are each recomputed from the entries.

Nothing is held in memory but one chunk of rows, so it does not matter how many there are. What it says holds for the moment
at which it looks, while others go on writing: what is compared is read in one snapshot, or in an order that allows for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, exists, func, literal, or_, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore
from activities.record.tables import BUDGET_ACCOUNT, COST_ATTRIBUTION, EVENT, LEDGER_ENTRY, RESERVATION
from schemas.error import Refused
from schemas.event import EventKind
from schemas.ledger import ENDINGS, POSTED, UNITS, EntryKind, entry_id
from schemas.reconciliation import Difference, Reconciliation, UnitSum

CHUNK = 500
MOST_DIFFERENCES = 1_000
_A, _E, _R, _C = BUDGET_ACCOUNT.c, LEDGER_ENTRY.c, RESERVATION.c, COST_ATTRIBUTION.c
_TOLD_BY: Mapping[EntryKind, tuple[str, ...]] = {
    "reserve": ("budget.reserved",), "settle": ("budget.settled",), "overrun": ("budget.overrun",), "void": ("budget.voided",),
    "expire": ("budget.expired",), "blocked": ("{unit}/budget.blocked",),
    "grant": ("budget.reserved", "config.changed", "{unit}/config.changed"),
}  # fmt: skip
"""Which events may tell an entry: their idempotency keys, without the act's id."""
_TELLING: tuple[EventKind, ...] = (
    "budget.reserved", "budget.settled", "budget.overrun", "budget.voided", "budget.expired", "budget.blocked",
)  # fmt: skip


class Reconciler:
    def __init__(self, store: TenantStore, chain: EventChain) -> None:
        self._store = store
        self._chain = chain
        self._tenant = store.tenant_id

    def run(self, now_ms: int) -> Reconciliation:
        """Every check, and where each difference is."""
        found: list[Difference] = []
        counted: dict[str, int] = {"events": 0, "events_unread": 0}
        units: list[UnitSum] = []

        def together(connection: Connection) -> None:
            counted["accounts"] = self._count(connection, BUDGET_ACCOUNT)
            counted["entries"] = self._count(connection, LEDGER_ENTRY)
            counted["reservations"] = self._count(connection, RESERVATION)
            units.extend(self._units(connection))
            checks = (
                self._unbalanced, self._accounts, self._entries, self._reservations, self._unreserved, self._costs,
                self._uncosted,
            )  # fmt: skip
            for check in checks:
                found.extend(islice(check(connection), MOST_DIFFERENCES))

        self._store.read(together)
        for session_id in self._sessions():
            if len(found) > MOST_DIFFERENCES:
                break
            found.extend(islice(self._events(session_id, counted), MOST_DIFFERENCES))
        return Reconciliation(
            tenant_id=self._tenant, day=datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat(), units=tuple(units),
            differences=tuple(found[:MOST_DIFFERENCES]), more=len(found) > MOST_DIFFERENCES, **counted,
        )  # fmt: skip

    # --- sums --------------------------------------------------------------------------------------------------------

    def _count(self, connection: Connection, table: Any) -> int:
        query = select(func.count()).select_from(table).where(table.c.tenant_id == self._tenant)
        return int(connection.execute(query).scalar_one())

    def _units(self, connection: Connection) -> Iterator[UnitSum]:
        posted = self._summed(connection, _E.unit, _E.kind.in_(POSTED))
        held = self._summed(connection, _E.unit, self._still_held())
        accounts = {
            row.unit: row
            for row in connection.execute(
                select(_A.unit, func.sum(_A.debits_posted).label("posted"), func.sum(_A.debits_pending).label("pending"))
                .where(_A.tenant_id == self._tenant)
                .group_by(_A.unit)
            )
        }
        for unit in UNITS:
            if unit in accounts:
                yield UnitSum(
                    unit=unit, ledger_posted=posted.get(unit, 0), ledger_open=held.get(unit, 0),
                    account_posted=int(accounts[unit].posted), account_pending=int(accounts[unit].pending),
                )  # fmt: skip

    def _unbalanced(self, connection: Connection) -> Iterator[Difference]:
        query = (
            select(_A.unit, (func.sum(_A.debits_posted) - func.sum(_A.credits_posted)).label("rest"))
            .where(_A.tenant_id == self._tenant)
            .group_by(_A.unit)
        )
        for row in connection.execute(query):
            if row.rest:
                what = "posted debits less posted credits"
                yield Difference(code="DEBITS_NOT_CREDITS", what=what, unit=row.unit, expected=0, found=int(row.rest))

    def _summed(self, connection: Connection, by: Any, which: Any) -> dict[str, int]:
        query = select(by, func.sum(_E.amount)).where(_E.tenant_id == self._tenant, which).group_by(by)
        return {str(key): int(amount) for key, amount in connection.execute(query).all()}

    def _still_held(self) -> Any:
        end = LEDGER_ENTRY.alias("ending")
        ended = exists().where(
            end.c.tenant_id == self._tenant, end.c.pending_id == _E.pending_id, end.c.kind.in_(tuple(ENDINGS))
        )
        return and_(_E.kind == "reserve", ~ended)

    # --- each account ------------------------------------------------------------------------------------------------

    def _accounts(self, connection: Connection) -> Iterator[Difference]:
        """Balances from the entries alone, and everything else that an account says from its name."""
        debits = self._per_account(_E.debit_account_id, _E.kind.in_(POSTED), "debits")
        credits = self._per_account(_E.credit_account_id, _E.kind.in_(POSTED), "credits")
        pending = self._per_account(_E.debit_account_id, self._still_held(), "pending")
        overrun = LEDGER_ENTRY.alias("overrun")
        overran = exists().where(
            overrun.c.tenant_id == self._tenant, overrun.c.session_id == _A.session_id, overrun.c.unit == _A.unit,
            overrun.c.kind == "overrun",
        )  # fmt: skip
        query = select(
            BUDGET_ACCOUNT, func.coalesce(debits.c.amount, 0).label("out"), func.coalesce(credits.c.amount, 0).label("into"),
            func.coalesce(pending.c.amount, 0).label("held"),
            case((_A.credit_limit.is_not(None), overran), else_=literal(False)).label("overran"),
        ).where(_A.tenant_id == self._tenant)  # fmt: skip
        joined = BUDGET_ACCOUNT
        for part in (debits, credits, pending):
            joined = joined.outerjoin(part, part.c.account_id == _A.account_id)  # type: ignore[assignment]
        for row in _streamed(connection, query.select_from(joined)):
            yield from _account_differences(row)

    def _per_account(self, account: Any, which: Any, name: str) -> Any:
        query = select(account.label("account_id"), func.sum(_E.amount).label("amount"))
        return query.where(_E.tenant_id == self._tenant, which).group_by(account).subquery(name)

    # --- each entry --------------------------------------------------------------------------------------------------

    def _entries(self, connection: Connection) -> Iterator[Difference]:
        """An entry's id ends with its kind and unit, and its accounts are of its unit."""
        debit, credit = BUDGET_ACCOUNT.alias("debit"), BUDGET_ACCOUNT.alias("credit")
        joined = LEDGER_ENTRY.outerjoin(
            debit, and_(debit.c.tenant_id == _E.tenant_id, debit.c.account_id == _E.debit_account_id)
        ).outerjoin(credit, and_(credit.c.tenant_id == _E.tenant_id, credit.c.account_id == _E.credit_account_id))
        moves = _E.kind.in_(POSTED)
        wrong = or_(
            _E.amount < 0,
            ~_E.ledger_id.endswith(literal("/") + _E.kind + literal("/") + _E.unit),
            debit.c.unit.is_(None), debit.c.unit != _E.unit,
            and_(moves, or_(credit.c.unit.is_(None), credit.c.unit != _E.unit)),
        )  # fmt: skip
        query = select(LEDGER_ENTRY, debit.c.unit.label("debit_unit"), credit.c.unit.label("credit_unit")).select_from(joined)
        for row in _streamed(connection, query.where(_E.tenant_id == self._tenant, wrong)):
            yield from _entry_differences(row)

    # --- each reservation --------------------------------------------------------------------------------------------

    def _reservations(self, connection: Connection) -> Iterator[Difference]:
        """Every one was reserved by one entry, and ended by one or none, with the amounts that it says."""
        joined = RESERVATION.outerjoin(
            LEDGER_ENTRY, and_(_E.tenant_id == _R.tenant_id, _E.pending_id == _R.pending_id, _E.kind != "blocked")
        )
        columns = (
            _R.pending_id, _R.account_id, _R.unit, _R.amount, _R.status, _R.settled, _R.overrun, _R.session_id, _R.expires_at_ms,
            _E.ledger_id, _E.kind, _E.amount.label("entered"), _E.debit_account_id, _E.unit.label("entered_unit"),
            _E.expires_at_ms.label("entered_expires_at_ms"),
        )  # fmt: skip
        query = select(*columns).select_from(joined).where(_R.tenant_id == self._tenant).order_by(_R.pending_id)
        for _, rows in groupby(_streamed(connection, query), key=lambda row: row.pending_id):
            yield from _reservation_differences(list(rows))

    def _unreserved(self, connection: Connection) -> Iterator[Difference]:
        known = exists().where(_R.tenant_id == self._tenant, _R.pending_id == _E.pending_id)
        kinds = _E.kind.in_(("reserve", *ENDINGS))
        query = select(_E.ledger_id, _E.debit_account_id, _E.unit, _E.pending_id, _E.session_id)
        for row in _streamed(connection, query.where(_E.tenant_id == self._tenant, kinds, ~known)):
            yield Difference(
                code="RESERVATION_MISSING", what="reservation", account_id=row.debit_account_id, unit=row.unit,
                ledger_id=row.ledger_id, session_id=row.session_id, expected=row.pending_id,
            )  # fmt: skip

    # --- each cost ---------------------------------------------------------------------------------------------------

    def _costs(self, connection: Connection) -> Iterator[Difference]:
        """What was attributed is what was charged."""
        settle, overrun = LEDGER_ENTRY.alias("settled"), LEDGER_ENTRY.alias("overrun")
        joined = COST_ATTRIBUTION
        for part, kind in ((settle, "settle"), (overrun, "overrun")):
            key = _C.attribution_id + literal(f"/{kind}/micros")
            joined = joined.outerjoin(part, and_(part.c.tenant_id == _C.tenant_id, part.c.ledger_id == key))  # type: ignore[assignment]
        charged = func.coalesce(settle.c.amount, 0) + func.coalesce(overrun.c.amount, 0)
        parts = _C.token_cost_micros + _C.tool_cost_micros + _C.duration_cost_micros
        query = select(_C.attribution_id, _C.session_id, _C.total_cost_micros, charged.label("charged"), parts.label("parts"))
        wrong = or_(charged != _C.total_cost_micros, parts != _C.total_cost_micros)
        for row in _streamed(connection, query.select_from(joined).where(_C.tenant_id == self._tenant, wrong)):
            place = {"unit": "micros", "ledger_id": row.attribution_id, "session_id": row.session_id}
            wanted = row.charged if row.charged != row.total_cost_micros else row.parts
            yield Difference(
                code="COST_DIFFERS", what="total_cost_micros", expected=int(wanted), found=int(row.total_cost_micros), **place
            )

    def _uncosted(self, connection: Connection) -> Iterator[Difference]:
        base = func.substr(_E.ledger_id, 1, func.length(_E.ledger_id) - len("/settle/micros"))
        known = exists().where(_C.tenant_id == self._tenant, _C.attribution_id == base)
        mine = and_(_E.tenant_id == self._tenant, _E.kind == "settle", _E.unit == "micros", _E.amount > 0)
        for row in _streamed(connection, select(_E.ledger_id, _E.session_id, _E.amount).where(mine, ~known)):
            yield Difference(
                code="COST_DIFFERS", what="attribution", unit="micros", ledger_id=row.ledger_id, session_id=row.session_id,
                expected=int(row.amount), found=0,
            )  # fmt: skip

    # --- each session's events ---------------------------------------------------------------------------------------

    def _sessions(self) -> Iterator[str]:
        known = self._chain.sessions()
        yield from known
        query = select(_E.session_id).where(_E.tenant_id == self._tenant).distinct()
        silent = set(self._store.read(lambda connection: connection.execute(query).scalars().all())) - set(known)
        yield from sorted(silent)

    def _events(self, session_id: str, counted: dict[str, int]) -> Iterator[Difference]:
        """What events tell is entered, and what is entered is told."""
        mine = and_(_E.tenant_id == self._tenant, _E.session_id == session_id)
        query = select(func.count()).select_from(LEDGER_ENTRY).where(mine)
        # Counted before the events are read: an entry that is written meanwhile has its event, and is not missed.
        entered = self._store.read(lambda connection: int(connection.execute(query).scalar_one()))
        told, unread = 0, counted["events_unread"]
        try:
            for chunk in _chunks(self._told(session_id, counted), CHUNK):
                missing = 0
                for difference in self._compared(session_id, chunk):
                    missing += difference.code == "ENTRY_MISSING"
                    yield difference
                told += len(chunk) - missing
        except Refused as error:
            yield Difference(code="EVENT_UNREADABLE", what=error.message, session_id=session_id, found=error.code)
            return
        if told < entered and counted["events_unread"] == unread:
            yield from self._untold(session_id)

    def _compared(self, session_id: str, told: Sequence[tuple[str, int]]) -> Iterator[Difference]:
        def load(connection: Connection) -> dict[str, Any]:
            query = select(_E.ledger_id, _E.amount, _E.unit, _E.debit_account_id, _E.session_id)
            mine = and_(_E.tenant_id == self._tenant, _E.ledger_id.in_([ledger_id for ledger_id, _ in told]))
            return {row.ledger_id: row for row in connection.execute(query.where(mine))}

        rows = self._store.read(load)
        for ledger_id, amount in told:
            row = rows.get(ledger_id)
            if row is None or row.session_id != session_id:
                yield Difference(
                    code="ENTRY_MISSING", what="entry that an event tells", unit=ledger_id.rpartition("/")[2],
                    ledger_id=ledger_id, session_id=session_id, expected=amount,
                )  # fmt: skip
            elif row.amount != amount:
                yield Difference(
                    code="ENTRY_ALTERED", what="amount that its event tells", account_id=row.debit_account_id, unit=row.unit,
                    ledger_id=ledger_id, session_id=session_id, expected=amount, found=int(row.amount),
                )  # fmt: skip

    def _told(self, session_id: str, counted: dict[str, int]) -> Iterator[tuple[str, int]]:
        for event, payload in self._chain.read(session_id):
            if event.kind not in _TELLING and event.kind != "config.changed":
                continue
            entries = (payload or {}).get("entries")
            if not isinstance(entries, dict):
                counted["events_unread"] += event.kind in _TELLING
                continue
            counted["events"] += 1
            for kind, units in entries.items():
                for unit, amount in units.items():
                    yield entry_id(str(payload["id"]), kind, unit), int(amount)

    def _untold(self, session_id: str) -> Iterator[Difference]:
        query = (
            select(_E.ledger_id, _E.kind, _E.unit, _E.amount, _E.debit_account_id)
            .where(_E.tenant_id == self._tenant, _E.session_id == session_id)
            .order_by(_E.ledger_id)
            .limit(CHUNK)
        )
        last = ""

        def page(connection: Connection) -> tuple[Sequence[Any], set[str]]:
            rows = connection.execute(query.where(_E.ledger_id > last)).all()
            known = select(EVENT.c.idempotency_key).where(
                EVENT.c.tenant_id == self._tenant, EVENT.c.session_id == session_id,
                EVENT.c.idempotency_key.in_([key for row in rows for key in _keys_of(row)]),
            )  # fmt: skip
            return rows, set(connection.execute(known).scalars())

        while (found := self._store.read(page))[0]:
            rows, there = found
            last = rows[-1].ledger_id
            for row in rows:
                keys = _keys_of(row)
                if there.isdisjoint(keys):
                    yield Difference(
                        code="ENTRY_UNTOLD", what="event that tells it", account_id=row.debit_account_id, unit=row.unit,
                        ledger_id=row.ledger_id, session_id=session_id, expected=" or ".join(keys),
                    )  # fmt: skip


def _account_differences(row: Row[Any]) -> Iterator[Difference]:
    place = {"account_id": row.account_id, "unit": row.unit, "session_id": row.session_id}
    for what, expected in (("debits_posted", row.out), ("credits_posted", row.into), ("debits_pending", row.held)):
        if (found := row._mapping[what]) != expected:
            yield Difference(code="BALANCE_DIFFERS", what=what, expected=int(expected), found=int(found), **place)
    kind, unit = row.account_id.partition(":")[0], row.account_id.rpartition(":")[2]
    parents = {"session": f"tenant:{unit}", "task": f"session:{row.session_id}:{unit}"}
    facts: tuple[tuple[str, Any], ...] = (
        ("unit", unit), ("parent_account_id", parents.get(kind)), ("frozen", bool(row.overran)),
        ("debits_must_not_exceed_credits", kind not in ("source", "excess")),
    )  # fmt: skip
    for what, expected in facts:
        if (found := row._mapping[what]) != expected:
            yield Difference(code="ACCOUNT_ALTERED", what=what, expected=str(expected), found=str(found), **place)
    if kind == "session" and (row.credit_limit is None or row.credit_limit < row.credits_posted):
        yield Difference(
            code="ACCOUNT_ALTERED", what="credit_limit", expected=f">= {row.credits_posted}", found=str(row.credit_limit), **place
        )


def _entry_differences(row: Row[Any]) -> Iterator[Difference]:
    place = {"unit": row.unit, "ledger_id": row.ledger_id, "session_id": row.session_id}
    if row.amount < 0:
        yield Difference(code="ENTRY_ALTERED", what="amount", expected=">= 0", found=int(row.amount), **place)
    base, _, unit = row.ledger_id.rpartition("/")
    for what, expected in (("kind", base.rpartition("/")[2]), ("unit", unit)):
        if row._mapping[what] != expected:
            yield Difference(code="ENTRY_ALTERED", what=what, expected=expected, found=row._mapping[what], **place)
    sides = [("debit_account_id", row.debit_unit)] + [("credit_account_id", row.credit_unit)] * (row.kind in POSTED)
    for what, side in sides:
        if side != row.unit:
            account_id = row._mapping[what]
            yield Difference(
                code="ENTRY_ALTERED", what=what, account_id=account_id, expected=f"an account of {row.unit}",
                found="none" if side is None else f"one of {side}", **place,
            )  # fmt: skip


def _reservation_differences(rows: Sequence[Row[Any]]) -> Iterator[Difference]:
    first = rows[0]
    place = {
        "account_id": first.account_id, "unit": first.unit, "ledger_id": first.pending_id, "session_id": first.session_id,
    }  # fmt: skip
    made = [row for row in rows if row.kind == "reserve"]
    if len(made) != 1:
        yield Difference(code="ENTRY_MISSING", what="reserve entries", expected=1, found=len(made), **place)
    for row in made:
        for what, entered in (
            ("amount", row.entered), ("account_id", row.debit_account_id), ("unit", row.entered_unit),
            # An attempt that resumes it may make it live longer, never shorter.
            ("expires_at_ms", row.entered_expires_at_ms),
        ):  # fmt: skip
            if row._mapping[what] != entered and not (what == "expires_at_ms" and row.expires_at_ms > entered):
                yield Difference(code="RESERVATION_ALTERED", what=what, expected=entered, found=row._mapping[what], **place)
    ends = [ENDINGS[row.kind] for row in rows if row.kind in ENDINGS]
    if ends != ([] if first.status == "open" else [first.status]):
        expected = ", ".join(ends) or "open"
        code = "NOT_ENDED_ONCE" if len(ends) > 1 else "RESERVATION_ALTERED"
        yield Difference(code=code, what="status", expected=expected, found=first.status, **place)
    for what, kind in (("settled", "settle"), ("overrun", "overrun")):
        entered = sum(row.entered for row in rows if row.kind == kind)
        if (found := first._mapping[what]) != entered:
            yield Difference(code="RESERVATION_ALTERED", what=what, expected=int(entered), found=int(found), **place)
    if first.settled > first.amount:
        yield Difference(
            code="RESERVATION_ALTERED", what="settled", expected=f"<= {first.amount}", found=int(first.settled), **place
        )


def _keys_of(row: Any) -> tuple[str, ...]:
    base = row.ledger_id.rsplit("/", 2)[0]
    return tuple(f"{base}/{tail.format(unit=row.unit)}" for tail in _TOLD_BY.get(row.kind, ()))


def _streamed(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    return iter(connection.execution_options(yield_per=CHUNK).execute(query))


def _chunks(items: Iterable[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
