"""The papers' formulas in numpy, written without a look at the implementation: loops where loops are plainest."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_sum_exp(x: Array, axis: int | None = None) -> Array:
    top = np.max(x, axis=axis, keepdims=True)
    return (
        np.squeeze(top, axis) + np.log(np.sum(np.exp(x - top), axis=axis))
        if axis is not None
        else (float(top.squeeze()) + np.log(np.exp(x - top).sum()))
    )


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def cosines(o: Any) -> Array:
    return unit(o.image) @ unit(o.text).T


def target(positive: Array) -> Array:
    return positive / positive.sum(1, keepdims=True)


def cross_entropy(logits: Array, positive: Array | None = None) -> float:
    """Mean over rows of the cross-entropy against the positives' even share; the diagonal by default."""
    goal = target(np.eye(len(logits)) if positive is None else positive)
    return float(-(goal * (logits - log_sum_exp(logits, 1)[:, None])).sum(1).mean())


def both(logits: Array, positive: Array | None = None) -> tuple[float, float]:
    return cross_entropy(logits, positive), cross_entropy(logits.T, None if positive is None else positive.T)


def groups(b: Any) -> Array:
    ids = b.group
    return np.array([[float((ids[i] == ids[j]).any()) for j in range(len(ids))] for i in range(len(ids))])


def label_sets(labels: Array) -> list[frozenset[int] | None]:
    return [None if (row == -2).all() else frozenset(np.flatnonzero(row == 1).tolist()) for row in labels]


def same_labels(b: Any) -> Array:
    sets = label_sets(b.labels)
    return np.array(
        [[float(i == j or (s is not None and s == t)) for j, t in enumerate(sets)] for i, s in enumerate(sets)]
    )


def jaccard(b: Any) -> Array:
    sets = label_sets(b.labels)

    def one(i: int, j: int) -> float:
        s, t = sets[i], sets[j]
        if i == j:
            return 1.0
        if s is None or t is None:
            return 0.0
        return len(s & t) / len(s | t) if s | t else 1.0

    return np.array([[one(i, j) for j in range(len(sets))] for i in range(len(sets))])


def same_category(b: Any) -> Array:
    drawn = b.extras["category"]
    return np.array([[float(i == j or (c == d and c != 0)) for j, d in enumerate(drawn)] for i, c in enumerate(drawn)])


def convirt(o: Any, share: float = 0.75, positive: Array | None = None) -> float:
    to_text, to_image = both(cosines(o) / 0.1, positive)
    return share * to_text + (1 - share) * to_image


def clip(o: Any, positive: Array | None = None, scale: float | None = None) -> float:
    return sum(both((o.logit_scale[0] if scale is None else scale) * cosines(o), positive)) / 2


def siglip(o: Any, positive: Array | None = None) -> float:
    z = o.logit_scale[0] * cosines(o) + o.logit_bias[0]
    y = np.where((np.eye(len(z)) if positive is None else positive) > 0, 1.0, -1.0)
    return float(-np.log(sigmoid(y * z)).sum() / len(z))


def margin(o: Any) -> float:
    s = cosines(o)
    n = len(s)
    return float(sum(max(0.0, 0.2 + s[i, j] - s[i, i]) for i in range(n) for j in range(n) if i != j) / n)


def dhn_nce(
    o: Any, betas: tuple[float, float] = (0.15, 0.15), alpha: float = 0.0, positive: Array | None = None
) -> float:
    a = cosines(o) / 0.6
    related = np.eye(len(a)) if positive is None else positive
    total = 0.0
    for logits, beta in ((a, betas[0]), (a.T, betas[1])):
        for i, row in enumerate(logits):
            mine, others = related[i] > 0, related[i] == 0
            pull = row[mine].mean()
            if not others.any():
                total -= pull
                continue
            weights = others.sum() * np.exp(beta * row[others]) / np.exp(beta * row[others]).sum()
            denominator = alpha * np.exp(row[i]) + (weights * np.exp(row[others])).sum()
            total += -pull + np.log(denominator)
    return total / len(a)


