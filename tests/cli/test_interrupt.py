"""Ctrl-C ends a command with 130 and a word, not with a traceback."""

from __future__ import annotations

import pytest
import typer

from cli import main


def test_ctrl_c_says_that_the_session_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.callback()
    def group() -> None: ...

    @app.command()
    def remediate() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", app)
    assert main.run(["remediate"]) == main.INTERRUPTED
    assert "goes on" in capsys.readouterr().err
