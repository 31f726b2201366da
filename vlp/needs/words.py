"""The embeddings of a text's tokens, and of its words, which are sums of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.batch import Batch, ModelOutput
from vlp.batch import Tokens as TokenIds

from .base import Features, Model, Need, needs


@needs.register("words")
class Words(Need):
    """`ModelOutput.words` [B, N, D] with `word_mask` [B, N] and `word_attention` [B, N] of the pooling token."""

    hint = "choose a text tower that returns token states, and a tokenizer with a word map"
    uses = frozenset({"word_head"})

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        assert features.states is not None
        states, of_word = by_word(features.states, batch.text)
        output.word_mask = of_word.any(1)
        output.words = model.project_words(states, output.word_mask)
        if features.state_attention is not None:
            output.word_attention = sum_pieces(features.state_attention, batch.text.words, of_word.shape[-1])


@needs.register("tokens")
class Tokens(Need):
    """`ModelOutput.tokens` [B, L, D]."""

    hint = "choose a text tower that returns token states (model.text)"
    uses = frozenset({"word_head", "token_states"})

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        assert features.states is not None
        mask, has_text = batch.text.mask, features.has_text
        output.tokens = model.project_words(features.states, mask if has_text is None else mask & has_text[:, None])


def sum_pieces(states: Tensor, words: Tensor, count: int) -> Tensor:
    """Sum word pieces into words: states [B, L, C] (or [B, L]) and the word map [B, L] -> [B, count, C] (or [B, count]).

    Pieces of no word (-1: special tokens, padding) are left out. Source: MGCA, section 3.1 of the reference.
    """
    flat = states.unsqueeze(-1) if states.dim() == 2 else states
    index = torch.where(words < 0, count, words).unsqueeze(-1).expand_as(flat)
    total = flat.new_zeros(flat.shape[0], count + 1, flat.shape[-1]).scatter_add(1, index, flat)[:, :count]
    return total.squeeze(-1) if states.dim() == 2 else total


def by_word(states: Tensor, tokens: TokenIds) -> tuple[Tensor, Tensor]:
    """Return states [B, L, C] summed into the W words of the longest text [B, W, C], and which piece is of which [B, L, W]."""
    words = tokens.words
    count = tokens.count_words() if tokens.most_words is None else tokens.most_words
    return sum_pieces(states, words, count), words.unsqueeze(-1) == torch.arange(count, device=words.device)
