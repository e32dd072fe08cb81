"""Named locks of a transaction: whoever holds one sees what its last holder left, and nobody else goes on from the same state."""

from __future__ import annotations

from sqlalchemy import Connection, text

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def hold(connection: Connection, *name: str) -> None:
    """Wait for the lock and keep it until the transaction ends. SQLite's writers hold the whole file already."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"name": "\0".join(name).replace("\0", "\x01")})
