"""Needs: what objectives ask for beside the embeddings of images and texts, one file each. Add yours to the imports below."""

# ruff: noqa: F401
from . import depths, labels, logit_scale, masked_patches, organs, patches, phrases, prompts, spans, text_view, words
from .base import Need, find_needs, needs

__all__ = ["Need", "find_needs", "needs"]
