"""``gen4 kill``: switches that stop a session, a capability, the tenant or everything, also what runs already."""

from __future__ import annotations

from typing import Annotated

import typer

from activities.record.kill_switches import KillSwitches
from activities.record.store import now_ms
from cli.events import session_of
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import SshKey, TokenFile, operator_of
from cli.output import emit, show
from schemas.capabilities import CAPABILITIES
from schemas.error import InputError
from schemas.identity import Role
from schemas.kill_switch import KillScope, KillSwitch
from workers.settings import read_settings

Session = Annotated[str | None, typer.Option("--session", metavar="ID", help="One session, by its id or its workflow id.")]
Capability = Annotated[str | None, typer.Option("--capability", metavar="ID", help="One capability, as in `gen4 events`.")]
WholeTenant = Annotated[bool, typer.Option("--tenant", help="Everything of this tenant.")]
Everything = Annotated[bool, typer.Option("--everything", help="Everything of every tenant of this store.")]
Reason = Annotated[str, typer.Option(help="Why; recorded with who did it.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Kill switches: stop what runs, now.", rich_markup_mode="markdown")
    app.add_typer(group, name="kill")

    @group.command()
    def on(
        reason: Reason, session: Session = None, capability: Capability = None, tenant: WholeTenant = False,
        everything: Everything = False, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
    ) -> None:  # fmt: skip
        """Nothing that the switch covers starts any more; running sandboxes end within two seconds.

        A session that was stopped does not go on when the switch is turned off again: start a new one.

        Example: `gen4 kill on --session remediation-… --reason "wrong repository"`
        """
        _turn(True, reason, session, capability, tenant, everything, (token_file, ssh_key), as_json)

    @group.command()
    def off(
        reason: Reason, session: Session = None, capability: Capability = None, tenant: WholeTenant = False,
        everything: Everything = False, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False,
    ) -> None:  # fmt: skip
        """Let new calls pass again.

        Example: `gen4 kill off --tenant --reason "incident 12 is over"`
        """
        _turn(False, reason, session, capability, tenant, everything, (token_file, ssh_key), as_json)

    @group.command(name="list")
    def list_switches(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """The switches that are on and concern this tenant.

        Example: `gen4 kill list --json`
        """
        settings = read_settings()
        local = open_local(settings)
        operator_of(
            local, settings, "operator", "tenant_admin", "auditor", token_file=token_file, ssh_key=ssh_key, purpose="look"
        )
        switches = KillSwitches(local.store).active()
        if as_json:
            emit([switch.model_dump(mode="json") for switch in switches])
        elif not switches:
            show("no kill switch is on")
        for switch in switches if not as_json else ():
            _print(switch)


def _turn(
    active: bool, reason: str, session: str | None, capability: str | None, tenant: bool, everything: bool,
    credentials: tuple[TokenFile, SshKey], as_json: bool,
) -> None:  # fmt: skip
    settings = read_settings()
    local = open_local(settings)
    scope, target = _scope(local, session, capability, tenant, everything)
    roles: tuple[Role, ...] = ("tenant_admin",) if scope == "everything" else ("operator",)
    actor = operator_of(local, settings, *roles, token_file=credentials[0], ssh_key=credentials[1])
    switch = KillSwitches(local.store, local.chain).set(scope, target, active, reason, actor, now_ms())
    emit(switch) if as_json else _print(switch)


def _scope(
    local: LocalStore, session: str | None, capability: str | None, tenant: bool, everything: bool
) -> tuple[KillScope, str]:
    """What is named, exactly one thing. Ids are compared byte by byte, so an unknown one would cover nothing."""
    given = [session is not None, capability is not None, tenant, everything]
    if sum(given) != 1:
        raise InputError(
            "KILL_TARGET", f"{sum(given)} targets are named", "name one of --session ID, --capability ID, --tenant, --everything"
        )
    if session is not None:
        return "session", session_of(local, session)
    if capability is not None:
        if capability not in CAPABILITIES:
            known = ", ".join(sorted(CAPABILITIES))
            raise InputError("CAP_UNKNOWN", f"no capability is called {capability!r}", f"one of {known}")
        return "capability", capability
    return ("tenant", "") if tenant else ("everything", "")


def _print(switch: KillSwitch) -> None:
    what = f"{switch.scope} {switch.target}".strip()
    show(f"{what}: {'on' if switch.active else 'off'} (epoch {switch.epoch}, {switch.changed_by}: {switch.reason})")
