"""``gen4 ledger``: what was granted, reserved and spent, and whether the books agree with themselves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from activities.record.ledger import Ledger
from activities.record.ledger_reports import Costs, LedgerReports
from activities.record.store import now_ms
from cli.amounts import parse_amounts
from cli.events import session_of
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import SshKey, TokenFile, operator_of
from cli.output import emit, show
from schemas.event import Actor
from schemas.identity import Role
from schemas.ledger import UNITS, Account
from workers.settings import read_settings

READERS: tuple[Role, ...] = ("operator", "tenant_admin", "auditor")
SessionOption = Annotated[str | None, typer.Option("--session", metavar="ID", help="One session, by its id or workflow id.")]


class By(StrEnum):
    CAPABILITY = "capability"
    ROLE = "role"
    MODEL = "model"
    TASK = "task"
    SESSION = "session"


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Budgets: grants, balances, costs, reconciling.", rich_markup_mode="markdown")
    app.add_typer(group, name="ledger")
    for command in (balance, entries, grant, cost, reconcile):
        group.command()(command)


def balance(
    session: SessionOption = None, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
) -> None:
    """What the tenant, or a session and its tasks, may still spend.

    Example: `gen4 ledger balance --session remediation-…`
    """
    local, _ = _opened(READERS, token_file, ssh_key)
    accounts = Ledger(local.store, local.chain).balances(_session(local, session))
    if as_json:
        emit([{**account.model_dump(mode="json"), "available": account.available} for account in accounts])
        return
    if not accounts:
        show("no accounts yet: the first session makes them")
    for account in accounts:
        show(_balance(account))


def entries(
    session: SessionOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest.")] = 100,
    token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Every movement, oldest first: grants, reservations and how they ended, overruns, refusals.

    Example: `gen4 ledger entries --session remediation-… --limit 20`
    """
    local, _ = _opened(READERS, token_file, ssh_key)
    rows = LedgerReports(local.store).entries(_session(local, session), limit)
    if as_json:
        emit(rows)
        return
    for row in rows:
        when = datetime.fromtimestamp(row["created_at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        accounts = f"{row['debit_account_id']} → {row['credit_account_id']}"
        show(f"{when} {row['kind']:<8} {row['amount']:>16} {row['unit']:<12} {accounts} {row['reason']}".rstrip())


def grant(
    amount: Annotated[str, typer.Argument(metavar="UNIT=AMOUNT", help=f"UNIT is one of {', '.join(UNITS)}.")],
    reason: Annotated[str, typer.Option(help="Why; recorded with who did it.")],
    grant_id: Annotated[
        str | None, typer.Option("--id", help="The same id twice is one grant; default: a new one.")
    ] = None,
    token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Give the tenant more to spend. Needs the role tenant_admin.

    Example: `gen4 ledger grant micros=5000000 --reason "budget of July"`
    """
    ((unit, granted),) = parse_amounts(amount, most=1).items()
    local, by = _opened(("tenant_admin",), token_file, ssh_key)
    ledger, grant_id = Ledger(local.store, local.chain), grant_id or str(uuid.uuid4())
    account = local.store.write(
        lambda connection: ledger.grant(
            connection, unit, granted, grant_id=grant_id, reason=reason, by=by, now_ms=now_ms()
        )
    )
    if as_json:
        emit({"grant_id": grant_id, **account.model_dump(mode="json"), "available": account.available})
    else:
        show(f"granted {granted} {unit} ({grant_id})")
        show(_balance(account))


def cost(
    session: SessionOption = None,
    by: Annotated[By, typer.Option(help="What to sum up by.")] = By.CAPABILITY,
    token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
) -> None:  # fmt: skip
    """What was spent, and on what.

    Example: `gen4 ledger cost --by role --json`
    """
    local, _ = _opened(READERS, token_file, ssh_key)
    found = list(LedgerReports(local.store).costs(by.value, _session(local, session)))
    if as_json:
        emit([one.model_dump(mode="json") for one in found])
        return
    if not found:
        show("nothing was spent yet")
    for line in _costs(found):
        show(line)


def reconcile(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
    """Recompute every account from the entries, the reservations and the events; exit code 1 names each difference.

    Example: `gen4 ledger reconcile --json`
    """
    local, by = _opened(READERS, token_file, ssh_key)
    result = Ledger(local.store, local.chain).reconcile(now_ms(), by)
    if as_json:
        emit({**result.model_dump(mode="json"), "consistent": result.consistent})
    else:
        for difference in result.differences:
            show(f"DIFFERENCE {difference}")
        if result.more:
            show("… and more")
        counts = f"{result.entries} entries, {result.accounts} accounts, {result.reservations} reservations"
        unread = f", {result.events_unread} events unread" if result.events_unread else ""
        verdict = "ok: no difference" if result.consistent else f"{len(result.differences)} differences"
        show(f"{verdict} in {counts}, {result.events} events{unread}")
    raise typer.Exit(0 if result.consistent else 1)


def _opened(roles: tuple[Role, ...], token_file: TokenFile, ssh_key: SshKey) -> tuple[LocalStore, Actor]:
    settings = read_settings()
    local = open_local(settings)
    purpose: Any = "act" if roles == ("tenant_admin",) else "look"
    return local, operator_of(local, settings, *roles, token_file=token_file, ssh_key=ssh_key, purpose=purpose)


def _session(local: LocalStore, id: str | None) -> str | None:
    return None if id is None else session_of(local, id)


def _balance(account: Account) -> str:
    if account.account_id.startswith("task:"):
        return f"{'':>18} {account.unit:<12} {account.account_id}  spent {account.credits_posted}"
    held = f"{account.available:>18} {account.unit:<12} {account.account_id}"
    used = "handed out" if account.account_id.startswith("tenant:") else "spent"
    notes = f"  reserved {account.debits_pending}, {used} {account.debits_posted} of {account.credits_posted}"
    return held + notes + ("  FROZEN" if account.frozen else "")


def _costs(found: list[Costs]) -> Iterator[str]:
    for one in found:
        used = f"{one.calls} calls, {one.cpu_ms / 1000:.1f} s cpu, {one.duration_ms / 1000:.1f} s, {one.tokens} tokens"
        yield f"{one.total_cost_micros:>14} micros  {one.name}  ({used})"
    yield f"{sum(one.total_cost_micros for one in found):>14} micros  in all"
