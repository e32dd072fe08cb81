"""Nothing that is committed depends on one machine: no registry's host, no path of somebody's home or workplace."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def joined(*parts: str) -> str:
    """Patterns are put together here, so that this file does not contain what it looks for."""
    return "".join(parts)


REGISTRIES = [
    joined("py", "pi.org"), joined("python", "hosted.org"), joined("proxy.", "golang.org"), joined("sum.", "golang.org"),
    joined("deb.", "debian.org"), joined("security.", "debian.org"), joined("snapshot.", "debian.org"),
    joined("registry.", "npmjs.org"), joined("index.", "crates.io"), joined("registry-1.", "docker.io"), joined("gh", "cr.io"),
]  # fmt: skip
HOST = re.compile("|".join(re.escape(host) for host in REGISTRIES), re.IGNORECASE)
MACHINE_PATH = re.compile(
    joined(
        r"(?<![\w.$}/-])(?:/", r"root/(?:\w|\.(?:cache|cargo|local|pyenv)\b)",
        r"|/", r"Users/\w", r"|/", r"work/(?:main|shared)\b", r"|/", r"opt/wheels",
        r"|/", r"home/(?!(?:gen4|me|you)\b)[a-z])",
    )
)  # fmt: skip


def committed() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            yield name, path.read_bytes().decode("utf-8", errors="replace")


@pytest.mark.parametrize("pattern", [HOST, MACHINE_PATH], ids=["registry host", "machine path"])
def test_no_committed_file_names_one_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in committed()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("text", [f"https://{joined('py', 'pi.org')}/simple", joined("http://deb.", "debian.org/debian")])
def test_hosts_are_recognised(text: str) -> None:
    assert HOST.search(text)


@pytest.mark.parametrize("text", [joined("open('/", "root/.pyenv/x')"), joined(" /", "home/alice/x"), joined('"/', 'work/main"')])
def test_machine_paths_are_recognised(text: str) -> None:
    assert MACHINE_PATH.search(text)


INSIDE = ["/home/gen4", joined("/root", "/.ssh"), joined("/work", "/src/x.py"), joined("{home}/roo", "t/x")]


@pytest.mark.parametrize("text", INSIDE)
def test_paths_inside_the_sandbox_are_not(text: str) -> None:
    assert not MACHINE_PATH.search(text)
