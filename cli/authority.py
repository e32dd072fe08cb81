"""``gen4 authority``: the local Sigstore-compatible authority, for development and tests on one host.

Its modules are imported by the commands that need them: certificates and Sigstore's models are slow to import.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from activities.record.key_files import replace
from cli.fabric import Json
from cli.output import emit, say, show
from schemas.canonical import sha256_hex
from workers.settings import read_settings

if TYPE_CHECKING:
    from workers.authority.folder import AuthorityFolder

Folder = Annotated[
    Path | None, typer.Option("--home", resolve_path=True, help="The authority's folder; default: authority in GEN4_HOME."),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode="markdown",
        help="A local Sigstore-compatible authority for development. Nobody else audits its log.",
    )  # fmt: skip
    app.add_typer(group, name="authority")

    @group.command()
    def init(
        home: Folder = None,
        port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on loopback, for good; 0: a free one.")] = 0,
        as_json: Json = False,
    ) -> None:
        """Make its keys and write what clients need. What is there already stays.

        Example: `gen4 authority init` then `GEN4_SIGSTORE_CONFIG=$GEN4_HOME/authority/trust_config.json gen4 up`
        """
        from workers.authority.configuration import write_configuration
        from workers.authority.folder import AuthorityFolder

        folder = AuthorityFolder.create(_folder(home), port or _free_port(), int(time.time()))
        write_configuration(folder)
        _print(folder, as_json)

    @group.command()
    def serve(home: Folder = None, as_json: Json = False) -> None:
        """Answer on loopback until it is interrupted."""
        from workers.authority.folder import AuthorityFolder
        from workers.authority.server import AuthorityServer

        folder = AuthorityFolder.open(_folder(home))
        with AuthorityServer(folder) as server:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
            _print(folder, as_json)
            server.serve_forever(poll_interval=0.1)
        say("stopped")

    @group.command()
    def token(
        identity: Annotated[str, typer.Argument(help="What certificates will name: an e-mail address or a URI.")],
        out: Annotated[Path | None, typer.Option(help="File for the token, mode 0600; default: standard output.")] = None,
        lifetime: Annotated[int, typer.Option(help="Seconds that it can be used, at most 3600.")] = 600,
        home: Folder = None,
        as_json: Json = False,
    ) -> None:
        """An identity token. Whoever can read the authority's folder can be anybody in its certificates.

        Example: `gen4 authority token urn:gen4:signer --out token.jwt`
        """
        from workers.authority.folder import AuthorityFolder
        from workers.authority.tokens import mint

        folder = AuthorityFolder.open(_folder(home))
        made = mint(folder, identity, lifetime, int(time.time()))
        if out is not None:
            replace(out.absolute(), made.encode() + b"\n", 0o600)
        if as_json:
            emit({"identity": identity, "issuer": folder.facts.url, **({"file": str(out)} if out else {"token": made})})
        else:
            show(str(out) if out else made)


def _folder(home: Path | None) -> Path:
    return home if home is not None else read_settings().home / "authority"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _print(folder: AuthorityFolder, as_json: bool) -> None:
    from workers.authority.configuration import TRUST_CONFIG, TRUSTED_ROOT

    root = folder.path / TRUSTED_ROOT
    facts = {
        "url": folder.facts.url, "origin": folder.facts.origin, "trust_config": str(folder.path / TRUST_CONFIG),
        "trusted_root": str(root), "trusted_root_sha256": sha256_hex(root.read_bytes()),
    }  # fmt: skip
    if as_json:
        emit(facts)
        return
    show(f"local authority at {folder.facts.url}; nobody else audits its log {folder.facts.origin}")
    show(f"sign with   GEN4_SIGSTORE_CONFIG={facts['trust_config']}")
    show(f"trust       {facts['trusted_root']} sha256:{facts['trusted_root_sha256']}")
