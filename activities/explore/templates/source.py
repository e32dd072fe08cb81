"""A parsed module with byte positions: where nodes are in the file, and what surrounds them."""

from __future__ import annotations

import ast
import codecs
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
T = TypeVar("T")
Span = tuple[int, int]
"""Half-open range of byte offsets in the file."""

_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLOCKS = ("body", "orelse", "finalbody")

ATOMS = (ast.Name, ast.Constant, ast.Attribute, ast.Subscript, ast.Call, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp)
"""Expressions that need no parentheses as an operand."""


class UnreadableSource(ValueError):
    """The file is not UTF-8 Python that this interpreter can parse."""


class Module:
    """``data`` is the file as it is; all offsets are into it."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self._base = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        self.tree = _parse(data[self._base :], path)
        self._starts = _line_starts(data, self._base)
        self.newline = "\r\n" if b"\r\n" in data[: self._starts[1] if len(self._starts) > 1 else None] else "\n"
        self._cache: dict[tuple[object, ...], object] = {}
        self._parents: dict[ast.AST, ast.AST] = {}
        for parent in ast.walk(self.tree):
            for child in ast.iter_child_nodes(parent):
                self._parents[child] = parent

    def offset(self, line: int, column: int) -> int:
        """Byte offset of a 1-based line and a 0-based UTF-8 column."""
        return self._starts[line - 1] + column

    def span(self, node: ast.AST) -> Span:
        return (
            self.offset(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self.offset(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def between(self, left: int, right: int) -> str:
        return self.data[left:right].decode()

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self._parents.get(node)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        current = self._parents.get(node)
        while current is not None:
            yield current
            current = self._parents.get(current)

    def function_of(self, node: ast.AST) -> FunctionNode | None:
        """The innermost function whose body or header holds ``node``."""
        return next((above for above in self.ancestors(node) if isinstance(above, FunctionNode)), None)

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        return next((above for above in self.ancestors(node) if isinstance(above, ast.ClassDef)), None)

    def statements(self) -> list[ast.stmt]:
        """All statements in the order of the file."""
        return self.once("statements", make=self._statements)

    def once(self, *key: object, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once for ``key``: scans of a whole module are asked for at every name in it."""
        if key not in self._cache:
            self._cache[key] = make()
        return cast(T, self._cache[key])

    def _statements(self) -> list[ast.stmt]:
        found = (node for node in ast.walk(self.tree) if isinstance(node, ast.stmt))
        return sorted(found, key=lambda node: (node.lineno, node.col_offset, -(node.end_lineno or 0)))

    def block_of(self, statement: ast.stmt) -> list[ast.stmt]:
        """The list of statements that ``statement`` stands in."""
        parent = self._parents.get(statement)
        for name in _BLOCKS:
            block = getattr(parent, name, None)
            if isinstance(block, list) and statement in block:
                return block
        return [statement]

    def line_start(self, offset: int) -> int:
        """Offset of the first byte of the line that holds ``offset``."""
        return max(self.data.rfind(b"\n", 0, offset), self.data.rfind(b"\r", 0, offset), self._base - 1) + 1

    def line_end(self, offset: int) -> int:
        """Offset just behind the newline that ends the line of ``offset``."""
        found = self.data.find(b"\n", offset)
        return len(self.data) if found < 0 else found + 1

    def indent_of(self, statement: ast.stmt) -> str | None:
        """White space before a statement that begins its line; None when other code stands before it (``a; b``)."""
        start = self.span(statement)[0]
        if isinstance(statement, FunctionNode | ast.ClassDef) and statement.decorator_list:
            start = self.span(statement.decorator_list[0])[0] - 1
        before = self.data[self.line_start(start) : start].decode()
        return before if not before.strip(" \t") else None

    def operand(self, node: ast.expr) -> str:
        """Text of ``node`` that can stand as an operand of anything."""
        text = self.text(node)
        return text if isinstance(node, ATOMS) and "\n" not in text else f"({text})"

    def placed(self, node: ast.expr, text: str) -> str:
        """``text``, an operator expression, in parentheses where the place of ``node`` needs them."""
        parent = self._parents.get(node)
        free = (ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.If, ast.While, ast.IfExp, ast.keyword)
        if isinstance(parent, ast.Call) and node in parent.args and not isinstance(node, ast.Starred):
            return text
        return text if isinstance(parent, free) and "\n" not in text else f"({text})"


def header_end_line(statement: ast.stmt) -> int:
    """Last line of what a statement runs by itself: of a compound statement only its header."""
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    if not body:
        return statement.end_lineno or statement.lineno
    first = body[0]
    line: int = first.pattern.lineno if isinstance(first, ast.match_case) else first.lineno
    if isinstance(first, FunctionNode | ast.ClassDef) and first.decorator_list:
        line = first.decorator_list[0].lineno
    return max(statement.lineno, line - 1)


def is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    )


def _parse(data: bytes, path: str) -> ast.Module:
    for line in data.split(b"\n", 2)[:2]:
        if (match := _CODING.match(line)) and match.group(1).lower().replace(b"_", b"-") not in (b"utf-8", b"utf8"):
            raise UnreadableSource(f"{path} is not UTF-8")
    try:
        data.decode("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(data, filename=path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableSource(f"{path}: {error}") from error


def _line_starts(data: bytes, base: int) -> list[int]:
    starts = [base]
    for line in data[base:].splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts
