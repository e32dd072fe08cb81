"""New code for living functions: what is exchanged, and what is left to a new import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from activities.testbed.runner.swap import Functions, Invalid, NeedsImport, Unchanged

SOURCE = """\
import contextlib
import functools

SCALE = 2


def plain(x):
    return x + 1  # a comment


def wrapping(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args) + 0
    return inner


@wrapping
def decorated(x):
    return x * 20


class Base:
    def value(self):
        return 1


class Thing(Base):
    def value(self):
        return super().value() + 1

    @property
    def half(self):
        return self.__secret() / 2

    def __secret(self):
        return 8

    @staticmethod
    def twice(x=3):
        return 2 * x

    class Inner:
        @classmethod
        def name(cls):
            return cls.__name__ + "!"


if SCALE:
    def conditional(x):
        def helper(y):
            return y - 1
        return helper(x)
elif SCALE > 1:
    pass
else:
    def conditional(x):
        return 0


def one_line(x): return x + 5


@contextlib.contextmanager
def context():
    yield 7
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    file = tmp_path / "target.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("swap_target", file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["swap_target"] = loaded
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules["swap_target"]


@pytest.fixture
def edit(module: ModuleType, tmp_path: Path) -> Callable[[str, str], int]:
    """Replace the only occurrence of a text and exchange code; the number of functions that got new code."""
    functions = Functions(str(tmp_path))

    def go(old: str, new: str) -> int:
        data = SOURCE.encode()
        assert data.count(old.encode()) == 1, old
        start = data.index(old.encode())
        exchanges = functions.edited("target.py", start, start + len(old.encode()), new)
        for function, code in exchanges:
            function.__code__ = code
        return len(exchanges)

    return go


def test_a_plain_function(module: ModuleType, edit: Callable[[str, str], int]) -> None:
    assert edit("return x + 1", "return x - 1") == 1
    assert module.plain(5) == 4
    assert module.plain.__code__.co_firstlineno == 7


def test_a_decorated_function_and_the_closure_of_its_decorator(module: ModuleType, edit: Callable[[str, str], int]) -> None:
    edit("return x * 20", "return x * 30")
    assert module.decorated(2) == 60
    edit("function(*args) + 0", "function(*args) + 100")
    assert module.decorated(2) == 160


def test_methods_with_super_private_names_properties_and_static_methods(
    module: ModuleType, edit: Callable[[str, str], int]
) -> None:
    thing = module.Thing()
    edit("super().value() + 1", "super().value() + 10")
    edit("self.__secret() / 2", "self.__secret() / 4")
    edit("return 2 * x", "return 5 * x")
    edit('cls.__name__ + "!"', 'cls.__name__ + "?"')
    assert (thing.value(), thing.half, thing.twice(), module.Thing.Inner.name()) == (11, 2, 15, "Inner?")


def test_nested_conditional_one_line_and_generator_functions(module: ModuleType, edit: Callable[[str, str], int]) -> None:
    edit("return y - 1", "return y - 2")
    edit("return x + 5", "return x + 6")
    edit("yield 7", "yield 8")
    assert (module.conditional(5), module.one_line(1)) == (3, 7)
    with module.context() as value:
        assert value == 8


def test_an_inserted_statement(module: ModuleType, edit: Callable[[str, str], int]) -> None:
    edit("    return x + 1  #", "    if x is None:\n        return None\n    return x + 1  #")
    assert module.plain(None) is None
    assert module.plain(1) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2", "SCALE = 3"),
        ("x=3", "x=4"),
        ("@wrapping\ndef decorated", "def decorated"),
        ("        return self.__secret() / 2\n", "        return 1\n    extra = 3\n"),
        ("    def value(self):\n        return 1", "    def value(self):\n        return 2\n    def more(self): return 1"),
        ("return super().value() + 1", "return 5"),
        ("else:\n    def conditional(x):\n        return 0", "else:\n    def conditional(x):\n        return 9"),
    ],
)  # fmt: skip
def test_what_code_alone_cannot_express_needs_an_import(edit: Callable[[str, str], int], old: str, new: str) -> None:
    with pytest.raises(NeedsImport):
        edit(old, new)


def test_code_that_does_not_compile(edit: Callable[[str, str], int]) -> None:
    with pytest.raises(Invalid):
        edit("return x + 1", "return x +")
    with pytest.raises(Invalid):
        edit("return x + 1", "continue")


def test_code_that_stays_the_same(edit: Callable[[str, str], int]) -> None:
    with pytest.raises(Unchanged):
        edit("return x + 1", "return (x + 1)")
    with pytest.raises(Unchanged):
        edit("# a comment", "# another")


def test_numbers_of_another_type_are_another_code(module: ModuleType, edit: Callable[[str, str], int]) -> None:
    edit("return x + 1", "return x + 1.0")
    assert repr(module.plain(1)) == "2.0"
