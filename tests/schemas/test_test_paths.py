from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.test_paths import is_test_configuration, is_test_path, restored_from_base

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
