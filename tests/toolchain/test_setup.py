"""What `make setup` installs, for whom, and what it says where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.error import InfrastructureError
from workers import setup
from workers.setup import DebianPackage, debian_packages, install, missing_packages


def test_the_list_of_packages_is_readable() -> None:
    packages = list(debian_packages())
    assert {package.needed for package in packages} <= {"always", "root", "tests", "engine"}
    names = {package.name for package in packages}
    assert names == {
        "git", "bubblewrap", "mmdebstrap", "docker.io", "openssh-client", "openssl", "postgresql", "nodejs", "npm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("root", "for_tests", "engine", "expected"),
    [
        (True, True, False, {"a", "r", "t", "e"}), (True, True, True, {"a", "r", "t"}), (True, False, False, {"a", "r"}),
        (False, True, False, {"a", "t"}), (False, False, False, {"a"}),
    ],
)  # fmt: skip
def test_who_needs_what(
    monkeypatch: pytest.MonkeyPatch, root: bool, for_tests: bool, engine: bool, expected: set[str]
) -> None:
    needs = {"a": "always", "r": "root", "t": "tests", "e": "engine"}
    listed = [DebianPackage(name, f"no-{name}", needed) for name, needed in needs.items()]
    monkeypatch.setattr(setup, "debian_packages", lambda: iter([*listed, DebianPackage("shell", "sh", "always")]))
    monkeypatch.setattr(setup, "_engine_answers", lambda: engine)
    assert {package.name for package in missing_packages(for_tests, root)} == expected


def test_an_ordinary_user_is_told_the_exact_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError) as refused:
        install([DebianPackage("bubblewrap", "bwrap", "always"), DebianPackage("git", "git", "always")], root=False)
    assert refused.value.code == "PACKAGES_MISSING" and refused.value.exit_code == 3
    assert refused.value.remedy == "sudo apt-get install --yes --no-install-recommends bubblewrap git"


def test_a_failed_installation_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = f"#!/bin/sh\necho \"$@\" >> {tmp_path}/log\necho 'E: no such package' >&2\n[ \"$1\" = update ]\n"
    (tmp_path / "apt-get").write_text(script)
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="PACKAGES_MISSING"):
        install([DebianPackage("bubblewrap", "bwrap", "always")], root=True)
    commands = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert commands == ["install", "update", "install"]
