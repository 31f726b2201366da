"""Training objectives: one file each, entered into `base.objectives` on import (add yours to the imports below)."""

from . import assertion, clip, concept, convirt, siglip
from .base import Objective, ObjectiveSum, build_objectives, objectives

__all__ = [
    "Objective",
    "ObjectiveSum",
    "assertion",
    "build_objectives",
    "clip",
    "concept",
    "convirt",
    "objectives",
    "siglip",
]
