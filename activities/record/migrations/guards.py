"""What the database itself refuses, in the words of both databases. Used by migrations; changing it changes none that has run."""

from __future__ import annotations

from alembic import op

APPEND_ONLY = "gen4_append_only"


def on_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def append_only(table: str, *unique: str) -> None:
    """Refuse changes of ``table``.

    Args:
        unique: conditions under which a row NEW would take the place of another one.
    """
    refuse_change(table, "UPDATE")
    refuse_change(table, "DELETE")
    if on_postgresql():
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {APPEND_ONLY}()")
    else:
        # INSERT OR REPLACE deletes without firing DELETE triggers unless a pragma of the connection says otherwise.
        taken = " OR ".join(f"({condition})" for condition in unique)
        refuse_insert(table, "no_replace", f"EXISTS (SELECT 1 FROM {table} WHERE {taken})")  # noqa: S608  constants


def refuse_change(table: str, verb: str, unless: str | None = None) -> None:
    """``unless``: a condition over OLD, as an SQL function of both databases, under which the change is allowed."""
    trigger = f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
    if not on_postgresql():
        when = f" WHEN NOT ({unless})" if unless else ""
        op.execute(f"{trigger}{when} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END")
        return
    function = APPEND_ONLY
    if unless:
        function = f"gen4_{table}_{verb.lower()}"  # a trigger's WHEN cannot look into other tables there
        op.execute(
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF {unless} THEN RETURN OLD; END IF; {_raise()} END $$"
        )
    op.execute(f"{trigger} FOR EACH ROW EXECUTE FUNCTION {function}()")


def refuse_insert(table: str, name: str, when: str, message: str = "is append-only") -> None:
    """``when``: a condition over NEW under which no row may be added."""
    trigger = f"CREATE TRIGGER {table}_{name} BEFORE INSERT ON {table}"
    if not on_postgresql():
        op.execute(f"{trigger} WHEN {when} BEGIN SELECT RAISE(ABORT, '{table} {message}'); END")
        return
    op.execute(
        f"CREATE FUNCTION gen4_{table}_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {when} THEN {_raise(message)} END IF; RETURN NEW; END $$"
    )
    op.execute(f"{trigger} FOR EACH ROW EXECUTE FUNCTION gen4_{table}_{name}()")


def drop_change_guard(table: str, verb: str) -> None:
    where = f" ON {table}" if on_postgresql() else ""
    op.execute(f"DROP TRIGGER {table}_no_{verb.lower()}{where}")


def make_functions() -> None:
    """Before the first guard, once."""
    if on_postgresql():
        op.execute(f"CREATE FUNCTION {APPEND_ONLY}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_raise()} END $$")


def _raise(message: str = "is append-only") -> str:
    # The class of error that SQLite's triggers raise, too.
    return f"RAISE EXCEPTION '% {message}', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';"
