"""The attention of the pooling tokens, which comes with the patches and the words where a tower has any."""

from __future__ import annotations

from .base import Need, needs


@needs.register("attention")
class Attention(Need):
    """`ModelOutput.patch_attention`, `word_attention`: the towers record it, the needs `patches` and `words` return it."""

    is_optional = True
    uses = frozenset({"attention"})
