"""How templates offer edits: a registry by node type, and a walk over what one statement runs by itself."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from activities.explore.templates.source import FunctionNode, Module, Span, is_docstring

FAMILIES = (
    "operators",
    "conditions",
    "constants",
    "names",
    "calls",
    "wrapping",
    "slices",
    "statements",
    "inserting",
    "handlers",
    "formatting",
)
"""Modules of this package that register templates."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Replace ``span`` by ``text``. ``prior``: how often such a change mends a bug, relative, in (0, 1]."""

    span: Span
    text: str
    prior: float


@dataclass(frozen=True, slots=True)
class Edit:
    """A proposal of a named template at a statement (``line``) of a file."""

    path: str
    start: int
    end: int
    text: str
    template: str
    prior: float
    line: int

    def apply(self, data: bytes) -> bytes:
        return data[: self.start] + self.text.encode() + data[self.end :]


N = TypeVar("N", bound=ast.AST)
Template = Callable[[N, Module], Iterator[Proposal]]
_registry: dict[type[ast.AST], list[tuple[str, Callable[..., Iterator[Proposal]]]]] = {}


def template(name: str, *kinds: type[ast.AST]) -> Callable[[Template[N]], Template[N]]:
    """Register a template for nodes of ``kinds``."""

    def register(function: Template[N]) -> Template[N]:
        for kind in kinds:
            _registry.setdefault(kind, []).append((name, function))
        return function

    return register


def _loaded() -> dict[type[ast.AST], list[tuple[str, Callable[..., Iterator[Proposal]]]]]:
    for family in FAMILIES:
        importlib.import_module(f"{__package__}.{family}")
    return _registry


def template_names() -> tuple[str, ...]:
    return tuple(sorted({name for entries in _loaded().values() for name, _ in entries}))


def edits_of_statement(module: Module, statement: ast.stmt) -> Iterator[Edit]:
    """Every edit that the templates offer for what ``statement`` runs by itself; equal results come once, best prior first.

    Edits are not yet known to compile; see :func:`activities.explore.splice.compiles`.
    """
    if is_docstring(statement) or sys.getrecursionlimit() < 100:
        return
    registry = _loaded()
    best: dict[tuple[int, int, str], Edit] = {}
    for node in own_nodes(statement):
        for name, function in registry.get(type(node), ()):
            for proposal in function(node, module):
                start, end, text = minimal(module.data, proposal.span, proposal.text)
                if start == end and not text:
                    continue
                known = best.get((start, end, text))
                if known is None or known.prior < proposal.prior:
                    best[(start, end, text)] = Edit(module.path, start, end, text, name, proposal.prior, statement.lineno)
    yield from sorted(best.values(), key=lambda edit: (-edit.prior, edit.start, edit.end, edit.text))


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement and the expressions of its own, without nested statements, annotations and f-string insides
    (their positions are wrong before Python 3.12)."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.JoinedStr):
            continue
        children: list[ast.AST] = []
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_params", "type_comment", "ctx"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                if isinstance(child, ast.stmt) or (isinstance(child, ast.match_case) and not isinstance(node, ast.Match)):
                    continue
                if isinstance(node, FunctionNode) and field == "body":
                    continue
                children.append(child)
        pending.extend(reversed(children))


def minimal(data: bytes, span: Span, text: str) -> tuple[int, int, str]:
    """The smallest splice with the same result: equal results of different templates get equal splices."""
    start, end = span
    new = text.encode()
    old = data[start:end]
    prefix = 0
    while prefix < len(old) and prefix < len(new) and old[prefix] == new[prefix]:
        prefix += 1
    while prefix and prefix < max(len(old), len(new)) and _continues(old, new, prefix):
        prefix -= 1
    old, new, start = old[prefix:], new[prefix:], start + prefix
    suffix = 0
    while suffix < len(old) and suffix < len(new) and old[-1 - suffix] == new[-1 - suffix]:
        suffix += 1
    while suffix and (_is_continuation(old, len(old) - suffix) or _is_continuation(new, len(new) - suffix)):
        suffix -= 1
    if suffix:
        old, new = old[:-suffix], new[:-suffix]
    return start, start + len(old), new.decode()


def _continues(old: bytes, new: bytes, at: int) -> bool:
    return _is_continuation(old, at) or _is_continuation(new, at)


def _is_continuation(data: bytes, at: int) -> bool:
    """Is the byte at ``at`` inside a UTF-8 sequence?"""
    return at < len(data) and data[at] & 0xC0 == 0x80
