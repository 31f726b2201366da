"""Train a BERT-style word-piece vocabulary on one's own reports: the same texts give the same vocabulary, everywhere.

Training only; the vocabulary then runs in the `tokenizers` library. That library's own trainer is not used, because the
order in which it meets pieces follows a hash map, and so its vocabulary may differ between two runs on equal texts.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from ..shared_words import SharedWords
from ..spec import TextSpec
from . import base
from .hf import FastTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Pair = tuple[str, str]


@base.tokenizer_kinds.register("wordpiece")
class WordPieceTokenizer(FastTokenizer):
    """Word pieces that are trained here, or read from a path; saved as what they are from then on, a fast tokenizer."""

    @classmethod
    def needs_texts(cls, spec: TextSpec) -> bool:
        return spec.path is None

    @classmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> base.Tokenizer:
        if spec.path:
            return super().build(spec, texts)
        shared = SharedWords.of_recipe(spec, texts)
        backend = train(shared, spec.vocab_size)
        names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
        setup = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.length, **names}
        extra = {"tokenizer_config.json": (json.dumps(setup, indent=2) + "\n").encode()}
        trained = cls(backend, extra, SPECIAL.index("[PAD]"), spec.length, spec.overflow)
        trained.trained = shared.summary()
        return trained


def train(shared: SharedWords, vocab_size: int, lower: bool = True, max_alphabet: int = 500) -> Tokenizer:
    """Return a `tokenizers.Tokenizer` as BERT's, with at most `vocab_size` pieces learned from the words that are shared.

    Raises ValueError when there is no word, or when `vocab_size` cannot hold the single characters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer = normalizers.BertNormalizer(lowercase=lower)
    splitter = pre_tokenizers.BertPreTokenizer()

    def split(text: str) -> list[str]:
        return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

    words: Counter[str] = Counter()
    for token, count in shared.counts.items():
        for word in split(token):
            words[word] += count
    spelled = {word for token in shared.unlearnt for word in split(token)}
    vocabulary = learn(words, vocab_size, max_alphabet, spelled)
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def learn(
    words: Mapping[str, int], vocab_size: int, max_alphabet: int = 500, unlearnt: Iterable[str] = ()
) -> list[str]:
    """Return the pieces learned from word counts: special ones, characters, then merges, the most frequent pair first.

    Ties go to the alphabetically first pair. Pairs seen once are not merged. Of `unlearnt` words only the characters are
    kept, so that they can be spelled.
    """
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    for word in unlearnt:
        letters.update(dict.fromkeys(word, 1))
    if not letters:
        raise ValueError("cannot train a tokenizer: the texts hold no word")
    kept = {letter for letter, _ in sorted(letters.items(), key=lambda item: (-item[1], item[0]))[:max_alphabet]}
    spelled = [
        ([letter if place == 0 else "##" + letter for place, letter in enumerate(word)], words[word])
        for word in sorted(words)
        if set(word) <= kept
    ]
    single = {piece for pieces, _ in spelled for piece in pieces}
    single |= {"##" * bool(place) + letter for word in unlearnt for place, letter in enumerate(word) if letter in kept}
    vocabulary = dict.fromkeys([*SPECIAL, *sorted(single)])
    if len(vocabulary) > vocab_size:
        raise ValueError(
            f"cannot train a tokenizer: the special tokens and single characters alone are {len(vocabulary)} pieces, "
            f"tokenizer.vocab_size is {vocab_size}"
        )
    counts: Counter[Pair] = Counter()
    homes: defaultdict[Pair, set[int]] = defaultdict(set)
    for home, (pieces, count) in enumerate(spelled):
        for pair in pairwise(pieces):
            counts[pair] += count
            homes[pair].add(home)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(vocabulary) < vocab_size:
        negative, best = heapq.heappop(heap)
        if -negative != counts[best]:
            continue  # an old entry: the pair's count has changed since, and a newer entry is in the heap
        if counts[best] < 2:
            break
        merged = best[0] + best[1].removeprefix("##")
        vocabulary[merged] = None
        changed: set[Pair] = set()
        for home in homes.pop(best):
            pieces, count = spelled[home]
            for pair in pairwise(pieces):
                counts[pair] -= count
                changed.add(pair)
            _merge(pieces, best, merged)
            for pair in pairwise(pieces):
                counts[pair] += count
                homes[pair].add(home)
                changed.add(pair)
        for pair in changed:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
    return list(vocabulary)


def _merge(pieces: list[str], pair: Pair, merged: str) -> None:
    place = 0
    while place < len(pieces) - 1:
        if (pieces[place], pieces[place + 1]) == pair:
            pieces[place : place + 2] = [merged]
        place += 1
