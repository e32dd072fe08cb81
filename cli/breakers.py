"""``gen4 breakers``: what failed so often that it is left alone for a while."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from activities.kernel.limiting import KernelPolicy
from activities.record.breakers import Breakers
from activities.record.store import now_ms
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import SshKey, TokenFile, operator_of
from cli.output import emit, show
from schemas.breaker import BreakerState
from workers.settings import read_settings


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        invoke_without_command=True, help="Circuit breakers: what is left alone because it fails.", rich_markup_mode="markdown"
    )
    app.add_typer(group, name="breakers")

    @group.callback()
    def breakers(
        context: typer.Context, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
    ) -> None:
        """Every breaker of this tenant that ever counted a failure, and how long its outages took.

        Example: `gen4 breakers --json`
        """
        if context.invoked_subcommand is not None:
            return
        settings = read_settings()
        local = open_local(settings)
        operator_of(
            local, settings, "operator", "tenant_admin", "auditor", token_file=token_file, ssh_key=ssh_key, purpose="look"
        )
        known = _breakers(local)
        states, recoveries = known.all(), known.recoveries()
        if as_json:
            emit({
                "breakers": [state.model_dump(mode="json", exclude_none=True) for state in states],
                "recoveries": [recovery._asdict() for recovery in recoveries],
            })  # fmt: skip
            return
        if not states:
            show("nothing has failed")
        for state in states:
            show(_line(state))
        for recovery in recoveries:
            took = "is down" if recovery.mttr_ms is None else f"was down for {recovery.mttr_ms / 1000:.0f} s"
            show(f"{recovery.scope_key} {took} since {_time(recovery.failing_since_ms)}")

    @group.command()
    def reset(
        scope: Annotated[str, typer.Argument(metavar="SCOPE", help="As `gen4 breakers` names it.")],
        reason: Annotated[str, typer.Option(help="Why it should work again; recorded with who says so.")],
        token_file: TokenFile = None,
        ssh_key: SshKey = None,
        as_json: Json = False,
    ) -> None:
        """Close a breaker now, with the thresholds of the present policy, instead of waiting for its next probe.

        Example: `gen4 breakers reset local:server:sandbox --reason "disk freed"`
        """
        settings = read_settings()
        local = open_local(settings)
        actor = operator_of(local, settings, "operator", token_file=token_file, ssh_key=ssh_key)
        state = _breakers(local).reset(scope, reason, actor, now_ms())
        emit(state) if as_json else show(_line(state))


def _breakers(local: LocalStore) -> Breakers:
    return Breakers(local.store, KernelPolicy.load().breakers, local.chain)


def _line(state: BreakerState) -> str:
    counted = f"{state.failure_count} of {state.threshold} failures"
    last = f", last {state.last_reason} at {_time(state.last_failure_ms)}" if state.last_failure_ms is not None else ""
    opened = state.opened_at_ms
    again = f", next probe from {_time(opened + state.cooldown_ms)}" if state.phase == "open" and opened is not None else ""
    return f"{state.scope_key}: {state.phase.replace('_', '-')}, {counted}{last}{again}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
