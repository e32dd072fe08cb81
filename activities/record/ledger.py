"""The budget ledger of one tenant: what :mod:`schemas.ledger` decides, kept in rows and told in events, all in one transaction.

Sessions live on allotments of their tenant, so that calls of different sessions never wait for one row. Ids follow from what
is done, so a retry finds what its first attempt wrote: ``effect_key#n`` names the n-th reservation of an effect.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Connection, and_, exists, not_, or_, select

from activities.record.chain import EventChain
from activities.record.ledger_rows import LedgerRows, Priced, StoredReservation, amounts_of, joined
from activities.record.reconciling import Reconciler
from activities.record.store import TenantStore
from activities.record.tables import BUDGET_ACCOUNT, EXECUTION, RESERVATION, SESSION_LEASE
from schemas.error import InputError, Refused
from schemas.event import Actor, EventDraft, EventKind
from schemas.ledger import (
    CLOCK_SKEW_MS,
    UNITS,
    Account,
    Amounts,
    Entry,
    LedgerRules,
    Posting,
    QuotaWindow,
    Reservation,
    Shortage,
    Unit,
    Usage,
    checked,
    draw,
    entry_id,
    excess_account,
    may_expire,
    overruns,
    pending_id,
    release,
    reserve,
    session_account,
    settle,
    shortage,
    source_account,
    task_account,
    tenant_account,
    transfer,
    window_at,
)
from schemas.model import Payload
from schemas.reconciliation import Reconciliation
from schemas.tariff import Cost, Pricing, used_units
from schemas.task import TraceKeys, tenant_keys

ENGINE = Actor(principal_id="gen4", kind="engine")
EXPIRED_AT_ONCE = 500
"""So many reservations expire in one transaction; the others in the next."""
_ID_CHARS = 128


class Reserved(Payload):
    """``base`` names the reservation; ``resumed``: an earlier attempt of the effect made it."""

    base: str
    amounts: dict[Unit, int]
    expires_at_ms: int
    resumed: bool = False


class BudgetBlocked(Shortage):
    """Nothing was reserved; the refusal is recorded."""

    @property
    def remedy(self) -> str:
        return {
            "BUDGET_EXHAUSTED": "start a new session with a larger budget",
            "BUDGET_FROZEN": "more was used than was reserved: look at `gen4 ledger entries`, then start a new session",
            "TENANT_BUDGET_EXHAUSTED": "grant more with `gen4 ledger grant`",
            "QUOTA_EXHAUSTED": "wait until the quota window ends",
        }[self.code]


class Settled(Payload):
    """What was charged, what came back, and what nobody had reserved, by unit. ``repeated``: it was settled before."""

    base: str
    charged: dict[Unit, int]
    returned: dict[Unit, int]
    overrun: dict[Unit, int]
    cost: Cost = Cost()
    repeated: bool = False


class Ledger:
    """Args:
    chain: where it is told; default: the tenant's own.
    rules: first values; default: those of policy.
    """

    def __init__(self, store: TenantStore, chain: EventChain | None = None, rules: LedgerRules | None = None) -> None:
        self._store = store
        self._chain = chain or EventChain(store)
        self._rules = rules or policy_rules()
        self._rows = LedgerRows(store)

    # --- accounts ----------------------------------------------------------------------------------------------------

    def ensure_tenant(self, connection: Connection, grants: Amounts, now_ms: int) -> None:
        """Make the tenant's accounts; those that are new start with ``grants``."""
        keys = tenant_keys(self._store.tenant_id)
        before = self._rows.accounts(connection, map(tenant_account, UNITS))
        if len(before) == len(UNITS):
            return
        self._rows.open_accounts(connection, keys, self._outer_accounts(), now_ms)
        for unit, amount in checked(grants).items():
            if tenant_account(unit) not in before:
                self.grant(connection, unit, amount, grant_id="first", reason="first grant", by=ENGINE, now_ms=now_ms)

    def grant(
        self, connection: Connection, unit: Unit, amount: int, *, grant_id: str, reason: str, by: Actor, now_ms: int
    ) -> Account:
        """Give the tenant more. The same grant twice is one grant.

        Returns:
            The tenant's account.

        Raises:
            InputError: AMOUNT_INVALID, UNIT_UNKNOWN, GRANT_ID.
            Refused: ID_CONFLICT when the id was used for another amount; BALANCE_TOO_LARGE.
        """
        if not checked({unit: amount}):
            raise InputError("AMOUNT_INVALID", "a grant of nothing", "give an amount above zero")
        if not 0 < len(grant_id) <= _ID_CHARS:
            raise InputError("GRANT_ID", f"a grant's id has 1 to {_ID_CHARS} characters", "choose another id")
        keys, base = tenant_keys(self._store.tenant_id), f"grant/{grant_id}"
        self._rows.open_accounts(connection, keys, self._outer_accounts(unit), now_ms)
        before = self._rows.accounts(connection, (source_account(unit), tenant_account(unit)))
        account, ledger_id = before[tenant_account(unit)], entry_id(base, "grant", unit)
        if (known := self._rows.entry(connection, ledger_id)) is not None:
            if known.amount != amount:
                raise Refused("ID_CONFLICT", f"grant {grant_id} gave {known.amount} {unit}", "use a new id for a new grant")
            return account
        posting = transfer(before[source_account(unit)], account, amount, ledger_id, reason[:512])
        if isinstance(posting, Shortage):
            raise Refused(posting.code, f"{posting.account_id} is frozen", "look at `gen4 ledger entries`")
        self._rows.apply(connection, keys, before, posting, now_ms)
        self._tell(
            connection, keys, "config.changed", base, posting.entries, by=by, part=unit, setting="ledger.grant", reason=reason
        )
        return posting.accounts[1]

    def open_session(self, connection: Connection, keys: TraceKeys, budget: Amounts, now_ms: int) -> None:
        """Make the session's accounts and draw the first allotment; a session that is open stays as it is.

        Args:
            budget: the most that the session may draw; units that it does not name have the policy's first value.

        Raises:
            InputError: AMOUNT_INVALID, UNIT_UNKNOWN.
            Refused: ID_CONFLICT when the session was opened with another budget; TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        asked = checked(budget)
        before = self._session_accounts(connection, keys.session_id, UNITS)
        for unit, limit in asked.items():
            if (known := before.get(session_account(keys.session_id, unit))) is not None and known.credit_limit != limit:
                message = f"session {keys.session_id} was opened with {known.credit_limit} {unit}, not {limit}"
                raise Refused("ID_CONFLICT", message, "start a new session for another budget")
        if len(before) < len(UNITS):
            self._open(connection, keys, {**self._rules.session_budget, **asked}, now_ms)

    def _open(self, connection: Connection, keys: TraceKeys, limits: Amounts, now_ms: int) -> None:
        self.ensure_tenant(connection, self._rules.tenant_grants, now_ms)
        made = [
            self._account(session_account(keys.session_id, unit), unit, tenant_account(unit), credit_limit=limits.get(unit, 0))
            for unit in UNITS
        ]
        self._rows.open_accounts(connection, keys, made, now_ms)
        before = self._session_accounts(connection, keys.session_id, UNITS)
        if any(account.credits_posted for account in before.values()):
            return  # another process opened it meanwhile
        base = f"open/{keys.session_id}"
        drawn = self._draw(connection, keys, base, dict.fromkeys(before.values(), 0), now_ms)
        posting = Posting() if isinstance(drawn, Shortage) else drawn
        self._tell(
            connection, keys, "config.changed", base, posting.entries, setting="ledger.session_budget", limits=dict(limits)
        )

    # --- reserve, settle, void, expire -------------------------------------------------------------------------------

    def reserve(
        self,
        connection: Connection,
        keys: TraceKeys,
        *,
        effect_key: str,
        capability_id: str,
        amounts: Amounts,
        generation: int,
        expires_at_ms: int,
        now_ms: int,
    ) -> Reserved | BudgetBlocked:
        """Hold back the most that a call can use: all units, or none. An open reservation of the effect is resumed.

        Args:
            generation: of the execution; a newer one fences this reservation, so that it may expire.

        Raises:
            InputError: AMOUNT_INVALID, UNIT_UNKNOWN.
            Refused: ID_CONFLICT when the effect belongs to another session or capability; TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        wanted = checked(amounts)
        stored = self._rows.of_effect(connection, effect_key)
        for one in stored:
            if (one.keys.session_id, one.capability_id) != (keys.session_id, capability_id):
                raise Refused("ID_CONFLICT", f"effect {effect_key} is of session {one.keys.session_id}, {one.capability_id}")
        if held := [one for one in stored if one.held.status == "open"]:
            later = max(expires_at_ms, held[0].held.expires_at_ms)
            self._rows.extend(connection, [one.held for one in held], later, now_ms)
            return Reserved(
                base=held[0].base, amounts={one.held.unit: one.held.amount for one in held}, expires_at_ms=later, resumed=True
            )
        base = f"{effect_key}#{1 + max((_round(one) for one in stored), default=0)}"
        if not wanted:
            return Reserved(base=base, amounts={}, expires_at_ms=expires_at_ms)
        before, frozen = self._opened(connection, keys, wanted, now_ms)
        drawn = frozen or self._top_up(connection, keys, base, before, wanted, now_ms)
        if isinstance(drawn, Shortage):
            return self._block(connection, keys, base, drawn, capability_id, now_ms)
        after = before | {account.account_id: account for account in drawn.accounts if account.account_id in before}
        postings = []
        for unit, amount in wanted.items():
            account = after[session_account(keys.session_id, unit)]
            held_back = Reservation(
                pending_id=pending_id(base, unit), effect_key=effect_key, account_id=account.account_id, unit=unit, amount=amount,
                generation=generation, expires_at_ms=expires_at_ms,
            )  # fmt: skip
            posting = reserve(account, task_account(keys.session_id, keys.task_id, unit), held_back, base)
            if isinstance(posting, Shortage):
                return self._block(connection, keys, base, posting, capability_id, now_ms)
            postings.append(posting)
        posting = joined(postings)
        self._rows.apply(connection, keys, after, posting, now_ms, capability_id=capability_id)
        self._tell(
            connection, keys, "budget.reserved", base, (*drawn.entries, *posting.entries), capability_id=capability_id,
            expires_at_ms=expires_at_ms,
        )  # fmt: skip
        return Reserved(base=base, amounts=wanted, expires_at_ms=expires_at_ms)

    def settle(
        self,
        connection: Connection,
        keys: TraceKeys,
        *,
        effect_key: str,
        capability_id: str,
        role: str,
        usage: Usage,
        tariff: Pricing,
        now_ms: int,
    ) -> Settled:
        """End the effect's reservation with what was used; the rest is available again. Settled once, it stays as it is.

        What nobody had reserved, or what is settled too late, is an overrun: it is charged, and the session gets no more.

        Raises:
            Refused: PRICE_UNKNOWN, TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        mine = self._round_of(connection, effect_key)
        base = mine[0].base if mine else f"{effect_key}#0"
        if mine and all(one.held.status == "settled" or one.held.overrun for one in mine):
            return _settled(base, [one.held for one in mine], repeated=True)
        priced = Priced(cost=tariff.price(usage), version=tariff.version)
        used = checked(used_units(usage, priced.cost.total_micros))
        owner = mine[0].keys if mine else keys
        held = {one.held.unit: one.held for one in mine}
        held |= self._unreserved(connection, owner, effect_key, base, set(used) - set(held))
        posting, before = self._settling(connection, owner, base, held, used, now_ms)
        stored = {one.held.pending_id for one in mine}
        kept = tuple(one for one in posting.reservations if one.pending_id in stored)
        self._rows.apply(
            connection, owner, before, posting.model_copy(update={"reservations": kept}), now_ms, capability_id=capability_id,
            priced=priced,
        )  # fmt: skip
        if posting.entries:
            self._rows.attribute(connection, owner, base, capability_id, role, usage, priced, now_ms)
            self._tell_settled(connection, owner, base, posting.entries, priced, capability_id)
        return _settled(base, posting.reservations, cost=priced.cost)

    def void(self, connection: Connection, keys: TraceKeys, *, effect_key: str, reason: str, now_ms: int) -> int:
        """End what the effect holds, unused; 0 when it holds nothing."""
        self._store.require(keys.tenant_id)
        held = [one for one in self._rows.of_effect(connection, effect_key) if one.held.status == "open"]
        return self._release(connection, held, "void", reason, now_ms)

    def void_session(self, connection: Connection, keys: TraceKeys, reason: str, now_ms: int) -> int:
        """End all that a session holds, and give the rest of its allotment back to the tenant.

        Returns:
            How many reservations it ended.
        """
        self._store.require(keys.tenant_id)
        count = self._release(connection, self._rows.open_of_session(connection, keys.session_id), "void", reason, now_ms)
        self._give_back(connection, keys, now_ms)
        return count

    def expire(self, connection: Connection, now_ms: int) -> int:
        """End what nobody can use any more: long past its time, and fenced (threats 7.5). At most 500 at once.

        A reservation is fenced when a newer generation of its session runs, or when its session has no live lease.
        """
        row, run, lease = RESERVATION.c, EXECUTION.c, SESSION_LEASE.c
        tenant = self._store.tenant_id
        superseded = exists().where(
            run.tenant_id == tenant, run.session_id == row.session_id, run.generation > row.generation
        )
        living = exists().where(
            lease.tenant_id == tenant, lease.session_id == row.session_id, lease.revoked_at_ms.is_(None),
            lease.expires_at_ms + CLOCK_SKEW_MS > now_ms,
        )  # fmt: skip
        over = and_(row.tenant_id == tenant, row.status == "open", row.expires_at_ms + CLOCK_SKEW_MS <= now_ms)
        query = select(row.effect_key).where(over, or_(superseded, not_(living))).distinct().limit(EXPIRED_AT_ONCE)
        count = 0
        for effect_key in connection.execute(query).scalars().all():
            stored = self._rows.of_effect(connection, effect_key)
            late = [one for one in stored if may_expire(one.held, now_ms, fenced=True)]
            count += self._release(connection, late, "expire", "expired", now_ms)
        return count

    # --- reading -----------------------------------------------------------------------------------------------------

    def balances(self, session_id: str | None = None) -> list[Account]:
        """The tenant's accounts, or those of one session and its tasks, as they are now."""
        row = BUDGET_ACCOUNT.c
        mine = row.tenant_id == self._store.tenant_id
        if session_id is None:
            which = and_(mine, row.account_id.in_([tenant_account(unit) for unit in UNITS]))
        else:
            which = and_(mine, row.session_id == session_id)
        query = select(*(row[name] for name in Account.model_fields)).where(which).order_by(row.account_id)
        return self._store.read(lambda connection: [Account.model_validate(one._mapping) for one in connection.execute(query)])

    def reconcile(self, now_ms: int, by: Actor = ENGINE) -> Reconciliation:
        """Recompute everything from the entries, say precisely what differs, and record that it was done."""
        result = Reconciler(self._store, self._chain).run(now_ms)
        keys, differences = tenant_keys(self._store.tenant_id), result.differences
        payload = {
            **result.model_dump(mode="json", exclude={"differences", "tenant_id"}), "consistent": result.consistent,
            "differences": len(differences), "first": [str(one) for one in differences[:10]],
        }  # fmt: skip
        draft = EventDraft(kind="budget.reconciled", idempotency_key=f"reconciled/{uuid.uuid4()}", payload=payload)
        self._chain.append(keys, by, draft)
        return result

    # --- parts -------------------------------------------------------------------------------------------------------

    def _opened(
        self, connection: Connection, keys: TraceKeys, units: Iterable[Unit], now_ms: int, more: Iterable[str] = ()
    ) -> tuple[dict[str, Account], Shortage | None]:
        """The session's accounts and those of ``more`` that exist, locked; and why their tenant gives nothing, if so.

        A session that was opened before there was a ledger gets its accounts now.
        """
        ids = [session_account(keys.session_id, unit) for unit in units]
        found, frozen = self._rows.spendable(connection, (*ids, *more))
        if any(account_id not in found for account_id in ids):
            self._open(connection, keys, self._rules.session_budget, now_ms)
            found, frozen = self._rows.spendable(connection, (*ids, *more))
        return found, frozen

    def _session_accounts(self, connection: Connection, session_id: str, units: Iterable[Unit]) -> dict[str, Account]:
        return self._rows.accounts(connection, [session_account(session_id, unit) for unit in units])

    def _top_up(
        self, connection: Connection, keys: TraceKeys, base: str, before: Mapping[str, Account], wanted: Amounts, now_ms: int
    ) -> Posting | Shortage:
        """What the session must draw before it can hold back ``wanted``; nothing is written unless all of it is there."""
        needs: dict[Account, int] = {}
        for unit, amount in wanted.items():
            account = before[session_account(keys.session_id, unit)]
            short = shortage(account, amount)
            if short is not None and short.code == "BUDGET_FROZEN":
                return short
            if short is not None:
                needs[account] = amount
        return self._draw(connection, keys, base, needs, now_ms) if needs else Posting()

    def _draw(
        self, connection: Connection, keys: TraceKeys, base: str, needs: Mapping[Account, int], now_ms: int
    ) -> Posting | Shortage:
        tenants = self._rows.accounts(connection, [tenant_account(account.unit) for account in needs])
        moved: list[Posting] = []
        consumed: list[QuotaWindow] = []
        for account, wanted in needs.items():
            windows = self._windows(connection, keys, account, now_ms)
            drawn = draw(
                account, tenants[tenant_account(account.unit)], windows, wanted=wanted,
                step=self._rules.allotment_step.get(account.unit, 0), ledger_id=entry_id(base, "grant", account.unit),
            )  # fmt: skip
            if isinstance(drawn, Shortage):
                if drawn.code == "QUOTA_EXHAUSTED":
                    full = next(window for window in windows if window.account_id == drawn.account_id)
                    blocked = full.model_copy(update={"blocked_count": full.blocked_count + 1})
                    self._rows.keep_window(connection, blocked, now_ms)
                return drawn
            if drawn[0].entries[0].amount:
                moved.append(drawn[0])
                consumed += drawn[1]
        posting = joined(moved)
        before = {account.account_id: account for account in needs} | tenants
        self._rows.apply(connection, keys, before, posting, now_ms)
        for window in consumed:
            self._rows.keep_window(connection, window, now_ms)
        return posting

    def _windows(self, connection: Connection, keys: TraceKeys, account: Account, now_ms: int) -> Sequence[QuotaWindow]:
        rules, owner = self._rules, tenant_keys(self._store.tenant_id)
        limited = (
            (keys, account.account_id, rules.session_window.get(account.unit)),
            (owner, tenant_account(account.unit), rules.tenant_window.get(account.unit)),
        )
        return [
            self._rows.window(connection, whose, window_at(account_id, budget, rules.window_ms, now_ms), now_ms)
            for whose, account_id, budget in limited
            if budget is not None
        ]

    def _block(
        self, connection: Connection, keys: TraceKeys, base: str, short: Shortage, capability_id: str, now_ms: int
    ) -> BudgetBlocked:
        """Record that there was not enough, once for each unit that lacks."""
        entry = Entry(
            ledger_id=entry_id(base, "blocked", short.unit), kind="blocked", debit_account_id=short.account_id,
            credit_account_id=task_account(keys.session_id, keys.task_id, short.unit), amount=short.needed, unit=short.unit,
            reason=short.code,
        )  # fmt: skip
        if self._rows.block(connection, keys, entry, now_ms, capability_id):
            self._tell(
                connection, keys, "budget.blocked", base, (entry,), part=short.unit, capability_id=capability_id, code=short.code,
                account_id=short.account_id, available=short.available,
            )  # fmt: skip
        return BudgetBlocked.model_validate(short.model_dump())

    def _round_of(self, connection: Connection, effect_key: str) -> list[StoredReservation]:
        """What the effect reserved last."""
        stored = self._rows.of_effect(connection, effect_key)
        last = max((_round(one) for one in stored), default=0)
        return [one for one in stored if _round(one) == last]

    def _unreserved(
        self, connection: Connection, keys: TraceKeys, effect_key: str, base: str, units: Iterable[Unit]
    ) -> dict[Unit, Reservation]:
        """Units that were used and not reserved, as reservations of nothing that ended before; none that is charged already."""
        return {
            unit: Reservation(
                pending_id=pending_id(base, unit), effect_key=effect_key, account_id=session_account(keys.session_id, unit),
                unit=unit, amount=0, status="voided", expires_at_ms=0,
            )
            for unit in units
            if self._rows.entry(connection, entry_id(base, "overrun", unit)) is None
        }  # fmt: skip

    def _settling(
        self, connection: Connection, keys: TraceKeys, base: str, held: Mapping[Unit, Reservation], used: Amounts, now_ms: int
    ) -> tuple[Posting, dict[str, Account]]:
        tasks = {unit: task_account(keys.session_id, keys.task_id, unit) for unit in held}
        before, _ = self._opened(connection, keys, held, now_ms, tasks.values())
        before |= self._sinks(connection, keys, tasks, before, now_ms)
        beyond = [unit for unit, one in held.items() if overruns(one, used.get(unit, 0))]
        if beyond:
            before |= self._rows.accounts(connection, map(excess_account, beyond))
        postings = [
            settle(
                before[one.account_id], before[tasks[unit]], before.get(excess_account(unit)), one, used.get(unit, 0), base
            )
            for unit, one in held.items()
        ]
        return joined(postings), before

    def _sinks(
        self, connection: Connection, keys: TraceKeys, tasks: Mapping[Unit, str], before: Mapping[str, Account], now_ms: int
    ) -> dict[str, Account]:
        """The accounts of a task that spends for the first time."""
        missing = {unit: account_id for unit, account_id in tasks.items() if account_id not in before}
        if not missing:
            return {}
        made = [self._account(account_id, unit, session_account(keys.session_id, unit)) for unit, account_id in missing.items()]
        self._rows.open_accounts(connection, keys, made, now_ms)
        return self._rows.accounts(connection, missing.values())

    def _release(
        self,
        connection: Connection,
        held: Sequence[StoredReservation],
        kind: Literal["void", "expire"],
        reason: str,
        now_ms: int,
    ) -> int:
        for base, group in groupby(sorted(held, key=lambda one: one.held.pending_id), key=lambda one: one.base):
            mine = list(group)
            keys = mine[0].keys
            before = self._rows.accounts(connection, [one.held.account_id for one in mine])
            posting = joined(
                release(
                    before[one.held.account_id], task_account(keys.session_id, keys.task_id, one.held.unit), one.held, kind, base,
                    reason[:512],
                )
                for one in mine
            )  # fmt: skip
            self._rows.apply(connection, keys, before, posting, now_ms, capability_id=mine[0].capability_id)
            told: EventKind = "budget.voided" if kind == "void" else "budget.expired"
            self._tell(connection, keys, told, base, posting.entries, capability_id=mine[0].capability_id, reason=reason)
        return len(held)

    def _give_back(self, connection: Connection, keys: TraceKeys, now_ms: int) -> None:
        sessions = self._session_accounts(connection, keys.session_id, UNITS)
        rest = [account for account in sessions.values() if account.available > 0 and not account.frozen]
        if not rest:
            return
        tenants = self._rows.accounts(connection, [tenant_account(account.unit) for account in rest])
        # Between two times that something comes back, a posted balance has grown: the id is new.
        base = f"close/{keys.session_id}#{sum(one.credits_posted + one.debits_posted for one in sessions.values())}"
        moved = []
        for account in rest:
            ledger_id, tenant = entry_id(base, "grant", account.unit), tenants[tenant_account(account.unit)]
            moved.append(transfer(account, tenant, account.available, ledger_id, "given back"))
        posting = joined(one for one in moved if isinstance(one, Posting))
        self._rows.apply(connection, keys, sessions | tenants, posting, now_ms)
        self._tell(connection, keys, "config.changed", base, posting.entries, setting="ledger.given_back")

    def _outer_accounts(self, *units: Unit) -> Iterator[Account]:
        for unit in units or UNITS:
            yield self._account(tenant_account(unit), unit)
            yield self._account(source_account(unit), unit, bounded=False)
            yield self._account(excess_account(unit), unit, bounded=False)

    def _account(
        self, account_id: str, unit: Unit, parent: str | None = None, *, bounded: bool = True, credit_limit: int | None = None
    ) -> Account:
        return Account(
            account_id=account_id, tenant_id=self._store.tenant_id, parent_account_id=parent, unit=unit,
            debits_must_not_exceed_credits=bounded, credit_limit=credit_limit,
        )  # fmt: skip

    # --- events ------------------------------------------------------------------------------------------------------

    def _tell_settled(
        self,
        connection: Connection,
        keys: TraceKeys,
        base: str,
        entries: Sequence[Entry],
        priced: Priced,
        capability_id: str,
    ) -> None:
        cost = {**priced.cost.model_dump(exclude_defaults=True), "price_table_version": priced.version}
        kinds: tuple[tuple[EventKind, str], ...] = (("budget.settled", "settle"), ("budget.overrun", "overrun"))
        for told, kind in kinds:
            if mine := [entry for entry in entries if entry.kind == kind]:
                self._tell(connection, keys, told, base, mine, capability_id=capability_id, **cost)

    def _tell(
        self,
        connection: Connection,
        keys: TraceKeys,
        kind: EventKind,
        base: str,
        entries: Iterable[Entry],
        *,
        by: Actor = ENGINE,
        part: str = "",
        capability_id: str | None = None,
        **facts: Any,
    ) -> None:
        """One event of an act: ``entries`` by kind and unit, whose ids follow from ``id`` (see :func:`entry_id`)."""
        key = "/".join(word for word in (base, part, kind) if word)
        payload = {"id": base, "entries": amounts_of(entries), **facts}
        draft = EventDraft(kind=kind, task_id=keys.task_id, capability_id=capability_id, idempotency_key=key, payload=payload)
        self._chain.append(keys, by, draft, connection=connection)


@cache
def policy_rules() -> LedgerRules:
    """``ledger`` of the policy that this program came with. Raises pydantic.ValidationError where a number is missing."""
    return LedgerRules.model_validate(json.loads((resources.files("policies") / "data.json").read_bytes())["ledger"])


def _round(stored: StoredReservation) -> int:
    """Which reservation of its effect it belongs to."""
    return int(stored.base.rpartition("#")[2])


def _settled(base: str, held: Iterable[Reservation], cost: Cost = Cost(), *, repeated: bool = False) -> Settled:  # noqa: B008  frozen
    held = list(held)
    return Settled(
        base=base, charged={one.unit: one.settled + one.overrun for one in held},
        returned={one.unit: one.amount - one.settled for one in held if one.status == "settled"},
        overrun={one.unit: one.overrun for one in held if one.overrun}, cost=cost, repeated=repeated,
    )  # fmt: skip
