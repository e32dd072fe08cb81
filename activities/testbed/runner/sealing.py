"""Objects of ours that code under test cannot blind by replacing what their class, their module or ``builtins`` holds."""

from __future__ import annotations

import builtins
import sys
from types import FunctionType, MethodType
from typing import Any


def seal(one: object) -> None:
    """Give ``one`` methods of its own, and these the names of their module and the built-ins as they are now."""
    module = vars(sys.modules[type(one).__module__])
    names: dict[str, Any] = {**module, "__builtins__": {**vars(builtins)}}
    for name, function in module.items():
        if isinstance(function, FunctionType) and function.__globals__ is module:
            names[name] = _with_names(function, names)
    for name, function in vars(type(one)).items():
        if isinstance(function, FunctionType) and name != "__init__":
            vars(one)[name] = MethodType(_with_names(function, names), one)


def _with_names(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    sealed = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    sealed.__dict__.update(vars(function))
    return sealed
