"""How a repository is named in evidence: no credentials, and a name without machine paths for the members."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit


def public_repository(repository: str) -> str:
    """The repository without user information: no secret enters a bundle."""
    parts = urlsplit(repository)
    if parts.scheme not in ("http", "https", "ssh"):
        return repository
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def git_uri(repository: str) -> str:
    """``git+`` URI of a resolved dependency (SLSA)."""
    public = public_repository(repository)
    return "git+" + (public if "://" in public else "file://" + quote(public))


def repository_name(repository: str) -> str:
    """Last part of the path: the same on every machine that compiles the same repository."""
    path = urlsplit(public_repository(repository)).path if "://" in repository else repository
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return name or "repository"
