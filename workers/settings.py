"""Settings, read once at an entry point into a frozen object: ``GEN4_*`` variables, defaults in code, no ``.env`` file.

Everything that a settings value can weaken is refused at start, not ignored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from activities.record.home import Home
from schemas.error import InputError
from schemas.identity import Mode


def state_directory() -> Path:
    """The user's state directory (XDG Base Directory): never the working directory."""
    configured = os.environ.get("XDG_STATE_HOME")
    if configured and Path(configured).is_absolute():
        return Path(configured)
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError as error:
        remedy = "set GEN4_HOME and GEN4_CACHE to folders of this user"
        raise InputError("HOME_UNSAFE", "this user has no home folder", remedy) from error


class Settings(BaseSettings):
    """One fabric on one machine. A blank variable counts as unset; an unknown ``GEN4_*`` value is a usage error."""

    model_config = SettingsConfigDict(env_prefix="GEN4_", frozen=True, env_ignore_empty=True, extra="ignore")

    home: Path = Field(default_factory=lambda: state_directory() / "gen4")
    """Keys, store, blobs, bundles, logs: one folder, mode 0700 (``GEN4_HOME``)."""
    cache: Path = Field(default_factory=lambda: state_directory() / "gen4-cache")
    """Toolchain and sandbox root filesystems, shared by all homes of the user (``GEN4_CACHE``)."""
    repository_roots: Annotated[tuple[Path, ...], NoDecode] = Field(default_factory=lambda: (Path.cwd(),))
    """Local repositories must lie under one of these, separated like PATH (``GEN4_REPOSITORY_ROOTS``);
    default: where the fabric was started."""
    repository_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts of https and ssh repositories, separated by commas; empty = none (``GEN4_REPOSITORY_HOSTS``)."""
    sandbox: Literal["auto", "docker", "bubblewrap"] = "auto"
    store_url: str | None = None
    """``postgresql://user@host/database`` (``GEN4_STORE_URL``), without a password; default: an SQLite file in the home."""
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "local"
    """Whose fabric this is (``GEN4_TENANT``)."""
    namespace: Annotated[str, Field(min_length=1, max_length=256)] = "default"
    """The tenant's own Temporal namespace (``GEN4_NAMESPACE``)."""
    identity: Mode = "embedded"
    """``embedded``: whoever reaches the Temporal server is the local operator. ``server``: the server authenticates its callers
    and stamps them on what they start; others start nothing (``GEN4_IDENTITY``)."""
    temporal_port: int | None = None
    """Port of the embedded server; default: the one of the last start, else 7233, else a free one."""
    approval_expiry_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 72 * 3_600
    temporal_address: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$|^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$")] | None = None
    """``host:port`` of a Temporal server that somebody else runs (``GEN4_TEMPORAL_ADDRESS``); default: the fabric starts its own.
    Its credentials stay in ``TEMPORAL_API_KEY`` and ``TEMPORAL_TLS_*``."""
    temporal_ui: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] | None = None
    """URL of that server's web UI, for links (``GEN4_TEMPORAL_UI``)."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Where the worker's metrics are served, on loopback (``GEN4_METRICS_PORT``); 0: any free port, see ``gen4 status``."""
    reaper_s: Annotated[int, Field(ge=0, le=86_400)] = 60
    """How often sessions whose workflow was ended are closed (``GEN4_REAPER_S``); 0: never."""
    reconciliation_s: Annotated[int, Field(ge=0, le=86_400)] = 60
    """How often unobserved effects are settled (``GEN4_RECONCILIATION_S``); 0: never."""
    checkpoint_s: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How often the heads of all chains are signed (``GEN4_CHECKPOINT_S``); 0: never."""
    checkpoint_sink: Path | None = None
    """File or folder outside of the home that gets each signed checkpoint, too (``GEN4_CHECKPOINT_SINK``)."""

    executor_socket: Path | None = None
    """Socket of an executor that an operator runs, with a user of its own (``GEN4_EXECUTOR_SOCKET``); default: one is started."""
    signer_socket: Path | None = None
    """Socket of a signer that the operator runs, under a user of its own (``GEN4_SIGNER_SOCKET``); default: one is started."""
    signing_key: str | None = None
    """URI of the signing key, as securesystemslib has them: ``file2:/path``, ``awskms:…``, ``gcpkms:…``, ``azurekms:…``
    (``GEN4_SIGNING_KEY``); default: a file of the signer's own."""
    signing_public_key: Path | None = None
    """PEM file with the public key of one that is no file (``GEN4_SIGNING_PUBLIC_KEY``)."""
    sigstore_config: Path | None = None
    """Client trust configuration of Sigstore services, public or private (``GEN4_SIGSTORE_CONFIG``)."""
    identity_token_file: Path | None = None
    """File with an OIDC token, read anew for each signature: signs without a key of its own (``GEN4_IDENTITY_TOKEN_FILE``)."""
    signing_identity: str | None = None
    """What certificates name, where that is not the token's subject or e-mail address (``GEN4_SIGNING_IDENTITY``)."""
    proof_of_time: Literal["none", "timestamp", "log"] = "none"
    """What a signing key's signatures carry besides, from the services of the configuration (``GEN4_PROOF_OF_TIME``)."""

    policy_candidate: Path | None = None
    """Folder with another version of ``policies/`` that is evaluated beside the active one (``GEN4_POLICY_CANDIDATE``)."""
    gate_mode: Literal["shadow", "canary", "full"] = "shadow"
    """Whether the candidate is only watched, also enforced for some sessions, or for all (``GEN4_GATE_MODE``)."""
    gate_enforce_bp: Annotated[int, Field(ge=0, le=10_000)] = 2_000
    """Share of sessions of mode canary, in basis points (``GEN4_GATE_ENFORCE_BP``)."""

    @property
    def executor_path(self) -> Path:
        """Where the executor answers."""
        return self.executor_socket or Home(self.home).run / "executor.sock"

    @property
    def signer_path(self) -> Path:
        """Where the signer answers."""
        return self.signer_socket or Home(self.home).run / "signer.sock"

    @property
    def store_address(self) -> str:
        """Where the store is; what ``Store.open`` takes."""
        return self.store_url or f"sqlite:///{Home(self.home).store}"

    @field_validator(
        "home", "cache", "policy_candidate", "checkpoint_sink", "executor_socket", "signer_socket", "signing_public_key",
        "sigstore_config", "identity_token_file", mode="after",
    )  # fmt: skip
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        # A relative one would be looked for in the working directory, which may be a cloned repository.
        path = value.expanduser()
        if not path.is_absolute():
            raise ValueError(f"{value} is not an absolute path")
        return path

    @field_validator("repository_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).expanduser().absolute() for part in value.split(os.pathsep) if part)
        return value

    @field_validator("repository_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value


def read_settings() -> Settings:
    """Raises InputError(SETTINGS_INVALID) naming the variable."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(f"GEN4_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        raise InputError("SETTINGS_INVALID", problems, "correct or unset the variable") from error
