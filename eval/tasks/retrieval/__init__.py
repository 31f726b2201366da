"""Image-text retrieval, and retrieval by class. Importing the package registers it."""

from . import by_class, task

__all__ = ["by_class", "task"]
