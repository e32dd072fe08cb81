"""Test commands become plans or are refused with the reason."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.request import InvalidRequest
from schemas.test_command import parse_test_command
from schemas.testing import TestPlan


def plan(command: str) -> TestPlan:
    return parse_test_command(tuple(shlex.split(command)))


def test_the_default_is_pytest_on_the_whole_tree() -> None:
    assert parse_test_command(()) == TestPlan(python_path=("src", "."))


@pytest.mark.parametrize(
    ("command", "arguments", "python_path"),
    [
        ("pytest", (), ("src", ".")),
        ("python -m pytest -q tests", ("-q", "tests"), ("src", ".")),
        ("python3.11 -m pytest", (), ("src", ".")),
        ("env PYTHONPATH=lib pytest", (), ("lib",)),
        ("env PYTHONPATH=lib:src/ python3 -m pytest", (), ("lib", "src", ".")),
        ("pytest 'tests/test_a.py::test_b[x y/../z]'", ("tests/test_a.py::test_b[x y/../z]",), ("src", ".")),
        ("pytest -k 'a and not b' --deselect t.py::x", ("-k", "a and not b", "--deselect", "t.py::x"), ("src", ".")),
        ("pytest -o addopts= -W error::X -rA", ("-o", "addopts=", "-W", "error::X", "-rA"), ("src", ".")),
        ("pytest -c conf/pytest.ini --rootdir=.", ("-c", "conf/pytest.ini", "--rootdir=."), ("src", ".")),
        ("pytest -k ../x", ("-k", "../x"), ("src", ".")),
        ("pytest -p no:cacheprovider -p pytester", ("-p", "no:cacheprovider", "-p", "pytester"), ("src", ".")),
        ("pytest -x -n 4 --maxfail=2 -nauto --dist loadfile --exitfirst t", ("t",), ("src", ".")),
        ("pytest -q -- tests", ("-q", "tests"), ("src", ".")),
    ],
)  # fmt: skip
def test_what_is_kept(command: str, arguments: tuple[str, ...], python_path: tuple[str, ...]) -> None:
    result = plan(command)
    assert (result.pytest_args, result.python_path) == (arguments, python_path)
    assert result.argv == tuple(shlex.split(command))


def test_variables_of_the_command() -> None:
    assert plan("env A=1 B='x y' PYTHONPATH=src:. python -m pytest").env == {"A": "1", "B": "x y"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("tox", "starts with 'tox'"),
        ("python setup.py test", "starts with"),
        ("python -c pytest", "starts with"),
        ("/usr/bin/python -m pytest", "starts with"),
        ("python2 -c x -m pytest", "starts with"),
        ("A=1 pytest", "starts with"),
        ("env -i pytest", "starts with"),
        ("env A=1", "nothing follows env"),
        ("pytest | tail", "for a shell"),
        ("pytest && echo", "for a shell"),
        ("pytest /etc", "not inside the repository"),
        ("pytest tests/../../x", "not inside the repository"),
        ("pytest ~/x", "not inside the repository"),
        ("pytest @args", "not read from a file"),
        ("pytest -c /etc/x", "not inside the repository"),
        ("pytest --rootdir=/", "not inside the repository"),
        ("pytest --basetemp ../x", "not inside the repository"),
        ("pytest --pyargs json", "installed packages"),
        ("pytest --collect-only", "runs no test"),
        ("pytest --co", "runs no test"),
        ("pytest --version", "runs no test"),
        ("pytest -h", "runs no test"),
        ("pytest --lf", "cache"),
        ("pytest --sw", "cache"),
        ("pytest --pdb", "waits for a person"),
        ("pytest -qk", "apart"),
        ("pytest -k", "needs a value"),
        ("pytest -- -x", "no path"),
        ("env PYTHONPATH=/usr/lib pytest", "not a folder inside"),
        ("env PYTHONPATH=.. pytest", "not a folder inside"),
        ("env PYTHONHASHSEED=1 pytest", "pinned"),
        ("env LD_PRELOAD=x.so pytest", "foreign code"),
        ("env PYTEST_ADDOPTS=-x pytest", "into the command"),
        ("env PATH=. pytest", "root filesystem"),
    ],
)
def test_what_is_refused_and_why(command: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        plan(command)


WORDS = st.one_of(
    st.sampled_from(
        [
            "env",
            "python",
            "python3.9",
            "-m",
            "pytest",
            "--",
            "-x",
            "-n",
            "-k",
            "A=1",
            "PYTHONPATH=a:b",
            "tests",
            "--pdb",
            "-p",
            "-",
            "",
        ]
    ),
    st.text(max_size=12),
)


@given(st.lists(WORDS, max_size=8))
def test_any_words_are_a_plan_or_a_readable_refusal(words: list[str]) -> None:
    try:
        result = parse_test_command(tuple(words))
    except InvalidRequest as error:
        assert str(error).startswith("test_command: ")
    else:
        assert result.argv == tuple(words)
        assert not any(folder.startswith("/") or ".." in folder.split("/") for folder in result.python_path)


@given(st.lists(WORDS, max_size=8))
def test_a_plans_own_arguments_parse_to_themselves(words: list[str]) -> None:
    try:
        first = parse_test_command(("pytest", *words))
    except InvalidRequest:
        return
    assert parse_test_command(("pytest", *first.pytest_args)).pytest_args == first.pytest_args
