"""What the fixture ``gen4`` gives: exit code and document of a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Gen4 = Callable[..., tuple[int, Any]]
