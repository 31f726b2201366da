"""The task families. Importing this package registers none of them: `all_families` does, when they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlp.core.registry import Registry

    from .base import Task


def all_families() -> Registry[type[Task]]:
    """Import the families that come with the harness and return the registry; `pkg.mod:Class` names others."""
    from . import base, corruption, mismatch, probe, segmentation
    from .classification import task as classification
    from .grounding import task as grounding
    from .retrieval import by_class
    from .retrieval import task as retrieval

    assert by_class and classification and corruption and grounding and mismatch
    assert probe and retrieval and segmentation
    return base.tasks
