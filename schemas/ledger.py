"""The budget ledger: double entry in integers, reserve then settle (contracts §4). Pure; the store keeps what these return.

    source ──grant──▸ tenant ──grant──▸ session ──reserve, settle──▸ task
                        ▲                 │                            ▲
                        └─────grant───────┘ rest at the end            └──overrun── excess

What may be spent are the tenant's and the session's accounts; a task's account collects what was spent. ``source`` and
``excess`` stand for the outside: money that was granted, and use that nobody had reserved.
Every function takes values and returns a :class:`Posting` of new ones, or the :class:`Shortage` that forbids it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Literal

from schemas.error import InputError, Refused
from schemas.model import Payload

Unit = Literal["micros", "tokens", "cpu_ms", "wall_ms", "egress_bytes"]
UNITS: tuple[Unit, ...] = ("micros", "tokens", "cpu_ms", "wall_ms", "egress_bytes")
EntryKind = Literal["grant", "reserve", "settle", "void", "expire", "overrun", "blocked"]
ReservationStatus = Literal["open", "settled", "voided", "expired"]
ShortageCode = Literal["BUDGET_EXHAUSTED", "BUDGET_FROZEN", "TENANT_BUDGET_EXHAUSTED", "QUOTA_EXHAUSTED"]

POSTED: tuple[EntryKind, ...] = ("grant", "settle", "overrun")
"""Kinds that move an amount; the others only hold it, let it go or say that there was none."""
ENDINGS: Mapping[EntryKind, ReservationStatus] = {"settle": "settled", "void": "voided", "expire": "expired"}
LARGEST = 2**53 - 1
"""JSON numbers, hence events, are exact up to here."""
CLOCK_SKEW_MS = 300_000
"""Clocks of two machines differ by less."""


class Account(Payload):
    """Posted balances only grow; what is available is ``credits_posted - debits_posted - debits_pending``."""

    account_id: str
    tenant_id: str
    parent_account_id: str | None = None
    unit: Unit
    debits_pending: int = 0
    debits_posted: int = 0
    credits_posted: int = 0
    debits_must_not_exceed_credits: bool = True
    credit_limit: int | None = None
    """The most that it may ever draw from its parent."""
    frozen: bool = False

    @property
    def available(self) -> int:
        return self.credits_posted - self.debits_posted - self.debits_pending


class Usage(Payload):
    """What an attempt used. ``model`` names whose tokens they are."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Those of ``prompt_tokens`` that the provider read from its cache."""
    tool_calls: int = 0
    cpu_ms: int = 0
    wall_ms: int = 0
    egress_bytes: int = 0
    model: str | None = None


class Reservation(Payload):
    """``effect_key`` may reserve again once this ended; ``pending_id`` is new each time."""

    pending_id: str
    effect_key: str
    account_id: str
    unit: Unit
    amount: int
    status: ReservationStatus = "open"
    settled: int = 0
    overrun: int = 0
    """What was used beyond it, or after it ended otherwise."""
    generation: int = 1
    expires_at_ms: int


class Entry(Payload):
    ledger_id: str
    kind: EntryKind
    debit_account_id: str
    credit_account_id: str
    amount: int
    unit: Unit
    pending_id: str | None = None
    expires_at_ms: int | None = None
    reason: str = ""


