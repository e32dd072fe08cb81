"""Defaults."""

FIRST_PAGE = 0
PER_PAGE = 3
