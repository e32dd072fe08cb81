from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.request import InvalidRequest
from schemas.test_command import parse_test_command
from schemas.test_paths import is_named, is_test_configuration, is_test_path, restored_from_base

TESTS = [
    "tests/test_a.py", "test/a.py", "src/pkg/tests/helper.py", "tests/data/x.json", "test_a.py", "pkg/a_test.py", "Tests/A.py",
    "pkg/TEST_a.py",
]  # fmt: skip
CONFIGURATION = [
    "conftest.py", "pkg/conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml",
    "sitecustomize.py", "lib/usercustomize.py", "x.pth", "a.egg-info/entry_points.txt", "a-1.dist-info/RECORD", "ConfTest.py",
    "package.json", "node_modules/chai/index.js", "test/node_modules/chai/index.js", "lib/node_modules",
]  # fmt: skip
PRODUCT = [
    "calc.py", "src/pkg/testing/a.py", "contest.py", "attest.py", "latest/a.py", "testdata.py", "README.md", "tests.py", "a/test",
    "lib/node_modules.js",
]  # fmt: skip


@pytest.mark.parametrize("path", TESTS)
def test_what_is_a_test(path: str) -> None:
    assert is_test_path(path)


@pytest.mark.parametrize("path", CONFIGURATION)
def test_what_configures_tests(path: str) -> None:
    assert is_test_configuration(path)


@pytest.mark.parametrize("path", PRODUCT)
def test_what_is_neither(path: str) -> None:
    assert not is_test_path(path) and not is_test_configuration(path)


def test_decomposed_names_are_recognised() -> None:
    assert is_test_configuration("sub/e\u0301/conftest.py")
    assert restored_from_base(["e\u0301.pth"], []) == ("e\u0301.pth",)


@given(changed=st.lists(st.sampled_from(TESTS + CONFIGURATION + PRODUCT)), base=st.lists(st.sampled_from(TESTS + PRODUCT)))
def test_product_code_is_never_restored_and_new_tests_stay(changed: list[str], base: list[str]) -> None:
    restored = restored_from_base(changed, base)
    assert not set(restored) & set(PRODUCT)
    assert set(CONFIGURATION) & set(changed) <= set(restored)
    assert set(restored) & set(TESTS) == set(changed) & set(base) & set(TESTS)
    assert list(restored) == sorted(set(restored))


@pytest.mark.parametrize(
    ("glob", "named", "others"),
    [
        ("checks/a.mjs", ["checks/a.mjs"], ["checks/b.mjs", "checks/axmjs", "lib/checks/a.mjs"]),
        ("checks/*.mjs", ["checks/a.mjs"], ["checks/sub/a.mjs", "a.mjs"]),
        ("checks/**/*.mjs", ["checks/a.mjs", "checks/sub/deep/a.mjs"], ["lib/a.mjs", "checks/a.js"]),
        ("**/{a,b?}.{c,m}js", ["a.cjs", "x/y/b1.mjs"], ["b.mjs", "a.js", "a,b.cjs"]),
        ("{a,{b,c}}/x", ["a/x", "b/x", "c/x"], ["{a/x", "a,{b/x"]),
        ("a,b{.js", ["a,b{.js"], ["a", "b.js"]),
        ("}a{", ["}a{"], ["a"]),
        ("a[bc].js", ["ab.js", "ac.js"], ["a/.js", "a.js", "abc.js"]),
        ("checks/**", ["checks/a/b.mjs"], ["checks2/a"]),
    ],
)
def test_globs_are_read_as_node_reads_them(glob: str, named: list[str], others: list[str]) -> None:
    found = parse_test_command(("node", "--test", f".//./{glob}")).named_tests
    assert [path for path in (*named, *others) if is_named(path, found)] == named


@pytest.mark.parametrize("glob", ["checks/@(a|b).mjs", "checks/!(a).mjs", "{a..c}.mjs", "\\a.mjs", "+(a).mjs", "*(a)", "?(a)"])
def test_what_node_reads_and_we_do_not_is_refused(glob: str) -> None:
    with pytest.raises(InvalidRequest, match="globs are made of"):
        parse_test_command(("node", "--test", glob))


@given(st.text(st.sampled_from("ab/.*?[]{},!-^\\"), max_size=12))
def test_any_word_is_a_glob_and_a_file_that_pytest_is_given_is_that_file(word: str) -> None:
    is_named("a/b", [word])
    if word.strip("./") and not word.startswith(("/", "-")) and ".." not in word.split("/"):
        named = parse_test_command(("pytest", word)).named_tests
        path = posixpath.normpath(word)
        assert is_named(path, named) and not is_named(path + "a", named)
