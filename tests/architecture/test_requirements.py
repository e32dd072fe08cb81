"""What is installed is pinned by hash, from wherever the operator's pip looks; and it is what the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CODE = ("schemas", "policies", "activities", "workflows", "workers", "cli")
OLDEST = "3.11.2"
RUN_AS_A_PROGRAM = {"pip"}
"""Resolves and fetches the wheels of a target (``python -m pip``)."""
LOADED_BY_NAME = {"psycopg"}
"""SQLAlchemy's driver for PostgreSQL."""


def pins(name: str) -> dict[str, str]:
    """Requirement lines with their hashes, by normalised name."""
    lines = (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines()
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {canonicalize_name(re.split(r"[=\[ ]", entry)[0]): entry for entry in entries}


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_every_requirement_is_one_version_with_hashes(name: str) -> None:
    pattern = re.compile(r"[A-Za-z0-9._-]+==\S+(?: ; [^#@]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+")
    assert [entry[:80] for entry in pins(name).values() if not pattern.fullmatch(entry)] == []


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt", "runtime.in", "dev.in"])
def test_no_requirement_says_where_packages_come_from(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links|--trusted-host|^-[ief] |^\S+ @ ", text, re.MULTILINE)


def test_the_oldest_supported_python_can_install_them() -> None:
    """Debian 12 ships 3.11.2; a lock made with a later 3.11 pinned what that one refuses."""
    refusing = []
    for name, entry in pins("dev.txt").items():
        pinned = re.split(r"==|\s", entry)[1]
        try:
            described, installed = metadata(name), version(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        wanted = " ".join(described.get_all("Requires-Python") or [])
        if installed == pinned and not SpecifierSet(wanted).contains(OLDEST):
            refusing.append(f"{name} {pinned}: {wanted}")
    assert refusing == []


def test_both_files_agree() -> None:
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert {name for name in runtime if dev.get(name) != runtime[name]} == set()


def test_the_project_declares_what_the_lock_starts_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    sources = (ROOT / "requirements" / "runtime.in").read_text().splitlines()
    assert declared == {canonicalize_name(Requirement(line).name) for line in sources if line and not line.startswith("#")}
    assert declared <= pins("runtime.txt").keys()


def test_declared_is_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert imported_distributions() | RUN_AS_A_PROGRAM | LOADED_BY_NAME == declared


def imported_distributions() -> set[str]:
    """Distributions that ship the third-party modules which our packages import; the sandbox runner has none."""
    ships = packages_distributions()
    found: set[str] = set()
    for path in (path for folder in CODE for path in (ROOT / folder).rglob("*.py") if "runner" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - set(CODE) - sys.stdlib_module_names:
                shipping = {canonicalize_name(name) for name in ships.get(top, [])}
                assert shipping, f"{path.relative_to(ROOT)} imports {top}, which nothing installed ships"
                found |= shipping
    return found
