"""Digests as people give them."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from schemas.error import InputError
from schemas.model import Digest, GitId

_DIGEST: TypeAdapter[str] = TypeAdapter(Digest)
_GIT_ID: TypeAdapter[str] = TypeAdapter(GitId)


def digest(text: str, code: str = "DIGEST_INVALID") -> str:
    """Raises InputError with ``code``."""
    try:
        return _DIGEST.validate_python(text)
    except ValidationError as error:
        raise InputError(code, f"{text!r} is no digest", "give sha256: and 64 lower-case hex digits") from error


def git_id(value: object) -> str | None:
    """None for what is no object id of git's."""
    try:
        return _GIT_ID.validate_python(value)
    except ValidationError:
        return None
