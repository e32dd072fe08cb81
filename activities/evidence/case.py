"""What one verification knows so far; later checks use what earlier ones established, or say that they could not check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from activities.evidence.reading import Reading
from schemas.evidence import Envelope, Provenance, Stamp, Statement, TrustedKey, TrustRoot


class Applier(Protocol):
    def apply(self, base_tree: str, diff: bytes) -> str: ...


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
        self, reading: Reading, trust: TrustRoot, objects: Applier | None, expected: Mapping[str, str] | None, now_ms: int
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
        self.key: TrustedKey | None = None
        self.unlisted_hint: str | None = None
        self.statement: Statement | None = None
        self.provenance: Provenance | None = None
        self.stamp: Stamp | None = None
        self.checksums: list[tuple[str, str]] | None = None

    def need_file(self, name: str) -> bytes:
        if name not in self.reading.files:
            raise NotChecked(f"{name} could not be read")
        return self.reading.files[name]

    def need_document(self, name: str) -> Any:
        self.need_file(name)
        if name not in self.documents:
            raise NotChecked(f"{name} is not strict JSON")
        return self.documents[name]

    def need_key(self) -> TrustedKey:
        if self.key is None:
            raise NotChecked("no trusted key signed the envelope")
        return self.key

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

    def need_stamp(self) -> Stamp:
        if self.stamp is None:
            raise NotChecked("stamp.json does not fit stamp/1")
        return self.stamp
