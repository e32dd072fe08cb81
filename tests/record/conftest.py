"""Repositories as users and attackers make them, and the store under test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.record.objects import ObjectStore
from activities.record.store import Store
from schemas.event import Actor
from schemas.task import TraceKeys
from tests.record.postgres import Postgres
from tests.record.statements import watched
from tests.record.templates import new_sqlite

KEYS = TraceKeys(tenant_id="acme", trace_id="trace", session_id="session", task_id="task")
ACTOR = Actor(principal_id="uid:1000", kind="human")


class Repository:
    """A user's repository, driven by plain git with the user's own (here: no) configuration."""

    def __init__(self, path: Path, *, bare: bool = False) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", *(["--bare"] if bare else []))

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        environment = {
            "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": "@1700000000 +0000",
            "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_COMMITTER_DATE": "@1700000000 +0000",
        }  # fmt: skip
        command = ["git", "-c", "protocol.file.allow=always", *arguments]
        done = subprocess.run(command, cwd=self.path, env=environment, input=stdin, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, files: dict[str, str | bytes] | None = None, message: str = "change") -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def tree(self) -> str:
        return self.git("rev-parse", "HEAD^{tree}")

    def refs(self) -> str:
        return self.git("for-each-ref")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One commit on main: a package, a test, an executable, a link."""
    made = Repository(tmp_path / "a repository")
    made.write({"src/pkg/__init__.py": "x = 1\n", "tests/test_pkg.py": "def test(): pass\n", "run.sh": "#!/bin/sh\n"})
    (made.path / "run.sh").chmod(0o755)
    (made.path / "link").symlink_to("src/pkg")
    made.commit()
    return made


@pytest.fixture
def bare(tmp_path: Path, repository: Repository) -> Repository:
    made = Repository(tmp_path / "bare.git", bare=True)
    repository.git("push", "--quiet", str(made.path), "main")
    return made


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(tmp_path / "home" / "objects.git")


on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For what only a file can show; all other tests of the store run on both databases."""
on_postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new, empty store; a test that uses it runs once on each database."""
    if request.param == "sqlite":
        yield new_sqlite(tmp_path / "store.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.database(request.getfixturevalue("postgres_template"))
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def every_statement_names_its_tenant() -> Iterator[None]:
    with watched() as flawed:
        yield
    assert flawed == []


@pytest.fixture
def keys() -> TraceKeys:
    return KEYS


@pytest.fixture
def actor() -> Actor:
    return ACTOR


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = tmp_path_factory.mktemp("keys") / "ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    return key
