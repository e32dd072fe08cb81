"""``python -m workers.signer``: the process that holds the signing key, on a Unix socket of its own (threats 5.1).

`gen4 up` starts one, under the fabric's own user: then bundles say ``/embedded``. An operator who gives it and the executor users
of their own starts both himself (deploy/systemd) and names their sockets in GEN4_SIGNER_SOCKET and GEN4_EXECUTOR_SOCKET.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from activities.evidence.signer_service import SignerPorts, SignerService
from activities.evidence.signing import Signer, StatementSigner, load_signer, open_signer
from activities.evidence.witnessing import Believed
from activities.kernel.listening import Listener
from activities.record.git import require_git
from activities.record.home import private_folder
from activities.testbed.harness import harness_version
from activities.verify.gating import report_if_allowed
from schemas.error import Gen4Error, InfrastructureError, InputError
from schemas.text import plain
from workers.answering import answer
from workers.hiding import hide_memory
from workers.logs import configure

_PEM_END = "-----END PUBLIC KEY-----"
_PEM_LIMIT = 1024 * 1024
_PACKAGES: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class SignerOptions:
    """What the operator decided; nothing of it comes from a caller."""

    home: Path
    socket: Path
    packages: Path
    """Folder with ``<base digest>.json``: which packages a base root filesystem is made of."""
    clients: tuple[int, ...]
    executors: tuple[Path, ...]
    separated_executors: tuple[Path, ...]
    policy_digests: frozenset[str]
    signing_key: str | None
    signing_public_key: Path | None
    sigstore_config: Path | None
    identity_token: Path | None
    identity: str | None
    proof_of_time: Literal["none", "timestamp", "log"]

    def signer(self) -> StatementSigner:
        """Opened anew for each call, so that a rotated key counts at once.

        Raises:
            InputError: SIGSTORE_CONFIG, and what is wrong with a key.
        """
        if self.identity_token is not None or self.proof_of_time != "none":
            return self._by_services()
        return self._key()

    def _key(self) -> Signer:
        if self.signing_key is not None:
            return open_signer(self.signing_key, self.signing_public_key)
        return load_signer(self.home)

    def _by_services(self) -> StatementSigner:
        from activities.evidence.keyless_signing import KeylessSigner  # Sigstore takes half a second to import
        from activities.evidence.timed_signing import timed

        if self.sigstore_config is None:
            remedy = "name in GEN4_SIGSTORE_CONFIG the client trust configuration of the services"
            raise InputError("SIGSTORE_CONFIG", "no services are named", remedy)
        if self.identity_token is not None:
            return KeylessSigner(self.sigstore_config, self.identity_token, self.identity)
        return timed(self._key(), self.sigstore_config, "log" if self.proof_of_time == "log" else "timestamp")

    def believed(self) -> Believed:
        separated = public_keys(self.separated_executors)
        return Believed(
            executors=(*separated, *public_keys(self.executors)), separated=separated, policy_digests=self.policy_digests
        )

    def base_packages(self, digest: str) -> Mapping[str, str]:
        """Raises InfrastructureError ROOTFS_MISSING."""
        path = self.packages / f"{digest.removeprefix('sha256:')}.json"
        try:
            return _PACKAGES.validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            remedy = "put the list that lies beside the executor's base there"
            raise InfrastructureError("ROOTFS_MISSING", f"the packages of base {digest} are not in {path}", remedy) from error


def public_keys(files: tuple[Path, ...]) -> tuple[str, ...]:
    """All PEM public keys in ``files``; a file that is not there yet names none.

    Raises:
        InputError: EXECUTORS_INVALID.
    """
    found: list[str] = []
    for path in files:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_PEM_LIMIT)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("EXECUTORS_INVALID", f"cannot read {path}: {error}", "name PEM files of public keys") from error
        found += [part.strip() + f"\n{_PEM_END}\n" for part in text.split(_PEM_END)[:-1]]
    return tuple(found)


def serve(options: SignerOptions) -> None:
    """Answer until SIGTERM."""
    hide_memory()
    private_folder(options.home)
    options.signer()  # a key that cannot be used is said now, not at the first seal
    service = SignerService(
        SignerPorts(
            folder=options.home, own_uid=os.geteuid(), signer=options.signer, believed=options.believed,
            base_packages=options.base_packages, regression=report_if_allowed, gen4_version=version("gen4"),
            git_version=require_git(),
        )
    )  # fmt: skip
    listener = Listener(options.socket, options.clients, os.geteuid(), service.handle, most=8)
    answer(listener, options.socket)


def read_options(arguments: list[str]) -> SignerOptions:
    parser = argparse.ArgumentParser(prog="python -m workers.signer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, required=True, help="folder of the signer alone; it holds its key")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen at")
    parser.add_argument("--packages", type=Path, required=True, help="folder with the package lists of base root filesystems")
    parser.add_argument("--clients", default="", metavar="UID,…", help="users that may call; default: its own")
    parser.add_argument("--executors", type=Path, action="append", default=[], help="PEM public keys of executors (repeatable)")
    parser.add_argument(
        "--separated-executors", type=Path, action="append", default=[],
        help="the same, of executors that have a user of their own (repeatable)",
    )  # fmt: skip
    parser.add_argument("--policy-digest", action="append", default=[], metavar="sha256:…", help="of a policy that may allow")
    parser.add_argument("--signing-key", help="URI of the key, e.g. awskms:…; default: a file in --home")
    parser.add_argument("--signing-public-key", type=Path, help="PEM file with its public key")
    parser.add_argument("--sigstore-config", type=Path, help="client trust configuration of Sigstore services")
    parser.add_argument("--identity-token", type=Path, help="file with an OIDC token: sign without a key of one's own")
    parser.add_argument("--identity", help="what certificates name, where that is not the token's subject")
    parser.add_argument("--proof-of-time", choices=("none", "timestamp", "log"), default="none", help="for a key's signatures")
    found = parser.parse_args(arguments)
    clients = tuple(int(uid) for uid in found.clients.split(",") if uid) or (os.geteuid(),)
    return SignerOptions(
        home=found.home, socket=found.socket, packages=found.packages, clients=clients, executors=tuple(found.executors),
        separated_executors=tuple(found.separated_executors), policy_digests=frozenset(found.policy_digest),
        signing_key=found.signing_key, signing_public_key=found.signing_public_key, sigstore_config=found.sigstore_config,
        identity_token=found.identity_token, identity=found.identity, proof_of_time=found.proof_of_time,
    )  # fmt: skip


def main() -> int:
    configure()
    harness_version()  # of the code that this process runs, whatever is installed under it later
    try:
        serve(read_options(sys.argv[1:]))
    except Gen4Error as error:
        print(plain(str(error)), file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
