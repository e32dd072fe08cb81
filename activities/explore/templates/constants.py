"""Constants: off by one, signs, the usual small values, other texts of the same module; ±1 around index-like values."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module, is_docstring


@template("constant.number", ast.Constant)
def change_number(node: ast.Constant, module: Module) -> Iterator[Proposal]:
    value, span = node.value, module.span(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int):
        yield Proposal(span, str(value + 1), 0.55)
        yield Proposal(span, str(value - 1) if value else module.placed(node, "-1"), 0.55)
        for other in (0, 1, 2, 10, 100, 1000):
            if other not in (value, value + 1, value - 1):
                yield Proposal(span, str(other), 0.25 if other < 2 else 0.08)
        yield Proposal(span, f"{value}.0" if value < 10**6 else str(value), 0.1)
    else:
        for text, prior in (
            (repr(value + 1), 0.3),
            (repr(value - 1), 0.3),
            (repr(value * 2), 0.1),
            (repr(value / 2), 0.15),
            (repr(value / 10), 0.15),
        ):
            yield Proposal(span, text, prior)
        for text in ("0.0", "1.0"):
            yield Proposal(span, text, 0.2)
    if value:
        yield Proposal(span, module.placed(node, f"-{module.text(node)}"), 0.3)
    yield Proposal(span, "None", 0.2)


@template("constant.truth", ast.Constant)
def change_truth(node: ast.Constant, module: Module) -> Iterator[Proposal]:
    if isinstance(node.value, bool):
        yield Proposal(module.span(node), str(not node.value), 0.6)
        yield Proposal(module.span(node), "None", 0.25)
    elif node.value is None:
        for text, prior in (("True", 0.25), ("False", 0.3), ("''", 0.3), ("0", 0.3), ("[]", 0.25), ("()", 0.2), ("{}", 0.2)):
            yield Proposal(module.span(node), text, prior)


@template("constant.text", ast.Constant)
def change_text(node: ast.Constant, module: Module) -> Iterator[Proposal]:
    if not isinstance(node.value, str) or module.text(node)[-1:] not in ("'", '"'):
        return
    if _is_statement(module, node):
        return
    span, text = module.span(node), module.text(node)
    yield Proposal(span, "None", 0.15)
    if node.value:
        yield Proposal(span, "''", 0.2)
    for other, _ in module.once("texts", make=lambda: _texts(module)).most_common(40):
        if other != text and _alike(other, text):
            yield Proposal(span, other, 0.15)
    if node.value and not text.startswith(("'''", '"""')):
        quote = text[-1]
        inner = text[:-1]
        if node.value.strip() != node.value:
            body = text[text.index(quote) + 1 : -1]
            yield Proposal(span, text[: text.index(quote)] + quote + body.strip() + quote, 0.25)
        else:
            yield Proposal(span, inner + " " + quote, 0.15)
            yield Proposal(span, text[: text.index(quote) + 1] + " " + text[text.index(quote) + 1 :], 0.12)
        for changed in (text.lower(), text.upper()):
            if changed != text and text[0] in "'\"":
                yield Proposal(span, changed, 0.15)


def _texts(module: Module) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and len(node.value) <= 24
            and not _is_statement(module, node)
        ):
            if not any(isinstance(above, ast.JoinedStr) for above in _near(module, node)):
                found[module.text(node)] += 1
    return found


def _near(module: Module, node: ast.AST) -> Iterator[ast.AST]:
    for above in module.ancestors(node):
        if isinstance(above, ast.stmt):
            return
        yield above


def _alike(one: str, other: str) -> bool:
    """Texts of similar length may be meant for one another; keeps the space small."""
    return abs(len(one) - len(other)) <= 3


def _is_statement(module: Module, node: ast.Constant) -> bool:
    parent = module.parent(node)
    return isinstance(parent, ast.stmt) and is_docstring(parent)


@template("arithmetic.off_by_one", ast.Subscript, ast.Slice, ast.Compare, ast.Call, ast.Return, ast.Assign, ast.AugAssign)
def off_by_one(node: ast.AST, module: Module) -> Iterator[Proposal]:
    """``x`` to ``x + 1`` and ``x - 1`` where numbers are counted, compared or used as positions."""
    for value, prior in _countable(node):
        if isinstance(
            value,
            ast.Constant
            | ast.Tuple
            | ast.Slice
            | ast.JoinedStr
            | ast.List
            | ast.Dict
            | ast.Starred
            | ast.Lambda
            | ast.GeneratorExp,
        ):
            continue
        text = (
            module.text(value)
            if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Sub)
            else module.operand(value)
        )
        for operator in ("+", "-"):
            yield Proposal(
                module.span(value),
                module.placed(value, f"{text} {operator} 1") if _tight(value, module) else f"{text} {operator} 1",
                prior,
            )


def _countable(node: ast.AST) -> Iterator[tuple[ast.expr, float]]:
    if isinstance(node, ast.Subscript):
        yield node.slice, 0.35
    elif isinstance(node, ast.Slice):
        yield from ((bound, 0.4) for bound in (node.lower, node.upper) if bound is not None)
    elif isinstance(node, ast.Compare):
        if not any(isinstance(operator, ast.Is | ast.IsNot | ast.In | ast.NotIn) for operator in node.ops):
            yield from ((value, 0.35) for value in (node.left, *node.comparators))
    elif isinstance(node, ast.Call):
        ranging = isinstance(node.func, ast.Name) and node.func.id in ("range", "xrange", "islice")
        yield from ((value, 0.5 if ranging else 0.15) for value in node.args)
    elif isinstance(node, ast.Return | ast.Assign | ast.AugAssign) and node.value is not None:
        arithmetic = isinstance(node.value, ast.BinOp | ast.Call | ast.Name | ast.Attribute)
        yield from ((node.value, 0.25) for _ in range(1 if arithmetic else 0))


def _tight(value: ast.expr, module: Module) -> bool:
    return isinstance(module.parent(value), ast.BinOp | ast.UnaryOp | ast.Await)
