"""Copies of the whole store while it is in use, and putting one back in its place.

A restored store lacks what was recorded after the copy was made. It says so itself: every tenant's chain gets an event that
names both heads, what the copy held and what it took the place of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy import URL, Connection, select, text
from sqlalchemy.exc import DBAPIError

from activities.record.chain import EventChain
from activities.record.checkpoints import current_heads
from activities.record.databases import EVERYONE, open_database, parse_url
from activities.record.merkle import EMPTY_ROOT, merkle_root
from activities.record.postgresql import postgresql_program
from activities.record.store import Store
from activities.record.tables import EVENT, METADATA
from schemas.checkpoint import leaf_order
from schemas.error import InfrastructureError, InputError, Refused
from schemas.event import Actor, EventDraft
from schemas.model import Payload
from schemas.task import tenant_keys


class Standing(Payload):
    """How far the chains of one tenant had come. ``heads_root``: the Merkle root that a checkpoint of that moment has."""

    tenant_id: str
    events: int
    sessions: int
    heads_root: str


def standings(store: Store) -> dict[str, Standing]:
    """Of every tenant that has events."""

    def look(connection: Connection) -> dict[str, Standing]:
        tenants = connection.execute(select(EVENT.c.tenant_id).distinct().order_by(EVENT.c.tenant_id)).scalars().all()
        return {tenant_id: _standing(connection, tenant_id) for tenant_id in tenants}

    return store.read(look)


def back_up(url: str, file: Path) -> None:
    """Write the whole store into one new file of mode 0600, as it is at one moment; writers go on meanwhile.

    Raises:
        InputError: FILE_EXISTS, FILE_UNWRITABLE.
        InfrastructureError: BACKUP_FAILED; PROGRAM_MISSING.
    """
    with _new_file(file) as made:
        _copier(url).copy(made)


def replace(url: str, file: Path, kept: Path) -> None:
    """Put a copy in the place of the store; what was there goes to ``kept``. Nobody else may use the store meanwhile.

    Raises:
        InputError: BACKUP_UNREADABLE when the file is no copy of a store.
        Refused: STORE_IN_USE.
        InfrastructureError: RESTORE_FAILED, with the store as it was before.
    """
    _copier(url).replace(file, kept)


def declare_restored(
    store: Store, replaced: Mapping[str, Standing] | None, file: Path, actor: Actor, now_ms: int
) -> dict[str, Standing]:
    """Record the restoration in the chain of every tenant that has events now or had some before.

    Args:
        replaced: what the store held before; None when it could not be read any more.

    Returns:
        What the store held before this was recorded.
    """
    found = standings(store)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    for tenant_id in sorted({*found, *(replaced or {})}):
        payload: dict[str, Any] = {"backup_sha256": digest}
        for name, standing in (("backup", found.get(tenant_id)), ("replaced", (replaced or {}).get(tenant_id))):
            unknown = name == "replaced" and replaced is None
            payload[f"{name}_heads_root"] = None if unknown else standing.heads_root if standing else EMPTY_ROOT.hex()
            payload[f"events_{name}"] = None if unknown else standing.events if standing else 0
        draft = EventDraft(kind="store.restored", idempotency_key=f"store.restored/{digest}/{now_ms}", payload=payload)
        EventChain(store.tenant(tenant_id), clock=lambda: now_ms).append(tenant_keys(tenant_id), actor, draft)
    return found


class _Copier(Protocol):
    def copy(self, file: Path) -> None: ...
    def replace(self, file: Path, kept: Path) -> None: ...


def _copier(url: str) -> _Copier:
    parsed = parse_url(url)
    return _SqliteFile(Path(parsed.database or "")) if parsed.get_backend_name() == "sqlite" else _PostgresDatabase(parsed)


class _SqliteFile:
    def __init__(self, file: Path) -> None:
        self._file = file

    def copy(self, file: Path) -> None:
        try:
            _copy_sqlite(self._file, file)
        except sqlite3.Error as error:
            raise InfrastructureError("BACKUP_FAILED", f"the store was not copied: {error}", "check the disk") from error

    def replace(self, file: Path, kept: Path) -> None:
        fresh = self._file.with_name(f".{self._file.name}.restoring")
        fresh.unlink(missing_ok=True)
        try:
            _check_sqlite(file)
            _copy_sqlite(file, fresh)
        except sqlite3.Error as error:
            fresh.unlink(missing_ok=True)
            raise _unreadable(file, str(error)) from error
        if self._file.exists():
            self._close_down()
            os.replace(self._file, kept)
        # What is left of a log belongs to the file that was kept; beside another file it would be taken for its own.
        for ending in ("-wal", "-shm"):
            left = self._file.with_name(self._file.name + ending)
            if left.exists():
                os.replace(left, kept.with_name(kept.name + ending))
        os.replace(fresh, self._file)
        _sync_folder(self._file.parent)

    def _close_down(self) -> None:
        # Leaving WAL mode needs the file for ourselves, and brings everything into it.
        try:
            with closing(sqlite3.connect(self._file, timeout=1)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise _in_use() from error
        except sqlite3.DatabaseError:
            pass  # damaged: kept as it is


class _PostgresDatabase:
    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql").render_as_string()

    def copy(self, file: Path) -> None:
        # Row-level security stays on: for a role that is bound to a tenant this fails instead of copying a part.
        arguments = ("--format=custom", "--enable-row-security", "--no-owner", f"--file={file}", f"--dbname={self._url}")
        self._run("BACKUP_FAILED", "pg_dump", *arguments)

    def replace(self, file: Path, kept: Path) -> None:
        try:
            self._run("BACKUP_UNREADABLE", "pg_restore", "--list", str(file))
        except InfrastructureError as error:
            raise _unreadable(file, error.message) from error
        with self._alone() as connection, _new_file(kept) as made:
            self.copy(made)
            _drop_everything(connection)
        try:
            self._load(file)
        except InfrastructureError:
            self._load(kept)
            raise

    def _load(self, file: Path) -> None:
        arguments = ("--single-transaction", "--exit-on-error", "--no-owner", f"--dbname={self._url}", str(file))
        self._run("RESTORE_FAILED", "pg_restore", *arguments)

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        database = open_database(self._url)
        try:
            with database.writer.begin() as connection:
                if connection.execute(_OTHERS).scalar_one() > 0:
                    raise _in_use()
                yield connection
        except DBAPIError as error:
            raise InfrastructureError("RESTORE_FAILED", f"the old tables stay: {error.orig}", _OWNER) from error
        finally:
            database.dispose()

    def _run(self, code: str, program: str, *arguments: str) -> None:
        options = f"{os.environ.get('PGOPTIONS', '')} -c gen4.tenant={EVERYONE}".strip()
        done = subprocess.run(
            [str(postgresql_program(program)), *arguments],
            env={**os.environ, "PGOPTIONS": options}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise InfrastructureError(code, f"{program} failed: {said}", _OWNER)


_OWNER = "connect as the role that owns the database, and see that the database runs and the disk has room"
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'gen4' AND pid <> pg_backend_pid()"
)
_FUNCTIONS = text(
    "SELECT oid::regprocedure::text FROM pg_proc"
    " WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'gen4_')"
)


def _drop_everything(connection: Connection) -> None:
    for table in (*METADATA.tables, "tenant_role", "alembic_version"):
        connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{table}" CASCADE')
    for function in connection.execute(_FUNCTIONS).scalars().all():
        connection.exec_driver_sql(f"DROP FUNCTION {function}")


def _copy_sqlite(source: Path, target: Path) -> None:
    """One consistent copy in one file; the source's writers are not held up."""
    old = sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, timeout=30)
    with closing(old), closing(sqlite3.connect(target)) as new:
        os.chmod(target, 0o600)
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")
        if (found := new.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _check_sqlite(file: Path) -> None:
    if not file.is_file():
        raise _unreadable(file, "there is no such file")
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
        connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("SELECT hash FROM event LIMIT 1").fetchone()


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A place to write ``file`` to, which gets its name only when it is whole."""
    if file.exists():
        raise InputError("FILE_EXISTS", f"{file} is there already", "choose a new name; copies are never overwritten")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}-", dir=file.parent))
    except OSError as error:
        raise InputError("FILE_UNWRITABLE", f"{file}: {error.strerror}", "choose a folder that you may write to") from error
    try:
        yield folder / file.name
        (folder / file.name).chmod(0o600)
        os.link(folder / file.name, file)  # unlike a rename, it never takes another file's place
        _sync_folder(file.parent)
    except FileExistsError as error:
        raise InputError("FILE_EXISTS", f"{file} was made meanwhile", "choose a new name") from error
    finally:
        shutil.rmtree(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unreadable(file: Path, why: str) -> InputError:
    return InputError("BACKUP_UNREADABLE", f"{file} is no copy of a store: {why}", "name a file that `gen4 store backup` made")


def _in_use() -> Refused:
    return Refused("STORE_IN_USE", "another process uses the store", "stop the fabric with `gen4 down`, and other commands")


def _standing(connection: Connection, tenant_id: str) -> Standing:
    heads = sorted(current_heads(connection, tenant_id), key=lambda head: leaf_order(head.session_id))
    root = merkle_root(head.leaf for head in heads).hex()
    # Chains have no gaps: the last record of each is also their number.
    return Standing(tenant_id=tenant_id, events=sum(head.seq for head in heads), sessions=len(heads), heads_root=root)
