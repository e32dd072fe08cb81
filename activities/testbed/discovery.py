"""What a repository says about its requirements, read as data: no file of it is executed.

Order, first source that has something wins within each step:

1. Run-time dependencies: ``pyproject.toml`` ``[project]`` (or poetry's table), ``setup.cfg``, ``PKG-INFO``. Where only
   ``setup.py`` knows them, ``needs_build`` says so and they are asked for in a sandbox; else ``requirements.txt``.
2. Test dependencies: the request's requirements; else what is named for tests, then ``tox.ini``, then what is named for
   development. Under each name: requirements files, extras, dependency groups (PEP 735), ``setup.cfg`` extras, groups of
   poetry and pdm.
3. Lock files (``uv.lock``, ``poetry.lock``, ``pdm.lock``) constrain versions; they do not add packages, and where the
   request names requirements they have no say.
4. pytest, and plugins that options in the pytest configuration need, when nothing above names them.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatch
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from schemas.error import InputError, Refused
from schemas.testing import OwnDistribution

TEST_NAMES = ("test", "tests", "testing")
DEV_NAMES = ("dev", "develop", "development")
RUNNER_REQUIREMENT = "pytest"

_PLUGIN_OPTIONS = {
    "--cov": "pytest-cov",
    "--timeout": "pytest-timeout",
    "--numprocesses": "pytest-xdist",
    "--dist": "pytest-xdist",
    "-n": "pytest-xdist",
    "--asyncio-mode": "pytest-asyncio",
    "asyncio_mode": "pytest-asyncio",
    "--benchmark": "pytest-benchmark",
    "--reruns": "pytest-rerunfailures",
    "--mypy-": "pytest-mypy-plugins",
    "--doctest-plus": "pytest-doctestplus",
    "--randomly": "pytest-randomly",
    "--ruff": "pytest-ruff",
    "--flake8": "pytest-flake8",
}
"""Options of a pytest configuration that stop pytest when their plugin is missing."""

_METADATA = (
    *("pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "pytest.ini", ".pytest.ini", "PKG-INFO"),
    *("uv.lock", "poetry.lock", "pdm.lock"),
    *("*requirements*.txt", "*requirements*.in", "requirements/*.txt", "requirements/*.in", "reqs/*.txt"),
    *("tests/*requirements*.txt", "test/*requirements*.txt", "*.egg-info/PKG-INFO", "src/*.egg-info/PKG-INFO"),
)
_FACTORS = re.compile(r"[\w,!-]+\s*:(?!//)")
_PYTEST_INI = (("pytest.ini", "pytest"), (".pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest"))
_DIRECT = re.compile(r"(git|hg|svn|bzr)\+|[a-z]+://|^(\.|/)|^file:|\.(whl|zip|tar\.gz)\b", re.IGNORECASE)


@dataclass(frozen=True)
class CoreMetadata:
    """Made by the project's own build backend in a sandbox; empty when it failed."""

    metadata: bytes = b""
    entry_points: str = ""


@dataclass(frozen=True)
class Discovered:
    """``requirements`` and ``constraints`` are PEP 508 lines, sorted, without direct references."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    origin: str
    project: str | None
    """Canonical name of the repository's own distribution, which is never asked of an index."""
    requires_python: str | None
    needs_build: bool
    """Only running ``setup.py`` could tell the run-time dependencies."""
    distribution: OwnDistribution | None = None
    """What ``importlib.metadata`` will say about the project, although it is never installed."""


def is_metadata(path: str) -> bool:
    """Whether a file of the tree is read for discovery."""
    depth = path.count("/")
    return any(fnmatch(path, pattern) and pattern.count("/") == depth for pattern in _METADATA)


