"""Triplets (place, finding, what is stated), which a loader of one's own fills in."""

from __future__ import annotations

from .base import LoaderNeed, needs


@needs.register("extras.triplets")
class Triplets(LoaderNeed):
    """`Batch.extras["triplets"]` [B, A, Q] int8, see `MedSlip`."""

    hint = "no loader of ours fills it; mentions do: from_extras: false"
