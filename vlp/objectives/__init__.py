"""Training objectives: one file each, entered into `base.objectives` on import. Add yours to the imports below."""

# ruff: noqa: F401
from . import (
    anatomy,
    assertion,
    clip,
    concept,
    convirt,
    depth,
    dhn_nce,
    gloria,
    mae,
    medclip,
    medslip,
    mgca,
    multi_text,
    siglip,
    unicl,
)
from .base import Objective, ObjectiveSum, build_objectives, objectives

__all__ = ["Objective", "ObjectiveSum", "build_objectives", "objectives"]