def discover(files: Mapping[str, bytes], requested: tuple[str, ...] = (), built: CoreMetadata | None = None) -> Discovered:
    """Requirements of a tree.

    Args:
        files: metadata files by path (see :func:`is_metadata`).
        requested: requirement lines of the request; they replace the repository's test dependencies.
        built: core metadata made in a sandbox, where ``needs_build`` was said; empty when that failed.

    Raises:
        InputError: REQUIREMENT_INVALID, METADATA_INVALID.
        Refused: REQUIREMENT_DIRECT for URLs, paths and version control.
    """
    source = _Source(files, built)
    runtime, runtime_origin = source.runtime()
    if requested:
        tests, tests_origin = source.own_lines(requested, "request"), "request"
    else:
        tests, tests_origin = source.tests()
    wanted = {str(requirement): requirement for requirement in (*runtime, *tests)}
    names = {canonicalize_name(requirement.name) for requirement in wanted.values()}
    lines = {line for line, requirement in wanted.items() if canonicalize_name(requirement.name) != source.project}
    lines |= {plugin for plugin in source.plugins() if plugin not in names and plugin != source.project}
    if RUNNER_REQUIREMENT not in names:
        lines.add(RUNNER_REQUIREMENT)
    return Discovered(
        requirements=tuple(sorted(lines)),
        constraints=() if requested else tuple(sorted(source.constraints())),
        origin=" + ".join(dict.fromkeys(part for part in (tests_origin, runtime_origin) if part)) or "default",
        project=source.project,
        requires_python=source.requires_python,
        needs_build=source.needs_build,
        distribution=source.distribution(),
    )


def refuse_newer_python(requires_python: str | None, base: str) -> None:
    """Refuse a project whose ``requires-python`` starts above the base; an upper bound alone does not matter.

    Raises:
        InputError: PYTHON_TOO_NEW.
    """
    try:
        specifiers = SpecifierSet(requires_python or "")
    except InvalidSpecifier:
        return
    version = Version(base)
    for specifier in specifiers:
        if specifier.operator not in (">=", ">", "~=", "==") or specifier.contains(version, prereleases=True):
            continue
        try:
            above = Version(specifier.version.removesuffix(".*")) > version
        except InvalidVersion:
            continue
        if above:
            raise InputError(
                "PYTHON_TOO_NEW",
                f"the repository requires Python {requires_python}, the sandbox has Python {base}",
                "give a root filesystem with a newer Python",
            )


