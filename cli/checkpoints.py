"""``gen4 checkpoints``: signed roots over all that was recorded, and whether they still hold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from activities.evidence.checkpointing import checkpoint_key, load_checkpoint_signer
from activities.record.chain import Finding
from activities.record.checkpoints import Checkpoints
from activities.record.sink import Sink, read_notes
from activities.record.store import now_ms
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import SshKey, TokenFile, open_to_look, operator_of
from cli.output import emit, show
from schemas.error import InputError
from workers.settings import Settings, read_settings

CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", "--sink", resolve_path=True,
        help="File or folder with signed checkpoints that was kept elsewhere; default: what GEN4_CHECKPOINT_SINK names.",
    ),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Signed roots over all that was recorded.", rich_markup_mode="markdown")
    app.add_typer(group, name="checkpoints")

    @group.command(name="list")
    def list_(as_json: Json = False) -> None:
        """All checkpoints of the tenant, oldest first, and the key that signed them."""
        local = open_to_look(read_settings())
        stored, key = Checkpoints(local.store, local.chain).all(), checkpoint_key(local.home.keys)
        if as_json:
            rows = [{**one.checkpoint.model_dump(mode="json"), "note": one.note} for one in stored]
            emit({"key": str(key) if key else None, "checkpoints": rows})
            return
        for one in stored:
            found = one.checkpoint
            when = datetime.fromtimestamp(found.created_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            show(f"{found.number:>6} {when} {found.sessions:>6} sessions  {found.root_sha256}")
        show(f"key: {key}" if key else "no checkpoint was taken yet")

    @group.command()
    def take(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Sign the heads of all chains now. The fabric does it by itself every few minutes."""
        settings = read_settings()
        local = open_local(settings)
        operator_of(local, settings, "operator", "tenant_admin", token_file=token_file, ssh_key=ssh_key)
        sink = Sink(settings.checkpoint_sink, local.home.root) if settings.checkpoint_sink else None
        taken = Checkpoints(local.store, local.chain).take(load_checkpoint_signer(local.home.keys), now_ms(), sink)
        emit(taken) if as_json else show(f"checkpoint {taken.number}: {taken.sessions} sessions, root {taken.root_sha256}")

    @group.command()
    def verify(sink: CheckpointFile = None, as_json: Json = False) -> None:
        """Check every checkpoint: signature, order, root, the chains as it saw them, and what was kept elsewhere.

        Example: `gen4 checkpoints verify --sink /mnt/worm/gen4.notes`
        """
        settings = read_settings()
        local = open_to_look(settings)
        checkpoints = Checkpoints(local.store, local.chain)
        findings = findings_of(local, settings, sink)
        stored, restorations = checkpoints.all(), checkpoints.restorations()
        if as_json:
            emit({
                "ok": not findings, "checkpoints": len(stored), "findings": [dict(finding.__dict__) for finding in findings],
                "restorations": [dict(one.__dict__) for one in restorations],
            })  # fmt: skip
        else:
            for finding in findings:
                where = f"session {finding.session_id}" if finding.session_id else f"checkpoint {finding.seq}"
                show(f"BAD {finding.code} {where}: {finding.message}")
            for one in restorations:
                when = datetime.fromtimestamp(one.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
                show(f"note: the store was restored from a backup at {when} by {one.actor_id}")
            if not findings:
                show(f"ok: {len(stored)} checkpoints hold")
        raise typer.Exit(1 if findings else 0)


def findings_of(local: LocalStore, settings: Settings, outside: Path | None) -> list[Finding]:
    """What checkpoints inside and outside say of the tenant's chains; nothing when none was ever taken."""
    path = outside or settings.checkpoint_sink
    if outside is not None and not outside.exists():
        raise InputError("SINK_UNREADABLE", f"there is no {outside}", "name the file or folder that got the checkpoints")
    notes = read_notes(path) if path is not None else []
    return Checkpoints(local.store, local.chain).verify(checkpoint_key(local.home.keys), notes)


def seen_sessions(local: LocalStore) -> list[str]:
    """Ids of all sessions that have a chain, or had one when a checkpoint was taken."""
    chains = local.chain.sessions()
    return chains + sorted(set(Checkpoints(local.store, local.chain).sessions()) - set(chains))
