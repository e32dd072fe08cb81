"""Which further files a project itself declares to be tests: ``python_files`` of its pytest configuration.

Whoever names his tests ``check_*.py`` must find them laid over from base like all others (threats 4.1).
"""

from __future__ import annotations

import configparser
import fnmatch
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Read = Callable[[str], bytes | None]

_INI = (("pytest.ini", "pytest"), (".pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest"))
_TOML = (("pytest.toml", ("pytest",)), (".pytest.toml", ("pytest",)), ("pyproject.toml", ("tool", "pytest")))

CONFIGURATION = tuple(name for name, _ in (*_INI, *_TOML))
"""Files at the root of a tree that may declare tests."""


@dataclass(frozen=True)
class DeclaredTests:
    """``patterns``: as pytest reads them, for a name or (with a slash) for the end of a path."""

    patterns: tuple[str, ...] = ()

    def __contains__(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(
            fnmatch.fnmatchcase("/" + path, "*/" + pattern) if "/" in pattern else fnmatch.fnmatchcase(name, pattern)
            for pattern in self.patterns
        )


def declared_tests(read: Read) -> DeclaredTests:
    """Of all configuration files, not only the one that pytest would choose.

    ``testpaths`` is not asked: projects name their packages there (for doctests, or tests kept beside the code), and then
    every fix would be undone. For the same reason a pattern that any module matches, like ``*.py``, does not count.

    Args:
        read: bytes of a file of :data:`CONFIGURATION` at the root of the base tree, or None.
    """
    patterns = {word for table in _tables(read) for word in _words(table.get("python_files"))}
    return DeclaredTests(tuple(sorted(pattern for pattern in patterns if _says_something(pattern))))


def _says_something(pattern: str) -> bool:
    name = pattern.rpartition("/")[2].removesuffix(".py")
    return bool(re.sub(r"\[[^]]*\]|[*?]", "", name))


def _tables(read: Read) -> Iterator[dict[str, Any]]:
    for name, section in _INI:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read_string((read(name) or b"").decode("utf-8", "replace"))
            yield dict(parser[section]) if parser.has_section(section) else {}
        except configparser.Error:
            continue  # pytest could not read it either
    for name, keys in _TOML:
        try:
            found: Any = tomllib.loads((read(name) or b"").decode("utf-8", "replace"))
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            yield found
            if isinstance(options := found.get("ini_options"), dict):
                yield options


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError:
            return value.split()
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
