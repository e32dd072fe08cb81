"""Who gives a command: every command that changes or reads what was recorded asks here first."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from activities.control.authentication import Authentication, Purpose
from activities.control.oidc import SIZE_LIMIT, load_issuers
from activities.control.seeding import ensure_people
from activities.record.directory import Directory
from activities.record.store import now_ms
from cli.local import LocalStore, open_local
from schemas.error import InputError, Refused
from schemas.event import Actor
from schemas.identity import Principal, Role
from workers.settings import Settings

TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="OIDC token of whoever gives this command; - is standard input (GEN4_TOKEN_FILE).",
    ),
]  # fmt: skip
SshKey = Annotated[
    Path | None,
    typer.Option("--ssh-key", metavar="FILE", help="SSH key of whoever gives this command (GEN4_SSH_KEY)."),
]

READERS: tuple[Role, ...] = ("auditor", "operator", "tenant_admin", "release_captain")
"""Who may look at what was recorded."""


def operator_of(
    local: LocalStore, settings: Settings, *roles: Role, token_file: Path | None = None, ssh_key: Path | None = None,
    purpose: Purpose = "act",
) -> Actor:  # fmt: skip
    """The principal who gives this command and holds one of ``roles``; see :func:`caller_of`."""
    found = caller_of(local, settings, *roles, token_file=token_file, ssh_key=ssh_key, purpose=purpose)
    return Actor(principal_id=found.principal_id, kind=found.kind)


def caller_of(
    local: LocalStore, settings: Settings, *roles: Role, token_file: Path | None = None, ssh_key: Path | None = None,
    purpose: Purpose = "act",
) -> Principal:  # fmt: skip
    """Whoever gives this command, by token, by SSH key, or as the local operator, who owns the home.

    A home with keys/issuers.json has no local operator: there everybody proves who he is. A suspended tenant keeps its
    operators, who must be able to look and to activate it.

    Args:
        roles: one of which he must hold; none given: whatever he holds.
        token_file, ssh_key: default: the files that GEN4_TOKEN_FILE and GEN4_SSH_KEY name.

    Raises:
        InputError: CREDENTIAL_AMBIGUOUS, TOKEN_UNREADABLE, KEY_UNUSABLE, ISSUERS_INVALID.
        Refused: CREDENTIAL_MISSING, ROLE_NOT_HELD, PRINCIPAL_UNKNOWN, PRINCIPAL_INACTIVE; what is wrong with a token.
        InfrastructureError: ISSUER_UNAVAILABLE.
    """
    issuers = load_issuers(local.home.keys)
    door = Authentication(local.store, issuers or (), chain=local.chain)
    token_file, ssh_key = token_file or _named("GEN4_TOKEN_FILE"), ssh_key or _named("GEN4_SSH_KEY")
    if token_file and ssh_key:
        raise InputError("CREDENTIAL_AMBIGUOUS", "both a token and an SSH key are given", "give one of them")
    if token_file:
        return door.by_token(_token(token_file), roles, now_ms(), purpose)
    if ssh_key:
        return door.by_key(ssh_key, roles, now_ms())
    if issuers is not None:
        remedy = "give --token-file FILE (GEN4_TOKEN_FILE), or GEN4_SSH_KEY"
        raise Refused("CREDENTIAL_MISSING", "keys/issuers.json says that everybody proves who he is", remedy)
    ensure_local(local)
    return door.by_uid(os.geteuid(), roles)


def open_to_look(settings: Settings) -> LocalStore:
    """The home's store, for whoever may read its records: see :data:`READERS`, and :func:`caller_of` for what is raised."""
    local = open_local(settings)
    caller_of(local, settings, *READERS, purpose="look")
    return local


def ensure_local(local: LocalStore) -> None:
    """The people of a home whose fabric has not been started since they were introduced."""
    directory = Directory(local.store, local.chain)
    if directory.tenant() is None:
        local.store.write(
            lambda connection: ensure_people(connection, directory, local.tenant_id, os.geteuid(), now_ms())
        )


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _token(file: Path) -> str:
    try:
        if str(file) == "-":
            text = sys.stdin.read(SIZE_LIMIT + 2)
        else:
            with file.open(encoding="utf-8", errors="replace") as opened:
                text = opened.read(SIZE_LIMIT + 2)
    except OSError as error:
        raise InputError("TOKEN_UNREADABLE", f"{file}: {error.strerror}", "name a file that holds the token") from error
    return text.removesuffix("\n")
