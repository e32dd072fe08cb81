"""Outside programs: where each one is found, and how it is made when it is nowhere.

One mechanism, the data per program is a ``Recipe``: explicit setting → PATH → project cache → official download →
``go build`` from the pinned module in ``deploy/toolchain/<name>``. What was used is recorded with version and sha256.

    CACHE/toolchain.json                  what was used last: {name: {version, sha256, source, path}}
    CACHE/toolchain/<name>/<name>         a program that we made, and beside it
    CACHE/toolchain/<name>/record.json    {version, sha256, source}: reused only while both agree
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Literal

from schemas.error import InfrastructureError, InputError

Source = Literal["setting", "path", "cache", "download", "build"]
Say = Callable[[str], None]

MODULES = Path(__file__).resolve().parent.parent / "deploy" / "toolchain"
EXAMINE_TIMEOUT_S = 30.0
BUILD_TIMEOUT_S = 1_800.0
DOWNLOAD_TIMEOUT_S = 600.0
DOWNLOAD_STALL_S = 20.0


@dataclass(frozen=True)
class Tool:
    """A program that may be run. ``source`` says where it came from; for one from the cache, how it was made."""

    name: str
    path: Path
    version: str
    sha256: str
    source: Source


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that is particular to one program."""

    name: str
    setting: str
    """Environment variable that names the program explicitly."""
    version_argv: tuple[str, ...]
    version: str
    """Pattern over the output of ``version_argv``; group 1 is the version that is shown and recorded."""
    compared: str
    """Pattern over the shown version; group 1 is the number that ``minimum`` bounds."""
    minimum: tuple[int, ...]
    minimum_of: str = ""
    """What the number counts, where it is not the program's own version."""
    package: str
    """Go package of the program, in the module of ``deploy/toolchain/<name>``."""
    version_variable: str = ""
    """Go variable that a build sets to the pinned version; empty: the sources hold it."""
    capability_argv: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    """Texts that ``capability_argv`` must print: what we use, whatever the version says."""
    order: tuple[Source, ...] = ("setting", "path", "cache", "build")
    for_tests: bool = False
    """A peer that tests and benchmarks check our work against; the fabric itself never runs it."""


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="temporal",
            setting="GEN4_TEMPORAL",
            version_argv=("--version",),
            # `go install` reports version 0.0.0-DEV: the server inside is what counts.
            version=r"temporal version (\S+ \(Server \d+\.\d+\.\d+[^)]*\))",
            compared=r"\(Server (\d+\.\d+\.\d+)",
            minimum=(1, 29, 0),
            minimum_of="with server ",
            package="github.com/temporalio/cli/cmd/temporal",
            version_variable="github.com/temporalio/cli/temporalcli.Version",
            capability_argv=("server", "start-dev", "--help"),
            capabilities=("--db-filename", "--search-attribute", "--dynamic-config-value", "--ui-port"),
            order=("setting", "path", "cache", "download", "build"),
        ),
        Recipe(
            name="opa",
            setting="GEN4_OPA",
            version_argv=("version",),
            version=r"(?m)^Version: (\d+\.\d+\.\d+\S*)",
            compared=r"^(\d+\.\d+\.\d+)",
            minimum=(1, 21, 3),  # before it, signatures of policy bundles could be side-stepped
            package="github.com/open-policy-agent/opa",
        ),
        Recipe(
            name="cosign",
            setting="GEN4_COSIGN",
            version_argv=("version",),
            version=r"(?m)^GitVersion:\s+v?(\d+\.\d+\.\d+\S*)",
            compared=r"^(\d+\.\d+\.\d+)",
            minimum=(3, 1, 3),  # before it, GHSA-fx35-mq7g-6g98
            package="github.com/sigstore/cosign/v3/cmd/cosign",
            version_variable="sigs.k8s.io/release-utils/version.gitVersion",
            for_tests=True,
        ),
        Recipe(
            name="slsa-verifier",
            setting="GEN4_SLSA_VERIFIER",
            version_argv=("version",),
            version=r"(?m)^GitVersion:\s+v?(\d+\.\d+\.\d+\S*)",
            compared=r"^(\d+\.\d+\.\d+)",
            minimum=(2, 7, 1),
            package="github.com/slsa-framework/slsa-verifier/v2/cli/slsa-verifier",
            version_variable="sigs.k8s.io/release-utils/version.gitVersion",
            for_tests=True,
        ),
        *(
            # Their programs have names that others have too (rekor's is `posix`), so PATH is not searched.
            Recipe(
                name=name,
                setting=f"GEN4_{name.upper().replace('-', '_')}",
                version_argv=("version",),
                version=r"(?m)^GitVersion:\s+v?(\d+\.\d+\.\d+\S*)",
                compared=r"^(\d+\.\d+\.\d+)",
                minimum=minimum,
                package=package,
                version_variable="sigs.k8s.io/release-utils/version.gitVersion",
                order=("setting", "cache", "build"),
                for_tests=True,
            )
            for name, package, minimum in (
                ("fulcio", "github.com/sigstore/fulcio", (1, 8, 8)),
                ("rekor", "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix", (2, 3, 0)),
                ("timestamp-authority", "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server", (2, 1, 3)),
            )
        ),
    )
}


