"""Engines of our own do not share a folder of images: the second would wait for the first and give up."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from activities.kernel.sandbox.engine import ENGINES_AT_ONCE, _data_folder
from schemas.error import InfrastructureError


def test_each_engine_has_a_folder_of_its_own_and_the_first_is_used_again(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_data_folder(tmp_path))[0] for _ in range(ENGINES_AT_ONCE)]
        assert len(set(folders)) == ENGINES_AT_ONCE
        with pytest.raises(InfrastructureError) as refused:
            stack.enter_context(_data_folder(tmp_path))
        assert refused.value.code == "DOCKER_UNAVAILABLE"
    with _data_folder(tmp_path) as (again, _):
        assert again == folders[0] == tmp_path / "docker"
        assert again.stat().st_mode & 0o777 == 0o700


def test_an_engine_that_outlives_its_starter_keeps_its_folder(tmp_path: Path) -> None:
    with _data_folder(tmp_path) as (first, lock):
        engine = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with _data_folder(tmp_path) as (second, _):
        assert second != first
    engine.communicate()
    with _data_folder(tmp_path) as (third, _):
        assert third == first
