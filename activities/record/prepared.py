"""Writes of the busiest paths: compiled once for each kind of database, then given to the driver as they are.

SQLAlchemy takes longer to prepare a statement than SQLite to run it. (Reads gain nothing: there it keeps what it prepared.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Insert, Update

Statement = Insert | Update


class Prepared:
    """Args: ``make``: gives the statement; its bound parameters are its columns (of an INSERT) or its ``bindparam`` names."""

    def __init__(self, make: Callable[[], Statement]) -> None:
        self._make = make
        self._forms: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        sql, order = self._form(connection)
        return connection.exec_driver_sql(sql, values if order is None else tuple(values[name] for name in order))

    def run_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Once for each of ``rows``, of which there is one at least."""
        sql, order = self._form(connection)
        shaped = rows if order is None else [tuple(row[name] for name in order) for row in rows]
        return connection.exec_driver_sql(sql, shaped)

    def _form(self, connection: Connection) -> tuple[str, tuple[str, ...] | None]:
        dialect = connection.dialect
        form = self._forms.get(dialect.name)
        if form is None:
            compiled = self._make().compile(dialect=dialect)
            order = getattr(compiled, "positiontup", None)
            form = self._forms[dialect.name] = (str(compiled), None if order is None else tuple(order))
        return form