class Unacceptable(Exception):
    """Why a program found somewhere is not used."""


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """The cache of the user, mode 0700. Raises InputError(CACHE_UNSAFE) when others could change what is in it."""
    remedy = "point GEN4_CACHE at a folder of your own with mode 0700"
    state = environ.get("XDG_STATE_HOME", "")
    default = (state if os.path.isabs(state) else "~/.local/state") + "/gen4-cache"
    cache = Path(os.path.expanduser(environ.get("GEN4_CACHE") or default))
    if not cache.is_absolute():
        raise InputError("CACHE_UNSAFE", f"{cache} is not an absolute path", remedy)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # no folder: refused below
    except OSError as error:
        raise InputError("CACHE_UNSAFE", f"{cache} cannot be made: {error.strerror}", remedy) from error
    found = cache.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(
            "CACHE_UNSAFE",
            f"{cache} is a link, belongs to someone else or is writable by others",
            remedy,
        )
    return cache


def locate(
    name: str, *, environ: Mapping[str, str] = os.environ, make: bool = True, say: Say = lambda line: None,
    recipes: Mapping[str, Recipe] = RECIPES, modules: Path = MODULES,
) -> Tool:  # fmt: skip
    """Find the program, or make it.

    Args:
        make: False only looks: nothing is downloaded or built (``gen4 doctor``).
        say: told, in a line for people, before a step that takes long.

    Raises:
        InputError: TOOL_REFUSED, the explicit setting names a program that cannot be used; nothing else is tried.
        InfrastructureError: TOOL_MISSING, with the reason of each place and what to do.
    """
    recipe = recipes[name]
    search = _Search(recipe, environ, cache_directory(environ), modules, say)
    reasons: list[str] = []
    for source in recipe.order:
        if source in ("download", "build") and not make:
            continue
        try:
            tool = search.places[source]()
        except Unacceptable as reason:
            reasons.append(f"{source}: {reason}")
            if source == "setting" and environ.get(recipe.setting):
                raise InputError("TOOL_REFUSED", f"{recipe.setting}: {reason}", f"correct or unset {recipe.setting}") from None
            continue
        search.record_use(tool)
        return tool
    raise InfrastructureError("TOOL_MISSING", f"no acceptable {name} ({'; '.join(reasons)})", remedy(recipe, modules))


def remedy(recipe: Recipe, modules: Path = MODULES) -> str:
    """What a person can do when the program is missing."""
    go = _directive(modules / recipe.name / "go.mod", "go")
    at_least = recipe.minimum_of + ".".join(map(str, recipe.minimum))
    return (
        f"run `make setup` with Go {go} or newer on PATH (an older Go ≥ 1.21 with GOTOOLCHAIN=auto fetches it), "
        f"or install {recipe.name} yourself ({at_least} or newer) and put it on PATH or name it in {recipe.setting}"
    )


