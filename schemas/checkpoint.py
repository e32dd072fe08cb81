"""Checkpoints: a signed root over the heads of all of a tenant's chains, so that a lost tail or session shows (contracts §8).

The signed text is a tlog-checkpoint as C2SP writes it: origin, number of leaves, root, then lines of ours.
"""

from __future__ import annotations

import base64
import binascii
from json.encoder import encode_basestring as _quoted

from pydantic import Field, ValidationError

from schemas.model import Payload, Sha256
from schemas.task import RequiredId

NO_ROOT = "0" * 64
"""``previous_root`` of a tenant's first checkpoint."""


class TakeCheckpoint(Payload):
    """Of the tenant whose worker does it."""


class CheckpointTaken(Payload):
    number: int
    root_sha256: Sha256
    sessions: int


class Head(Payload):
    """The last record of one chain."""

    session_id: RequiredId
    seq: int
    hash: Sha256

    @property
    def leaf(self) -> bytes:
        """What the tree hashes for it: its JCS bytes, written out because there may be very many."""
        return f'{{"hash":{_quoted(self.hash)},"seq":{self.seq},"session_id":{_quoted(self.session_id)}}}'.encode()


class CheckpointRef(Payload):
    """What is shown outside of the store, in approval requests: the last checkpoint, and the session's head in it."""

    number: int
    root_sha256: Sha256
    head: Head | None = None
    """None: the session began after the checkpoint."""


class Checkpoint(Payload):
    """``number`` counts from 1; after a store was restored it goes on above what the outside has seen."""

    tenant_id: RequiredId = Field(pattern=r"^[^\s]+$")
    number: int = Field(ge=1)
    sessions: int = Field(ge=0)
    root_sha256: Sha256
    previous_number: int = Field(ge=0)
    previous_root: Sha256
    created_at_ms: int = Field(ge=0)

    @property
    def text(self) -> str:
        """What is signed."""
        root = base64.b64encode(bytes.fromhex(self.root_sha256)).decode()
        return (
            f"{ORIGIN}{self.tenant_id}\n{self.sessions}\n{root}\nnumber {self.number}\n"
            f"previous {self.previous_number} {self.previous_root}\ntime {self.created_at_ms}\n"
        )


ORIGIN = "gen4/"


def parse_checkpoint(text: str) -> Checkpoint | None:
    """The checkpoint that ``text`` is the one spelling of; None when it is none."""
    lines = text.split("\n")
    if len(lines) != 7 or lines[-1] or not lines[0].startswith(ORIGIN):
        return None
    try:
        previous = lines[4].removeprefix("previous ").split(" ")
        found = Checkpoint(
            tenant_id=lines[0].removeprefix(ORIGIN), sessions=int(lines[1]),
            root_sha256=base64.b64decode(lines[2], validate=True).hex(), number=int(lines[3].removeprefix("number ")),
            previous_number=int(previous[0]), previous_root=previous[-1], created_at_ms=int(lines[5].removeprefix("time ")),
        )  # fmt: skip
    except (ValidationError, ValueError, binascii.Error):
        return None
    return found if found.text == text else None


def leaf_order(session_id: str) -> bytes:
    """Leaves are sorted by the bytes of their session ids, whatever order a database would give them."""
    return session_id.encode("utf-8", "surrogatepass")
