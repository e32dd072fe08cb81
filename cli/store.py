"""``gen4 store``: copies of the store, putting one back, and where it stands."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from activities.control.approvers import OPERATOR
from activities.record.authority import Authority
from activities.record.backup import Standing, back_up, declare_restored, replace, standings
from activities.record.home import Home
from activities.record.payloads import PayloadVault
from activities.record.store import HEAD, Store, now_ms
from cli.fabric import Json
from cli.local import open_local
from cli.operator import TokenFile, operator_of
from cli.output import emit, say, show
from schemas.error import InfrastructureError, Refused
from schemas.event import Actor
from workers.fabric import lock_path
from workers.settings import Settings, read_settings

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, resolve_path=True)]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="The store: copies, restoring, migrations.", rich_markup_mode="markdown")
    app.add_typer(group, name="store")
    for command in (backup, restore, migrate, verify, info):
        group.command()(command)


def backup(file: BackupFile, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Copy the whole store into one new FILE, as it is at one moment. Sessions go on meanwhile.

    The copy holds all that was recorded, also of other tenants; keys, blobs and bundles lie beside the store in
    `GEN4_HOME` and are not in it.

    Example: `gen4 store backup /backups/gen4-$(date +%F).db`
    """
    settings = read_settings()
    local = open_local(settings)
    operator_of(local, settings, "tenant_admin", token_file=token_file)
    local.close()
    back_up(settings.store_address, file)
    size = file.stat().st_size
    emit({"file": str(file), "bytes": size}) if as_json else show(f"{file}: {size} bytes")


def restore(file: BackupFile, token_file: TokenFile = None, as_json: Json = False) -> None:
    """Put a copy in the place of the store, while no fabric runs. What was there is kept in a file beside it.

    Every tenant's chain then gets a `store.restored` event that says how much the copy lacks.

    Example: `gen4 down && gen4 store restore /backups/gen4-2026-11-21.db`
    """
    settings = read_settings()
    home = Home.open(settings.home)
    with _no_fabric(home):
        now = now_ms()
        actor, before = _before(settings, token_file)
        kept = home.root / f"store.{'db' if settings.store_url is None else 'dump'}.replaced-{now}"
        replace(settings.store_address, file, kept)
        store = Store.open(settings.store_address, vault=PayloadVault(home.keys))
        found = declare_restored(store, before, file, actor, now)
        store.close()
    lost = {tenant_id: standing.events - _events(found, tenant_id) for tenant_id, standing in (before or {}).items()}
    if as_json:
        emit({
            "restored": str(file), "kept": str(kept), "tenants": {name: one.model_dump() for name, one in found.items()},
            "events_behind": lost if before is not None else None,
        })  # fmt: skip
        return
    show(f"restored {file}; what it replaced is in {kept}")
    for tenant_id, count in lost.items():
        show(f"  tenant {tenant_id}: {_events(found, tenant_id)} events, {max(count, 0)} fewer than before")


def migrate(as_json: Json = False) -> None:
    """Bring the store to the shape that this program needs. `gen4 up` does it too; with PostgreSQL, run it as the owner."""
    settings = read_settings()
    Home.open(settings.home)
    Store.open(settings.store_address).close()
    emit({"version": HEAD}) if as_json else show(f"the store is at {HEAD}")


def verify(token_file: TokenFile = None, as_json: Json = False) -> None:
    """Compare the rows that give authority (leases, roles, principals, approvals) with their events; exit code 1 names each
    that was changed past them. Money: `gen4 ledger reconcile`; events: `gen4 events --verify --all`.

    Example: `gen4 store verify --json`
    """
    settings = read_settings()
    local = open_local(settings)
    operator_of(local, settings, "auditor", "operator", "tenant_admin", token_file=token_file, purpose="look")
    found = list(Authority(local.store, local.chain).unfounded())
    if as_json:
        emit({"ok": not found, "unfounded": [one.model_dump(exclude_none=True) for one in found]})
    for one in found if not as_json else ():
        show(f"BAD {one}")
    if not found and not as_json:
        show("ok: every lease, role, principal and approval is what its events say")
    raise typer.Exit(1 if found else 0)


def info(as_json: Json = False) -> None:
    """Where the store is, at which version, and how many events each tenant has."""
    settings = read_settings()
    Home.open(settings.home)
    store = Store.open(settings.store_address)
    found = standings(store)
    store.close()
    if as_json:
        tenants = {name: standing.model_dump() for name, standing in found.items()}
        emit({"address": settings.store_address, "version": HEAD, "tenants": tenants})
        return
    show(f"{settings.store_address} at {HEAD}")
    for tenant_id, standing in found.items():
        show(f"  tenant {tenant_id}: {standing.events} events in {standing.sessions} chains")


def _before(settings: Settings, token_file: Path | None) -> tuple[Actor, dict[str, Standing] | None]:
    """Who restores, and what the store holds; None where it is so damaged that only its owner can still be known."""
    try:
        local = open_local(settings)
    except InfrastructureError as error:
        if error.code != "STORE_UNAVAILABLE" or settings.store_url is not None:
            raise
        say(f"the store cannot be read any more and is replaced: {error.message}")
        return Actor(principal_id=OPERATOR, kind="human"), None
    try:
        actor = operator_of(local, settings, "tenant_admin", token_file=token_file)
        whole = Store.open(settings.store_address)
        try:
            return actor, standings(whole)
        finally:
            whole.close()
    finally:
        local.close()


def _events(found: dict[str, Standing], tenant_id: str) -> int:
    return found[tenant_id].events if tenant_id in found else 0


@contextmanager
def _no_fabric(home: Home) -> Iterator[None]:
    """Hold what a supervisor holds: none runs, and none starts meanwhile."""
    with lock_path(home).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused("STORE_IN_USE", "a fabric of this home is running", "stop it with `gen4 down`") from error
        yield