def released_dhn_nce(o: Any, betas: tuple[float, float] = (0.15, 0.15)) -> float:
    a = cosines(o) / 0.6
    n = len(a)
    off = a - np.diag(np.diag(a))
    z = [1 + sum(np.exp(side[j, k]) for k in range(n) if k != j) for side in (off, off.T) for j in range(n)]
    total = 0.0
    for i in range(n):
        for j in range(n):
            own = -2 * a[i, i] if i == j else 0.0
            weighted = (1 + betas[0]) * off[i, j] + (1 + betas[1]) * off[j, i]
            total += own + 2 * np.log(n - 1) + weighted - np.log(z[j]) - np.log(z[n + j])
    return float(total / n**2)


def sinkhorn(scores: Array) -> Array:
    q = np.exp(scores.T / 0.05)
    q /= q.sum()
    k, n = q.shape
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * k
        q /= q.sum(0, keepdims=True) * n
    return (q / q.sum(0, keepdims=True)).T


def clipped(row: Array) -> Array:
    counted = row != 0
    if not counted.any():
        return row
    low, high = np.quantile(row[counted], [0.1, 0.9])
    kept = np.where(counted, np.clip(row, low, high), 0.0)
    return kept / kept.sum()


def token_side(queries: Array, context: Array, weights: Array) -> float:
    attended = unit(softmax(queries @ context.T / 0.1, 1) @ context)
    m = queries @ attended.T / 0.1
    row, column = log_sum_exp(m, 1) - np.diag(m), log_sum_exp(m, 0) - np.diag(m)
    return float((weights * (row + column)).sum() / 2)


def mgca(
    o: Any, p: dict[str, Array], shares: tuple[float, float, float] = (1, 1, 1), positive: Array | None = None
) -> float:
    ita = sum(both(cosines(o) / 0.07, positive))
    cta = 0.0
    for i in range(len(o.image)):
        real = o.word_mask[i]
        words, patches = unit(o.words[i][real]), unit(o.patches[i])
        cta += token_side(words, patches, clipped(o.word_attention[i][real]))
        cta += token_side(patches, words, clipped(o.patch_attention[i]))
    prototypes = unit(p["prototypes"])
    z = [unit(o.image) @ prototypes.T, unit(o.text) @ prototypes.T]
    q = [sinkhorn(one) for one in z]
    log = [np.log(softmax(one / 0.2, 1)) for one in z]
    cpa = -((q[0] * log[1]).sum(1).mean() + (q[1] * log[0]).sum(1).mean()) / 2
    return float(shares[0] * ita + shares[1] * cta / len(o.image) + shares[2] * cpa)


def gloria(o: Any, positive: Array | None = None) -> float:
    n = len(o.image)
    z = np.zeros((n, n))
    for b in range(n):
        for k in range(n):
            words, regions = o.words[k][o.word_mask[k]], o.patches[b]
            by_word = softmax(regions @ words.T, 1)
            by_region = softmax(4 * by_word, 0)
            context = by_region.T @ regions
            z[b, k] = log_sum_exp(5 * (unit(words) * unit(context)).sum(1))
    return float(sum(both(10 * cosines(o), positive)) + sum(both(10 * z, positive)))


def medclip(o: Any, image_labels: Array, text_labels: Array, texts: list[Array], *, cosine: bool = False) -> float:
    def vectors(labels: Array) -> Array:
        values = np.where(labels == 1, 1.0, np.where(labels == 0, -1.0, 0.0))
        if cosine:
            length = np.linalg.norm(values, axis=1, keepdims=True)
            values = values / np.where(length > 0, length, 1)
        return values

    r = vectors(image_labels) @ vectors(text_labels).T
    total = 0.0
    for text in texts:
        logits = o.logit_scale[0] * unit(o.image) @ unit(text).T
        for goal, side in ((r, logits), (r.T, logits.T)):
            total -= (softmax(goal, 1) * (side - log_sum_exp(side, 1)[:, None])).sum(1).mean() / 2
    return float(total / len(texts))


def assertion(o: Any, b: Any) -> float:
    half = len(o.prompts) // 2
    similarity = unit(o.image) @ unit(o.prompts).T
    losses = []
    for i, row in enumerate(b.prompts.asserted):
        for f, said in enumerate(row):
            if said in (0, 1):
                y = 1 if said == 1 else -1
                losses.append(np.log1p(np.exp(-y * (similarity[i, f] - similarity[i, half + f]) / 0.1)))
    return float(np.mean(losses)) if losses else 0.0


