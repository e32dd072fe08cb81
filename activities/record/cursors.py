"""Cursors: how far a long activity got, so that its next attempt goes on from there."""

from __future__ import annotations

from typing import Any

import rfc8785
from sqlalchemy import Connection, select

from activities.record.store import TenantStore, now_ms
from activities.record.tables import CURSOR
from schemas.canonical import jcs, strict_json
from schemas.error import InputError
from schemas.task import TraceKeys


class Cursors:
    """One JSON object per key; the last save wins."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def load(self, key: str) -> dict[str, Any] | None:
        query = select(CURSOR.c.value_json).where(CURSOR.c.tenant_id == self._store.tenant_id, CURSOR.c.cursor_key == key)
        text = self._store.read(lambda connection: connection.execute(query).scalar_one_or_none())
        if text is None:
            return None
        value: dict[str, Any] = strict_json(text.encode())
        return value

    def save(self, keys: TraceKeys, key: str, value: dict[str, Any]) -> None:
        """Durable when it returns.

        Raises:
            InputError: NOT_CANONICAL for values that have no canonical JSON.
            Refused: TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        try:
            text = jcs(value).decode()
        except rfc8785.CanonicalizationError as error:
            raise InputError("NOT_CANONICAL", f"cursor {key} has no canonical JSON: {error}") from error

        def run(connection: Connection) -> None:
            same = (CURSOR.c.tenant_id == keys.tenant_id) & (CURSOR.c.cursor_key == key)
            changed = connection.execute(CURSOR.update().where(same).values(value_json=text, updated_at_ms=now_ms()))
            if changed.rowcount == 0:
                time_ms = now_ms()
                connection.execute(
                    CURSOR.insert().values(
                        cursor_key=key, value_json=text, version="1", created_at_ms=time_ms, updated_at_ms=time_ms,
                        **keys.model_dump(),
                    )
                )  # fmt: skip

        self._store.write(run)
