"""Environments: resolved without running anything on the host, built in sandboxes, bit-identical from their lock."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from schemas.canonical import digest_of, jcs
from schemas.error import Gen4Error, InfrastructureError, InputError, Refused
from schemas.testing import Environment, EnvironmentLock

from .index import sdist, serving, wheel

IN_TREE_BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "gen4probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("gen4probe.py", "VALUE = 7\\n")
        archive.writestr("gen4probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: gen4probe\\nVersion: 1.0\\n")
        archive.writestr("gen4probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("gen4probe-1.0.dist-info/RECORD", "")
    return name
"""
PROBE = sdist(
    "gen4probe",
    "1.0",
    {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": IN_TREE_BACKEND,
        "PKG-INFO": "Metadata-Version: 2.1\nName: gen4probe\nVersion: 1.0\n",
    },
)


def prepare(bed: Any, files: dict[str, str], *requirements: str) -> Environment:
    environment: Environment = bed.environments.prepare(bed.tree({"README": "", **files}), requirements, lambda: None)
    return environment


def lock_of(bed: Any, environment: Environment) -> EnvironmentLock:
    lock: EnvironmentLock = bed.environments.lock(environment.environment_digest)
    return lock


def content(folder: Path) -> dict[str, tuple[str, int, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            stat.S_IMODE(path.stat().st_mode),
            int(path.stat().st_mtime),
        )
        for path in [folder, *folder.rglob("*")]
    }


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def test_the_digest_is_that_of_the_lock_and_the_lock_names_wheels_by_hash(bed: Any, plain: Environment) -> None:
    lock = lock_of(bed, plain)
    assert plain.environment_digest == digest_of(jcs(lock)) == "sha256:" + plain.lock.sha256
    assert {"pytest", "pluggy", "iniconfig"} <= {one.name for one in lock.wheels}
    assert all(hashlib.sha256(bed.blobs.get(one.sha256)).hexdigest() == one.sha256 for one in lock.wheels)
    assert all(one.license for one in lock.wheels)
    assert lock.base_digest == plain.base_digest and lock.python_version.startswith("3.")


def test_a_folder_is_rebuilt_bit_identically_from_the_lock(bed: Any, plain: Environment) -> None:
    folder = bed.environments.path(plain.environment_digest)
    before = content(folder)
    shutil.rmtree(folder)
    assert content(bed.environments.path(plain.environment_digest)) == before
    assert {mode for _, mode, _ in before.values()} <= {0o644, 0o755}
    assert "_pytest/__pycache__/python.cpython-311.pyc" in before


