"""`medslip` and `mae` whole, in numpy: the loss from the patches on, with the objective's own weights.

Pre-norm transformer layers as Vaswani et al. (2017) and Xiong et al. (2020) define them, written with loops over heads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.objectives.oracles import Array, log_sum_exp, sigmoid, softmax

Weights = dict[str, Array]


def linear(x: Array, p: Weights, name: str) -> Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(x: Array, p: Weights, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def attend(queries: Array, context: Array, p: Weights, name: str, heads: int) -> Array:
    """One sample: queries [Q, d] over context [C, d]."""
    width = queries.shape[1]
    weight, bias = p[f"{name}.in_proj_weight"], p[f"{name}.in_proj_bias"]
    q, k, v = (
        x @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
        for i, x in enumerate((queries, context, context))
    )
    size = width // heads
    found = [
        softmax(q[:, h : h + size] @ k[:, h : h + size].T / math.sqrt(size), 1) @ v[:, h : h + size]
        for h in range(0, width, size)
    ]
    return linear(np.concatenate(found, 1), p, f"{name}.out_proj")


def mae(
    o: Any, b: Any, p: Weights, *, patch: tuple[int, ...], heads: int, depth: int, window: tuple[float, float]
) -> float:
    """Of images, and of volumes; `window`: the values that are 0 and 1."""
    losses = []
    for i in range(len(o.image)):
        x = linear(o.masked_patches[i], p, "enter")
        part = x.shape[1] // (2 * len(patch))
        for cell in range(len(x)):
            for axis, at in enumerate(np.unravel_index(cell, o.grid.shape)):
                angles = at / 10000.0 ** (np.arange(part) / part)
                x[cell, axis * 2 * part : (axis + 1) * 2 * part] += np.concatenate([np.sin(angles), np.cos(angles)])
        for layer in range(depth):
            name = f"blocks.{layer}"
            y = norm(x, p, f"{name}.norm1")
            x = x + attend(y, y, p, f"{name}.self_attn", heads)
            inner = gelu(linear(norm(x, p, f"{name}.norm2"), p, f"{name}.linear1"))
            x = x + linear(inner, p, f"{name}.linear2")
        predicted = linear(norm(x, p, "norm"), p, "leave")
        for cell in np.flatnonzero(o.patch_mask[i]):
            place = zip(np.unravel_index(cell, o.grid.shape), patch, strict=True)
            pixels = b.image[i][(slice(None), *(slice(at * side, (at + 1) * side) for at, side in place))]
            values = np.clip((np.moveaxis(pixels, 0, -1).ravel() - window[0]) / (window[1] - window[0]), 0, 1)
            losses.append(((predicted[cell] - values) ** 2).mean())
    return float(np.mean(losses))


def stream(x: Array, book: Array, p: Weights, name: str, heads: int, layers: int) -> Array:
    """One sample's gated patches [P, D] and a book [Q, E] -> features [Q, d]."""
    memory = linear(relu(linear(x, p, f"{name}.enter.0")), p, f"{name}.enter.2")
    q = linear(book, p, "query")
    for layer in range(layers):
        at = f"{name}.decoder.layers.{layer}"
        y = norm(q, p, f"{at}.norm1")
        q = q + attend(y, y, p, f"{at}.self_attn", heads)
        q = q + attend(norm(q, p, f"{at}.norm2"), memory, p, f"{at}.multihead_attn", heads)
        q = q + linear(relu(linear(norm(q, p, f"{at}.norm3"), p, f"{at}.linear1")), p, f"{at}.linear2")
    return norm(q, p, f"{name}.decoder.norm")


def medslip(o: Any, matrices: Array, p: Weights, *, heads: int, layers: int, alpha: float = 1.0) -> float:
    """`matrices` [B, A, Q]; every vector that is not a positive is a negative."""
    exist: list[list[float]] = [[], []]
    proto: list[list[float]] = [[], []]
    icl: list[float] = []
    for i, matrix in enumerate(matrices):
        x = o.patches[i]
        gate = linear(x, p, "gate")
        finding = stream(gate * x, p["finding_book"], p, "streams.findings", heads, layers)
        place = stream((1 - gate) * x, p["place_book"], p, "streams.places", heads, layers)
        sides = [("findings", finding, matrix.T, p["place_book"]), ("places", place, matrix, p["finding_book"])]
        for side, (name, features, rows, book) in enumerate(sides):
            two = linear(features, p, f"streams.{name}.exist")
            projected = linear(features, p, f"streams.{name}.project")
            for q, row in enumerate(rows):
                if (row >= 0).any():
                    exist[side].append(log_sum_exp(two[q]) - two[q][int((row == 1).any())])
                if (row == 1).any():
                    positive, negatives = book[row == 1].mean(0), book[row != 1]
                    logits = np.concatenate([[positive @ projected[q]], negatives @ projected[q]])
                    proto[side].append(log_sum_exp(logits) - logits[0])
        logits = place @ finding.T
        chance = np.where(matrix == 1, sigmoid(logits), 1 - sigmoid(logits))
        icl += (-np.log(chance))[matrix >= 0].tolist()

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else 0.0

    return sum(map(mean, exist)) + alpha * sum(map(mean, proto)) + mean(icl)


def triplets(b: Any, codes: dict[int, tuple[int, int]], places: int, findings: int) -> Array:
    """M [B, A, Q] from the batch's mentions; present outweighs absent."""
    matrices = np.full((len(b.keys), places, findings), -1)
    for owner, code, said in zip(b.spans.owner, b.spans.code, b.spans.assertion, strict=True):
        if int(code) in codes and said in (0, 1):
            place, finding = codes[int(code)]
            matrices[owner, place, finding] = max(matrices[owner, place, finding], said)
    return matrices
