"""Conditions: negated, forced, asked for None instead of truth; conditional expressions turned round."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module

_TESTS = (ast.If, ast.While, ast.IfExp, ast.Assert)
_VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.Call)


def negated(module: Module, node: ast.expr) -> str:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return module.text(node.operand)
    return f"not {module.operand(node)}"


@template("condition.negate", *_TESTS)
def negate_condition(node: ast.If | ast.While | ast.IfExp | ast.Assert, module: Module) -> Iterator[Proposal]:
    yield Proposal(module.span(node.test), negated(module, node.test), 0.5)


@template("condition.force", *_TESTS)
def force_condition(node: ast.If | ast.While | ast.IfExp | ast.Assert, module: Module) -> Iterator[Proposal]:
    if isinstance(node, ast.If | ast.IfExp):
        yield Proposal(module.span(node.test), "True", 0.2)
    if not isinstance(node, ast.Assert):
        yield Proposal(module.span(node.test), "False", 0.2)


@template("condition.negate", ast.BoolOp)
def negate_operand(node: ast.BoolOp, module: Module) -> Iterator[Proposal]:
    for value in node.values:
        yield Proposal(module.span(value), negated(module, value), 0.35)


@template("condition.negate", ast.comprehension)
def negate_filter(node: ast.comprehension, module: Module) -> Iterator[Proposal]:
    for value in node.ifs:
        yield Proposal(module.span(value), negated(module, value), 0.4)


@template("condition.negate", ast.UnaryOp)
def remove_not(node: ast.UnaryOp, module: Module) -> Iterator[Proposal]:
    if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield Proposal(module.span(node), module.operand(node.operand), 0.45)


@template("condition.negate", ast.Return, ast.Assign)
def negate_value(node: ast.Return | ast.Assign, module: Module) -> Iterator[Proposal]:
    if isinstance(node.value, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Call | ast.Name):
        yield Proposal(module.span(node.value), negated(module, node.value), 0.25)


def _asked(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions whose truth is asked."""
    if isinstance(node, _TESTS):
        yield node.test
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.comprehension):
        yield from node.ifs


@template("condition.none", *_TESTS, ast.BoolOp, ast.comprehension)
def ask_for_none(node: ast.AST, module: Module) -> Iterator[Proposal]:
    """Truth of ``x`` to ``x is not None`` and back; ``not x`` to ``x is None`` and back."""
    for asked in _asked(node):
        span = module.span(asked)
        if isinstance(asked, _VALUES):
            yield Proposal(span, f"{module.operand(asked)} is not None", 0.5)
            yield Proposal(span, f"{module.operand(asked)} is None", 0.2)
        elif isinstance(asked, ast.UnaryOp) and isinstance(asked.op, ast.Not) and isinstance(asked.operand, _VALUES):
            yield Proposal(span, f"{module.operand(asked.operand)} is None", 0.5)
        elif isinstance(asked, ast.Compare) and _is_none_test(asked):
            plain = module.operand(asked.left)
            yield Proposal(span, plain if isinstance(asked.ops[0], ast.IsNot) else f"not {plain}", 0.4)


@template("condition.guard", *_TESTS)
def guard_condition(node: ast.If | ast.While | ast.IfExp | ast.Assert, module: Module) -> Iterator[Proposal]:
    """``test`` to ``x is not None and test`` / ``x is None or test``, and the same with the truth of ``x``."""
    seen: set[str] = set()
    for value in ast.walk(node.test):
        if not isinstance(value, ast.Name | ast.Attribute) or not isinstance(value.ctx, ast.Load):
            continue
        parent = module.parent(value)
        if isinstance(parent, ast.Call) and value is parent.func:
            continue
        text = module.text(value)
        if text in seen or len(seen) >= 4:
            continue
        seen.add(text)
        test = (
            module.text(node.test)
            if not isinstance(node.test, ast.BoolOp | ast.IfExp | ast.Lambda)
            else f"({module.text(node.test)})"
        )
        for guard, prior in (
            (f"{text} is not None and", 0.3),
            (f"{text} is None or", 0.3),
            (f"{text} and", 0.2),
            (f"not {text} or", 0.2),
        ):
            yield Proposal(module.span(node.test), f"{guard} {test}", prior)


@template("condition.swap", ast.IfExp)
def swap_branches(node: ast.IfExp, module: Module) -> Iterator[Proposal]:
    (start, body_end), (other_start, end) = module.span(node.body), module.span(node.orelse)
    yield Proposal((start, end), module.text(node.orelse) + module.between(body_end, other_start) + module.text(node.body), 0.3)


@template("condition.choose", ast.IfExp)
def choose_branch(node: ast.IfExp, module: Module) -> Iterator[Proposal]:
    yield Proposal(module.span(node), module.operand(node.body), 0.25)
    yield Proposal(module.span(node), module.operand(node.orelse), 0.25)


@template("condition.default", ast.BoolOp)
def or_to_none_test(node: ast.BoolOp, module: Module) -> Iterator[Proposal]:
    """``x or y`` to ``x if x is not None else y``: falsy values are values."""
    if isinstance(node.op, ast.Or) and len(node.values) == 2 and isinstance(node.values[0], _VALUES):
        left, right = module.operand(node.values[0]), module.operand(node.values[1])
        yield Proposal(module.span(node), module.placed(node, f"{left} if {left} is not None else {right}"), 0.45)


@template("condition.chain", ast.If)
def elif_to_if(node: ast.If, module: Module) -> Iterator[Proposal]:
    """``elif`` to ``if`` and a following ``if`` to ``elif``."""
    start, _ = module.span(node)
    if module.data[start : start + 4] == b"elif":
        yield Proposal((start, start + 4), "if", 0.25)
        return
    block = module.block_of(node)
    index = block.index(node)
    if index and isinstance(block[index - 1], ast.If):
        yield Proposal((start, start), "el", 0.25)


def _is_none_test(node: ast.Compare) -> bool:
    right = node.comparators[0]
    return (
        len(node.ops) == 1
        and isinstance(node.ops[0], ast.Is | ast.IsNot)
        and isinstance(right, ast.Constant)
        and right.value is None
    )