def test_the_second_time_no_network_is_needed(bed: Any, plain: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    assert prepare(bed, {"other.txt": "another tree, the same metadata"}) == plain


def test_a_requirement_that_exists_only_as_source_is_built_in_a_sandbox(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = PROBE
    with serving({name: data}) as (url, asked):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        environment = prepare(bed, {}, "gen4probe>=1")
        assert f"/files/{name}" in asked
    assert "gen4probe" in {one.name for one in lock_of(bed, environment).wheels}
    tree = bed.tree({"test_a.py": "import gen4probe\ndef test_a(): assert gen4probe.VALUE == 7\n"})
    run, found = bed.run(tree, environment)
    assert (run.status, found) == ("passed", {"test_a.py::test_a": "passed"})


def test_a_source_distribution_from_a_folder_of_the_operator(bed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = PROBE
    (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {tmp_path}".strip())
    environment = prepare(bed, {}, "gen4probe==1.0", "six")
    assert {"gen4probe", "six"} <= {one.name for one in lock_of(bed, environment).wheels}


def test_a_source_distribution_with_another_hash_is_refused(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = PROBE
    with serving({name: data}, {name: "0" * 64}) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        with pytest.raises(Refused, match="SDIST_HASH"):
            prepare(bed, {}, "gen4probe<2")


def test_a_build_that_wants_the_network_fails_with_its_own_words(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = "import urllib.request\ndef build_wheel(*a, **k): urllib.request.urlopen('http://198.51.100.1/', timeout=3)\n"
    name, data = sdist(
        "gen4hungry",
        "1.0",
        {"pyproject.toml": '[build-system]\nrequires=[]\nbuild-backend="backend"\nbackend-path=["."]\n', "backend.py": backend},
    )
    with serving({name: data}) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        with pytest.raises(Refused, match=r"BUILD_FAILED.*[Nn]etwork"):
            prepare(bed, {}, "gen4hungry")


def test_a_build_that_kills_its_runner_is_no_result(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
    name, data = sdist(
        "gen4killer",
        "1.0",
        {"pyproject.toml": '[build-system]\nrequires=[]\nbuild-backend="backend"\nbackend-path=["."]\n', "backend.py": backend},
    )
    with serving({name: data}) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        with pytest.raises(Gen4Error, match=r"RUNNER_FAILED|BUILD_FAILED"):
            prepare(bed, {}, "gen4killer")


def test_a_hostile_setup_py_runs_in_the_sandbox_only(bed: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    tmp_path.chmod(0o777)
    source = f"""
import os, socket
from setuptools import setup
for path in ({str(canary)!r}, os.path.expanduser("~/gen4-canary"), "/tmp/gen4-canary"):
    try: open(path, "w").write("ran")
    except OSError: pass
try:
    socket.create_connection(("127.0.0.1", 7233), 1)
    requires = ["gen4-reached-the-host"]
except OSError:
    requires = ["six"]
setup(name="hostile", version="1", install_requires=requires, py_modules=["hostile"],
      entry_points={{"console_scripts": ["Say=hostile:say"]}})
"""
    environment = prepare(bed, {"setup.py": source, "hostile.py": ""})
    names = {one.name for one in lock_of(bed, environment).wheels}
    assert "six" in names and "setuptools" not in names
    own = lock_of(bed, environment).project
    assert own and (own.name, own.version, own.entry_points) == ("hostile", "1", "[console_scripts]\nSay = hostile:say\n")
    assert not canary.exists() and not Path("/tmp/gen4-canary").exists() and not Path("~/gen4-canary").expanduser().exists()


def test_a_setup_py_that_fails_leaves_the_tree_without_its_dependencies(bed: Any, plain: Environment) -> None:
    environment = prepare(bed, {"setup.py": "raise SystemExit(1)\n"})
    assert lock_of(bed, environment).wheels == lock_of(bed, plain).wheels


def test_the_projects_own_distribution_is_not_downloaded(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = wheel("gen4own", "9.9", {"gen4own.py": "FIXED = True\n"})
    with serving({name: data}) as (url, asked):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        files = {"pyproject.toml": '[project]\nname = "gen4own"\nversion = "1"\n', "requirements-test.txt": "gen4own\nsix\n"}
        environment = prepare(bed, files)
    assert "gen4own" not in {one.name for one in lock_of(bed, environment).wheels}
    assert not [path for path in asked if "gen4own" in path]


def test_a_project_that_asks_for_its_own_version_gets_it(bed: Any) -> None:
    files = {
        "pyproject.toml": '[project]\nname = "gen4-own"\nversion = "1.2"\n[project.scripts]\ngen4-own = "gen4_own:main"\n',
        "gen4_own.py": "from importlib.metadata import version\n__version__ = version('gen4-own')\ndef main(): print('ran')\n",
        "test_a.py": "import gen4_own, subprocess\ndef test_a(): assert gen4_own.__version__ == '1.2'\n"
        "def test_command(): assert subprocess.check_output(['gen4-own', 'x']) == b'ran\\n'\n",
    }
    run, found = bed.run(bed.tree(files), prepare(bed, files))
    assert (run.status, found) == ("passed", {"test_a.py::test_a": "passed", "test_a.py::test_command": "passed"})


def test_a_newer_python_is_refused_before_anything_is_fetched(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(InputError, match="PYTHON_TOO_NEW"):
        prepare(bed, {"pyproject.toml": '[project]\nname = "a"\nrequires-python = ">=3.99"\n'})


def test_what_nobody_has_is_refused_and_an_unreachable_index_is_not(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(Refused, match=r"ENVIRONMENT_UNRESOLVED.*gen4-nobody-has-this"):
            prepare(bed, {}, "gen4-nobody-has-this")
    with monkeypatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
        patch.setenv("PIP_FIND_LINKS", "")
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "2")
        with pytest.raises(InfrastructureError, match="INDEX_UNREACHABLE"):
            prepare(bed, {}, "gen4-nobody-has-this")


def test_markers_are_those_of_the_base(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ('gen4never; python_version < "3"', "gen4there; platform_machine == 'x86_64' or platform_machine == 'aarch64'")
    files = dict([wheel("gen4marked", "1", {"gen4marked.py": ""}, requires), wheel("gen4there", "1", {"gen4there.py": ""})])
    with serving(files) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        environment = prepare(bed, {}, "gen4marked")
    assert {"gen4marked", "gen4there"} <= {one.name for one in lock_of(bed, environment).wheels}


def test_a_pth_file_of_a_dependency_is_not_executed(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = wheel(
        "gen4pth", "1", {"gen4pth.pth": "import os; os.environ['GEN4_PTH'] = 'ran'\n", "sitecustomize.py": "1/0\n"}
    )
    with serving({name: data}) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        environment = prepare(bed, {}, "gen4pth")
    _, found = bed.run(bed.tree({"test_a.py": "import os\ndef test_a(): assert 'GEN4_PTH' not in os.environ\n"}), environment)
    assert found == {"test_a.py::test_a": "passed"}


def test_an_environment_without_its_wheels_is_infrastructure(bed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = wheel("gen4lost", "1", {"gen4lost.py": ""})
    with serving({name: data}) as (url, _):
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", url)
        environment = prepare(bed, {}, "gen4lost")
    shutil.rmtree(bed.environments.path(environment.environment_digest))
    bed.blobs.path(hashlib.sha256(data).hexdigest()).unlink()
    with pytest.raises(InfrastructureError, match="BLOB_MISSING"):
        bed.environments.path(environment.environment_digest)
