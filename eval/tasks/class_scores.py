"""Images against a prompt set: what is ranked, what is a probability, and what is decided, under a named rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data import Data
from ..prompts import PromptSet
from ..scoring import Scoring, local_scores, mix, pair_softmax, sigmoid, similarity, softmax, unit, xplainer, zscore
from ..store import Store, Transform

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of n images and C classes, all [n, C]: `ranking` orders images within a class (AUROC) and classes within an image
    (argmax); `probability` is calibrated or not, but in [0, 1]; `decision` says yes or no; `logits` before the link.
    """

    ranking: Floats
    probability: Floats
    decision: NDArray[np.bool_]
    logits: Floats
    temperature: float


def score(
    store: Store,
    data: Data,
    indices: Sequence[int],
    prompts: PromptSet,
    rule: Scoring,
    view: str = "",
    transform: Transform | None = None,
) -> Scores:
    """Score images, or a named transform of them, against the prompts of each class."""
    rows = unit(store.images(data, indices, view, transform))
    positive = {name: store.texts(one.pos) for name, one in prompts.texts.items()}
    negative = {name: store.texts(one.neg) for name, one in prompts.texts.items() if one.neg}
    model_temperature = 1 / store.card.logit_scale if store.card.logit_scale else 1.0
    if rule.rule == "xplainer":
        return _xplainer(rows, positive, negative, rule.temperature or 0.5)
    for_it = np.stack([similarity(rows, one, rule.pooling) for one in positive.values()], axis=1)
    if rule.rule == "pair":
        against = np.stack([similarity(rows, one, rule.pooling) for one in negative.values()], axis=1)
        temperature = rule.temperature or model_temperature
        chance = pair_softmax(for_it, against, temperature)
        return Scores(for_it - against, chance, chance > 0.5, (for_it - against) / temperature, temperature)
    temperature = rule.temperature or model_temperature
    if rule.normalise == "zscore":
        for_it = zscore(for_it)
    if rule.rule == "score-logit":
        logits = for_it / temperature + (store.card.logit_bias or 0.0)
        return Scores(for_it, sigmoid(logits), logits > 0, logits, temperature)
    logits = for_it / temperature
    probability = softmax(logits)
    ranking = for_it
    if rule.local:
        concepts = np.stack([unit(one).mean(0) for one in positive.values()])
        local = local_scores(store.patches(data, indices), concepts, rule.top_patches) / temperature
        probability = ranking = mix(softmax(local), probability, rule.local)
    decision = np.arange(ranking.shape[1]) == ranking.argmax(1)[:, None]
    return Scores(ranking, probability, decision, logits, temperature)


def _xplainer(
    rows: Floats, positive: dict[str, NDArray[np.float32]], negative: dict[str, NDArray[np.float32]], temperature: float
) -> Scores:
    found, missing = [], []
    for name, texts in positive.items():
        p = pair_softmax(rows @ unit(texts).T, rows @ unit(negative[name]).T, temperature)
        present, absent = xplainer(p)
        found.append(present)
        missing.append(absent)
    present, absent = np.stack(found, axis=1), np.stack(missing, axis=1)
    return Scores(present, present, present > absent, np.log(present) - np.log(absent), temperature)
