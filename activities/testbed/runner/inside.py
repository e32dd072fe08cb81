"""The process in which the target's tests run: a fresh interpreter that the supervisor has told what to do."""

from __future__ import annotations

import json
import os
import time
import traceback
from typing import Any, NoReturn

from .child import CLOCK_RUNS, NO_TRACER, PYTEST_MISSING, Reporter, leave
from .integrity import Integrity
from .measuring import Lines
from .network import NetworkWatch
from .planting import Planting
from .reaching import Reaching
from .reporting import Reporting, Selection, leaving_out
from .target import PutTreeFirst, Target, pytest_arguments
from .whole import Whole


def run(descriptor: int) -> NoReturn:
    """Read the order from ``descriptor``, do it, and end."""
    code = 70
    try:
        with os.fdopen(descriptor) as file:
            told = json.load(file)
        os.set_inheritable(told["descriptor"], False)
        code = _run(told["order"], Reporter(told["descriptor"], told["token"]))
    except BaseException:  # noqa: BLE001  whatever foreign code raises ends here, with its text in the tail
        traceback.print_exc()
    leave(code)


def _run(order: dict[str, Any], report: Reporter) -> int:
    job = order["job"]
    if job.get("clock") is not None and int(time.time()) != job["clock"]:
        return CLOCK_RUNS
    selection = Selection(
        done=frozenset(order["done"]),
        broken_files=frozenset(order["broken_files"]),
        only=frozenset(job.get("only", ())),
        reverse=job.get("order") == "reversed",
    )
    target = Target(job)
    lines = Lines.load(job["harness"], target.work, report) if job.get("measure") else None
    if job.get("measure") and lines is None:
        return NO_TRACER
    network = NetworkWatch()
    network.start()
    target.enter()
    try:
        import pytest
    except ModuleNotFoundError:
        return PYTEST_MISSING
    report("runner", version=str(pytest.__version__))
    reporting = Reporting(target, selection, report, network, lines)
    planting = Planting(order["sentinels"], report, alone=bool(selection.done))
    integrity = Integrity(report, Reaching(report, target.environment), [reporting, planting], target.work)
    plugins = [
        PutTreeFirst(target), *([] if lines is None else [lines]), reporting, planting, Whole(), integrity,
        leaving_out(selection, pytest.__version__),
    ]  # fmt: skip
    code = int(pytest.main(pytest_arguments(job["pytest_args"]), plugins=plugins))
    report("finish", exit_code=code)
    return code
