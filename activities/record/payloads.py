"""Payloads under lock: AES-256-GCM with a data key per tenant, which lies in the store wrapped by the home's payload key.

Whoever has the store alone reads nothing that was said, and the chain still verifies: it commits to what was encrypted.
Without the payload key nothing new is written either, so that no two halves of a store need two keys by accident.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, bindparam, select

from activities.record.key_files import read_private, write_once
from activities.record.tables import PAYLOAD_KEY
from activities.record.upserting import insert_or_ignore
from schemas.error import InputError, Refused
from schemas.task import tenant_keys

PAYLOAD_KEY_FILE = "payload.key"
FIRST_KEY = "payload-1"
_KEY_BYTES, _NONCE_BYTES = 32, 12

_NEWEST = (
    select(PAYLOAD_KEY.c.key_id, PAYLOAD_KEY.c.wrapped)
    .where(PAYLOAD_KEY.c.tenant_id == bindparam("tenant"), PAYLOAD_KEY.c.status == "active")
    .order_by(PAYLOAD_KEY.c.created_at_ms.desc(), PAYLOAD_KEY.c.key_id)
    .limit(1)
)
_BY_ID = select(PAYLOAD_KEY.c.wrapped).where(
    PAYLOAD_KEY.c.tenant_id == bindparam("tenant"), PAYLOAD_KEY.c.key_id == bindparam("key")
)

@dataclass(frozen=True)
class DataKey:
    """Seals for one tenant. What was sealed for one event opens for no other."""

    key_id: str
    _aead: AESGCM = field(repr=False)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        """None when it was changed, or sealed for another context or under another key."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError, TypeError):
            return None


class PayloadVault:
    """The data keys of a store's tenants, opened with the payload key of ``keys``. For several threads at once."""

    def __init__(self, keys: Path) -> None:
        self._path = keys / PAYLOAD_KEY_FILE
        self._opened: dict[tuple[str, str, bytes], DataKey] = {}
        self._newest: dict[str, DataKey] = {}

    def known(self, tenant_id: str) -> DataKey | None:
        """The key for new payloads, if this process has seen it committed."""
        return self._newest.get(tenant_id)

    def remember(self, tenant_id: str, key: DataKey) -> DataKey:
        """``key`` is committed: from now on it is the one for new payloads."""
        self._newest[tenant_id] = key
        return key

    def newest(self, connection: Connection, tenant_id: str) -> DataKey | None:
        """The key for new payloads as this transaction sees it, which may be its own and never committed.

        Raises:
            Refused: PAYLOAD_KEY_MISSING.
        """
        row = connection.execute(_NEWEST, {"tenant": tenant_id}).first()
        return None if row is None else self._open(tenant_id, row.key_id, row.wrapped)

    def create(self, connection: Connection, tenant_id: str, now_ms: int) -> bool:
        """Make the tenant's first data key; of several that try, one does.

        Raises:
            InputError: KEY_UNSAFE.
        """
        if not os.path.lexists(self._path):
            write_once(self._path, os.urandom(_KEY_BYTES).hex().encode() + b"\n", 0o600)
        data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = nonce + self._wrapping(tenant_id).encrypt(nonce, data_key, _context(tenant_id, FIRST_KEY))
        keys = tenant_keys(tenant_id)
        row = {
            "key_id": FIRST_KEY, **keys.model_dump(), "capability_id": None, "version": "1", "wrapped": wrapped,
            "status": "active", "created_at_ms": now_ms, "updated_at_ms": now_ms,
        }  # fmt: skip
        return insert_or_ignore(connection, PAYLOAD_KEY, row)

    def get(self, connection: Connection, tenant_id: str, key_id: str) -> DataKey:
        """The key that an older payload was sealed with.

        Raises:
            Refused: PAYLOAD_KEY_MISSING when its row is gone, or the payload key is not the one that wrapped it.
        """
        wrapped = connection.execute(_BY_ID, {"tenant": tenant_id, "key": key_id}).scalar()
        if wrapped is None:
            raise _missing(f"the store holds no data key {key_id!r} of tenant {tenant_id!r}", self._path)
        return self._open(tenant_id, key_id, wrapped)

    def _open(self, tenant_id: str, key_id: str, wrapped: bytes) -> DataKey:
        # Unwrapping depends on nothing but these: what a rolled back transaction left here is never asked for again.
        found = self._opened.get((tenant_id, key_id, wrapped))
        if found is None:
            wrapping = self._wrapping(tenant_id)
            try:
                data_key = wrapping.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _context(tenant_id, key_id))
            except (InvalidTag, ValueError) as error:
                raise _missing(f"it does not open data key {key_id!r} of tenant {tenant_id!r}", self._path) from error
            found = self._opened[(tenant_id, key_id, wrapped)] = DataKey(key_id, AESGCM(data_key))
        return found

    def _wrapping(self, tenant_id: str) -> AESGCM:
        if not os.path.lexists(self._path):
            raise _missing(f"the payloads of tenant {tenant_id!r} are encrypted and it is gone", self._path)
        text = read_private(self._path).strip()
        try:
            return AESGCM(_exactly(bytes.fromhex(text.decode())))
        except ValueError as error:
            remedy = "put back the file of this home"
            raise InputError("KEY_INVALID", f"{self._path} is no key of 64 hex digits", remedy) from error


def _exactly(key: bytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError("length")
    return key


def _context(tenant_id: str, key_id: str) -> bytes:
    return f"{tenant_id}\n{key_id}".encode()


def _missing(why: str, path: Path) -> Refused:
    remedy = "put back the keys folder that belongs to this store"
    return Refused("PAYLOAD_KEY_MISSING", f"payload key {path}: {why}", remedy)
