"""What every test may use, and the rule that continuous integration skips nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from activities.kernel.acting import Acting, as_acting
from activities.kernel.sandbox.engine import docker_engine
from activities.record.store import Store
from schemas.error import InfrastructureError
from schemas.event import Actor
from schemas.task import TraceKeys
from tests.record.postgres import Postgres, running_postgres
from workers.toolchain import cache_directory

_not_run: list[str] = []


DOCKER_GROUP = 20010
"""Members of this group may use an engine that we start; the usual engine has its own rules."""


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """URL of a Docker engine, also in DOCKER_HOST: the one that answers, else our own until the session ends."""
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(docker_engine(cache_directory(), DOCKER_GROUP))
        except InfrastructureError as error:
            pytest.skip(str(error))
        before = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = host
        yield host
        if before is None:
            del os.environ["DOCKER_HOST"]


@pytest.fixture
def admitted() -> Iterator[Acting]:
    """Stands for the gate, where a test calls implementations itself: outside of it they refuse."""
    who = Acting(
        keys=TraceKeys(tenant_id="local", trace_id="trace", session_id="session", task_id="task"),
        actor=Actor(principal_id="operator:test", kind="human"), phase="control", workflow_id="workflow", run_id="run",
        effect_key="workflow/run/1", attempt_key="run/1/1", attempt=1,
    )  # fmt: skip
    with as_acting(who):
        yield who


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this test session's own."""
    try:
        with running_postgres() as server:
            yield server
    except InfrastructureError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """A database that is migrated already; copying it is faster than migrating another one."""
    name = postgres.database()
    Store.open(postgres.url(name)).close()
    return name


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _not_run.append(f"{report.nodeid}: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _not_run.append(f"{report.nodeid}: skipped at collection")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _not_run and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _not_run and os.environ.get("CI") == "true":
        terminalreporter.section("skipped, which CI=true counts as failed", red=True)
        for line in _not_run:
            terminalreporter.line(line)
