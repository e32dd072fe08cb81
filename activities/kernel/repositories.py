"""Which repositories the operator admits: folders on this machine, hosts elsewhere. Asked at intake and again at every use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from activities.record.remotes import find_local
from schemas.error import Gen4Error, InputError


@dataclass(frozen=True)
class Admitted:
    """``address``: what git is given. A local path is resolved, so that a link cannot lead elsewhere afterwards."""

    address: str
    protocol: Literal["file", "https", "ssh"]


@dataclass(frozen=True)
class RepositoryRules:
    """``roots``: folders under which local repositories may lie; ``hosts``: names that https and ssh URLs may have."""

    roots: tuple[Path, ...]
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, roots: Sequence[Path], hosts: Sequence[str] = ()) -> RepositoryRules:
        return cls(tuple(roots), tuple(host.lower() for host in hosts))

    def admit(self, repository: str) -> Admitted:
        """Raises:
        InputError: REPOSITORY_INVALID, REPOSITORY_OUTSIDE_ROOTS, REPOSITORY_CREDENTIALS, REPOSITORY_HOST.
        """
        if "://" in repository:
            return self._admit_url(repository)
        if not repository.startswith("/") or "\0" in repository:
            raise InputError(
                "REPOSITORY_INVALID",
                "the repository is neither an absolute path nor an https:// or ssh:// URL",
                "send /absolute/path, https://host/path or ssh://user@host/path",
            )
        return Admitted(str(self._inside(repository)), "file")

    def _inside(self, repository: str) -> Path:
        try:
            path = Path(repository).resolve()
            roots = [root.resolve() for root in self.roots]
        except (OSError, RuntimeError) as error:
            raise InputError("REPOSITORY_INVALID", f"the path cannot be resolved: {error}", "check the path") from error
        if not any(path.is_relative_to(root) for root in roots):
            listed = ", ".join(str(root) for root in roots) or "none"
            raise InputError(
                "REPOSITORY_OUTSIDE_ROOTS",
                f"the repository lies outside the operator's roots ({listed})",
                "move it there, or start the fabric with GEN4_REPOSITORY_ROOTS naming its folder",
            )
        self._refuse_led_outside(path, roots)
        return path

    def _refuse_led_outside(self, path: Path, roots: Sequence[Path]) -> None:
        """A `.git` file may name any folder of this machine: what git would read must lie under a root too."""
        try:
            local = find_local(str(path))
        except Gen4Error:
            return  # no repository, or not ours: whoever reads it says so better
        for folder in (local.git_directory, local.common):
            if not any(folder.is_relative_to(root) for root in roots):
                raise InputError(
                    "REPOSITORY_OUTSIDE_ROOTS",
                    f"the repository's git directory {folder} lies outside the operator's roots",
                    "name the repository itself, or start the fabric with GEN4_REPOSITORY_ROOTS naming that folder too",
                )

    def _admit_url(self, repository: str) -> Admitted:
        try:
            parts = urlsplit(repository)
            host, secret = (parts.hostname or "").lower(), parts.password
        except ValueError as error:
            raise InputError("REPOSITORY_INVALID", f"not a URL: {error}", "send https://host/path") from error
        if parts.scheme not in ("https", "ssh"):
            raise InputError(
                "REPOSITORY_INVALID", "only https:// and ssh:// URLs are possible", "send one of these, or a local path"
            )
        if secret is not None or (parts.scheme == "https" and parts.username is not None):
            raise InputError(
                "REPOSITORY_CREDENTIALS",
                "the URL carries credentials, which would be recorded",
                "give git its credentials by SSH",
            )
        if host not in self.hosts:
            listed = ", ".join(self.hosts) or "none"
            raise InputError(
                "REPOSITORY_HOST",
                f"{host or 'no host'} is not among the operator's hosts ({listed})",
                "set GEN4_REPOSITORY_HOSTS",
            )
        return Admitted(repository, "https" if parts.scheme == "https" else "ssh")
