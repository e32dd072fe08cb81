"""The relational store: SQLite or PostgreSQL; one writer thread per process that commits in groups, any number of readers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError

from activities.record.databases import BATCH_LOCK_TIMEOUT_MS, BUSY_TIMEOUT_MS, EVERYONE, HEAD, Database, open_database
from activities.record.payloads import PayloadVault
from schemas.error import InfrastructureError, InputError, Refused

__all__ = ["EVERYONE", "HEAD", "Store", "TenantStore", "now_ms"]

T = TypeVar("T")
CommitListener = Callable[[int, float], None]
"""Told after each transaction: how many writes it held, and how many seconds it took."""

BATCH = 64
"""Most writes in one transaction."""
_ATTEMPTS = 5
_PAUSE_S = 0.02
_DENIED = "42501"


def now_ms() -> int:
    """UTC milliseconds, as every ``*_ms`` column has them."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class _Job:
    tenant_id: str
    function: Callable[[Connection], Any]
    result: Future[Any]


_Outcome = tuple[_Job, Any, BaseException | None]
"""A write, what it returned, or what it raised."""


class Store:
    """Writes of this process run one after the other on one thread. Those that wait share one transaction, each in a
    savepoint of its own; each is durable when it returns, and one that fails takes back nothing but itself.
    """

    def __init__(
        self, database: Database, on_commit: CommitListener | None = None, vault: PayloadVault | None = None
    ) -> None:
        self.vault = vault
        self._database = database
        self._on_commit = on_commit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, url: str, on_commit: CommitListener | None = None, vault: PayloadVault | None = None) -> Store:
        """Open the database and bring it to :data:`HEAD`; several processes may do so at once.

        Args:
            url: ``sqlite:////absolute/path/store.db`` or ``postgresql://user@host/database``, without a password.
            vault: encrypts the payloads of events; without one new payloads are kept as they are.

        Raises:
            InputError: STORE_URL for anything else; STORE_URL_SECRET.
            Refused: STORE_NEWER when a newer program wrote it; STORE_ROLE_UNSAFE for a role that no row-level security binds.
            InfrastructureError: STORE_UNAVAILABLE.
        """
        try:
            return cls(open_database(url), on_commit, vault)
        except DatabaseError as error:
            raise _told(error) from error

    def write(self, function: Callable[[Connection], T]) -> T:
        """As :meth:`TenantStore.write`, as the administrator: rows of all tenants. Not for repositories."""
        return self._write(EVERYONE, function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """As :meth:`TenantStore.read`, as the administrator: rows of all tenants. Not for repositories."""
        return self._read(EVERYONE, function)

    def tenant(self, tenant_id: str) -> TenantStore:
        """The store as one tenant may see it; what repositories are given."""
        return TenantStore(self, tenant_id)

    def close(self) -> None:
        """Finish what is queued and close the database. Later writes are refused."""
        if not self._closed.is_set():
            self._closed.set()
            self._jobs.put(None)
            self._thread.join()
            self._database.dispose()

    def _write(self, tenant_id: str, function: Callable[[Connection], T]) -> T:
        if threading.current_thread() is self._thread:
            raise RuntimeError("store.write inside store.write: pass the connection on instead")
        if self._closed.is_set():
            raise InfrastructureError("STORE_CLOSED", "the store was closed", "start the worker again")
        job = _Job(tenant_id, function, Future())
        self._jobs.put(job)
        result: T = job.result.result()
        return result

    def _read(self, tenant_id: str, function: Callable[[Connection], T]) -> T:
        try:
            with self._database.reader.begin() as connection:
                self._database.enter(connection, tenant_id)
                return function(connection)
        except DBAPIError as error:
            raise _told(error) from error

    # --- the writer thread -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._ended:
            batch = self._take()
            try:
                for job in self._together(batch) if len(batch) > 1 else batch:
                    self._alone(job)
            except BaseException as error:  # noqa: BLE001  the thread must outlive any mistake, and nobody may wait for ever
                _fail(batch, error)
        self._refuse_rest()

    def _take(self) -> list[_Job]:
        """Wait for a write, then take those that have queued up meanwhile."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == BATCH:
                return batch
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch
        self._ended = True
        return batch

    def _together(self, batch: list[_Job]) -> list[_Job]:
        """One transaction for all; returns those that must be tried again, each on its own."""
        started = time.perf_counter()
        done: list[_Outcome] = []
        again: list[_Job] = []
        with self._database.writer.connect() as connection:
            try:
                transaction = connection.begin()
                self._database.wait(connection, BATCH_LOCK_TIMEOUT_MS)
            except DBAPIError as error:
                _fail(batch, error)
                return []
            tenant_id = None
            try:
                for job in batch:
                    if job.tenant_id != tenant_id:
                        self._database.enter(connection, job.tenant_id)
                        tenant_id = job.tenant_id
                    outcome = self._nested(connection, job)
                    if outcome is None:
                        again.append(job)
                    else:
                        done.append(outcome)
            except DBAPIError as error:
                # The database gave up the transaction as a whole, for one write's sake or for its own.
                with suppress(DBAPIError):
                    transaction.rollback()
                if not error.connection_invalidated:
                    return batch
                _fail(batch, error)
                return []
            try:
                _commit(connection, transaction)
            except DBAPIError as error:
                _fail([job for job, _, _ in done], error)
                return again
        for job, value, failure in done:
            _answer(job, value, failure)
        self._tell(len(done), time.perf_counter() - started)
        return again

    def _nested(self, connection: Connection, job: _Job) -> _Outcome | None:
        """The write and what became of it, in a savepoint; None if it is worth another try."""
        savepoint = connection.begin_nested()
        try:
            value = job.function(connection)
        except BaseException as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise  # nobody is there any more to take anything back
            savepoint.rollback()
            if isinstance(error, DBAPIError) and self._database.worth_repeating(error):
                return None
            return job, None, error
        savepoint.commit()  # fails where the database has given up the whole transaction, whatever the write made of that
        return job, value, None

    def _alone(self, job: _Job) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            started = time.perf_counter()
            try:
                with self._database.writer.connect() as connection:
                    transaction = connection.begin()  # rolled back at the end of the block unless committed
                    self._database.wait(connection, BUSY_TIMEOUT_MS)
                    self._database.enter(connection, job.tenant_id)
                    value = job.function(connection)
                    _commit(connection, transaction)
            except DBAPIError as error:
                if attempt < _ATTEMPTS and self._database.worth_repeating(error):
                    time.sleep(_PAUSE_S * (attempt - 1))
                    continue
                _answer(job, None, error)
            except BaseException as error:  # noqa: BLE001  the caller's, to be raised there
                _answer(job, None, error)
            else:
                _answer(job, value, None)
                self._tell(1, time.perf_counter() - started)
            return

    def _tell(self, size: int, seconds: float) -> None:
        if self._on_commit is not None:
            with suppress(Exception):
                self._on_commit(size, seconds)

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

    @property
    def vault(self) -> PayloadVault | None:
        return self._store.vault

    def require(self, tenant_id: str) -> None:
        """Refuse what names another tenant than this store's.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        if tenant_id != self.tenant_id:
            message = f"a row of tenant {tenant_id!r} was given to the store of {self.tenant_id!r}"
            raise Refused("TENANT_MISMATCH", message, "act as the tenant whose row it is")

    def write(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` in one transaction on the writer thread and return its result.

        Blocks. Whatever ``function`` raises takes back what it wrote, and is raised here. When another process got in the
        way, ``function`` is run again: it must do nothing but read and write through its connection.

        Raises:
            InfrastructureError: STORE_UNAVAILABLE when the database cannot be written; STORE_CLOSED after :meth:`Store.close`.
            InputError: STORE_VALUE for a value that its column cannot hold.
            Refused: STORE_DENIED when the database itself says that the row is another tenant's.
        """
        return self._store._write(self.tenant_id, function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Run ``function`` on one consistent, read-only snapshot, on the calling thread.

        Raises:
            InfrastructureError: STORE_UNAVAILABLE when the database cannot be read.
        """
        return self._store._read(self.tenant_id, function)

    def close(self) -> None:
        """Close the store below, for a program that opened it for this tenant alone."""
        self._store.close()


def _commit(connection: Connection, transaction: RootTransaction) -> None:
    try:
        transaction.commit()
    except BaseException:
        connection.invalidate()  # after a commit that failed the database may still be in the transaction
        raise


def _answer(job: _Job, value: Any, failure: BaseException | None) -> None:
    if failure is None:
        job.result.set_result(value)
    else:
        job.result.set_exception(_told(failure) if isinstance(failure, DBAPIError) else failure)


def _fail(batch: list[_Job], error: BaseException) -> None:
    for job in batch:
        if not job.result.done():
            _answer(job, None, error)


def _told(error: DBAPIError) -> Exception:
    if isinstance(error, IntegrityError):
        return error
    if getattr(error.orig, "sqlstate", None) == _DENIED:
        return Refused("STORE_DENIED", f"the database refuses this role: {error.orig}", "act as the tenant whose row it is")
    if isinstance(error, DataError):
        return InputError("STORE_VALUE", f"a value does not fit its column: {error.orig}", "send shorter texts, smaller numbers")
    return _unavailable(error)


def _unavailable(error: DBAPIError) -> InfrastructureError:
    remedy = "check the disk, and that the database runs and is not damaged"
    return InfrastructureError("STORE_UNAVAILABLE", f"the store cannot be used: {error.orig}", remedy)
