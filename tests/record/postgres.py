"""A real PostgreSQL of the tests' own: made, started, killed and removed here; nothing of the machine's own server is touched."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from activities.record.postgresql import postgresql_program

SUPERUSER = "admin"
OWNER = "gen4"
"""Owns the databases; no superuser, as the store demands."""


@dataclass
class Postgres:
    """One running cluster. ``folder`` holds its data and its socket, and belongs to an unprivileged user."""

    folder: Path
    port: int
    identity: dict[str, int]
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        program = postgresql_program("postgres")
        argv = [str(program), "-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port)]
        settings = ("listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=64MB", "logging_collector=off")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, *(part for setting in settings for part in ("-c", setting))],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, **self.identity,  # type: ignore[call-overload]
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                self.administer("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server and its backends where they stand, as a machine that loses power does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # it makes no more backends, which are sessions of their own
        children = self._children()
        for pid in (*children, self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
            time.sleep(0.01)  # while one lives, its shared memory keeps the next server from starting
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def administer(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run SQL as the superuser, whom no row-level security binds: what a test's attacker or witness does."""
        with self.connect(SUPERUSER, database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, role: str, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.folder), port=self.port, user=role, dbname=database, autocommit=True)

    def database(self, template: str | None = None) -> str:
        """A new database of :data:`OWNER`; its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.administer(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template or 'template1'}")
        return name

    def drop(self, name: str) -> None:
        self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    def role(self, name: str, options: str = "") -> str:
        self.administer(f"CREATE ROLE {name} LOGIN {options}")
        return name

    def bound_role(self, url: str, tenant: str) -> str:
        """A new role that may use the tables of the store at ``url``, bound to ``tenant`` as an administrator does it."""
        database, role = url.split("@/")[1].split("?")[0], self.role(f"r{uuid.uuid4().hex[:12]}")
        self.administer(f"INSERT INTO tenant_role VALUES ('{role}', '{tenant}')", database)  # noqa: S608  a test's names
        for grant in ("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public", "USAGE ON SCHEMA public"):
            self.administer(f"GRANT {grant} TO {role}", database)
        self.administer(f"REVOKE ALL ON tenant_role FROM {role}", database)
        return role

    def url(self, database: str, role: str = OWNER) -> str:
        return f"postgresql://{role}@/{database}?host={self.folder}&port={self.port}"

    def _children(self) -> list[int]:
        assert self._process is not None
        mine = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self._process.pid:
                    mine.append(int(entry.name))
        return mine


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A fresh cluster on a socket and a loopback port, by an unprivileged user where root runs the tests."""
    identity: dict[str, int] = {}
    folder = Path(tempfile.mkdtemp(prefix="gen4-pg-"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(folder, port, identity)
    try:
        subprocess.run(
            [
                str(postgresql_program("initdb")), "-D", str(folder / "data"), "-U", SUPERUSER, "-E", "UTF8", "--locale=C",
                "--auth-local=trust", "--auth-host=reject", "--no-sync",
            ],
            check=True, capture_output=True, cwd="/", **identity,  # type: ignore[call-overload]
        )  # fmt: skip
        server.start()
        server.role(OWNER)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
