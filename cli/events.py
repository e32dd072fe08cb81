"""``gen4 events | trajectory``: what was recorded of a session, and whether the record is whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.fabric import Json
from cli.local import LocalStore
from cli.operator import open_to_look
from cli.output import emit, inert_json, results, show
from schemas.error import InputError
from schemas.task import TENANT_CHAIN, UNTRACED
from workers.settings import read_settings

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Workflow id or session id.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def events(
        id: IdArgument,
        verify: Annotated[
            bool, typer.Option("--verify", help="Check the hash chain; exit code 1 names the first bad record.")
        ] = False,
        as_json: Json = False,
    ) -> None:
        """The event chain of a session: who did what, and what came of it. Works without a running fabric.

        Example: `gen4 events remediation-… --verify`
        """
        local = open_to_look(read_settings())
        session_id = session_of(local, id)
        if verify:
            raise typer.Exit(_verify(local, session_id, as_json))
        rows = local.chain.read(session_id)
        if as_json:
            emit([{**event.model_dump(mode="json"), "payload": payload} for event, payload in rows])
            return
        for event, payload in rows:
            when = datetime.fromtimestamp(event.recorded_at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
            code = payload.get("code") or payload.get("outcome") or payload.get("signal") or payload.get("status") or ""
            show(f"{event.seq:>4} {when} {event.kind:<26} {event.capability_id or '':<28} {code}")

    @app.command()
    def trajectory(id: IdArgument, as_json: Json = False) -> None:
        """The recorded steps of Explore, one JSON object per line."""
        local = open_to_look(read_settings())
        session_id = session_of(local, id)
        for event, payload in local.chain.read(session_id):
            if event.kind == "trajectory.sealed":
                results.file.write(inert_json(local.blobs.get(str(payload["sha256"])).decode("utf-8")))
                return
        raise InputError("NO_TRAJECTORY", f"{id} has no sealed trajectory", "it appears when Explore has ended")


def session_of(local: LocalStore, id: str) -> str:
    """A session id from a workflow id or a session id; ``tenant`` and ``untraced`` have chains of their own."""
    found = id if id in (TENANT_CHAIN, UNTRACED) else local.executions.session_of(id)
    if found is None:
        raise InputError("SESSION_UNKNOWN", f"nothing is recorded of {id}", "list sessions in the Temporal UI")
    return found


def _verify(local: LocalStore, session_id: str, as_json: bool) -> int:
    findings = local.chain.verify(session_id)
    count = len(local.chain.read(session_id)) if not findings else None
    if as_json:
        emit({"session_id": session_id, "ok": not findings, "events": count, "findings": [str(finding) for finding in findings]})
    elif findings:
        for finding in findings:
            show(f"BAD {finding}")
    else:
        show(f"ok: {count} events, gapless and unaltered by anyone without write access to the whole chain")
    return 1 if findings else 0