class _Source:
    """The parsed metadata of one tree."""

    def __init__(self, files: Mapping[str, bytes], built: CoreMetadata | None) -> None:
        self._files = files
        self._pyproject = _toml(files, "pyproject.toml")
        self._setup = _ini(files, "setup.cfg")
        self._info = _core_metadata(files, built.metadata if built else b"")
        self._built = built or CoreMetadata()
        self._may_build = built is None
        self._dynamic = set(_strings(self._project.get("dynamic")))
        self.project = self._name()
        self.needs_build = False

    @property
    def _project(self) -> dict[str, Any]:
        return _table(self._pyproject, "project")

    @property
    def _poetry(self) -> dict[str, Any]:
        return _table(self._pyproject, "tool", "poetry")

    @property
    def requires_python(self) -> str | None:
        declared = self._project.get("requires-python") or self._setup.get("options", {}).get("python_requires")
        if isinstance(declared, str):
            return declared.strip()
        python = _table(self._poetry, "dependencies").get("python")
        if isinstance(python, str):
            return _caret(python)
        return self._info.get("Requires-Python") if self._info else None

    def runtime(self) -> tuple[list[Requirement], str]:
        if "dependencies" in self._project and "dependencies" not in self._dynamic:
            return self.own_lines(_strings(self._project["dependencies"]), "pyproject.toml"), "pyproject.toml"
        if "dependencies" in self._poetry:
            return self._poetry_table(self._poetry["dependencies"]), "pyproject.toml"
        options = self._setup.get("options", {})
        if "install_requires" in options:
            return self.own_lines(_lines(options["install_requires"]), "setup.cfg"), "setup.cfg"
        if self._info is not None and self._info_is_complete():
            plain = [line for line in self._info.get_all("Requires-Dist") or [] if "extra ==" not in line]
            return self.own_lines(plain, "PKG-INFO"), "PKG-INFO" if plain else ""
        if self._project and "dependencies" not in self._dynamic:
            return [], ""
        self.needs_build = self._may_build and ("setup.py" in self._files or "dependencies" in self._dynamic)
        if "requirements.txt" in self._files and not self.needs_build:
            return self._requirements_file("requirements.txt"), "requirements.txt"
        return [], ""

    def _info_is_complete(self) -> bool:
        # Before metadata 2.2 an sdist's PKG-INFO could leave out what only setup.py knew.
        version = str(self._info.get("Metadata-Version") or "0")
        dynamic = {value.lower() for value in self._info.get_all("Dynamic") or []}
        recent = tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (2, 2) and "requires-dist" not in dynamic
        return bool(self._built.metadata) or recent or "Requires-Dist" in self._info or "setup.py" not in self._files

    def tests(self) -> tuple[list[Requirement], str]:
        for names in (TEST_NAMES, None, DEV_NAMES):
            for found, origin in self._named(names) if names else self._tox():
                if found:
                    return found, origin
        return [], ""

    def _named(self, names: tuple[str, ...]) -> Iterator[tuple[list[Requirement], str]]:
        files = [path for path in sorted(self._files) if path.endswith((".txt", ".in")) and _names_a(path, names)]
        for path in sorted(files, key=lambda path: (path.endswith(".in"), path.count("/"), path)):
            yield self._requirements_file(path), path
        for name in names:
            yield self._extra(name), f"extra {name}"
            yield self._group(name), f"dependency group {name}"
            poetry = _table(self._poetry, "group", name, "dependencies")
            yield self._poetry_table(poetry), f"poetry group {name}"
            pdm = _table(self._pyproject, "tool", "pdm", "dev-dependencies").get(name)
            yield self.own_lines(_strings(pdm), "pyproject.toml"), f"pdm group {name}"
        if names is DEV_NAMES:
            yield self._poetry_table(_table(self._poetry, "dev-dependencies")), "poetry dev-dependencies"
            uv = _table(self._pyproject, "tool", "uv").get("dev-dependencies")
            yield self.own_lines(_strings(uv), "pyproject.toml"), "uv dev-dependencies"
        else:
            yield self.own_lines(_lines(self._setup.get("options", {}).get("tests_require", "")), "setup.cfg"), "tests_require"
            for name in ("hatch-test", *names):
                table = _table(self._pyproject, "tool", "hatch", "envs", name)
                lines = [*_strings(table.get("dependencies")), *_strings(table.get("extra-dependencies"))]
                yield self.own_lines(lines, "pyproject.toml"), f"hatch environment {name}"

    def _extra(self, name: str) -> list[Requirement]:
        wanted = canonicalize_name(name)
        for declared, value in _table(self._project, "optional-dependencies").items():
            if canonicalize_name(declared) == wanted:
                return self.own_lines(_strings(value), "pyproject.toml")
        for declared, text in self._setup.get("options.extras_require", {}).items():
            if canonicalize_name(declared) == wanted:
                return self.own_lines(_lines(text), "setup.cfg")
        for declared, value in _table(self._poetry, "extras").items():
            if canonicalize_name(declared) == wanted:
                return self.own_lines(_strings(value), "pyproject.toml")
        found = []
        for line in (self._info.get_all("Requires-Dist") or []) if self._info is not None else []:
            requirement = _requirement(line, "PKG-INFO")
            if requirement.marker and "extra" in str(requirement.marker) and requirement.marker.evaluate({"extra": name}):
                requirement.marker = None
                found.append(requirement)
        return found

    def _group(self, name: str, seen: frozenset[str] = frozenset()) -> list[Requirement]:
        groups = {canonicalize_name(key): value for key, value in _table(self._pyproject, "dependency-groups").items()}
        found: list[Requirement] = []
        wanted = canonicalize_name(name)
        entries = groups.get(wanted)
        for entry in entries if isinstance(entries, list) and wanted not in seen else []:
            if isinstance(entry, str):
                found += self.own_lines([entry], "pyproject.toml")
            elif isinstance(entry, dict) and isinstance(entry.get("include-group"), str):
                found += self._group(entry["include-group"], seen | {wanted})
        return found

    def _tox(self) -> Iterator[tuple[list[Requirement], str]]:
        text = _text(self._files, "tox.ini")
        inline = _table(self._pyproject, "tool", "tox").get("legacy_tox_ini")
        environment = _parse_ini(text or (inline if isinstance(inline, str) else "")).get("testenv", {})
        # Lines with factors ("py38: x") or substitutions ("{posargs}") belong to one environment of many.
        plain = [line for line in _lines(environment.get("deps", "")) if "{" not in line and not _FACTORS.match(line)]
        yield self.own_lines(plain, "tox.ini", lenient=True), "tox.ini"
        for extra in re.split(r"[\s,]+", environment.get("extras", "")):
            yield self._extra(extra) if extra else [], f"extra {extra}"

    def own_lines(self, lines: Iterable[str], origin: str, lenient: bool = False) -> list[Requirement]:
        """Requirement lines; one that names this project stands for its extras."""
        found: list[Requirement] = []
        for line in lines:
            found += self._line(line, origin, frozenset(), lenient)
        return found

    def _line(self, line: str, origin: str, seen: frozenset[str], lenient: bool = False) -> list[Requirement]:
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        line = re.sub(r"\s+--(hash|config-settings|global-option)[= ]\S+", "", line).rstrip("\\").strip()
        if match := re.fullmatch(r"(?:-r|--requirement)[ =]?\s*(\S+)", line):
            return self._requirements_file(_beside(origin, match[1]), seen)
        if match := re.fullmatch(r"(?:(?:-e|--editable)[ =]?\s*)?['\"]?(?:file:)?\.(?:/)?(\[[\w\s,.-]+\])?['\"]?", line):
            return [found for extra in _extras(match[1]) for found in self._extra(extra)]
        if not line or (line.startswith("-") and not line.startswith(("-e", "--editable"))):
            return []  # options: which index to ask is the operator's choice, not the repository's
        if line.startswith("-") or _DIRECT.search(line.partition(";")[0]):
            if lenient:
                return []
            raise Refused(
                "REQUIREMENT_DIRECT",
                f"{origin}: {line!r} is a path, a URL or a version control reference, which no index vouches for",
                "name a released version, or pass the requirements in the request",
            )
        requirement = _requirement(line, origin)
        if canonicalize_name(requirement.name) == self.project:
            return [found for extra in sorted(requirement.extras) for found in self._extra(extra)]
        return [requirement]

    def _requirements_file(self, path: str, seen: frozenset[str] = frozenset()) -> list[Requirement]:
        text = _text(self._files, path)
        if text is None or path in seen:
            return []
        found: list[Requirement] = []
        for line in text.replace("\\\n", " ").splitlines():
            found += self._line(line, path, seen | {path})
        return found

    def _poetry_table(self, table: Any) -> list[Requirement]:
        found = []
        for name, value in table.items() if isinstance(table, dict) else ():
            version = value if isinstance(value, str) else value.get("version") if isinstance(value, dict) else None
            if name != "python" and isinstance(version, str) and not (isinstance(value, dict) and value.get("optional")):
                found.append(_requirement(f"{name}{_caret(version)}", "pyproject.toml"))
        return found

    def distribution(self) -> OwnDistribution | None:
        """Name, version and entry points as far as they are written down; version 0 where a tool would make one."""
        if self.project is None:
            return None
        metadata = self._setup.get("metadata", {})
        version = self._project.get("version") or self._poetry.get("version") or metadata.get("version", "").strip()
        if not version or str(version).startswith(("attr:", "file:")):
            version = self._info.get("Version") if self._info is not None else None
        try:
            version = str(Version(str(version)))
        except InvalidVersion:
            version = "0"
        return OwnDistribution(name=self.project, version=version, entry_points=self._entry_points())

    def _entry_points(self) -> str:
        tables: dict[str, Any] = dict(_parse_ini(self._built.entry_points))
        tables |= {str(group): values for group, values in _table(self._project, "entry-points").items()}
        for group, key in (("console_scripts", "scripts"), ("gui_scripts", "gui-scripts")):
            tables |= {group: self._project[key]} if key in self._project else {}
        tables |= _parse_ini(_dedented(self._setup.get("options", {}).get("entry_points", "")))
        tables |= {group: dict(_pairs(text)) for group, text in self._setup.get("options.entry_points", {}).items()}
        lines = []
        for group, values in sorted(tables.items()):
            # The project's own pytest plugin cannot load before its tree is on the path.
            if isinstance(values, dict) and values and group != "pytest11":
                lines += [f"[{group}]", *(f"{name} = {value}" for name, value in sorted(values.items())), ""]
        return "\n".join(line.replace("\n", " ") if line else line for line in lines)

    def constraints(self) -> set[str]:
        """``name==version`` of a lock file, for names that it holds in one version."""
        versions: dict[str, set[str]] = {}
        for path in ("uv.lock", "poetry.lock", "pdm.lock"):
            packages = _toml(self._files, path).get("package")
            for package in packages if isinstance(packages, list) else ():
                name, version, source = package.get("name"), package.get("version"), package.get("source")
                direct = isinstance(source, dict) and (source.keys() & {"git", "url", "editable", "virtual", "directory", "path"})
                if isinstance(name, str) and isinstance(version, str) and not direct:
                    versions.setdefault(canonicalize_name(name), set()).add(version)
            if versions:
                break
        return {f"{name}=={next(iter(found))}" for name, found in versions.items() if len(found) == 1 and name != self.project}

    def plugins(self) -> set[str]:
        """Plugins without which pytest would refuse the repository's own configuration."""
        ini = _table(self._pyproject, "tool", "pytest", "ini_options")
        text = " ".join([str(ini.get("addopts", "")), "asyncio_mode" if "asyncio_mode" in ini else ""])
        for path, section in _PYTEST_INI:
            found = _ini(self._files, path).get(section, {})
            text += " " + found.get("addopts", "") + (" asyncio_mode" if "asyncio_mode" in found else "")
        words = re.split(r"[\s'\",\[\]]+", text)
        return {plugin for option, plugin in _PLUGIN_OPTIONS.items() if any(_is_option(word, option) for word in words)}

    def _name(self) -> str | None:
        declared = self._info.get("Name") if self._info is not None else None
        for value in (self._project.get("name"), self._poetry.get("name"), self._setup.get("metadata", {}).get("name"), declared):
            try:
                return canonicalize_name(str(value or "").strip(), validate=True)
            except InvalidName:
                continue  # the name becomes part of a path
        return None


