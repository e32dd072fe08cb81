"""Watches every statement that a repository sends: each table of tenants must be narrowed to one tenant in it.

SQLite has no row-level security; there this is what keeps tenants apart, and on PostgreSQL it is the first of two barriers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from activities.record.tables import METADATA

RECORD = str(Path(__file__).parents[2] / "activities")
ADMINISTRATION = {"backup.py", "databases.py", "env.py", "guards.py"} | {
    file.name for file in (Path(RECORD) / "record" / "migrations" / "versions").glob("*.py")
}
"""What acts for all tenants, by design."""
_NO_ALIAS = "WHERE|SET|ON|JOIN|LEFT|ORDER|VALUES|GROUP|LIMIT"
_REFERENCE = re.compile(rf'\b(?:FROM|JOIN|UPDATE|INTO)\s+"?(\w+)"?(?:\s+(?:AS\s+)?"?(?!{_NO_ALIAS})(\w+)"?)?')
_CONDITIONS = re.compile(r"\b(?:WHERE|ON)\b(?!\s+CONFLICT)")


def flaw(statement: str) -> str | None:
    """What is wrong with a statement; None if it is narrowed to one tenant, or touches no tenant's table."""
    if statement.startswith("INSERT"):
        table, columns = re.findall(r'INTO "?(\w+)"? \(([^)]*)\)', statement)[0]
        return None if table not in METADATA.tables or "tenant_id" in columns else f"{table} without tenant_id"
    start = _CONDITIONS.search(statement)
    conditions = statement[start.start() :] if start else ""
    for table, alias in _REFERENCE.findall(statement):
        if table in METADATA.tables and not re.search(rf"(?:\b{alias or table}\.|(?<![\w.]))tenant_id\b", conditions):
            return f"{table} is not narrowed to a tenant"
    return None


@contextmanager
def watched() -> Iterator[list[str]]:
    """The flawed statements that code below ``activities/`` sends meanwhile, each with its place."""
    found: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(RECORD):
            if "/tests/" in frame.f_code.co_filename:
                return  # a test's own statement: an attacker's or a witness's
            frame = frame.f_back
        place = Path(frame.f_code.co_filename)
        if place.name not in ADMINISTRATION and (wrong := flaw(" ".join(statement.split()))) is not None:
            found.append(f"{place.name}:{frame.f_lineno}: {wrong}: {statement}")

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", look)
