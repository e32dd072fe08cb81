"""``gen4 events | sessions | trajectory``: what was recorded, whether the record is whole, and what of it is erased."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from activities.record.chain import Finding, Verification
from activities.record.erasure import Erasures
from activities.record.store import now_ms
from activities.record.views import Views
from cli.checkpoints import CheckpointFile, findings_of, seen_sessions
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import READERS, SshKey, TokenFile, caller_of, open_to_look, operator_of
from cli.output import emit, inert_json, results, show
from schemas.error import InputError
from schemas.event import Event
from schemas.task import TENANT_CHAIN, UNTRACED
from workers.settings import Settings, read_settings

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Workflow id or session id.")]
_RANGE = re.compile(r"^([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?$")


def register(app: typer.Typer) -> None:
    @app.command()
    def events(
        words: Annotated[
            list[str] | None,
            typer.Argument(metavar="[erase] ID", show_default=False, help="Workflow or session id; `tenant`: its own chain."),
        ] = None,
        verify: Annotated[
            bool, typer.Option("--verify", help="Check chain, payloads, checkpoints; exit code 1 names the first bad record.")
        ] = False,
        everything: Annotated[bool, typer.Option("--all", help="With --verify: every session of the tenant.")] = False,
        checkpoint: CheckpointFile = None,
        rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the read views again, from the events alone.")] = False,
        seq: Annotated[str, typer.Option(help="With erase: one record, `7`, or several, `7-9`; default: all.")] = "",
        reason: Annotated[str, typer.Option(help="With erase: who asked for it, and why. It is recorded.")] = "",
        token_file: TokenFile = None,
        ssh_key: SshKey = None,
        as_json: Json = False,
    ) -> None:
        """The event chain of a session: who did what, and what came of it. Works without a running fabric.

        `gen4 events erase ID` deletes what the records of an ended session say; that they were written stays, and verifies.
        Backups that were made before still hold it.

        Examples: `gen4 events remediation-… --verify`, `gen4 events --verify --all`,
        `gen4 events erase remediation-… --seq 7 --reason 'request 17'`
        """
        settings = read_settings()
        match words or []:
            case ["erase", id]:
                _erase(settings, id, seq, reason, (token_file, ssh_key), as_json)
            case [] if rebuild:
                _rebuild(settings, (token_file, ssh_key), as_json)
            case [] if verify and everything:
                raise typer.Exit(_verify(_to_look(settings, token_file, ssh_key), settings, None, checkpoint, as_json))
            case [id] if verify:
                raise typer.Exit(_verify(_to_look(settings, token_file, ssh_key), settings, id, checkpoint, as_json))
            case [id]:
                local = _to_look(settings, token_file, ssh_key)
                _list(local.chain.read(session_of(local, id)), as_json)
            case _:
                raise InputError("EVENTS_OF", "no session is named, or several", "gen4 events ID, or gen4 events --verify --all")

    @app.command()
    def sessions(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """All sessions and where they stand, as their events tell it. Works without a running fabric."""
        local = _to_look(read_settings(), token_file, ssh_key)
        views = sorted(Views(local.store, local.chain).all(), key=lambda view: (view.opened_at_ms or 0, view.session_id))
        if as_json:
            emit([view.model_dump(mode="json") for view in views])
            return
        for view in views:
            state = view.outcome or view.state or "open"
            when = datetime.fromtimestamp((view.opened_at_ms or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            show(f"{view.session_id}  {when}  {view.kind:<11}  {state:<12}  {view.cost_micros:>9} µ  {view.repository}")

    @app.command()
    def trajectory(id: IdArgument, as_json: Json = False) -> None:
        """The recorded steps of Explore, one JSON object per line."""
        local = open_to_look(read_settings())
        session_id = session_of(local, id)
        for event, payload in local.chain.read(session_id):
            if event.kind == "trajectory.sealed" and "sha256" in payload:
                results.file.write(inert_json(local.blobs.get(str(payload["sha256"])).decode("utf-8")))
                return
        raise InputError("NO_TRAJECTORY", f"{id} has no sealed trajectory", "it appears when Explore has ended")


def session_of(local: LocalStore, id: str) -> str:
    """A session id from a workflow id or a session id; ``tenant`` and ``untraced`` have chains of their own."""
    found = id if id in (TENANT_CHAIN, UNTRACED) else local.executions.session_of(id)
    if found is None and id in seen_sessions(local):
        return id  # all that is left of it is in a checkpoint, or in its chain
    if found is None:
        raise InputError("SESSION_UNKNOWN", f"nothing is recorded of {id}", "list sessions with `gen4 sessions`")
    return found


def _to_look(settings: Settings, token_file: Path | None, ssh_key: Path | None) -> LocalStore:
    local = open_local(settings)
    caller_of(local, settings, *READERS, token_file=token_file, ssh_key=ssh_key, purpose="look")
    return local


def _list(rows: Iterator[tuple[Event, dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        emit([{**event.model_dump(mode="json"), "payload": payload} for event, payload in rows])
        return
    for event, payload in rows:
        when = datetime.fromtimestamp(event.recorded_at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        code = payload.get("code") or payload.get("outcome") or payload.get("signal") or payload.get("status") or ""
        said = "(erased)" if payload.get("erased") is True else code
        show(f"{event.seq:>4} {when} {event.kind:<26} {event.capability_id or '':<28} {said}")


# --- verifying -------------------------------------------------------------------------------------------------------


def _verify(local: LocalStore, settings: Settings, id: str | None, checkpoint: Path | None, as_json: bool) -> int:
    """One session, or all of them; first what the chains say of themselves, then what the checkpoints say of the chains."""
    wanted = [session_of(local, id)] if id is not None else seen_sessions(local)
    examined = [local.chain.examine(session_id) for session_id in wanted]
    broken = [one.finding for one in examined if one.finding is not None]
    known = {finding.session_id for finding in broken}
    witnessed = [
        finding
        for finding in findings_of(local, settings, checkpoint)
        if finding.session_id not in known and (id is None or finding.session_id in ("", *wanted))
    ]
    findings = [*broken, *witnessed]
    if as_json:
        _emit_verification(wanted, examined, findings)
    else:
        _show_verification(examined, findings)
    return 1 if findings else 0


def _emit_verification(wanted: Sequence[str], examined: Sequence[Verification], findings: Sequence[Finding]) -> None:
    document: dict[str, Any] = {
        "ok": not findings,
        "events": sum(one.events for one in examined),
        "erased": sum(one.erased for one in examined),
        "not_checked": sum(one.not_checked for one in examined),
        "findings": [dict(finding.__dict__) for finding in findings],
    }
    emit({"session_id": wanted[0], **document} if len(wanted) == 1 else {"sessions": len(wanted), **document})


def _show_verification(examined: Sequence[Verification], findings: Sequence[Finding]) -> None:
    for finding in findings:
        where = f"session {finding.session_id}, record {finding.seq}" if finding.session_id else f"checkpoint {finding.seq}"
        show(f"BAD {finding.code} {where}: {finding.message}")
    events, erased, unread = (sum(getattr(one, name) for one in examined) for name in ("events", "erased", "not_checked"))
    if unread:
        show(f"not checked: {unread} payloads are encrypted under a key that is not here")
    if not findings:
        kept = f", {erased} payloads erased on record" if erased else ""
        show(f"ok: {events} events of {len(examined)} chains, gapless, unaltered, and as the checkpoints saw them{kept}")


# --- changing --------------------------------------------------------------------------------------------------------


def _erase(
    settings: Settings, id: str, seq: str, reason: str, credentials: tuple[Path | None, Path | None], as_json: bool
) -> None:
    local = open_local(settings)
    actor = operator_of(local, settings, "tenant_admin", token_file=credentials[0], ssh_key=credentials[1])
    found = _RANGE.match(seq)
    if seq and found is None:
        raise InputError("ERASE_WHAT", f"{seq} is no record, and no range of records", "give --seq 7 or --seq 7-9")
    first = int(found[1]) if found else 1
    last = int(found[2] or found[1]) if found else None
    session_id = session_of(local, id)
    count = Erasures(local.store, local.chain).erase(session_id, actor, reason, now_ms(), first, last)
    if as_json:
        emit({"session_id": session_id, "erased": count})
    else:
        show(f"{count} payloads erased" if count else "nothing was left to erase")


def _rebuild(settings: Settings, credentials: tuple[Path | None, Path | None], as_json: bool) -> None:
    local = open_local(settings)
    operator_of(local, settings, "operator", "tenant_admin", token_file=credentials[0], ssh_key=credentials[1])
    count = Views(local.store, local.chain).rebuild()
    emit({"sessions": count}) if as_json else show(f"the views of {count} sessions were made again")