def _is_option(word: str, option: str) -> bool:
    if option.startswith("--"):
        return word.startswith(option)
    return word == option or (option == "-n" and re.fullmatch(r"-n(\d+|auto|logical)", word) is not None)


def _requirement(line: str, origin: str) -> Requirement:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        remedy = "correct the line or pass requirements in the request"
        raise InputError("REQUIREMENT_INVALID", f"{origin}: {line!r}: {error}", remedy) from error
    if requirement.url:
        raise Refused("REQUIREMENT_DIRECT", f"{origin}: {line!r} names a URL; no index vouches for it", "name a release")
    return requirement


def _caret(version: str) -> str:
    """Poetry's version shorthand as PEP 440: only the lower bound of ``^`` and ``~`` matters for resolving."""
    parts = []
    for part in version.split(","):
        part = part.strip()
        if part in ("", "*"):
            continue
        if part[0] in "^~" and not part.startswith("~="):
            part = ">=" + part[1:]
        elif part[0].isdigit():
            part = "==" + part
        parts.append(part)
    try:
        return str(SpecifierSet(",".join(parts)))
    except InvalidSpecifier:
        return ""


def _names_a(path: str, names: tuple[str, ...]) -> bool:
    """Whether a requirements file is named for one of ``names``: requirements-test.txt, tests/requirements.txt."""
    return bool(set(re.split(r"[^a-z0-9]+", path.lower().rsplit(".", 1)[0])) & set(names)) and "constraint" not in path.lower()


