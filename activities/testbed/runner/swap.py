"""An edited function gets its new code while the process lives: only that function is compiled, nothing is imported again."""

from __future__ import annotations
import __future__

import ast
import functools
import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_FUTURES = functools.reduce(lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0)
Key = tuple[str, int, str]


class NeedsImport(Exception):
    """The edit has effects outside of function bodies, or on functions that cannot be exchanged."""


class Invalid(Exception):
    """The edited source does not compile."""


class Unchanged(Exception):
    """The edited function compiles to the same code."""


@dataclass(frozen=True)
class _Place:
    """An outermost function of a module: ``headers`` are lines that stand for the blocks around it."""

    name: str
    classes: tuple[str, ...]
    headers: tuple[str, ...]
    first_line: int
    start: int
    body_start: int
    end: int


@dataclass(frozen=True)
class Source:
    """A file and its outermost functions."""

    data: bytes
    places: tuple[_Place, ...]

    def place_of(self, start: int, end: int) -> _Place:
        """The function whose body holds the range. Raises NeedsImport."""
        for place in self.places:
            if place.body_start <= start and end <= place.end:
                return place
        raise NeedsImport("outside of function bodies")


class Functions:
    """The functions of the tree that live in this process after collection. Build it before ``gc.freeze``."""

    def __init__(self, work: str) -> None:
        self._prefix = work.rstrip("/") + "/"
        self._live: dict[Key, list[FunctionType]] = {}
        self._sources: dict[str, Source] = {}
        for value in gc.get_objects():
            if type(value) is FunctionType and value.__code__.co_filename.startswith(self._prefix):
                self._live.setdefault(_key(value.__code__), []).append(value)

    def edited(self, path: str, start: int, end: int, text: str) -> list[tuple[FunctionType, CodeType]]:
        """What to exchange for the edit ``data[start:end] = text`` of the file ``path`` (relative to the tree).

        Raises NeedsImport, Invalid or Unchanged.
        """
        file = self._prefix + path
        source = self._sources.get(file)
        if source is None:
            with open(file, "rb") as handle:
                source = self._sources[file] = parse_source(handle.read(), file)
        place = source.place_of(start, end)
        old = self._live_code(file, place)
        new = _compile(source, place, file, start, end, text.encode(), old.co_flags & _FUTURES)
        if _same(old, new):
            raise Unchanged
        return list(self._exchanges(old, new))

    def _live_code(self, file: str, place: _Place) -> CodeType:
        name = ".".join((*place.classes, place.name))
        for function in self._live.get((file, place.first_line, name), ()):
            return function.__code__
        raise NeedsImport(f"{name} has no living function")

    def _exchanges(self, old: CodeType, new: CodeType) -> Iterator[tuple[FunctionType, CodeType]]:
        for function in self._live.get(_key(old), ()):
            if new.co_freevars != function.__code__.co_freevars:
                raise NeedsImport("other free variables")
            yield function, new
        # Closures that import time already made, e.g. by a decorator, hold inner code of the old function.
        inner_old = [code for code in old.co_consts if isinstance(code, CodeType)]
        inner_new = [code for code in new.co_consts if isinstance(code, CodeType)]
        if [code.co_name for code in inner_old] == [code.co_name for code in inner_new]:
            for one, other in zip(inner_old, inner_new, strict=True):
                yield from self._exchanges(one, other)
        elif any(_key(code) in self._live for code in inner_old):
            raise NeedsImport("closures live that cannot be told apart")


def _key(code: CodeType) -> Key:
    return code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name)


def compile_edit(source: Source, file: str, start: int, end: int, text: str) -> CodeType:
    """The new code of the outermost function that the edit lies in. Raises NeedsImport or Invalid."""
    return _compile(source, source.place_of(start, end), file, start, end, text.encode(), 0)


def parse_source(data: bytes, file: str) -> Source:
    """Raises NeedsImport for a file that does not parse."""
    lines = data.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    try:
        tree = _parse(data, file)
    except (SyntaxError, ValueError) as error:
        raise NeedsImport(str(error)) from error
    if data.startswith(b"\xef\xbb\xbf"):
        return Source(data, ())
    return Source(data, tuple(_places(tree, starts, lines, (), ())))


def _places(
    node: ast.AST, starts: list[int], lines: list[bytes], classes: tuple[str, ...], headers: tuple[str, ...]
) -> Iterator[_Place]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            first_line = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            head = child.body[0]
            body_line = min([head.lineno, *(decorator.lineno for decorator in getattr(head, "decorator_list", []))])
            one_line = lines[body_line - 1][: head.col_offset].strip() != b""
            body_start = starts[body_line - 1] + (head.col_offset if one_line else 0)
            assert child.end_lineno is not None
            yield _Place(child.name, classes, headers, first_line, starts[first_line - 1], body_start, starts[child.end_lineno])
        elif isinstance(child, ast.stmt) and not isinstance(child, ast.expr):
            indent = lines[child.lineno - 1][: child.col_offset].decode("utf-8", "replace")
            if isinstance(child, ast.ClassDef):
                yield from _places(child, starts, lines, (*classes, child.name), (*headers, f"{indent}class {child.name}:"))
            elif not indent.strip():
                # An ``elif`` is a statement inside its ``if``, but not indented deeper.
                deeper = not headers or len(indent) > len(headers[-1]) - len(headers[-1].lstrip())
                yield from _places(child, starts, lines, classes, (*headers, f"{indent}if 1:") if deeper else headers)
        elif isinstance(child, ast.ExceptHandler):
            yield from _places(child, starts, lines, classes, headers)


def _compile(source: Source, place: _Place, file: str, start: int, end: int, text: bytes, flags: int) -> CodeType:
    body = source.data[place.start : start] + text + source.data[end : place.end]
    # The headers stand right above the function, so that its own lines keep their numbers.
    above = place.first_line - 1 - len(place.headers)
    if above < 0:
        raise NeedsImport("no room for the headers")
    head = "\n" * above + "".join(header + "\n" for header in place.headers)
    try:
        tree = _parse(head.encode() + body, file)
        block: list[ast.stmt] = tree.body
        for _ in place.headers:
            block = block[0].body if len(block) == 1 else []  # type: ignore[attr-defined]
        if len(block) != 1 or not isinstance(block[0], _FUNCTIONS):
            raise NeedsImport("the edit leaves its function")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise Invalid(str(error)) from error
    for name in (*place.classes, place.name):
        found = [inner for inner in code.co_consts if isinstance(inner, CodeType) and inner.co_name == name]
        if len(found) != 1:
            raise NeedsImport("the function was not found in its compiled module")
        code = found[0]
    return code


def _parse(data: bytes, file: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(data, filename=file)


def _same(old: CodeType, new: CodeType) -> bool:
    if (old.co_code, old.co_names, old.co_varnames, old.co_freevars, old.co_flags) != (
        new.co_code, new.co_names, new.co_varnames, new.co_freevars, new.co_flags,
    ) or len(old.co_consts) != len(new.co_consts):  # fmt: skip
        return False
    if getattr(old, "co_exceptiontable", b"") != getattr(new, "co_exceptiontable", b""):
        return False
    for one, other in zip(old.co_consts, new.co_consts, strict=True):
        if isinstance(one, CodeType) and isinstance(other, CodeType):
            if not _same(one, other):
                return False
        elif type(one) is not type(other) or repr(one) != repr(other):
            return False
    return True
