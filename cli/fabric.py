"""``gen4 up | down | status``: start, stop and look at the fabric of this home."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from activities.record.home import Home
from cli.output import emit, say, show
from schemas.error import InfrastructureError
from workers import fabric
from workers.fabric import FabricState
from workers.settings import Settings, read_settings

if TYPE_CHECKING:
    from workers.schedules import ScheduleState

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def ensure(settings: Settings) -> FabricState:
    """The running fabric; starts it when none runs, and says so."""
    state = fabric.start(settings, say)
    return state


def register(app: typer.Typer) -> None:
    @app.command()
    def up(
        foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached; Ctrl-C stops the fabric.")] = False,
        as_json: Json = False,
    ) -> None:
        """Start Temporal, OPA, executor, signer and worker on this machine, and supervise them.

        Sessions survive `gen4 down`, crashes and reboots: they are in `GEN4_HOME`. Local repositories must lie under
        `GEN4_REPOSITORY_ROOTS` (default: the folder where the fabric is started).

        Example: `GEN4_REPOSITORY_ROOTS=$HOME/src gen4 up`
        """
        settings = read_settings()
        if foreground:
            fabric.prepare(settings, say)
            raise typer.Exit(_attached(settings))
        state = fabric.start(settings, say)
        _print(state, as_json)

    @app.command()
    def down(as_json: Json = False) -> None:
        """Stop the fabric of this home. Nothing is lost: sessions go on at the next `gen4 up`."""
        stopped = fabric.stop(Home.open(read_settings().home))
        emit({"stopped": stopped}) if as_json else show("stopped" if stopped else "no fabric was running")

    @app.command()
    def status(as_json: Json = False) -> None:
        """What runs, where it listens, how often each process was restarted, when each schedule last ran.

        Exit code 3 when nothing runs, or the worker refuses to.
        """
        settings = read_settings()
        state = fabric.running(Home.open(settings.home))
        if state is None:
            emit({"running": False}) if as_json else show("no fabric is running; start it with `gen4 up`")
            raise typer.Exit(3)
        _print(state, as_json, asyncio.run(_schedules(state, settings)))
        if state.refused:
            raise typer.Exit(3)


async def _schedules(state: FabricState, settings: Settings) -> list[ScheduleState] | None:
    """None when the server does not answer."""
    from workers.client import connect  # the Temporal SDK takes a fifth of a second to import
    from workers.schedules import recurring, schedule_states

    try:
        client = await connect(state.temporal_address, state.namespace, external=state.external)
        return await schedule_states(client, recurring(settings))
    except InfrastructureError:
        return None


def _attached(settings: Settings) -> int:
    process = subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-P", "-m", "workers.supervisor"], env=os.environ | fabric.settings_environment(settings)
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()


def _print(state: FabricState, as_json: bool, schedules: list[ScheduleState] | None = None) -> None:
    if as_json:
        shown = None if schedules is None else [one.model_dump(mode="json") for one in schedules]
        emit({"running": True, **state.model_dump(mode="json"), "start_form": state.start_form, "schedules": shown})
        return
    show(f"fabric ready in {state.ready_ms / 1000:.1f} s (supervisor {state.pid}, home {state.home})")
    for name, pid in state.processes.items():
        show(f"  {name:<9} process {pid}, restarted {state.restarts.get(name, 0)} times")
    if state.refused:
        show(f"  the worker refuses to start: {state.refused}")
        show("                correct it, then `gen4 down` and `gen4 up`")
    for one in schedules or []:
        ran = f"last {one.last_run}: {one.status}" if one.last_run else f"{one.status or 'has not run yet'}"
        show(f"  {one.id:<20} every {one.every_s} s{' (paused)' if one.paused else ''}, {ran}")
    show(f"  Temporal      {state.temporal_address}, namespace {state.namespace}{' (external)' if state.external else ''}")
    if state.ui_url:
        show(f"  Temporal UI   {state.ui_url}")
        show(f"  start a fix   {state.start_form}")
        show('                input: {"repository": "/path/to/repository", "goal": "what is wrong"}')
    if state.metrics_url:
        show(f"  metrics       {state.metrics_url}, of the Temporal SDK {state.temporal_metrics_url}")
    show(f"  repositories  must lie under {os.pathsep.join(state.repository_roots)}")
