"""Facts about a repository address and its options, for the policy of requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from activities.policy.spelling import hidden_characters
from schemas.ledger import Unit
from schemas.model import Payload

MAX_ADDRESS = 4_096
_SCP_LIKE = re.compile(r"[^/:]+:")


class RepositoryFacts(Payload):
    """``kind``: ``path`` or a URL's scheme; ``plain``: means the same to every reader and to git; ``admitted``: the operator
    lists its root or its host."""

    kind: str
    plain: bool
    admitted: bool


class RequestFacts(Payload):
    repository: RepositoryFacts
    ref: str
    release: dict[str, str]
    limits: dict[str, int]
    budget: dict[str, int]


def request_facts(
    repository: str, ref: str, mode: str | None, target: str | None, *, roots: Sequence[Path], hosts: Sequence[str],
    limits: Mapping[str, int], budget: Mapping[Unit, int],
) -> RequestFacts:  # fmt: skip
    """What ``gen4.request`` judges; an absent mode or target is the word ``none``, a limit that does not apply 0.

    ``budget`` has only what the request names.
    """
    release = {"mode": mode or "none", "target": target or "none"}
    return RequestFacts(
        repository=repository_facts(repository, roots, hosts), ref=ref, release=release, limits=dict(limits), budget=dict(budget)
    )


def repository_facts(repository: str, roots: Sequence[Path], hosts: Sequence[str]) -> RepositoryFacts:
    """Never touches the network; a local path is resolved, so that a link cannot lead out of the roots."""
    plain = bool(repository) and len(repository) <= MAX_ADDRESS and repository == repository.strip()
    plain = plain and not repository.startswith("-") and "::" not in repository and not any(hidden_characters(repository))
    plain = plain and not any(char in repository for char in "\t\n\r\f")
    scheme, separator, _ = repository.partition("://")
    if separator:
        return _url(repository, scheme.lower(), plain, hosts)
    if _SCP_LIKE.match(repository):
        return RepositoryFacts(kind="scp", plain=plain, admitted=False)  # host:path, which is also a good name of a folder
    return RepositoryFacts(kind="path", plain=plain, admitted=plain and _inside(repository, roots))


def _url(repository: str, scheme: str, plain: bool, hosts: Sequence[str]) -> RepositoryFacts:
    try:
        parts = urlsplit(repository)
        host, secret = (parts.hostname or "").lower(), parts.password
    except ValueError:
        return RepositoryFacts(kind=scheme, plain=False, admitted=False)
    plain = plain and bool(host) and not host.startswith("-") and secret is None
    plain = plain and "%" not in parts.netloc and "\\" not in repository
    return RepositoryFacts(kind=scheme, plain=plain, admitted=host in _lower(hosts))


def _lower(hosts: Sequence[str]) -> set[str]:
    return {host.lower() for host in hosts}


def _inside(repository: str, roots: Sequence[Path]) -> bool:
    try:
        path = Path(repository)
        return path.is_absolute() and any(path.resolve().is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        return False
