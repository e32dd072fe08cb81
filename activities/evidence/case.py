"""What one verification knows so far; later checks use what earlier ones established, or say that they could not check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from activities.evidence.reading import Reading
from activities.evidence.scanning import Scan
from schemas.evidence import CHECKSUMS, STAMP, TRAJECTORY, milliseconds_of
from schemas.stamp import AnyStamp, MemberDigest
from schemas.statement import Envelope, Provenance, Statement
from schemas.trust import Trust, Trusted


class Repository(Protocol):
    """The part of the object store that verification needs."""

    def apply(self, base_tree: str, diff: bytes) -> str: ...
    def snapshot_hash(self, tree: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Why a check failed."""

    reason: str
    member: str = ""
    expected: str = ""
    actual: str = ""
    remedy: str = "get an unaltered copy of the bundle, or compile again"


class NotChecked(Exception):
    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class Case:
    """Established facts are attributes; the ``need_*`` methods raise :class:`NotChecked` when one is missing."""

    def __init__(
        self, reading: Reading, trust: Trust, objects: Repository | None, expected: Mapping[str, str] | None, now_ms: int
    ) -> None:
        self.reading = reading
        self.trust = trust
        self.objects = objects
        self.expected = expected
        self.now_ms = now_ms
        self.documents: dict[str, Any] = {}
        """Members that passed the strict JSON loader, by name."""
        self.envelope: Envelope | None = None
        self.payload: bytes | None = None
        """Bytes of the statement, set once its signature is valid."""
        self.signer: Trusted | None = None
        self.proven_ms: int | None = None
        """When it was signed, where a time stamp or a log proves it."""
        self.unlisted: str | None = None
        """Whoever signed it, if no entry of the trust file could be tried."""
        self.refused_signer: Finding | None = None
        """Why a certificate is not that of the listed signer."""
        self.statement: Statement | None = None
        self.provenance: Provenance | None = None
        self.stamp: AnyStamp | None = None
        self.checksums: list[tuple[str, str]] | None = None

    @property
    def signed_ms(self) -> int:
        """When it was signed: as proven, else as the signer claims in the stamp, which it signed."""
        if self.proven_ms is not None:
            return self.proven_ms
        stamp = self.need_document(STAMP)
        try:
            return milliseconds_of(stamp["created_at"])
        except (TypeError, KeyError, ValueError) as error:
            raise NotChecked(f"{STAMP} names no time") from error

    @property
    def bundle_digest(self) -> str:
        return "sha256:" + self.need_digest(CHECKSUMS).sha256

    @property
    def stamp_digest(self) -> str:
        return "sha256:" + self.need_digest(STAMP).sha256

    def need_digest(self, name: str) -> MemberDigest:
        if name not in self.reading.digests:
            raise NotChecked(f"{name} could not be read")
        return self.reading.digests[name]

    def need_trajectory(self) -> Scan:
        if self.reading.trajectory is None:
            raise NotChecked(f"{TRAJECTORY} could not be read")
        return self.reading.trajectory

    def need_file(self, name: str) -> bytes:
        if name not in self.reading.files:
            raise NotChecked(f"{name} could not be read")
        return self.reading.files[name]

    def need_document(self, name: str) -> Any:
        self.need_file(name)
        if name not in self.documents:
            raise NotChecked(f"{name} is not strict JSON")
        return self.documents[name]

    def need_signer(self) -> Trusted:
        if self.signer is None:
            raise NotChecked("no trusted signer signed the envelope")
        return self.signer

    def need_payload(self) -> bytes:
        if self.payload is None:
            raise NotChecked("the envelope's signature is not valid")
        return self.payload

    def need_statement(self) -> Statement:
        if self.statement is None:
            raise NotChecked("the envelope holds no authentic statement")
        return self.statement

    def need_provenance(self) -> Provenance:
        if self.provenance is None:
            raise NotChecked("the envelope holds no authentic provenance")
        return self.provenance

    def need_stamp(self) -> AnyStamp:
        if self.stamp is None:
            raise NotChecked("stamp.json does not fit its schema")
        return self.stamp