class Posting(Payload):
    """What changes together: new values of accounts and reservations, and the entries that say why."""

    accounts: tuple[Account, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    entries: tuple[Entry, ...] = ()


class Shortage(Payload):
    """Why nothing was reserved. ``retry_at_ms``: when there may be more, if ever."""

    code: ShortageCode
    account_id: str
    unit: Unit
    needed: int
    available: int
    retry_at_ms: int | None = None


class QuotaWindow(Payload):
    """How much an account may draw, or hand out, between two times."""

    window_id: str
    account_id: str
    window_start_ms: int
    window_end_ms: int
    window_budget: int
    consumed: int = 0
    blocked_count: int = 0


Amounts = Mapping[Unit, int]


class LedgerRules(Payload):
    """First values of the ledger, from policy data (``ledger`` in policies/data.json)."""

    tenant_grants: dict[Unit, int]
    """What a tenant starts with."""
    session_budget: dict[Unit, int]
    """The most that a session may draw, unless its request says so."""
    allotment_step: dict[Unit, int]
    """What a session draws at once."""
    window_ms: int
    session_window: dict[Unit, int]
    """The most that one session may draw in a window."""
    tenant_window: dict[Unit, int]
    """The most that all sessions of a tenant may draw in a window."""


# --- names of accounts -----------------------------------------------------------------------------------------------


def tenant_account(unit: Unit) -> str:
    return f"tenant:{unit}"


def session_account(session_id: str, unit: Unit) -> str:
    return f"session:{session_id}:{unit}"


def task_account(session_id: str, task_id: str | None, unit: Unit) -> str:
    """A long name of a task goes in as its digest: the row itself carries the whole."""
    task = task_id or "none"
    return f"task:{session_id}:{task if len(task) <= 64 else sha256(task.encode()).hexdigest()}:{unit}"


def source_account(unit: Unit) -> str:
    """Where grants come from."""
    return f"source:{unit}"


def excess_account(unit: Unit) -> str:
    """Who bears what nobody had reserved."""
    return f"excess:{unit}"


def entry_id(base: str, kind: EntryKind, unit: Unit) -> str:
    """``base`` names the act: ``effect_key#n`` of a reservation, ``grant/<id>``, ``open/<session>``, ``close/<session>``."""
    return f"{base}/{kind}/{unit}"


def pending_id(base: str, unit: Unit) -> str:
    return f"{base}/{unit}"


def checked(amounts: Amounts) -> dict[Unit, int]:
    """The amounts above zero, in the order of units.

    Raises:
        InputError: AMOUNT_INVALID, UNIT_UNKNOWN.
    """
    if unknown := sorted(set(amounts) - set(UNITS)):
        raise InputError("UNIT_UNKNOWN", f"no such unit: {', '.join(unknown)}", f"units are {', '.join(UNITS)}")
    for unit, amount in amounts.items():
        if type(amount) is not int or not 0 <= amount <= LARGEST:
            raise InputError("AMOUNT_INVALID", f"{amount!r} {unit} is no amount", f"give an integer from 0 to {LARGEST}")
    return {unit: amounts[unit] for unit in UNITS if amounts.get(unit)}


# --- moving amounts --------------------------------------------------------------------------------------------------


def shortage(account: Account, amount: int) -> Shortage | None:
    """Why ``account`` cannot give ``amount``, if it cannot."""
    if account.frozen:
        code: ShortageCode = "BUDGET_FROZEN"
    elif account.debits_must_not_exceed_credits and account.available < amount:
        code = "TENANT_BUDGET_EXHAUSTED" if account.parent_account_id is None else "BUDGET_EXHAUSTED"
    else:
        return None
    return Shortage(
        code=code, account_id=account.account_id, unit=account.unit, needed=amount, available=max(0, account.available)
    )


def transfer(debit: Account, credit: Account, amount: int, ledger_id: str, reason: str = "") -> Posting | Shortage:
    """Move ``amount`` for good: a grant, an allotment, or the rest of one that comes back."""
    if (short := shortage(debit, amount)) is not None:
        return short
    _bounded(debit.debits_posted + amount, credit.credits_posted + amount)
    return Posting(
        accounts=(
            debit.model_copy(update={"debits_posted": debit.debits_posted + amount}),
            credit.model_copy(update={"credits_posted": credit.credits_posted + amount}),
        ),
        entries=(_entry(ledger_id, "grant", debit, credit.account_id, amount, reason=reason),),
    )


def draw(
    session: Account, tenant: Account, windows: Iterable[QuotaWindow], *, wanted: int, step: int, ledger_id: str
) -> tuple[Posting, tuple[QuotaWindow, ...]] | Shortage:
    """Top ``session`` up from ``tenant``, so that ``wanted`` is available in it: by a whole step where limits leave as much.

    Returns:
        The posting, and the windows with what they have consumed now.
    """
    need = max(0, wanted - session.available)
    windows = tuple(windows)
    if session.frozen:
        return Shortage(
            code="BUDGET_FROZEN", account_id=session.account_id, unit=session.unit, needed=wanted, available=session.available
        )
    room = LARGEST if session.credit_limit is None else session.credit_limit - session.credits_posted
    if need > room:
        return Shortage(
            code="BUDGET_EXHAUSTED", account_id=session.account_id, unit=session.unit, needed=wanted,
            available=session.available + max(0, room),
        )  # fmt: skip
    for window in windows:
        left = window.window_budget - window.consumed
        if need > left:
            return Shortage(
                code="QUOTA_EXHAUSTED", account_id=window.account_id, unit=session.unit, needed=wanted,
                available=session.available + max(0, left),
                # What is more than a whole window never fits, however long one waits.
                retry_at_ms=window.window_end_ms if need <= window.window_budget else None,
            )  # fmt: skip
        room = min(room, left)
    amount = max(need, min(step, room, max(0, tenant.available)))
    moved = transfer(tenant, session, amount, ledger_id, "allotment")
    if isinstance(moved, Shortage):
        return moved.model_copy(update={"needed": wanted})
    return moved, tuple(window.model_copy(update={"consumed": window.consumed + amount}) for window in windows)


def reserve(account: Account, task_account_id: str, wanted: Reservation, base: str) -> Posting | Shortage:
    """Hold ``wanted.amount`` of ``account`` back."""
    if (short := shortage(account, wanted.amount)) is not None:
        return short
    entry = _entry(
        entry_id(base, "reserve", account.unit), "reserve", account, task_account_id, wanted.amount, wanted.pending_id,
        expires_at_ms=wanted.expires_at_ms,
    )  # fmt: skip
    held = account.model_copy(update={"debits_pending": account.debits_pending + wanted.amount})
    return Posting(accounts=(held,), reservations=(wanted,), entries=(entry,))


def settle(account: Account, task: Account, excess: Account | None, held: Reservation, used: int, base: str) -> Posting:
    """End ``held`` with what was used; the rest is available again at once.

    What was used beyond it, or after it had expired or was voided, is an overrun: it happened, so it is posted, and
    ``account`` gives nothing more. What was settled before stays as it is.

    Args:
        excess: the account that bears an overrun; needed when :func:`overruns` says so.
    """
    if _spoken_for(held):
        return Posting()
    covered = min(used, held.amount) if held.status == "open" else 0
    entries: list[Entry] = []
    accounts = [account]
    if held.status == "open":
        _bounded(task.credits_posted + used)
        ledger_id = entry_id(base, "settle", account.unit)
        entries.append(_entry(ledger_id, "settle", account, task.account_id, covered, held.pending_id))
        freed = {"debits_pending": account.debits_pending - held.amount, "debits_posted": account.debits_posted + covered}
        accounts = [account.model_copy(update=freed)]
        held = held.model_copy(update={"status": "settled", "settled": covered})
    if (beyond := used - covered) > 0:
        if excess is None:
            raise ValueError("an overrun needs the account that bears it")
        _bounded(task.credits_posted + used, excess.debits_posted + beyond)
        ledger_id = entry_id(base, "overrun", account.unit)
        entries.append(_entry(ledger_id, "overrun", excess, task.account_id, beyond, held.pending_id))
        held = held.model_copy(update={"overrun": beyond})
        accounts = [
            accounts[0].model_copy(update={"frozen": True}),
            excess.model_copy(update={"debits_posted": excess.debits_posted + beyond}),
        ]
    if used:
        accounts.append(task.model_copy(update={"credits_posted": task.credits_posted + used}))
    return Posting(accounts=tuple(accounts), reservations=(held,), entries=tuple(entries))


def overruns(held: Reservation, used: int) -> bool:
    """Whether settling ``held`` with ``used`` posts an overrun."""
    return not _spoken_for(held) and used > (held.amount if held.status == "open" else 0)


def release(
    account: Account, task_account_id: str, held: Reservation, kind: Literal["void", "expire"], base: str, reason: str = ""
) -> Posting:
    """End ``held`` unused. A reservation that has ended stays as it is."""
    if held.status != "open":
        return Posting()
    ledger_id = entry_id(base, kind, account.unit)
    return Posting(
        accounts=(account.model_copy(update={"debits_pending": account.debits_pending - held.amount}),),
        reservations=(held.model_copy(update={"status": ENDINGS[kind]}),),
        entries=(_entry(ledger_id, kind, account, task_account_id, held.amount, held.pending_id, reason),),
    )


def may_expire(held: Reservation, now_ms: int, *, fenced: bool) -> bool:
    """Only when no clock can still be before its end, and whoever holds it can no longer act (threats 7.5).

    Args:
        fenced: a newer generation runs, or the session has no live lease.
    """
    return held.status == "open" and fenced and held.expires_at_ms + CLOCK_SKEW_MS <= now_ms


def window_at(account_id: str, budget: int, length_ms: int, now_ms: int) -> QuotaWindow:
    """The window of ``account_id`` that ``now_ms`` lies in; windows lie end to end since the epoch."""
    start = now_ms - now_ms % length_ms
    return QuotaWindow(
        window_id=f"{account_id}@{start}", account_id=account_id, window_start_ms=start, window_end_ms=start + length_ms,
        window_budget=budget,
    )  # fmt: skip


def _spoken_for(held: Reservation) -> bool:
    """What was used of it is posted already: use is charged once."""
    return held.status == "settled" or held.overrun > 0


def _entry(
    ledger_id: str,
    kind: EntryKind,
    debit: Account,
    credit_account_id: str,
    amount: int,
    pending: str | None = None,
    reason: str = "",
    expires_at_ms: int | None = None,
) -> Entry:
    return Entry(
        ledger_id=ledger_id, kind=kind, debit_account_id=debit.account_id, credit_account_id=credit_account_id, amount=amount,
        unit=debit.unit, pending_id=pending, expires_at_ms=expires_at_ms, reason=reason,
    )  # fmt: skip


def _bounded(*balances: int) -> None:
    if max(balances) > LARGEST:
        raise Refused("BALANCE_TOO_LARGE", f"no balance may pass {LARGEST}", "open another account")


# --- what must hold of a whole ledger --------------------------------------------------------------------------------


def violations(
    accounts: Iterable[Account], reservations: Iterable[Reservation], entries: Iterable[Entry]
) -> list[str]:
    """What is wrong with a whole ledger, in words; empty for one that only these functions wrote."""
    accounts, reservations, entries = list(accounts), list(reservations), list(entries)
    found = []
    for unit in UNITS:
        mine = [account for account in accounts if account.unit == unit]
        debits, credits = sum(account.debits_posted for account in mine), sum(account.credits_posted for account in mine)
        if debits != credits:
            found.append(f"{unit}: {debits} debited, {credits} credited")
    for account in accounts:
        held = sum(one.amount for one in reservations if one.account_id == account.account_id and one.status == "open")
        out = sum(one.amount for one in entries if one.debit_account_id == account.account_id and one.kind in POSTED)
        into = sum(one.amount for one in entries if one.credit_account_id == account.account_id and one.kind in POSTED)
        if (account.debits_pending, account.debits_posted, account.credits_posted) != (held, out, into):
            found.append(f"{account.account_id}: holds {account}, entries say pending {held}, out {out}, in {into}")
        if account.debits_must_not_exceed_credits and account.available < 0:
            found.append(f"{account.account_id}: {account.available} available")
    for one in reservations:
        ends = [entry.kind for entry in entries if entry.pending_id == one.pending_id and entry.kind in ENDINGS]
        if [ENDINGS[kind] for kind in ends] != ([] if one.status == "open" else [one.status]) or one.settled > one.amount:
            found.append(f"{one.pending_id}: {one.status}, {one.settled} of {one.amount} settled, ended by {ends}")
    if len({entry.ledger_id for entry in entries}) != len(entries):
        found.append("two entries have one id")
    return found
