"""Rows that several workers may make at once: the first one stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or_ignore(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Whether the row was inserted; one that is there already stays as it is."""
    if connection.dialect.name == "postgresql":
        return connection.execute(postgresql.insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1
    return connection.execute(sqlite.insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1
