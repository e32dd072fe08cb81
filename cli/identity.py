"""``gen4 whoami | tenant | principal | role | lease``: who belongs to this tenant, what each may do, which sessions may act."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from activities.control.authentication import Purpose, fingerprint
from activities.record.directory import Directory
from activities.record.leases import Leases
from activities.record.store import now_ms
from cli.fabric import Json
from cli.local import LocalStore, open_local
from cli.operator import READERS, SshKey, TokenFile, caller_of, operator_of
from cli.output import emit, show
from schemas.error import InputError
from schemas.event import Actor
from schemas.identity import SSH_ISSUER, Principal, PrincipalKind, Role, SessionLease, Status
from workers.settings import read_settings

Credentials = tuple[Path | None, Path | None]
"""Token file and SSH key, as they were given."""
Reason = Annotated[str, typer.Option(help="Why; recorded.")]
PrincipalId = Annotated[str, typer.Argument(metavar="ID", help="Principal id, exactly as registered.")]
RoleName = Annotated[Role, typer.Argument(metavar="ROLE", help="As `gen4 role list` names them.")]


def register(app: typer.Typer) -> None:
    _register_whoami(app)
    _register_tenant(app)
    _register_principals(app)
    _register_roles(app)
    _register_leases(app)


def _register_whoami(app: typer.Typer) -> None:
    @app.command()
    def whoami(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Whom this home takes you for, and which roles you hold. A token is checked, but not used up.

        Example: `gen4 whoami --token-file token.jwt`
        """
        settings = read_settings()
        local = open_local(settings)
        found = caller_of(local, settings, token_file=token_file, ssh_key=ssh_key, purpose="look")
        _print_principal(found, Directory(local.store).roles(found.principal_id), as_json)


