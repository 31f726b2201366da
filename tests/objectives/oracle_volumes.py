"""The formulas of the objectives on organs and depths in numpy, by loops, written without a look at the implementation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.objectives.oracles import Array, log_sum_exp, softmax, unit


def attended(patches: Array, query: Array, allowed: Array) -> Array:
    """The mean of the allowed patches [P, D] that a query [D] attends to."""
    chosen = patches[allowed]
    return softmax(chosen @ query / np.sqrt(len(query)), 0) @ chosen


def anatomy(
    o: Any, b: Any, p: dict[str, Array], *, masked: bool = True, matches: str = "normal", mean: bool = False
) -> float:
    organs, scale = b.extras["organs"], np.exp(p["anatomy_logit_scale"][0])
    found = []
    for organ in sorted(set(organs.organ.tolist())):
        rows = [t for t in range(len(organs.owner)) if organs.organ[t] == organ]
        if matches == "normal" and all(organs.normal[t] for t in rows):
            continue
        image, text = [], []
        for t in rows:
            patches = o.patches[organs.owner[t]]
            allowed = organs.cells[t] if masked else np.ones(len(patches), bool)
            seen = attended(patches @ np.eye(patches.shape[1]), p["key.weight"].T @ p["query"][organ], allowed)
            image.append(unit(p["project"][organ] @ seen))
            text.append(unit(o.extras["organs"][t]))
        logits = scale * np.array(image) @ np.array(text).T

        def alike(s: int, t: int) -> bool:
            if s == t:
                return True
            if matches == "own":
                return False
            normal = matches == "normal" and organs.normal[s] and organs.normal[t]
            return bool(organs.code[s] == organs.code[t] or normal)

        goal = np.array([[float(alike(s, t)) for t in rows] for s in rows])
        goal /= goal.sum(1, keepdims=True)
        sides = [-(goal * (x - log_sum_exp(x, 1)[:, None])).sum(1).mean() for x in (logits, logits.T)]
        found.append(sum(sides) / 2)
    return float((np.mean(found) if mean else np.sum(found)) if found else 0.0)


def depth(
    o: Any, b: Any, *, sigma: float = 6.0, renormalise: bool = True, temperature: float = 0.1, best: bool = False
) -> float:
    entries, grid, found = b.extras["depths"], o.grid, []
    for t, owner in enumerate(entries.owner):
        planes = o.patches[owner].reshape(grid.shape[0], -1, o.patches.shape[2])
        text, unit_mm = unit(o.extras["depths"][t]), float(entries.unit[t])
        middles = [grid.offset[0] + grid.stride[0] * d for d in range(grid.shape[0])]
        low, high = entries.seen[t]
        shown = [d for d, middle in enumerate(middles) if low <= middle <= high]
        nearest = int(np.argmin([abs(middle - entries.place[t]) for middle in middles]))
        reach = np.floor(3 * sigma / (unit_mm * grid.stride[0]) + 0.5)
        goal = np.zeros(len(middles))
        for d, middle in enumerate(middles):
            if abs(d - nearest) <= reach:
                goal[d] = np.exp(-(((middle - entries.place[t]) * unit_mm / sigma) ** 2) / 2)
        goal /= goal.sum()
        goal = goal[shown]
        if not goal.sum() > 0:
            continue
        if renormalise:
            goal /= goal.sum()
        cosines = [max(unit(planes[d]) @ text) if best else unit(planes[d].mean(0)) @ text for d in shown]
        logits = np.array(cosines) / temperature
        found.append(-(goal * (logits - log_sum_exp(logits))).sum())
    return float(np.mean(found)) if found else 0.0
