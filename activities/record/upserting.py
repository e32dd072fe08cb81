"""Rows that several workers may make at once: the first one stays."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or_ignore(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Whether the row was inserted; one that is there already stays as it is."""
    statement = _statement(table, connection.dialect.name)
    # Without the option the count of an INSERT is lost on PostgreSQL.
    return connection.execute(statement, dict(values), execution_options={"preserve_rowcount": True}).rowcount == 1


@cache
def _statement(table: Table, dialect: str) -> Executable:
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing()