def _beside(origin: str, relative: str) -> str:
    folder = origin.rpartition("/")[0]
    parts: list[str] = folder.split("/") if folder else []
    for part in relative.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _extras(bracketed: str | None) -> list[str]:
    return [extra.strip() for extra in bracketed.strip("[]").split(",") if extra.strip()] if bracketed else []


def _text(files: Mapping[str, bytes], path: str) -> str | None:
    data = files.get(path)
    return None if data is None else data.decode("utf-8-sig", "replace").replace("\r\n", "\n")


def _toml(files: Mapping[str, bytes], path: str) -> dict[str, Any]:
    text = _text(files, path)
    if text is None:
        return {}
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError("METADATA_INVALID", f"{path}: {error}", "correct the file") from error


def _ini(files: Mapping[str, bytes], path: str) -> dict[str, dict[str, str]]:
    return _parse_ini(_text(files, path) or "")


def _parse_ini(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of commands keep their case
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _core_metadata(files: Mapping[str, bytes], built: bytes) -> Any:
    # The root's PKG-INFO is that of an sdist; an egg-info holds the same, but may be stale in a checkout.
    candidates = sorted((path for path in files if path.endswith("PKG-INFO")), key=lambda path: (path.count("/"), path))
    data = built or (files[candidates[0]] if candidates else None)
    if data is None:
        return None
    return HeaderParser().parsestr(data.decode("utf-8", "replace"))


def _table(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in _lines(text):
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip(), value.strip()


def _dedented(text: str) -> str:
    return "\n".join(_lines(text))


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
