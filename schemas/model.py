"""The two kinds of model and the scalar types that all contracts share (contracts §0)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""64 lower-case hex digits."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` followed by 64 lower-case hex digits."""

GitId = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
"""A git object id: commit, tree or blob."""

ZERO_ID = "0" * 40
"""The expected head of a branch that does not exist yet."""


class Door(BaseModel):
    """What enters from outside (UI, CLI, signals, bundles): unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Payload(BaseModel):
    """What travels between our own workflows and activities: unknown fields are ignored,
    so that a newer worker never wedges an older workflow."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class BlobRef(Payload):
    """A value kept in the content store instead of in the Temporal payload."""

    sha256: Sha256
    size: int
    media_type: str = "application/octet-stream"
