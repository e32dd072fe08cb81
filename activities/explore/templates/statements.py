"""Statements: deleted, exchanged with a neighbour, moved out of their block; jumps and returns changed."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

from activities.explore.templates.names import local_names
from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import FunctionNode, Module, Span

_SIMPLE = (
    ast.Expr,
    ast.Assign,
    ast.AugAssign,
    ast.AnnAssign,
    ast.Return,
    ast.Raise,
    ast.Assert,
    ast.Delete,
    ast.Continue,
    ast.Break,
    ast.Pass,
)
_COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try)
_MAX_LINES = 12


def whole_lines(module: Module, statement: ast.stmt) -> Span | None:
    """The lines of a statement with their newline; None when it shares them with others."""
    if module.indent_of(statement) is None:
        return None
    start, end = module.span(statement)
    line_end = module.line_end(end)
    rest = module.between(end, line_end).strip()
    if rest and not rest.startswith("#"):
        return None
    return module.line_start(start), line_end


def _height(statement: ast.stmt) -> int:
    return (statement.end_lineno or statement.lineno) - statement.lineno + 1


@template("statement.delete", *_SIMPLE, *_COMPOUND)
def delete_statement(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    if isinstance(node, ast.Pass) or _height(node) > _MAX_LINES:
        return
    block = module.block_of(node)
    lines = whole_lines(module, node)
    is_elif = isinstance(node, ast.If) and module.data[module.span(node)[0] :].startswith(b"elif")
    prior = 0.35 if isinstance(node, _SIMPLE) else 0.2
    if is_elif:
        return
    if len(block) > 1 and lines is not None:
        yield Proposal(lines, "", prior)
    else:
        yield Proposal(module.span(node), "pass", prior)


@template("statement.exchange", *_SIMPLE, *_COMPOUND)
def exchange_with_next(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """The statement and the one behind it change places; so do the one before it and it."""
    block = module.block_of(node)
    index = block.index(node)
    for first, second in ((index - 1, index), (index, index + 1)):
        if first < 0 or second >= len(block) or _height(block[first]) > _MAX_LINES or _height(block[second]) > _MAX_LINES:
            continue
        if isinstance(block[first], FunctionNode | ast.ClassDef) or isinstance(block[second], FunctionNode | ast.ClassDef):
            continue
        one, other = whole_lines(module, block[first]), whole_lines(module, block[second])
        if one is None or other is None or not module.data[: other[1]].endswith((b"\n", b"\r")):
            continue
        text = module.between(*other) + module.between(one[1], other[0]) + module.between(*one)
        yield Proposal((one[0], other[1]), text, 0.3)


@template("statement.outdent", *_SIMPLE)
def move_out_of_block(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """The last statement of an ``if`` or a loop becomes the one behind it."""
    parent = module.parent(node)
    if not isinstance(parent, ast.If | ast.For | ast.While | ast.With) or parent.end_lineno != node.end_lineno:
        return
    block, lines, indent = module.block_of(node), whole_lines(module, node), module.indent_of(parent)
    if lines is None or indent is None or block[-1] is not node:
        return
    moved = textwrap.indent(textwrap.dedent(module.between(*lines)), indent)
    yield Proposal(
        lines, moved if len(block) > 1 else module.between(lines[0], module.span(node)[0]) + "pass" + module.newline + moved, 0.3
    )


@template("statement.indent", *_SIMPLE)
def move_into_block(node: ast.stmt, module: Module) -> Iterator[Proposal]:
    """The statement behind an ``if`` or a loop becomes the last one inside."""
    block = module.block_of(node)
    index = block.index(node)
    before = block[index - 1] if index else None
    if not isinstance(before, ast.If | ast.For | ast.While | ast.With):
        return
    last = before.orelse[-1] if getattr(before, "orelse", None) else before.body[-1]  # type: ignore[union-attr]
    lines, indent = whole_lines(module, node), module.indent_of(last)
    if lines is None or indent is None:
        return
    moved = textwrap.indent(textwrap.dedent(module.between(*lines)), indent)
    yield Proposal(lines, moved, 0.25)


@template("jump.other", ast.Break, ast.Continue)
def change_jump(node: ast.Break | ast.Continue, module: Module) -> Iterator[Proposal]:
    yield Proposal(module.span(node), "continue" if isinstance(node, ast.Break) else "break", 0.45)
    yield Proposal(module.span(node), "return", 0.2)
    yield Proposal(module.span(node), "pass", 0.25)


@template("return.value", ast.Return)
def change_return(node: ast.Return, module: Module) -> Iterator[Proposal]:
    """Another local, or one of the values that functions return in odd cases."""
    start, end = module.span(node)
    present = module.text(node.value) if node.value else ""
    for text, prior in (
        ("None", 0.25),
        ("True", 0.25),
        ("False", 0.25),
        ("[]", 0.2),
        ("''", 0.2),
        ("0", 0.2),
        ("{}", 0.15),
        ("()", 0.15),
        ("self", 0.15),
    ):
        if text != present:
            yield Proposal((start, end), f"return {text}", prior)
    for name in local_names(module, node)[:8]:
        if name != present:
            yield Proposal((start, end), f"return {name}", 0.3)
    if node.value is not None:
        yield Proposal((start, end), f"yield {module.operand(node.value)}", 0.08)


@template("statement.return", ast.Expr)
def return_result(node: ast.Expr, module: Module) -> Iterator[Proposal]:
    """``f(x)`` to ``return f(x)`` or ``x = x.f()``; ``yield x`` to ``yield from x`` and back."""
    start = module.span(node)[0]
    value = node.value
    if isinstance(value, ast.Call | ast.Compare | ast.BinOp | ast.Name | ast.Attribute) and module.function_of(node) is not None:
        yield Proposal((start, start), "return ", 0.35)
    if (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and isinstance(value.func.value, ast.Name | ast.Attribute)
    ):
        yield Proposal((start, start), f"{module.text(value.func.value)} = ", 0.35)
    if isinstance(value, ast.Compare) and isinstance(value.ops[0], ast.Eq) and len(value.ops) == 1:
        yield Proposal(module.span(value), f"{module.text(value.left)} = {module.text(value.comparators[0])}", 0.5)


@template("yield.from", ast.Yield, ast.YieldFrom)
def change_yield(node: ast.Yield | ast.YieldFrom, module: Module) -> Iterator[Proposal]:
    if node.value is not None:
        yield Proposal(
            module.span(node), f"yield {'from ' if isinstance(node, ast.Yield) else ''}{module.text(node.value)}", 0.35
        )
