"""The two databases that the store runs on, and all that differs between them: connections, transactions, whose rows, retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from schemas.error import InputError, Refused

HEAD = "r0003"
"""The migration that this code is written for."""
EVERYONE = "*"
"""The tenant that an administrator acts as: rows of all tenants. A database role that is bound to one tenant never can."""
BUSY_TIMEOUT_MS = 30_000
"""How long one process waits for another one's write."""
BATCH_LOCK_TIMEOUT_MS = 50
"""How long a write waits for another process's lock while it keeps the rest of its batch waiting."""
_WAL_PAGES = 4_000
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x67656E34
_UNIQUE, _NEVER_COMMITTED = "23505", {"40001", "40P01", "55P03"}


class Database(Protocol):
    """``writer`` belongs to one thread; ``reader`` gives read-only snapshots to any."""

    writer: Engine
    reader: Engine

    def prepare(self) -> None:
        """Check who connects, and bring the schema to :data:`HEAD`."""

    def enter(self, connection: Connection, tenant_id: str) -> None:
        """Say, for the rest of the transaction, whose rows may be seen and written."""

    def wait(self, connection: Connection, milliseconds: int) -> None:
        """Say, for the rest of the transaction, how long a statement may wait for locks of other processes."""

    def worth_repeating(self, error: DBAPIError) -> bool:
        """Whether another process got in the way, and the same work, done again, finds what that one left."""

    def dispose(self) -> None: ...


def open_database(url: str) -> Database:
    """Connect and bring the schema to :data:`HEAD`.

    Raises:
        InputError: STORE_URL, STORE_URL_SECRET.
        Refused: STORE_NEWER, STORE_ROLE_UNSAFE.
        DBAPIError: the database cannot be used.
    """
    parsed = parse_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    database: Database = SqliteDatabase(parsed) if sqlite else PostgresDatabase(parsed)
    try:
        database.prepare()
    except BaseException:
        database.dispose()
        raise
    return database


class SqliteDatabase:
    """One file in WAL mode. It has one tenant's rows beside another's: only the repositories keep them apart."""

    def __init__(self, url: URL) -> None:
        self.writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", read_only=False)
        self.reader = _sqlite_engine(url, begin="BEGIN", read_only=True)

    def prepare(self) -> None:
        # BEGIN IMMEDIATE serialises processes that start at once; the second one finds the work done.
        with self.writer.begin() as connection:
            migrate(connection)

    def enter(self, connection: Connection, tenant_id: str) -> None:
        pass

    def wait(self, connection: Connection, milliseconds: int) -> None:
        pass

    def worth_repeating(self, error: DBAPIError) -> bool:
        return False  # BEGIN IMMEDIATE waited already, and nobody else writes within our transaction

    def dispose(self) -> None:
        self.writer.dispose()
        self.reader.dispose()


class PostgresDatabase:
    """READ COMMITTED writers, so that a lock once granted shows what its last holder left; row-level security by tenant."""

    def __init__(self, url: URL) -> None:
        driver = url.set(drivername="postgresql+psycopg")
        usual: dict[str, Any] = {"connect_args": {"application_name": "gen4", "connect_timeout": 10}, "pool_pre_ping": True}
        self.writer = create_engine(driver, isolation_level="READ COMMITTED", pool_size=1, max_overflow=0, **usual)
        reader = create_engine(driver, isolation_level="REPEATABLE READ", pool_size=8, max_overflow=24, **usual)
        self.reader: Engine = reader.execution_options(postgresql_readonly=True)
        event.listen(self.writer, "connect", _durable)

    def prepare(self) -> None:
        with self.writer.begin() as connection:
            _refuse_unsafe_role(connection)
            if version_of(connection) != HEAD:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
                migrate(connection)

    def enter(self, connection: Connection, tenant_id: str) -> None:
        connection.execute(_ENTER, {"tenant": tenant_id})

    def wait(self, connection: Connection, milliseconds: int) -> None:
        connection.execute(_WAIT, {"timeout": str(milliseconds)})

    def worth_repeating(self, error: DBAPIError) -> bool:
        state = getattr(error.orig, "sqlstate", None)
        return state in _NEVER_COMMITTED or (state == _UNIQUE and isinstance(error, IntegrityError))

    def dispose(self) -> None:
        self.writer.dispose()
        self.reader.dispose()


def migrate(connection: Connection) -> None:
    """Bring the schema to :data:`HEAD` in the transaction of ``connection``.

    Raises:
        Refused: STORE_NEWER when a newer program wrote the store.
    """
    version = version_of(connection)
    if version == HEAD:
        return
    from alembic import command  # imported late: it costs every short command 100 ms otherwise
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Refused("STORE_NEWER", f"the store is at {version}: {error}", "use the newer program that wrote it") from error


def version_of(connection: Connection) -> str | None:
    """The migration that the store is at; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


_ENTER = text("SELECT set_config('gen4.tenant', :tenant, true)")
_WAIT = text("SELECT set_config('lock_timeout', :timeout, true)")
_UNSAFE = text(
    "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolbypassrls) AND pg_has_role(session_user, oid, 'MEMBER')"
    " ORDER BY rolname LIMIT 1"
)


def parse_url(url: str) -> URL:
    """Raises: InputError STORE_URL, STORE_URL_SECRET."""
    remedy = "use sqlite:////path/store.db or postgresql://user@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InputError("STORE_URL", "this is not the address of a database", remedy) from error
    if parsed.password is not None or "password" in parsed.query or "sslpassword" in parsed.query:
        raise InputError(
            "STORE_URL_SECRET", "the address of the store holds a password", "keep it in ~/.pgpass or a service file of libpq"
        )
    if parsed.drivername == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed
    if parsed.drivername in {"postgresql", "postgresql+psycopg"} and parsed.database:
        return parsed
    raise InputError("STORE_URL", f"{parsed.render_as_string()} names no SQLite file and no PostgreSQL database", remedy)


def _sqlite_engine(url: URL, *, begin: str, read_only: bool) -> Engine:
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000})

    def connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling commits around DDL; ours does not.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA recursive_triggers=ON")
        cursor.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", start)
    return engine


def _durable(connection: Any, _record: Any) -> None:
    # Whatever the role or the database say by default: what is acknowledged is on disk.
    connection.execute("SET synchronous_commit TO on")
    connection.commit()


def _refuse_unsafe_role(connection: Connection) -> None:
    role = connection.execute(_UNSAFE).scalar()
    if role is not None:
        raise Refused(
            "STORE_ROLE_UNSAFE",
            f"row-level security does not bind the database role of the store: it may act as {role!r}",
            "connect as a role without SUPERUSER and BYPASSRLS that owns the database",
        )