def pinned_version(recipe: Recipe, modules: Path = MODULES) -> str:
    """The version that ``go build`` makes, without the ``v``."""
    module = "/".join(recipe.package.split("/")[:3])
    return _directive(modules / recipe.name / "go.mod", rf"(?:require )?{re.escape(module)}(?:/v\d+)?").removeprefix("v")


def examine(recipe: Recipe, path: Path) -> str:
    """The shown version of a program that is fit for use. Raises Unacceptable."""
    shown = _first(recipe.version, _output(path, recipe.version_argv))
    if shown is None:
        raise Unacceptable(f"{path} does not say which version of {recipe.name} it is")
    _require_minimum(recipe, path, shown)
    if recipe.capabilities:
        offered = _output(path, recipe.capability_argv)
        missing = [wanted for wanted in recipe.capabilities if wanted not in offered]
        if missing:
            raise Unacceptable(f"{path} ({shown}) has no {', '.join(missing)}")
    return shown


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Search:
    """One search for one program; ``from_*`` are the places, each returns a Tool or raises Unacceptable."""

    recipe: Recipe
    environ: Mapping[str, str]
    cache: Path
    modules: Path
    say: Say

    @property
    def places(self) -> Mapping[Source, Callable[[], Tool]]:
        return {
            "setting": self.from_setting, "path": self.from_path, "cache": self.from_cache,
            "download": self.from_download, "build": self.from_build,
        }  # fmt: skip

    @property
    def folder(self) -> Path:
        return self.cache / "toolchain" / self.recipe.name

    def from_setting(self) -> Tool:
        value = self.environ.get(self.recipe.setting)
        if not value:
            raise Unacceptable(f"{self.recipe.setting} is not set")
        path = Path(value).expanduser()
        if not path.is_absolute():
            raise Unacceptable(f"{value} is not an absolute path")
        return self._examined(path, "setting")

    def from_path(self) -> Tool:
        found = shutil.which(self.recipe.name, path=self.environ.get("PATH", ""))
        if found is None:
            raise Unacceptable("none")
        if not os.path.isabs(found):
            raise Unacceptable(f"{found} was found by a relative entry of PATH")
        return self._examined(Path(found), "path")

    def from_cache(self) -> Tool:
        binary = self.folder / self.recipe.name
        record = _read_json(self.folder / "record.json")
        if not binary.is_file() or not record:
            raise Unacceptable("none")
        if sha256_of(binary) != record.get("sha256"):
            raise Unacceptable(f"{binary} is not what was recorded when it was made")
        source: Source = "download" if record.get("source") == "download" else "build"
        _require_minimum(self.recipe, binary, str(record["version"]))
        return Tool(self.recipe.name, binary, str(record["version"]), str(record["sha256"]), source)

    def from_download(self) -> Tool:
        return self._made("download", self._download)

    def from_build(self) -> Tool:
        return self._made("build", self._build)

    def record_use(self, tool: Tool) -> None:
        path = self.cache / "toolchain.json"
        entry = {key: str(value) for key, value in asdict(tool).items() if key != "name"}
        if _read_json(path).get(tool.name) == entry:
            return
        with _locked(self.cache / "toolchain.json.lock"):
            _write_json(path, {**_read_json(path), tool.name: entry})

    def _examined(self, path: Path, source: Source) -> Tool:
        if not path.is_file() or not os.access(path, os.X_OK):
            raise Unacceptable(f"{path} is not an executable file")
        return Tool(self.recipe.name, path, examine(self.recipe, path), sha256_of(path), source)

    def _made(self, source: Source, make: Callable[[Path], Path]) -> Tool:
        """Make the program in a folder of its own and move it into the cache; two processes never do it twice."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.cache / "toolchain" / f"{self.recipe.name}.lock"):
            try:
                return self.from_cache()
            except Unacceptable:
                pass  # nobody else made it while we waited
            with tempfile.TemporaryDirectory(prefix="making-", dir=self.folder) as folder:
                made = make(Path(folder))
                made.chmod(0o700)
                tool = self._examined(made, source)
                binary = self.folder / self.recipe.name
                (self.folder / "record.json").unlink(missing_ok=True)
                made.replace(binary)
                _write_json(self.folder / "record.json", {"version": tool.version, "sha256": tool.sha256, "source": source})
            return replace(tool, path=binary)

    def _download(self, folder: Path) -> Path:
        """The SDK's own download, in a process of its own: only that can be stopped when the network swallows packets."""
        self.say(f"{self.recipe.name}: official download")
        argv = [sys.executable, "-P", "-m", "workers.sdk_download", str(folder)]
        grown, size, started = time.monotonic(), 0, time.monotonic()
        with tempfile.TemporaryFile() as log, _group(argv, dict(self.environ), folder, log) as process:
            while process.poll() is None:
                time.sleep(0.05)
                now, found = time.monotonic(), _bytes_in(folder)
                grown, size = (now, found) if found != size else (grown, size)
                if now - grown > DOWNLOAD_STALL_S or now - started > DOWNLOAD_TIMEOUT_S:
                    raise Unacceptable(f"stalled after {size} bytes")
            if process.returncode != 0:
                raise Unacceptable(f"not reachable ({_tail(log, 1)})")
        files = [path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)]
        if len(files) != 1:
            raise Unacceptable("the download left no program")
        return files[0]

    def _build(self, folder: Path) -> Path:
        go = shutil.which("go", path=self.environ.get("PATH", ""))
        module = self.modules / self.recipe.name
        if go is None:
            raise Unacceptable("go is not on PATH")
        if not (module / "go.mod").is_file():
            raise Unacceptable(f"{module} is missing: run from a checkout")
        version = pinned_version(self.recipe, self.modules)
        self.say(f"{self.recipe.name}: go build of {version} (some minutes with empty caches)")
        flags = "-s -w" + (f" -X {self.recipe.version_variable}={version}" if self.recipe.version_variable else "")
        made = folder / self.recipe.name
        # GOTOOLCHAIN, GOPROXY and GOFLAGS stay the operator's; go.sum decides what may be compiled.
        argv = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={flags}", "-o", str(made)]
        argv.append(self.recipe.package)
        environment = {**self.environ, "GOWORK": "off", "CGO_ENABLED": "0", "GOBIN": str(folder)}
        with tempfile.TemporaryFile() as log, _group(argv, environment, module, log) as process:
            try:
                process.wait(BUILD_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise Unacceptable(f"go build took more than {BUILD_TIMEOUT_S:.0f} s") from None
            if process.returncode != 0:
                raise Unacceptable(f"go build failed: {_tail(log, 3)}")
        return made


@contextmanager
def _group(argv: list[str], environment: dict[str, str], cwd: Path, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that never outlives its context."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=cwd, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _output(path: Path, argv: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            [str(path), *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=EXAMINE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unacceptable(f"{path} does not run: {error}") from None
    if done.returncode != 0:
        raise Unacceptable(f"{path} {' '.join(argv)} ended with status {done.returncode}")
    return done.stdout.decode(errors="replace")


def _require_minimum(recipe: Recipe, path: Path, shown: str) -> None:
    number = _first(recipe.compared, shown)
    if number is None or tuple(int(part) for part in number.split(".")) < recipe.minimum:
        raise Unacceptable(f"{path} is {shown}, at least {'.'.join(map(str, recipe.minimum))} is needed")


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _directive(go_mod: Path, name: str) -> str:
    try:
        return _first(rf"(?m)^\s*{name} (\S+)", go_mod.read_text()) or "unknown"
    except OSError:
        return "unknown"


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # renamed while we looked
    return total


def _tail(log: IO[bytes], lines: int) -> str:
    log.seek(0)
    text = log.read().decode(errors="replace").strip()
    return " / ".join(text.splitlines()[-lines:])[-600:]


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
    os.replace(file.name, path)
