"""Comparison, boolean and arithmetic operators: replaced, swapped, and one operand dropped."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module, Span

_COMPARISONS: dict[str, tuple[tuple[str, float], ...]] = {
    "<": (("<=", 0.9), (">", 0.4), (">=", 0.35), ("!=", 0.25), ("==", 0.2)),
    "<=": (("<", 0.9), (">=", 0.4), (">", 0.35), ("==", 0.25), ("!=", 0.2)),
    ">": ((">=", 0.9), ("<", 0.4), ("<=", 0.35), ("!=", 0.25), ("==", 0.2)),
    ">=": ((">", 0.9), ("<=", 0.4), ("<", 0.35), ("==", 0.25), ("!=", 0.2)),
    "==": (("!=", 0.6), ("<=", 0.4), (">=", 0.4), ("is", 0.2), ("in", 0.3), ("<", 0.15), (">", 0.15)),
    "!=": (("==", 0.6), ("<", 0.3), (">", 0.3), ("is not", 0.2), ("not in", 0.3)),
    "is": (("is not", 0.5), ("==", 0.4)),
    "is not": (("is", 0.5), ("!=", 0.4)),
    "in": (("not in", 0.6), ("==", 0.3)),
    "not in": (("in", 0.6), ("!=", 0.3)),
}
_SPELLED = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.LShift: "<<", ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.MatMult: "@",
}  # fmt: skip
_ARITHMETIC: dict[str, tuple[tuple[str, float], ...]] = {
    "+": (("-", 0.6), ("*", 0.2), ("|", 0.1)),
    "-": (("+", 0.6), ("*", 0.15), ("/", 0.1), ("%", 0.1)),
    "*": (("/", 0.3), ("**", 0.3), ("+", 0.3), ("//", 0.2), ("-", 0.15)),
    "/": (("//", 0.6), ("*", 0.4), ("%", 0.25), ("-", 0.15)),
    "//": (("/", 0.6), ("%", 0.4), ("*", 0.25)),
    "%": (("//", 0.5), ("/", 0.3), ("*", 0.2), ("-", 0.15)),
    "**": (("*", 0.5), ("^", 0.2)),
    "<<": ((">>", 0.5),),
    ">>": (("<<", 0.5),),
    "&": (("|", 0.5), ("^", 0.3), ("-", 0.1)),
    "|": (("&", 0.5), ("^", 0.3), ("+", 0.1)),
    "^": (("|", 0.4), ("&", 0.4), ("**", 0.3)),
}


def operator_span(module: Module, left: int, right: int, spelled: str) -> Span | None:
    """Where the operator stands between two operands; None when a comment makes that unclear."""
    gap = module.between(left, right)
    if "#" in gap:
        return None
    pattern = r"\s+".join(re.escape(word) for word in spelled.split())
    match = re.search(pattern, gap)
    return None if match is None else (left + len(gap[: match.start()].encode()), left + len(gap[: match.end()].encode()))


@template("compare.operator", ast.Compare)
def replace_comparison(node: ast.Compare, module: Module) -> Iterator[Proposal]:
    operands = [node.left, *node.comparators]
    for (left, right), operator in zip(pairwise(operands), node.ops, strict=True):
        spelled = _SPELLED[type(operator)]
        found = operator_span(module, module.span(left)[1], module.span(right)[0], spelled)
        if found is None:
            continue
        for other, prior in _COMPARISONS[spelled]:
            yield Proposal(found, _spaced(module, found, other), prior)


@template("compare.swap", ast.Compare)
def swap_comparison(node: ast.Compare, module: Module) -> Iterator[Proposal]:
    if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn | ast.Lt | ast.Gt | ast.LtE | ast.GtE):
        yield _swapped(module, node.left, node.comparators[0], 0.25)


@template("boolean.operator", ast.BoolOp)
def replace_boolean(node: ast.BoolOp, module: Module) -> Iterator[Proposal]:
    spelled, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in pairwise(node.values):
        if found := operator_span(module, module.span(left)[1], module.span(right)[0], spelled):
            yield Proposal(found, other, 0.6)


@template("boolean.drop", ast.BoolOp)
def drop_operand(node: ast.BoolOp, module: Module) -> Iterator[Proposal]:
    spelled = " and " if isinstance(node.op, ast.And) else " or "
    for dropped in node.values:
        kept = [module.operand(value) for value in node.values if value is not dropped]
        text = spelled.join(kept)
        yield Proposal(module.span(node), text if len(kept) == 1 else module.placed(node, text), 0.45)


@template("boolean.swap", ast.BoolOp)
def swap_boolean(node: ast.BoolOp, module: Module) -> Iterator[Proposal]:
    for left, right in pairwise(node.values):
        yield _swapped(module, left, right, 0.25)


@template("arithmetic.operator", ast.BinOp)
def replace_arithmetic(node: ast.BinOp, module: Module) -> Iterator[Proposal]:
    spelled = _SPELLED[type(node.op)]
    if spelled == "%" and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str | bytes):
        return  # formatting, not arithmetic
    found = operator_span(module, module.span(node.left)[1], module.span(node.right)[0], spelled)
    if found is not None:
        for other, prior in _ARITHMETIC.get(spelled, ()):
            yield Proposal(found, other, prior)


@template("arithmetic.drop", ast.BinOp)
def drop_term(node: ast.BinOp, module: Module) -> Iterator[Proposal]:
    yield Proposal(module.span(node), module.operand(node.left), 0.35)
    yield Proposal(module.span(node), module.operand(node.right), 0.3)


@template("arithmetic.swap", ast.BinOp)
def swap_operands(node: ast.BinOp, module: Module) -> Iterator[Proposal]:
    if not isinstance(node.op, ast.Mult | ast.BitAnd | ast.BitOr | ast.BitXor):
        yield _swapped(module, node.left, node.right, 0.35)


@template("arithmetic.regroup", ast.BinOp)
def regroup(node: ast.BinOp, module: Module) -> Iterator[Proposal]:
    """``a + b * c`` to ``(a + b) * c`` and ``(a + b) * c`` to ``a + b * c``."""
    for side in (node.left, node.right):
        if not isinstance(side, ast.BinOp):
            continue
        start, end = module.span(side)
        outer_start, outer_end = module.span(node)
        before, after = module.between(outer_start, start), module.between(end, outer_end)
        text = module.text(side)
        if before.rstrip().endswith("(") and after.lstrip().startswith(")"):
            yield Proposal((outer_start, outer_end), before.rstrip()[:-1] + text + after.lstrip()[1:], 0.35)
        elif side is node.right:
            yield Proposal(
                (outer_start, module.span(side.left)[1]), f"({module.between(outer_start, module.span(side.left)[1])})", 0.35
            )
        else:
            inner = module.span(side.right)[0]
            yield Proposal((inner, outer_end), f"({module.between(inner, outer_end)})", 0.35)


@template("assign.operator", ast.AugAssign)
def replace_augmented(node: ast.AugAssign, module: Module) -> Iterator[Proposal]:
    spelled = _SPELLED[type(node.op)]
    found = operator_span(module, module.span(node.target)[1], module.span(node.value)[0], spelled + "=")
    if found is not None:
        for other, prior in _ARITHMETIC.get(spelled, ()):
            yield Proposal(found, other + "=", prior)
        yield Proposal(found, "=", 0.4)


@template("assign.accumulate", ast.Assign)
def assign_to_augmented(node: ast.Assign, module: Module) -> Iterator[Proposal]:
    """``x = y`` to ``x += y``: a value overwritten where it should have been collected."""
    if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name | ast.Attribute | ast.Subscript):
        if found := operator_span(module, module.span(node.targets[0])[1], module.span(node.value)[0], "="):
            yield Proposal(found, "+=", 0.25)
            yield Proposal(found, "-=", 0.1)


def _swapped(module: Module, left: ast.expr, right: ast.expr, prior: float) -> Proposal:
    (start, left_end), (right_start, end) = module.span(left), module.span(right)
    return Proposal((start, end), module.text(right) + module.between(left_end, right_start) + module.text(left), prior)


def _spaced(module: Module, span: Span, word: str) -> str:
    """``word`` with the blanks that a word operator needs where a symbol stood without any."""
    if not word[0].isalpha():
        return word
    before = "" if module.data[span[0] - 1 : span[0]].isspace() else " "
    after = "" if module.data[span[1] : span[1] + 1].isspace() else " "
    return before + word + after
