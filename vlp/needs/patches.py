"""The embeddings of an image's patches, and the attention of the pooling tokens."""

from __future__ import annotations

from vlp.batch import Batch, ModelOutput

from .base import Features, Model, Need, needs


@needs.register("patches")
class Patches(Need):
    """`ModelOutput.patches` [B, P, D] with `patch_attention` [B, P] of the pooling token, and their `grid`."""

    hint = "choose an image tower that returns a feature map (model.image)"
    uses = frozenset({"patch_head", "patches"})

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        output.patches, output.patch_attention, output.grid = (
            features.patches,
            features.patch_attention,
            model.grid_of(batch.image),
        )


@needs.register("attention")
class Attention(Need):
    """`ModelOutput.patch_attention`, `word_attention`: the towers record it, the needs `patches` and `words` return it."""

    is_optional = True
    uses = frozenset({"attention"})
