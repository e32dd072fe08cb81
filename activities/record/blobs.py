"""Content-addressed values on disk: ``<root>/<tenant>/<first two hex digits>/<sha256>``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import rfc8785

from activities.record.whole_files import write_whole
from schemas.canonical import StrictJsonError, jcs, sha256_hex, strict_json
from schemas.error import InfrastructureError, InputError, Refused
from schemas.model import BlobRef

JSON = "application/json"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class BlobStore:
    """Blobs of one tenant. Writing the same bytes again is a no-op; reading hashes them again."""

    def __init__(self, root: Path, tenant_id: str) -> None:
        if not _TENANT.match(tenant_id):
            remedy = "use 1 to 64 letters, digits, dots, dashes or underscores"
            raise InputError("TENANT_INVALID", f"{tenant_id!r} cannot name a folder", remedy)
        self.tenant_id = tenant_id
        self._folder = root / tenant_id

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> BlobRef:
        """Keep ``data``; it is on disk when this returns.

        Raises:
            InfrastructureError: BLOB_WRITE_FAILED, e.g. when the disk is full.
        """
        ref = BlobRef(sha256=sha256_hex(data), size=len(data), media_type=media_type)
        target = self.path(ref)
        if self._is_whole(target, ref):
            return ref
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(target, data)
        except OSError as error:
            raise InfrastructureError(
                "BLOB_WRITE_FAILED", f"blob {ref.sha256} was not written: {error.strerror}", "free disk space and try again"
            ) from error
        return ref

    def get(self, ref: BlobRef | str) -> bytes:
        """The bytes of a blob, hashed again.

        Args:
            ref: the reference, or 64 hex digits.

        Raises:
            InfrastructureError: BLOB_MISSING.
            Refused: BLOB_CORRUPT when the bytes are not those that the reference names.
        """
        sha256 = _sha256_of(ref)
        try:
            data = self.path(ref).read_bytes()
        except OSError as error:
            raise InfrastructureError(
                "BLOB_MISSING", f"blob {sha256} cannot be read: {error.strerror}", "restore the blobs folder from a backup"
            ) from error
        if sha256_hex(data) != sha256 or (isinstance(ref, BlobRef) and ref.size != len(data)):
            raise Refused("BLOB_CORRUPT", f"the bytes stored as {sha256} are not those", "restore the blobs folder from a backup")
        return data

    def put_json(self, value: Any) -> BlobRef:
        """Keep a JSON value or model as JCS bytes.

        Raises:
            InputError: NOT_CANONICAL for NaN, integers of 2**53 and more, and lone surrogates.
        """
        try:
            return self.put(jcs(value), JSON)
        except rfc8785.CanonicalizationError as error:
            raise InputError("NOT_CANONICAL", f"no canonical JSON: {error}", "send such numbers as strings") from error

    def get_json(self, ref: BlobRef | str) -> Any:
        """The JSON value of a blob, parsed strictly.

        Raises:
            Refused: BLOB_NOT_JSON; and all that :meth:`get` raises.
        """
        try:
            return strict_json(self.get(ref))
        except StrictJsonError as error:
            raise Refused("BLOB_NOT_JSON", f"blob {_sha256_of(ref)} is not strict JSON: {error}") from error

    def path(self, ref: BlobRef | str) -> Path:
        """Where the blob lies or would lie; reading it there skips the hash check."""
        sha256 = _sha256_of(ref)
        return self._folder / sha256[:2] / sha256

    def _is_whole(self, target: Path, ref: BlobRef) -> bool:
        # A torn file cannot exist (rename is atomic), but a damaged one can, and is then replaced.
        try:
            return target.stat().st_size == ref.size and sha256_hex(target.read_bytes()) == ref.sha256
        except OSError:
            return False


def _sha256_of(ref: BlobRef | str) -> str:
    sha256 = ref.sha256 if isinstance(ref, BlobRef) else ref
    if not _SHA256.match(sha256):
        raise InputError("BLOB_ID_INVALID", f"{sha256!r} is not a sha256", "send 64 lower-case hex digits")
    return sha256
