"""Logs in which foreign text cannot pass for a record of ours or steer the terminal of who reads them (threats 6.10)."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from schemas.text import plain

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CONTINUED = "    | "


class InertFormatter(logging.Formatter):
    """A record starts at the margin; whatever follows its first line (a traceback, a message with line ends) does not."""

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).splitlines() or [""]
        return "\n".join((plain(first), *(CONTINUED + plain(line) for line in rest)))


def configure(stream: TextIO = sys.stderr) -> None:
    """Warnings and worse of this process, ours and those of libraries, go to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(InertFormatter(FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
