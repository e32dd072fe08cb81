"""The relational store: one SQLite file in WAL mode, one writer thread per process, any number of readers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError

from schemas.error import InfrastructureError, InputError, Refused

T = TypeVar("T")

HEAD = "r0002"
"""The migration that this code is written for."""
BUSY_TIMEOUT_MS = 30_000
"""How long one process waits for another one's write."""
_MIGRATIONS = Path(__file__).parent / "migrations"


def now_ms() -> int:
    """UTC milliseconds, as every ``*_ms`` column has them."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class _Job:
    function: Callable[[Connection], Any]
    result: Future[Any]


class Store:
    """Writes of this process run one after the other on one thread; each is one transaction, durable when it returns."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, url: str) -> Store:
        """Open the file and bring it to :data:`HEAD`; several processes may do so at once.

        Args:
            url: ``sqlite:////absolute/path/store.db``.

        Raises:
            InputError: STORE_URL for anything else.
            Refused: STORE_NEWER when a newer program wrote it.
            InfrastructureError: STORE_UNAVAILABLE.
        """
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise InputError("STORE_URL", f"{parsed.render_as_string()} is not an SQLite file", "use sqlite:////path/store.db")
        writer = _engine(url, begin="BEGIN IMMEDIATE", read_only=False)
        try:
            _migrate(writer)
        except DatabaseError as error:
            writer.dispose()
            raise _unavailable(error) from error
        return cls(writer, _engine(url, begin="BEGIN", read_only=True))

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in one transaction on the writer thread and return its result.

        Blocks. Whatever ``function`` raises rolls the transaction back and is raised here.

        Raises:
            InfrastructureError: STORE_UNAVAILABLE when the file cannot be written; STORE_CLOSED after :meth:`close`.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("store.write inside store.write: pass the connection on instead")
        if self._closed.is_set():
            raise InfrastructureError("STORE_CLOSED", "the store was closed", "start the worker again")
        job = _Job(function, Future())
        self._jobs.put(job)
        result: T = job.result.result()
        return result

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` on one consistent, read-only snapshot, on the calling thread.

        Raises:
            InfrastructureError: STORE_UNAVAILABLE when the file cannot be read.
        """
        try:
            with self._reader.begin() as connection:
                return function(connection)
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise _unavailable(error) from error

    def tenant(self, tenant_id: str) -> TenantStore:
        """The store as one tenant may see it; what repositories are given."""
        return TenantStore(self, tenant_id)

    def close(self) -> None:
        """Finish what is queued and close the file. Later writes are refused."""
        if not self._closed.is_set():
            self._closed.set()
            self._jobs.put(None)
            self._thread.join()
            self._writer.dispose()
            self._reader.dispose()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                with self._writer.begin() as connection:
                    value = job.function(connection)
            except IntegrityError as error:
                job.result.set_exception(error)
            except DBAPIError as error:
                job.result.set_exception(_unavailable(error))
            except BaseException as error:  # noqa: BLE001  the thread must outlive any caller's mistake
                job.result.set_exception(error)
            else:
                job.result.set_result(value)
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        # A write that raced with close() must not wait for ever.
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job.result.set_exception(InfrastructureError("STORE_CLOSED", "the store was closed", "start the worker again"))


@dataclass(frozen=True)
class TenantStore:
    """One tenant's share of the store. Repositories take this and nothing wider."""

    _store: Store
    tenant_id: str

    def require(self, tenant_id: str) -> None:
        """Refuse what names another tenant than this store's.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        if tenant_id != self.tenant_id:
            message = f"a row of tenant {tenant_id!r} was given to the store of {self.tenant_id!r}"
            raise Refused("TENANT_MISMATCH", message, "act as the tenant whose row it is")

    def write(self, function: Callable[[Connection], T]) -> T:
        """As :meth:`Store.write`; rows of other tenants can be neither seen nor written."""
        return self._store.write(function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """As :meth:`Store.read`; rows of other tenants cannot be seen."""
        return self._store.read(function)


def _engine(url: str, *, begin: str, read_only: bool) -> Engine:
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000})

    def connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling commits around DDL; ours does not.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA recursive_triggers=ON")
        if read_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", start)
    return engine


def _migrate(engine: Engine) -> None:
    # BEGIN IMMEDIATE serialises processes that start at once; the second one finds the work done.
    with engine.begin() as connection:
        version = _version(connection)
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


def _version(connection: Connection) -> str | None:
    known = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").first()
    if known is None:
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _unavailable(error: DBAPIError) -> InfrastructureError:
    return InfrastructureError(
        "STORE_UNAVAILABLE", f"the store cannot be used: {error.orig}", "check the disk and that the file is not damaged"
    )
