"""Zero-shot classification: multi-label and multi-class. Importing the package registers it."""

from . import task

__all__ = ["task"]
