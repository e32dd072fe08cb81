"""Ctrl-C ends a command with 130 and a word, not with a traceback."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import typer

from cli import main, session


def test_ctrl_c_says_that_the_session_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.callback()
    def group() -> None: ...

    @app.command()
    def remediate() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "table", lambda arguments: app)
    assert main.run(["remediate"]) == main.INTERRUPTED
    assert "goes on" in capsys.readouterr().err


def test_a_cancelled_job_of_a_build_server_cancels_what_it_started() -> None:
    cancelled = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append("compile")
            raise

    with pytest.raises(KeyboardInterrupt):
        session.run(work())
    assert cancelled == ["compile"]
