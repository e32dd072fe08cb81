"""Single-edit templates: small, general changes of Python source, as splices that leave every other byte alone."""

from __future__ import annotations

from activities.explore.templates.proposing import Edit, Proposal, edits_of_statement, template_names
from activities.explore.templates.source import Module, UnreadableSource

__all__ = ["Edit", "Module", "Proposal", "UnreadableSource", "edits_of_statement", "template_names"]
