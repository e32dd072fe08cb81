"""Replacement fields of f-strings and arguments of ``%`` formats: the same templates, applied to the expression inside.

Before Python 3.12 ``ast`` gives no usable positions inside f-strings, so the fields are found by reading the tokens.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator

from activities.explore.templates import proposing
from activities.explore.templates.names import local_names
from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module, Span, UnreadableSource

_OPEN, _CLOSE = "([{", ")]}"
_HEAD = "_("


@template("format.field", ast.JoinedStr)
def change_field(node: ast.JoinedStr, module: Module) -> Iterator[Proposal]:
    base = module.span(node)[0]
    names = local_names(module, node)
    for start, end in replacement_fields(module.text(node)):
        expression = module.text(node)[start:end]
        byte_start = base + len(module.text(node)[:start].encode())
        yield from _inside(expression, byte_start, names)


def _inside(expression: str, at: int, names: list[str]) -> Iterator[Proposal]:
    data = f"{_HEAD}{expression})".encode()
    try:
        inner = Module("<field>", data)
    except UnreadableSource:
        return
    statement = inner.tree.body[0]
    shift, limit = at - len(_HEAD), len(data) - 1
    for edit in proposing.edits_of_statement(inner, statement):
        if edit.start >= len(_HEAD) and edit.end <= limit:
            yield Proposal((edit.start + shift, edit.end + shift), edit.text, edit.prior)
    for found in ast.walk(statement):
        if isinstance(found, ast.Name) and found.id != "_":
            start, end = inner.span(found)
            for name in names[:8]:
                if name != found.id:
                    yield Proposal((start + shift, end + shift), name, 0.35)


def replacement_fields(text: str) -> Iterator[Span]:
    """Ranges (in characters) of the expressions in the f-strings of ``text``, which may be several literals in a row."""
    offset, lines = [0], text.splitlines(keepends=True)
    for line in lines:
        offset.append(offset[-1] + len(line))
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(f"({text})").readline))
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return
    for token in tokens:
        if token.type != tokenize.STRING:
            continue
        prefix = token.string[: len(token.string) - len(token.string.lstrip("rRbBuUfF"))]
        if "f" not in prefix.lower():
            continue
        begin = offset[token.start[0] - 1] + token.start[1] - (1 if token.start[0] == 1 else 0)
        quote = 3 if token.string[len(prefix) : len(prefix) + 3] in ('"""', "'''") else 1
        body = token.string[len(prefix) + quote : -quote]
        for start, end in _fields(body):
            yield begin + len(prefix) + quote + start, begin + len(prefix) + quote + end


def _fields(body: str) -> Iterator[Span]:
    position = 0
    while position < len(body):
        if body[position] in "{}" and body[position : position + 2] in ("{{", "}}"):
            position += 2
        elif body[position] == "{":
            end = _expression_end(body, position + 1)
            yield position + 1, end
            while position < len(body) and body[position] != "}":
                position += 1
        else:
            position += 1


def _expression_end(body: str, position: int) -> int:
    depth, quote = 0, ""
    while position < len(body):
        char = body[position]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE and depth:
            depth -= 1
        elif depth == 0 and (char in ":}=" or (char == "!" and body[position + 1 : position + 2] != "=")):
            if char == "=" and (
                body[position + 1 : position + 2] == "=" or body[position - 1 : position] in ("=", "!", "<", ">")
            ):
                position += 1
                continue
            return position
        position += 1
    return position
