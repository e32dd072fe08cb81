"""Requirements are read as data, in the documented order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.testbed.discovery import CoreMetadata, Discovered, discover, is_metadata, refuse_newer_python
from schemas.error import Gen4Error, InputError, Refused
from schemas.testing import OwnDistribution


def found(files: dict[str, str], *requested: str) -> Discovered:
    return discover({path: text.encode() for path, text in files.items()}, requested)


PROJECT = '[project]\nname = "My.Thing"\ndependencies = ["attrs>=20"]\n'


def test_nothing_said_means_pytest() -> None:
    assert found({}) == Discovered(("pytest",), (), "default", None, None, False)


def test_requirements_of_the_request_replace_test_dependencies_and_keep_runtime_ones() -> None:
    files = {"pyproject.toml": PROJECT + '[project.optional-dependencies]\ntest = ["hypothesis"]\n'}
    result = found(files, "pytest==9.2.0", "freezegun==1.5.5")
    assert result.requirements == ("attrs>=20", "freezegun==1.5.5", "pytest==9.2.0")
    assert (result.origin, result.project) == ("request + pyproject.toml", "my-thing")


@pytest.mark.parametrize(
    ("files", "requirement", "origin"),
    [
        ({"requirements-test.txt": "six==1 --hash=sha256:00 # why\n-r more.txt\n", "requirements-dev.txt": "black"}, "six==1",
         "requirements-test.txt"),
        ({"requirements/tests.txt": "-r base.txt\n", "requirements/base.txt": "six"}, "six", "requirements/tests.txt"),
        ({"tests/requirements.txt": "six"}, "six", "tests/requirements.txt"),
        ({"pyproject.toml": '[project]\nname="a"\n[project.optional-dependencies]\ntests=["six"]\ndev=["black"]'}, "six",
         "extra tests"),
        ({"pyproject.toml": '[dependency-groups]\ntest=[{include-group="base"}]\nbase=["six"]'}, "six", "dependency group test"),
        ({"pyproject.toml": '[tool.poetry.group.test.dependencies]\nsix="^1.2"'}, "six>=1.2", "poetry group test"),
        ({"pyproject.toml": '[tool.hatch.envs.test]\ndependencies=["six"]'}, "six", "hatch environment test"),
        ({"pyproject.toml": '[project]\nname="a"\n[project.optional-dependencies]\ntest=["a[x]"]\nx=["six"]'}, "six",
         "extra test"),
        ({"setup.cfg": "[options.extras_require]\ntest =\n    six\n"}, "six", "extra test"),
        ({"setup.cfg": "[options]\ntests_require =\n    six\n"}, "six", "tests_require"),
        ({"tox.ini": "[testenv]\ndeps =\n    six\n    py38: mock\n    -r{toxinidir}/x.txt\n"}, "six", "tox.ini"),
        ({"tox.ini": "[testenv]\nextras = check\n", "setup.cfg": "[options.extras_require]\ncheck = six\n"}, "six",
         "extra check"),
        ({"requirements_dev.txt": "six"}, "six", "requirements_dev.txt"),
        ({"pyproject.toml": '[dependency-groups]\ndev=["six"]'}, "six", "dependency group dev"),
        ({"PKG-INFO": 'Metadata-Version: 2.1\nName: a\nRequires-Dist: six; extra == "test"\n'}, "six", "extra test"),
    ],
)  # fmt: skip
def test_each_source_of_test_dependencies(files: dict[str, str], requirement: str, origin: str) -> None:
    result = found(files)
    assert requirement in result.requirements and "pytest" in result.requirements
    assert result.origin.split(" + ")[0] == origin
    assert "black" not in result.requirements and "mock" not in result.requirements


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": '[project]\nname="a"\ndependencies=["six"]'},
        {"setup.cfg": "[options]\ninstall_requires = six\n", "setup.py": "…"},
        {"PKG-INFO": "Metadata-Version: 2.1\nName: a\nRequires-Dist: six\n", "setup.py": "…"},
        {"pyproject.toml": '[tool.poetry]\nname="a"\n[tool.poetry.dependencies]\npython="^3.8"\nsix="*"'},
        {"requirements.txt": "six\n"},
    ],
)
def test_each_source_of_runtime_dependencies(files: dict[str, str]) -> None:
    result = found(files)
    assert result.requirements == ("pytest", "six") and not result.needs_build


def test_what_only_setup_py_knows_needs_a_build_and_is_not_executed() -> None:
    bare = {"setup.py": "raise SystemExit"}
    assert found(bare).needs_build
    assert found(bare | {"PKG-INFO": "Metadata-Version: 1.1\nName: a\n"}).needs_build
    built = discover({"setup.py": b""}, (), built=CoreMetadata(b"Metadata-Version: 2.1\nName: a\nRequires-Dist: six\n"))
    assert (built.requirements, built.needs_build, built.project) == (("pytest", "six"), False, "a")
    failed = discover({"setup.py": b"", "requirements.txt": b"six\n"}, (), built=CoreMetadata())
    assert (failed.requirements, failed.needs_build) == (("pytest", "six"), False)


def test_the_projects_own_distribution_is_not_required() -> None:
    result = found({"pyproject.toml": PROJECT, "requirements-test.txt": "my_thing==1\n-e .[x]\n.\nsix\n"})
    assert result.requirements == ("attrs>=20", "pytest", "six")


def test_the_project_keeps_its_metadata_without_being_installed() -> None:
    text = '[project]\nname="My.Thing"\nversion="1.2"\n[project.scripts]\nx="a:b"\n[project.entry-points.pytest11]\nz="a"\n'
    assert found({"pyproject.toml": text}).distribution == OwnDistribution(
        name="my-thing", version="1.2", entry_points="[console_scripts]\nx = a:b\n"
    )
    cfg = "[metadata]\nname = a\nversion = attr: a.V\n[options.entry_points]\nconsole_scripts =\n    x = a:b\n"
    assert found({"setup.cfg": cfg}).distribution == OwnDistribution(
        name="a", version="0", entry_points="[console_scripts]\nx = a:b\n"
    )
    assert found({"tox.ini": ""}).distribution is None
    for name in ("../../x", "a\\nb", "", "a/b"):
        assert found({"pyproject.toml": f'[project]\nname = "{name}"\n'}).distribution is None


def test_lock_files_only_constrain() -> None:
    lock = (
        '[[package]]\nname="attrs"\nversion="21.1"\n[[package]]\nname="six"\nversion="1"\n[[package]]\nname="six"\nversion="2"\n'
    )
    lock += '[[package]]\nname="my-thing"\nversion="1"\nsource={editable="."}\n'
    result = found({"pyproject.toml": PROJECT, "uv.lock": lock})
    assert (result.requirements, result.constraints) == (("attrs>=20", "pytest"), ("attrs==21.1",))
    assert found({"pyproject.toml": PROJECT, "uv.lock": lock}, "pytest==9.2.0").constraints == ()


@pytest.mark.parametrize(
    ("files", "plugin"),
    [
        ({"pyproject.toml": '[tool.pytest.ini_options]\naddopts="-q --cov=a"'}, "pytest-cov"),
        ({"pytest.ini": "[pytest]\naddopts = -n auto\n"}, "pytest-xdist"),
        ({"setup.cfg": "[tool:pytest]\naddopts = -nauto\n"}, "pytest-xdist"),
        ({"tox.ini": "[pytest]\nasyncio_mode = auto\n"}, "pytest-asyncio"),
    ],
)
def test_options_of_the_pytest_configuration_bring_their_plugin(files: dict[str, str], plugin: str) -> None:
    assert plugin in found(files).requirements


@pytest.mark.parametrize(
    "line",
    [
        "git+https://example.org/a.git",
        "https://example.org/a.whl",
        "a @ https://example.org/a.whl",
        "-e ./other",
        "../other",
        "/abs/a.whl",
    ],
)
def test_direct_references_are_refused(line: str) -> None:
    with pytest.raises(Refused, match="REQUIREMENT_DIRECT"):
        found({"requirements-test.txt": line})
    with pytest.raises(Refused, match="REQUIREMENT_DIRECT"):
        found({}, line)


def test_a_repository_does_not_choose_the_index() -> None:
    result = found({"requirements-test.txt": "--index-url https://evil.example\n--extra-index-url=https://evil.example\nsix\n"})
    assert result.requirements == ("pytest", "six")


def test_lines_and_files_that_make_no_sense_are_named() -> None:
    with pytest.raises(InputError, match=r"REQUIREMENT_INVALID.*requirements-test.txt"):
        found({"requirements-test.txt": "six === === 1"})
    with pytest.raises(InputError, match=r"METADATA_INVALID.*pyproject.toml"):
        found({"pyproject.toml": "= ="})


@pytest.mark.parametrize("declared", [">=3.12", ">3.11.99", "~=3.13", "==3.12.*", ">=3.12,<4"])
def test_a_newer_python_is_refused(declared: str) -> None:
    with pytest.raises(InputError, match="PYTHON_TOO_NEW"):
        refuse_newer_python(declared, "3.11.2")


@pytest.mark.parametrize("declared", [None, "", ">=3.8", ">=3.6,<3.11", "<3.10", "==3.11.*", "!=3.11.2", "nonsense"])
def test_an_older_python_is_tried(declared: str | None) -> None:
    refuse_newer_python(declared, "3.11.2")


def test_which_files_are_read() -> None:
    read = [
        "pyproject.toml",
        "requirements-test.txt",
        "requirements/test.txt",
        "tests/requirements.txt",
        "src/a.egg-info/PKG-INFO",
    ]
    assert all(is_metadata(path) for path in read)
    assert not any(
        is_metadata(path) for path in ["a/pyproject.toml", "docs/requirements.txt", "README.md", "x/requirements/test.txt"]
    )


@given(
    st.dictionaries(
        st.sampled_from(["pyproject.toml", "setup.cfg", "tox.ini", "requirements-test.txt", "PKG-INFO", "uv.lock", "setup.py"]),
        st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    )
)
def test_any_bytes_are_read_or_refused_with_a_code(files: dict[str, bytes]) -> None:
    try:
        result = discover(files)
    except Gen4Error as error:
        assert error.code in ("REQUIREMENT_DIRECT", "REQUIREMENT_INVALID", "METADATA_INVALID")
    else:
        assert result.requirements == tuple(sorted(result.requirements))
