"""A test passes by coming to its end. unittest lets one signal of its own end a test silently; no test is ended by it here."""

from __future__ import annotations

import functools
import inspect
import unittest.case
from collections.abc import Generator
from typing import Any

_STOP: type[BaseException] = getattr(unittest.case, "_ShouldStop", type("Never", (BaseException,), {}))
_AROUND = ("setUp", "tearDown", "asyncSetUp", "asyncTearDown")
_WHY = "the test was ended by unittest's own signal before it came to its end"


class Whole:
    """Pytest plugin. Where a subtest that failed raises the signal, its test has failed already, or was expected to."""

    def pytest_runtest_call(self, item: Any) -> Generator[None, None, None]:
        method = getattr(item, "obj", None)
        case = method.__self__ if inspect.ismethod(method) else None
        if not isinstance(case, unittest.TestCase):
            yield
            return
        item.obj = _whole(method)
        # pytest itself puts ``item.obj`` into the case, but not one that has to be awaited.
        names = (*_AROUND, method.__name__) if inspect.iscoroutinefunction(method) else _AROUND
        around = [name for name in names if name not in vars(case) and inspect.ismethod(getattr(case, name, None))]
        for name in around:
            setattr(case, name, _whole(getattr(case, name)))
        yield
        for name in around:
            vars(case).pop(name, None)

    # Marked by hand: pytest must not be imported before the path is set.
    pytest_runtest_call.pytest_impl = {"hookwrapper": True, "tryfirst": True}  # type: ignore[attr-defined]


def _whole(method: Any) -> Any:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def awaited(*arguments: Any) -> Any:
            try:
                return await method(*arguments)
            except _STOP as error:
                raise AssertionError(_WHY) from error

        return awaited

    @functools.wraps(method)
    def called(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except _STOP as error:
            raise AssertionError(_WHY) from error

    return called