def multi_text(o: Any, b: Any, unmentioned: bool = False) -> float:
    half = len(o.prompts) // 2
    logits = unit(o.image) @ unit(o.prompts[:half]).T / 0.1
    said = b.prompts.asserted
    positive, seen = said == 1, (said == 1) | (said == 0) | ((said == -2) & unmentioned)
    directions = []
    for x, pos, sees in ((logits, positive, seen), (logits.T, positive.T, seen.T)):
        rows = [log_sum_exp(r[s]) - r[p].mean() for r, p, s in zip(x, pos, sees, strict=True) if p.any()]
        directions.append(np.mean(rows) if rows else 0.0)
    return float(sum(directions) / 2)


def mentions(o: Any, b: Any, of: str, present: bool) -> list[tuple[Array, int, int]]:
    """(unit vector, owner, code) of each concept."""
    if of == "phrases":
        return [(unit(v), int(w), int(c)) for v, w, c in zip(o.phrases, b.phrases.owner, b.phrases.code, strict=True)]
    spans, found = b.spans, []
    for t in range(len(spans.start)):
        if spans.end[t] <= o.tokens.shape[1] and (spans.assertion[t] == 1 or not present):
            states = o.tokens[spans.owner[t], spans.start[t] : spans.end[t]]
            found.append((unit(states.mean(0)), int(spans.owner[t]), int(spans.code[t])))
    return found


def pool(patches: Array, vector: Array, how: str) -> float:
    similarity = unit(patches) @ vector
    return float(similarity.max() if how == "max" else (log_sum_exp(8 * similarity) - np.log(len(similarity))) / 8)


def concept(
    o: Any, b: Any, p: dict[str, Array], *, of: str, how: str, matches: str, present: bool = True, per: str = "concept"
) -> float:
    """PC-Align with the sigmoid loss."""
    found = mentions(o, b, of, present)
    if not found:
        return 0.0
    scale, bias = np.exp(p["concept_logit_scale"][0]), p["concept_logit_bias"][0]
    n = len(o.image)
    codes = [{c for _, w, c in found if w == i} for i in range(n)]
    z = np.array([[scale * pool(o.patches[i], v, how) + bias for v, _, _ in found] for i in range(n)])
    total = 0.0
    for i in range(n):
        if per == "report":
            for k in range(n):
                own = [t for t, (_, w, _) in enumerate(found) if w == k]
                if not own:
                    continue
                u = np.log(np.exp(z[i, own]).mean())
                true = all(found[t][2] in codes[i] for t in own)
                if i == k or (true and matches == "positive"):
                    total -= np.log(sigmoid(u))
                elif not true or matches == "negative":
                    total -= np.log(sigmoid(-u))
            continue
        for t, (_, owner, code) in enumerate(found):
            true = code in codes[i]
            if owner == i or (true and matches == "positive"):
                total -= np.log(sigmoid(z[i, t]))
            elif not true or matches == "negative":
                total -= np.log(sigmoid(-z[i, t]))
    return float(total / (n if per == "report" else len(found)))


def concept_softmax(o: Any, b: Any, *, of: str, how: str, matches: str, share: float = 0.5) -> float:
    found = mentions(o, b, of, True)
    if not found:
        return 0.0
    n = len(o.image)
    codes = [{c for _, w, c in found if w == i} for i in range(n)]
    logits = np.array([[pool(o.patches[i], v, how) / 0.1 for v, _, _ in found] for i in range(n)])
    to_image = to_concept = 0.0
    for t, (_, owner, code) in enumerate(found):
        true = [i for i in range(n) if code in codes[i]]
        kept = [i for i in range(n) if i == owner or i not in true or matches != "ignore"]
        goals = true if matches == "positive" else [owner]
        to_image += log_sum_exp(logits[kept, t]) - logits[goals, t].mean()
        kept = [
            u
            for u, (_, w, c) in enumerate(found)
            if u == t or (w != owner if matches == "negative" else c not in codes[owner])
        ]
        to_concept += log_sum_exp(logits[owner, kept]) - logits[owner, t]
    return float((share * to_concept + (1 - share) * to_image) / len(found))
