"""Nested values by dotted names."""

from lookup.paths import dig

__all__ = ["dig"]
