"""The task families: importing the package registers them. `pkg.mod:Class` in a suite names one of another package."""

from . import corruption, mismatch, probe, segmentation
from .classification import task as classification
from .grounding import task as grounding
from .retrieval import by_class
from .retrieval import task as retrieval

__all__ = ["by_class", "classification", "corruption", "grounding", "mismatch", "probe", "retrieval", "segmentation"]
