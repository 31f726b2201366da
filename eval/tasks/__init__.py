"""The task families: importing the package registers them. `pkg.mod:Class` in a suite names one of another package."""

from . import classification, corruption, grounding, mismatch, probe, retrieval, segmentation

__all__ = ["classification", "corruption", "grounding", "mismatch", "probe", "retrieval", "segmentation"]
