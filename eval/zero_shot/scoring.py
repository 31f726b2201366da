"""From embeddings to class scores: the scoring rules seen in the literature, named, so that a result can state its rule.

They are different classifiers on the same weights (reference vector G1): the rule, the pooling of prompts and the
temperature are part of the result. Arrays are float64 numpy; n images, K prompts of a class, C classes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from vlp.core.config import config, to_tree

from ..metrics.arithmetic import codes, unit

Floats = NDArray[np.float64]
Pooling = Literal["norm-mean-norm", "mean-raw", "mean-of-scores", "max-of-scores"]


@config
class Scoring:
    """How an image is scored against the prompts of a class.

    `rule`: `softmax` over classes (CLIP; the decision is the argmax), `pair` (softmax over the affirming and the denying
    prompt: CheXzero, BioViL), `xplainer` (geometric mean of pair softmaxes over descriptors), `score-logit` (sigmoid of
    scale * cosine + bias: SigLIP). A setting that the rule makes no use of is refused, and not stated in results.
    `pooling`: how several prompts become one score. `temperature`: None takes the model's own scale, 0.5 for `xplainer`.
    `normalise`: `zscore` standardises each class's column over the whole set before the decision: transductive, as in
    GLoRIA's released code, so off by default. `views: mean` averages the views of a study before the decision.

    `local`: share of ConceptCLIP's local branch in the mix (0 = none): the mean of the `top_patches` best cosines of patches
    with the class, at `local_temperature` (None: the global one). `local_text` says what stands for the class there: `words`,
    the mean of the features of those word tokens of a prompt that name it (ConceptCLIP), for models that were trained on
    words; `prompts`, the whole prompt's embedding, for all others. Several prompts of a class are averaged at length 1.
    """

    rule: Literal["softmax", "pair", "xplainer", "score-logit"] = "softmax"
    pooling: Pooling = "norm-mean-norm"
    temperature: float | None = None
    normalise: Literal["none", "zscore"] = "none"
    local: float = 0.0
    local_text: Literal["words", "prompts"] = "words"
    local_temperature: float | None = None
    top_patches: int = 128
    views: Literal["none", "mean"] = "none"

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature:g}")
        for item in fields(self):
            if item.name not in self._used() and getattr(self, item.name) != item.default:
                reason = (
                    "without `local`" if item.name in LOCAL and "local" in self._used() else f"under rule {self.rule}"
                )
                raise ValueError(f"{item.name} does nothing {reason}")

    def _used(self) -> frozenset[str]:
        return USED[self.rule] | (LOCAL if self.local and "local" in USED[self.rule] else frozenset())

    def stated(self) -> dict[str, Any]:
        """Return what the score depends on, as it stands in results."""
        return {name: value for name, value in to_tree(self).items() if name in self._used()}


EVERY = frozenset({"rule", "temperature", "views"})
LOCAL = frozenset({"local_text", "local_temperature", "top_patches"})
USED = {
    "softmax": EVERY | {"pooling", "normalise", "local"},
    "pair": EVERY | {"pooling"},
    "xplainer": EVERY,
    "score-logit": EVERY | {"pooling", "normalise"},
}
"""The settings that each rule makes use of; those of `LOCAL` only with a share for the local branch."""


def similarity(images: ArrayLike, prompts: ArrayLike, pooling: Pooling) -> Floats:
    """Return the score [n] of unit images [n, D] for one class with raw (unnormalised) prompt embeddings [K, D].

    `norm-mean-norm`: each prompt at length 1, mean, length 1 again (CLIP, CheXzero, UniMed); `mean-raw`: mean of the raw
    embeddings, then length 1 (BioViL); `mean-of-scores` (MedCLIP's demo, CXR-CLIP); `max-of-scores` (GLoRIA).
    """
    rows, texts = np.asarray(images, dtype=np.float64), np.asarray(prompts, dtype=np.float64)
    if pooling == "mean-raw":
        return np.asarray(rows @ unit(texts.mean(0)))
    each = unit(texts)
    if pooling == "norm-mean-norm":
        return np.asarray(rows @ unit(each.mean(0)))
    scores = rows @ each.T
    return np.asarray(scores.mean(1) if pooling == "mean-of-scores" else scores.max(1))


def pair_softmax(positive: ArrayLike, negative: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return P(positive) = sigmoid((s+ - s-) / T): rule D."""
    margin = np.asarray(positive, dtype=np.float64) - np.asarray(negative, dtype=np.float64)
    return np.asarray(expit(margin / temperature))


def zscore(scores: ArrayLike) -> Floats:
    """Return columns standardised over the set (population deviation; a constant column becomes 0): GLoRIA's trap."""
    values = np.asarray(scores, dtype=np.float64)
    spread = values.std(0)
    return np.asarray((values - values.mean(0)) / np.where(spread > 0, spread, 1.0))


def xplainer(probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Return the geometric means over descriptors (last axis) of p and of 1 - p: AUROC uses the first, the decision both."""
    values = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.exp(np.log(values).mean(-1)), np.exp(np.log1p(-values).mean(-1))


def local_scores(patches: ArrayLike, concepts: ArrayLike, top: int) -> Floats:
    """Return the mean of the `top` best patch-concept cosines [n, C], of patches [n, P, D] and concepts [C, D]."""
    scores = unit(patches) @ unit(concepts).T
    count = min(top, scores.shape[1])
    return np.asarray(np.sort(scores, axis=1)[:, -count:].mean(1))


def mix(local: ArrayLike, overall: ArrayLike, share: float) -> Floats:
    """Return ConceptCLIP's mix of local and global class probabilities."""
    return share * np.asarray(local, dtype=np.float64) + (1 - share) * np.asarray(overall, dtype=np.float64)


def average_views(values: ArrayLike, studies: Sequence[str]) -> Floats:
    """Return the means of rows that share a study, the studies in order of first occurrence."""
    rows, member = np.asarray(values, dtype=np.float64), codes(studies)
    total = np.zeros((int(member.max()) + 1, *rows.shape[1:]))
    np.add.at(total, member, rows)
    return total / np.bincount(member).reshape(-1, *[1] * (rows.ndim - 1))
