"""Exception handlers: wider, narrower, or for a neighbouring class of error."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from activities.explore.templates.proposing import Proposal, template
from activities.explore.templates.source import Module
from activities.explore.templates.tables import siblings

_PARTNERS = siblings(
    """
KeyError: IndexError TypeError AttributeError
IndexError: KeyError TypeError
ValueError: TypeError KeyError OverflowError
TypeError: ValueError AttributeError KeyError
AttributeError: TypeError KeyError ImportError
ImportError: AttributeError
OSError: ValueError UnicodeDecodeError
IOError: ValueError
ZeroDivisionError: TypeError ValueError
StopIteration: IndexError
UnicodeDecodeError: UnicodeEncodeError ValueError
UnicodeEncodeError: UnicodeDecodeError ValueError
OverflowError: ValueError
FileNotFoundError: NotADirectoryError PermissionError OSError
RuntimeError: ValueError TypeError
LookupError: TypeError
"""
)


@template("handler.widen", ast.ExceptHandler)
def widen_handler(node: ast.ExceptHandler, module: Module) -> Iterator[Proposal]:
    if node.type is None:
        return
    span, text = module.span(node.type), module.text(node.type)
    if text != "Exception":
        yield Proposal(span, "Exception", 0.4)
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    named = [module.text(kind) for kind in kinds]
    for name in named:
        for partner in _PARTNERS.get(name, ()):
            if partner not in named:
                yield Proposal(span, f"({', '.join([*named, partner])})", 0.45)
                if len(named) == 1:
                    yield Proposal(span, partner, 0.3)


@template("raise.other", ast.Raise)
def raise_other(node: ast.Raise, module: Module) -> Iterator[Proposal]:
    """Raise a neighbouring class of error."""
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if isinstance(raised, ast.Name):
        for partner in _PARTNERS.get(raised.id, ()):
            yield Proposal(module.span(raised), partner, 0.4)


@template("raise.to_return", ast.Raise)
def raise_to_return(node: ast.Raise, module: Module) -> Iterator[Proposal]:
    for text, prior in (("return", 0.2), ("pass", 0.15), ("return False", 0.15), ("raise", 0.15)):
        yield Proposal(module.span(node), text, prior)
