"""Phrase grounding. Importing the package registers it."""

from . import task

__all__ = ["task"]
