"""The same real server and policy engine as the tests of the gate."""

from __future__ import annotations

from tests.kernel.conftest import folder, opa, server

__all__ = ["folder", "opa", "server"]
