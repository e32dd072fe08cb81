"""The raise probe: what passes although nothing that the patch touched can run was not mended by it (threats 4.1).

The probe tree is the harness tree with ``raise`` as the first statement of every touched function. Module level code stays as
patched, so a pass that is forged there (a replaced pytest, say) still shows, and gives itself away.
"""

from __future__ import annotations

import ast
import codecs
import io
import re
import tokenize
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from activities.record.objects import Change, ObjectStore
from activities.testbed.declared_tests import CONFIGURATION, declared_tests
from schemas.test_paths import is_test_configuration, is_test_path

RAISE = 'raise BaseException("gen4 probe: a function that the patch touches")'
"""Not an ``Exception``: code and tests that expect one would take it for theirs."""

_SOURCE_LIMIT = 1024 * 1024
"""Bytes of a source file that is looked at; a larger one stays as patched."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_REGULAR = frozenset({"100644", "100755"})
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, LookupError, tokenize.TokenError)


def probe_tree(objects: ObjectStore, base_tree: str, harness_tree: str) -> str | None:
    """``harness_tree`` with every touched function raising; None where the patch touches none.

    Of tests nothing is touched: those of base are laid over already, and new ones must be able to fail.
    """
    declared = declared_tests(objects.files(base_tree, CONFIGURATION).get)
    edits: dict[str, bytes | None] = {}
    for change in objects.changes(base_tree, harness_tree):
        if _is_product(change) and change.path not in declared:
            base = objects.read(change.old_oid) if change.old_mode in _REGULAR else None
            probed = probe_source(base, objects.read(change.new_oid))
            if probed is not None:
                edits[change.path] = probed
    return objects.write_tree(harness_tree, edits) if edits else None


def _is_product(change: Change) -> bool:
    path = change.path
    return path.endswith(".py") and change.new_mode in _REGULAR and not is_test_path(path) and not is_test_configuration(path)


def probe_source(base: bytes | None, patched: bytes) -> bytes | None:
    """``patched`` with every function raising that ``base`` does not have just so; None if there is none.

    The outermost function counts, a method too. Comments, layout and docstrings make no difference. A file that does not parse
    stays as it is.
    """
    try:
        source = _Source.read(patched)
        places = source.places(_touched(source.tree, _known(base)))
        return source.with_text(places) if places else None
    except _UNREADABLE:
        return None


def _known(base: bytes | None) -> Counter[str]:
    if base is None:
        return Counter()
    try:
        return Counter(shape for _, shape in _functions(_Source.read(base).tree))
    except _UNREADABLE:
        return Counter()  # nothing of it ran before


def _touched(tree: ast.Module, known: Counter[str]) -> list[_Function]:
    found = []
    for function, shape in _functions(tree):
        if known[shape]:
            known[shape] -= 1
        else:
            found.append(function)
    return found


def _functions(node: ast.AST, scope: str = "") -> Iterator[tuple[_Function, str]]:
    """Outermost functions, each with all that it is: where it is, its name, decorators, signature and body."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield child, f"{scope}{_shape(child)}"
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{scope}{child.name}.")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _functions(child, scope)


def _shape(function: _Function) -> str:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    fields = [value for name, value in ast.iter_fields(function) if name != "body"]
    return f"{type(function).__name__} {[_dumped(value) for value in (*fields, body)]}"


def _dumped(value: object) -> object:
    if isinstance(value, list):
        return [_dumped(item) for item in value]
    return ast.dump(value) if isinstance(value, ast.AST) else value


@dataclass(frozen=True)
class _Source:
    """A file as Python reads it, and how to get its bytes back. ``lines`` keep their ends."""

    lines: list[str]
    encoding: str
    mark: bytes
    tree: ast.Module

    @classmethod
    def read(cls, data: bytes) -> _Source:
        if len(data) > _SOURCE_LIMIT:
            raise ValueError("too large")
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        if mark:
            encoding = "utf-8"
        text = data[len(mark) :].decode(encoding)
        return cls(_LINE.findall(text), encoding, mark, ast.parse(text))

    def places(self, functions: list[_Function]) -> list[tuple[int, int, str]]:
        """Line, column and text of what goes in front of the body of each function."""
        newlines, indents = self._line_ends_and_indents() if functions else ([], [])
        starts = [place for place, _ in indents]
        found = []
        for function in functions:
            first = function.body[0]
            header = (function.lineno, self._column(function))
            ends = newlines[bisect_right(newlines, header)]
            if first.lineno > ends[0]:
                (line, _), indent = indents[bisect_right(starts, ends)]
                found.append((line, 0, indent + RAISE + _end_of(self.lines[line - 2])))
            else:
                found.append((first.lineno, self._column(first), RAISE + "; "))
        return found

    def with_text(self, places: list[tuple[int, int, str]]) -> bytes:
        """The file with each text at its place.

        Raises:
            SyntaxError: that does not parse.
        """
        lines = list(self.lines)
        for line, column, text in sorted(places, reverse=True):
            lines[line - 1] = lines[line - 1][:column] + text + lines[line - 1][column:]
        probed = "".join(lines)
        ast.parse(probed)
        return self.mark + probed.encode(self.encoding)

    def _line_ends_and_indents(self) -> tuple[list[tuple[int, int]], list[tuple[tuple[int, int], str]]]:
        """Where logical lines end; where blocks begin, each with its indentation."""
        plain = (line.rstrip("\r\n") + "\n" for line in self.lines)
        newlines, indents = [], []
        for token in tokenize.generate_tokens(lambda: next(plain, "")):
            if token.type == tokenize.NEWLINE:
                newlines.append(token.start)
            elif token.type == tokenize.INDENT:
                indents.append(((token.start[0], 0), token.string))
        return newlines, indents

    def _column(self, node: _Function | ast.stmt) -> int:
        # Python counts the bytes of UTF-8, whatever the encoding of the file is.
        return len(self.lines[node.lineno - 1].encode()[: node.col_offset].decode())


def _end_of(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
