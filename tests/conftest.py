"""What every test may use, and the rule that continuous integration skips nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from schemas.error import InfrastructureError
from workers.docker_engine import answers, private_engine

_not_run: list[str] = []


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[str]:
    """URL of a Docker engine, also in DOCKER_HOST: the one that answers, else our own until the session ends."""
    if answers():
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    before = os.environ.get("DOCKER_HOST")
    try:
        engine = private_engine()
        url = engine.__enter__()
    except InfrastructureError as error:
        pytest.skip(str(error))
    try:
        os.environ["DOCKER_HOST"] = url
        yield url
    finally:
        engine.__exit__(None, None, None)
        os.environ.pop("DOCKER_HOST") if before is None else os.environ.update(DOCKER_HOST=before)


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
