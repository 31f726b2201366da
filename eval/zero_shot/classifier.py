"""Images, or studies, against a prompt set: what is ranked, what is a probability, and what is decided, under a named rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from ..data.dataset import Data
from ..data.spec import DataError
from ..embeddings.cache import EmbeddingCache
from ..embeddings.decode_ahead import Transform
from ..metrics.arithmetic import codes, unit
from .prompts import PromptSet
from .scoring import Scoring, average_views, local_scores, mix, pair_softmax, similarity, xplainer, zscore

Floats = NDArray[np.float64]
Together = Callable[[Floats], Floats]
"""Returns the mean over the images of each study, or what it is given."""
UNKNOWN = -2
"""Stands in a table of labels for one that is not known."""


@dataclass(frozen=True)
class Scores:
    """Of n images (or studies) and C classes, all [n, C]: `ranking` orders images within a class (AUROC) and classes within
    an image (argmax); `probability` is calibrated or not, but in [0, 1]; `decision` says yes or no; `logits` before the link.
    """

    ranking: Floats
    probability: Floats
    decision: NDArray[np.bool_]
    logits: Floats
    temperature: float


def score(
    cache: EmbeddingCache,
    data: Data,
    indices: Sequence[int],
    prompts: PromptSet,
    rule: Scoring,
    view: str = "",
    transform: Transform | None = None,
) -> Scores:
    """Score images, or a named transform of them, against the prompts of each class.

    With `views: mean` the result has a row for each study, in order of first occurrence: what is averaged over its images
    is each descriptor's probability under `xplainer`, before the geometric mean, and each class's score otherwise.
    """
    rows = unit(cache.images(data, indices, view, transform))
    positive = {name: cache.texts(text.pos) for name, text in prompts.texts.items()}
    negative = {name: cache.texts(text.neg) for name, text in prompts.texts.items() if text.neg}
    temperature = rule.temperature or (1 / cache.card.logit_scale if cache.card.logit_scale else 1.0)
    together: Together = lambda values: values  # noqa: E731
    if rule.views == "mean":
        together = partial(average_views, studies=studies_of(data, indices))
    if rule.rule == "xplainer":
        return _xplainer(rows, positive, negative, rule.temperature or 0.5, together)
    affirming = np.stack([similarity(rows, texts, rule.pooling) for texts in positive.values()], axis=1)
    if rule.rule == "pair":
        margin = affirming - np.stack([similarity(rows, texts, rule.pooling) for texts in negative.values()], axis=1)
        chance = together(pair_softmax(margin, 0.0, temperature))
        margin = together(margin)
        return Scores(margin, chance, chance > 0.5, margin / temperature, temperature)
    if rule.normalise == "zscore":
        affirming = zscore(affirming)
    if rule.rule == "score-logit":
        logits = affirming / temperature + (cache.card.logit_bias or 0.0)
        chance = together(expit(logits))
        return Scores(together(affirming), chance, chance > 0.5, together(logits), temperature)
    logits = affirming / temperature
    probability, ranking = softmax(logits, axis=-1), affirming
    if rule.local:
        concepts = np.stack([unit(texts).mean(0) for texts in concepts_of(cache, prompts, rule).values()])
        local = local_scores(cache.patches(data, indices), concepts, rule.top_patches)
        local /= rule.local_temperature or temperature
        probability = ranking = mix(softmax(local, axis=-1), probability, rule.local)
    ranking = together(ranking)
    decision = np.arange(ranking.shape[1]) == ranking.argmax(1)[:, None]
    return Scores(ranking, together(probability), decision, together(logits), temperature)


def concepts_of(cache: EmbeddingCache, prompts: PromptSet, rule: Scoring) -> dict[str, NDArray[np.float32]]:
    """Return what stands for each class among patches, raw rows [K, D] of its K prompts. Raises DataError."""
    if rule.local_text == "prompts":
        return {name: cache.texts(text.pos) for name, text in prompts.texts.items()}
    try:
        return {
            name: cache.words(list(zip(text.pos, prompts.spans[name], strict=True)))
            for name, text in prompts.texts.items()
        }
    except DataError as error:
        hint = "scoring.local needs word features; local_text: prompts takes the prompts' embeddings instead"
        raise DataError(f"{error} ({hint})") from None


def studies_of(data: Data, indices: Sequence[int]) -> list[str]:
    """Return the study of each image, the image itself where none is known."""
    return [data.records[index].study or data.records[index].key for index in indices]


def _xplainer(
    rows: Floats,
    positive: dict[str, NDArray[np.float32]],
    negative: dict[str, NDArray[np.float32]],
    temperature: float,
    together: Together,
) -> Scores:
    sides = []
    for name, texts in positive.items():
        p = pair_softmax(rows @ unit(texts).T, rows @ unit(negative[name]).T, temperature)
        sides.append(xplainer(together(p)))
    present, absent = (np.stack(side, axis=1) for side in zip(*sides, strict=True))
    return Scores(present, present, present > absent, np.log(present) - np.log(absent), temperature)


def with_no_finding(scores: Scores, at: int) -> Scores:
    """Return scores with a column inserted at `at` for an image without any of the findings: 1 - max P (Xplainer)."""
    value = 1 - scores.probability.max(1)
    logits = np.log(value) - np.log1p(-value)
    columns = {"ranking": value, "probability": value, "decision": value > 0.5, "logits": logits}
    return replace(scores, **{name: np.insert(getattr(scores, name), at, columns[name], axis=1) for name in columns})


def by_study(data: Data, indices: Sequence[int], truth: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """Return the first image of each study and its labels [m, C]: 1 where any image's is, else 0 where any is known."""
    place = codes(studies_of(data, indices))
    starts = np.unique(place, return_index=True)[1]
    labels = np.full((len(starts), truth.shape[1]), UNKNOWN, dtype=np.int64)
    np.maximum.at(labels, place, truth)
    return [indices[int(start)] for start in starts], labels