def _register_tenant(app: typer.Typer) -> None:
    group = _group(app, "tenant", "The tenant of this home: while it is suspended nothing of it runs.")

    @group.command(name="show")
    def show_tenant(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Name and status.

        Example: `gen4 tenant show --json`
        """
        local, _ = _open((token_file, ssh_key), *READERS, look=True)
        found = Directory(local.store).tenant()
        if found is None:
            raise InputError("TENANT_INACTIVE", f"tenant {local.tenant_id} is unknown", "start its fabric: gen4 up")
        emit(found) if as_json else show(f"{found.tenant_id}  {found.name}  {found.status}  {found.currency}")

    @group.command()
    def suspend(reason: Reason, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Stop everything of this tenant until it is activated; running sandboxes end within seconds.

        Example: `gen4 tenant suspend --reason "incident 12"`
        """
        _set_tenant("suspended", reason, (token_file, ssh_key), as_json)

    @group.command()
    def activate(reason: Reason, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Let the tenant act again.

        Example: `gen4 tenant activate --reason "incident 12 is over"`
        """
        _set_tenant("active", reason, (token_file, ssh_key), as_json)


def _set_tenant(status: Status, reason: str, credentials: Credentials, as_json: bool) -> None:
    local, by = _open(credentials, "tenant_admin")
    changed = Directory(local.store, local.chain).set_tenant_status(status, reason, by, now_ms())
    emit(changed) if as_json else show(f"{changed.tenant_id} is {changed.status}")


def _register_principals(app: typer.Typer) -> None:
    group = _group(app, "principal", "People, services and agents of this tenant, and the credentials that prove them.")

    @group.command(name="list")
    def listing(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """Everybody, with roles and status.

        Example: `gen4 principal list --json`
        """
        local, _ = _open((token_file, ssh_key), *READERS, look=True)
        directory = Directory(local.store)
        found = [(one, directory.roles(one.principal_id)) for one in directory.principals()]
        if as_json:
            emit([{**one.model_dump(mode="json"), "roles": roles} for one, roles in found])
            return
        for one, roles in found:
            _print_principal(one, roles, False)

    @group.command()
    def add(
        id: PrincipalId,
        issuer: Annotated[
            str, typer.Option(help="OIDC issuer URL; `ssh`; `temporal` (a name that the server stamps); `local` (a uid).")
        ],
        subject: Annotated[str | None, typer.Option(help="`sub` of the tokens, stamped name, or uid.")] = None,
        public_key: Annotated[
            Path | None, typer.Option(exists=True, dir_okay=False, help="With `--issuer ssh`: the public key file.")
        ] = None,
        kind: Annotated[PrincipalKind, typer.Option(metavar="KIND", help="human, service or agent.")] = "human",
        token_file: TokenFile = None,
        ssh_key: SshKey = None,
        as_json: Json = False,
    ) -> None:
        """Register a principal. It may do nothing until it is granted a role.

        Examples: `gen4 principal add alice --issuer https://id.example.org --subject 00u1a2b3` ·
        `gen4 principal add bob --issuer ssh --public-key ~/.ssh/bob.pub`
        """
        local, by = _open((token_file, ssh_key), "tenant_admin")
        made = Principal(
            principal_id=id, tenant_id=local.tenant_id, kind=_outside(kind), issuer=issuer,
            subject=_subject(issuer, subject, public_key),
        )  # fmt: skip
        stored, new = Directory(local.store, local.chain).put_principal(made, by, now_ms())
        emit({**stored.model_dump(mode="json"), "new": new}) if as_json else show(
            f"{stored.principal_id}: {stored.issuer} {stored.subject}, {'registered' if new else 'was registered already'}"
        )

    @group.command()
    def suspend(
        id: PrincipalId, reason: Reason, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
    ) -> None:
        """Stop one principal: its sessions' leases are revoked and its credentials are refused.

        Example: `gen4 principal suspend alice --reason "laptop stolen"`
        """
        local, by = _open((token_file, ssh_key), "tenant_admin")
        changed = Directory(local.store, local.chain).set_principal_status(id, "suspended", reason, by, now_ms())
        revoked = Leases(local.store, local.chain).revoke(None, reason=reason, by=by, now_ms=now_ms(), principal_id=id)
        emit({**changed.model_dump(mode="json"), "leases_revoked": len(revoked)}) if as_json else show(
            f"{changed.principal_id} is {changed.status}; {len(revoked)} leases revoked"
        )

    @group.command()
    def activate(
        id: PrincipalId, reason: Reason, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
    ) -> None:
        """Let a suspended principal act again, in new sessions.

        Example: `gen4 principal activate alice --reason "new laptop"`
        """
        local, by = _open((token_file, ssh_key), "tenant_admin")
        changed = Directory(local.store, local.chain).set_principal_status(id, "active", reason, by, now_ms())
        emit(changed) if as_json else show(f"{changed.principal_id} is {changed.status}")


def _register_roles(app: typer.Typer) -> None:
    group = _group(app, "role", "Which roles principals hold, and what each may do at most.")

    @group.command(name="list")
    def listing(token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False) -> None:
        """What each role may do at most; the data is in the policy.

        Example: `gen4 role list --json`
        """
        local, _ = _open((token_file, ssh_key), *READERS, look=True)
        policies = Directory(local.store).policies()
        if as_json:
            emit([policy.model_dump(mode="json") for policy in policies])
            return
        for policy in policies:
            show(f"{policy.role:<16} {', '.join(policy.allowed_actions) or 'nothing'}: {', '.join(policy.capability_prefixes)}")

    @group.command()
    def grant(
        id: PrincipalId, role: RoleName, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
    ) -> None:
        """Give a principal a role.

        Example: `gen4 role grant alice release_captain`
        """
        local, by = _open((token_file, ssh_key), "tenant_admin")
        binding = Directory(local.store, local.chain).grant(id, role, by, now_ms())
        emit(binding) if as_json else show(f"{id} holds {role}, granted by {binding.granted_by}")

    @group.command()
    def revoke(
        id: PrincipalId, role: RoleName, token_file: TokenFile = None, ssh_key: SshKey = None, as_json: Json = False
    ) -> None:
        """Take a role away. What acts in it is refused at its next step.

        Example: `gen4 role revoke alice release_captain`
        """
        local, by = _open((token_file, ssh_key), "tenant_admin")
        taken = Directory(local.store, local.chain).revoke(id, role, by)
        emit({"principal_id": id, "role": role, "revoked": taken}) if as_json else show(
            f"{id} no longer holds {role}" if taken else f"{id} did not hold {role}"
        )


def _register_leases(app: typer.Typer) -> None:
    group = _group(app, "lease", "Leases: the right of each session to act, for an hour at a time.")

    @group.command(name="list")
    def listing(
        live: Annotated[bool, typer.Option("--live", help="Only those that count now.")] = False,
        token_file: TokenFile = None,
        ssh_key: SshKey = None,
        as_json: Json = False,
    ) -> None:
        """The newest lease of each session.

        Example: `gen4 lease list --live`
        """
        local, _ = _open((token_file, ssh_key), *READERS, look=True)
        found = Leases(local.store).all(live_at_ms=now_ms() if live else None)
        if as_json:
            emit([lease.model_dump(mode="json", exclude_none=True) for lease in found])
            return
        for lease in found:
            show(f"{lease.lease_id}  {lease.session_id}  {lease.principal_id}  {_state(lease)}")

    @group.command()
    def revoke(
        reason: Reason,
        lease: Annotated[str | None, typer.Option(metavar="ID", help="One lease.")] = None,
        session: Annotated[str | None, typer.Option(metavar="ID", help="Of one session: workflow id or session id.")] = None,
        principal: Annotated[str | None, typer.Option(metavar="ID", help="All of one principal.")] = None,
        tenant: Annotated[bool, typer.Option("--tenant", help="All of this tenant.")] = False,
        token_file: TokenFile = None,
        ssh_key: SshKey = None,
        as_json: Json = False,
    ) -> None:
        """Revoke leases at once and for good: such a session never acts again; start a new one. Name exactly one of the four.

        The fabric's own schedules are stopped otherwise: `gen4 principal suspend gen4`.

        Example: `gen4 lease revoke --principal alice --reason "left the team"`
        """
        if [bool(lease), bool(session), bool(principal), tenant].count(True) != 1:
            remedy = "give exactly one of --lease, --session, --principal, --tenant"
            raise InputError("TARGET_AMBIGUOUS", "it must be clear whose leases are meant", remedy)
        local, by = _open((token_file, ssh_key), "operator", "tenant_admin")
        session_id = (local.executions.session_of(session) or session) if session else None
        _known(local, lease, session_id, principal)
        revoked = Leases(local.store, local.chain).revoke(
            None, reason=reason, by=by, now_ms=now_ms(), lease_id=lease, session_id=session_id, principal_id=principal
        )
        if as_json:
            emit([one.model_dump(mode="json", exclude_none=True) for one in revoked])
            return
        for one in revoked:
            show(f"revoked {one.lease_id} of session {one.session_id}")
        if not revoked:
            show("nothing to revoke")


def _known(local: LocalStore, lease: str | None, session_id: str | None, principal: str | None) -> None:
    """Whoever mistypes an id in a hurry must not read that all is done. Raises InputError(LEASE_UNKNOWN)."""
    for one in Leases(local.store).all():
        if one.lease_id == lease or one.session_id == session_id or one.principal_id == principal:
            return
    if (lease or session_id) or (principal and Directory(local.store).principal(principal) is None):
        named = lease or session_id or principal
        raise InputError("LEASE_UNKNOWN", f"nothing by the name {named} ever had a lease", "see `gen4 lease list`")


def _group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    group = typer.Typer(help=help, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def _open(credentials: Credentials, *roles: Role, look: bool = False) -> tuple[LocalStore, Actor]:
    settings = read_settings()
    local = open_local(settings)
    token_file, ssh_key = credentials
    purpose: Purpose = "look" if look else "act"
    return local, operator_of(local, settings, *roles, token_file=token_file, ssh_key=ssh_key, purpose=purpose)


def _outside(kind: PrincipalKind) -> PrincipalKind:
    if kind == "engine":
        raise InputError("PRINCIPAL_INVALID", "the engine is the fabric itself", "choose human, service or agent")
    return kind


def _subject(issuer: str, subject: str | None, public_key: Path | None) -> str:
    if issuer == SSH_ISSUER and public_key is not None and subject is None:
        return fingerprint(public_key.read_text("ascii", "replace"))
    if subject is None or public_key is not None:
        remedy = "give --subject; with --issuer ssh, --public-key in its place"
        raise InputError("PRINCIPAL_INVALID", "it must be clear which credential proves the principal", remedy)
    return subject


def _print_principal(found: Principal, roles: tuple[Role, ...], as_json: bool) -> None:
    if as_json:
        emit({**found.model_dump(mode="json"), "roles": roles})
        return
    held = ", ".join(roles) or "no role"
    show(f"{found.principal_id}  {found.kind}  {found.status}  {held}  ({found.issuer} {found.subject})")


def _state(lease: SessionLease) -> str:
    if lease.revoked_at_ms is not None:
        return f"revoked: {lease.revoked_reason}"
    until = datetime.fromtimestamp(lease.expires_at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"generation {lease.generation}, until {until}" if lease.expires_at_ms > now_ms() else f"expired {until}"
