"""Tokens that acted once: a token acts once only, whichever process sees it (contracts §3, ``jti`` replay)."""

from __future__ import annotations

from sqlalchemy import Connection

from activities.record.store import TenantStore
from activities.record.tables import USED_TOKEN
from activities.record.upserting import insert_or_ignore
from schemas.task import tenant_keys

KEPT_MS = 86_400_000
"""After its expiry a token is refused anyway; a day more forgives a clock that was set back."""


class UsedTokens:
    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def use(self, issuer: str, jti: str, expires_at_ms: int, now_ms: int, connection: Connection | None = None) -> bool:
        """Mark a token as used; False when it was used before."""
        mine = USED_TOKEN.c.tenant_id == self._store.tenant_id
        values = {
            **tenant_keys(self._store.tenant_id).model_dump(), "capability_id": None, "version": "1", "issuer": issuer,
            "jti": jti, "expires_at_ms": expires_at_ms, "created_at_ms": now_ms,
        }  # fmt: skip

        def run(transaction: Connection) -> bool:
            transaction.execute(USED_TOKEN.delete().where(mine, USED_TOKEN.c.expires_at_ms < now_ms - KEPT_MS))
            return insert_or_ignore(transaction, USED_TOKEN, values)

        return run(connection) if connection is not None else self._store.write(run)
