"""Subscripts and slices: other bounds, other ends, a slice or an index instead of the whole."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module


@template("slice.bounds", ast.Slice)
def change_bounds(node: ast.Slice, module: Module) -> Iterator[Proposal]:
    """Bounds dropped, added, exchanged."""
    lower = module.text(node.lower) if node.lower else ""
    upper = module.text(node.upper) if node.upper else ""
    step = f":{module.text(node.step)}" if node.step else ""
    span = module.span(node)
    if lower:
        yield Proposal(span, f":{upper}{step}", 0.35)
    if upper:
        yield Proposal(span, f"{lower}:{step}", 0.35)
    if lower != upper:
        yield Proposal(span, f"{upper}:{lower}{step}", 0.3)
    if not lower:
        yield Proposal(span, f"1:{upper}{step}", 0.35)
    if not upper:
        yield Proposal(span, f"{lower}:-1{step}", 0.35)
    if not step:
        yield Proposal(span, f"{lower}:{upper}:-1", 0.12)
    else:
        yield Proposal(span, f"{lower}:{upper}", 0.25)
    if node.upper is not None and isinstance(node.upper, ast.UnaryOp):
        yield Proposal(module.span(node.upper), module.operand(node.upper.operand), 0.2)


@template("subscript.index", ast.Subscript)
def change_index(node: ast.Subscript, module: Module) -> Iterator[Proposal]:
    """First and last; an index to a slice from or up to it."""
    index = node.slice
    if isinstance(index, ast.Slice | ast.Tuple) or not isinstance(node.ctx, ast.Load):
        return
    text, span = module.text(index), module.span(index)
    if isinstance(index, ast.Constant) and isinstance(index.value, int):
        yield Proposal(span, "-1", 0.45)
    if isinstance(index, ast.UnaryOp):
        yield Proposal(span, "0", 0.45)
    if not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
        yield Proposal(span, f"{text}:", 0.15)
        yield Proposal(span, f":{text}", 0.15)
        yield Proposal(span, f"-{module.operand(index)}", 0.12)


@template("subscript.drop", ast.Subscript)
def drop_subscript(node: ast.Subscript, module: Module) -> Iterator[Proposal]:
    if isinstance(node.ctx, ast.Load):
        yield Proposal(module.span(node), module.operand(node.value), 0.25)


@template("subscript.add", ast.Return, ast.Assign)
def add_subscript(node: ast.Return | ast.Assign, module: Module) -> Iterator[Proposal]:
    """The first, the last, or a copy of the value."""
    if isinstance(node.value, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        end = module.span(node.value)[1]
        for text, prior in (("[0]", 0.2), ("[-1]", 0.15), ("[:]", 0.15), ("[1:]", 0.12), ("[:-1]", 0.12), ("[::-1]", 0.12)):
            yield Proposal((end, end), text, prior)
