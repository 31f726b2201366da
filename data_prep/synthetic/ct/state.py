"""What is true of a synthetic chest CT, before it is drawn or described: the body and its findings. Pure, of (index, seed)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..patient import stream

FINDINGS = (
    "nodule", "mass", "consolidation", "effusion", "emphysema", "pneumothorax", "calcification", "cardiomegaly",
)  # fmt: skip

PREVALENCE = {
    "nodule": 0.22,
    "mass": 0.18,
    "consolidation": 0.22,
    "effusion": 0.22,
    "emphysema": 0.18,
    "pneumothorax": 0.18,
    "calcification": 0.2,
    "cardiomegaly": 0.2,
}
"""How often a study has a finding, drawn independently: about 16 % of studies have none."""

LOBES = {
    "right": ("upper", "middle", "lower"),
    "left": ("upper", "lower"),
}
PLACES = {
    ("right", "upper"): (68.0, 12.0, 62.0),
    ("right", "middle"): (72.0, 32.0, -8.0),
    ("right", "lower"): (70.0, -30.0, -30.0),
    ("left", "upper"): (-66.0, 14.0, 58.0),
    ("left", "lower"): (-74.0, -32.0, -34.0),
}
"""Where in a lobe a finding lies about, in millimetres (x right, y front, z head)."""

LEVELS = ((75.0, "apex"), (45.0, "aortic arch"), (15.0, "carina"), (-20.0, "hilum"), (-1e9, "base"))
"""The level of what lies above so many millimetres."""

RADII = {"nodule": (11.0, 15.0), "mass": (18.0, 25.0), "consolidation": (20.0, 32.0), "calcification": (10.0, 14.0)}
"""Least and largest radius in millimetres; below the middle a finding is small."""

_STATE = 11


@dataclass(frozen=True, slots=True)
class Instance:
    """One finding in one place. `side` and `lobe` are "" where it has none; `centre` (x, y, z) and `radius` in millimetres."""

    finding: str
    side: str
    lobe: str
    size: str
    centre: tuple[float, float, float]
    radius: float

    def __str__(self) -> str:
        return ":".join((self.finding, self.side, self.lobe, self.size))

    @property
    def level(self) -> str:
        return next(name for least, name in LEVELS if self.centre[2] >= least)


@dataclass(frozen=True, slots=True)
class State:
    """All that is true of one study: the body's scale and shift, contrast in its vessels, and its findings."""

    index: int
    seed: int
    scale: float
    shift: tuple[float, float, float]
    contrast: bool
    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        return ";".join(sorted(map(str, self.instances))) or "normal"

    def has(self, finding: str) -> bool:
        return any(instance.finding == finding for instance in self.instances)

    def find(self, finding: str) -> Instance | None:
        return next((instance for instance in self.instances if instance.finding == finding), None)


def draw_state(index: int, seed: int) -> State:
    """Draw the study `index` of the world `seed` (both >= 0)."""
    if index < 0 or seed < 0:
        raise ValueError(f"a synthetic study needs index >= 0 and seed >= 0, not index {index} and seed {seed}")
    rng = stream(seed, _STATE, index)
    scale = float(rng.uniform(0.94, 1.06))
    shift = tuple(float(move) for move in rng.uniform(-7, 7, 3))
    contrast = bool(rng.random() < 0.5)
    free = [(side, lobe) for side, lobes in LOBES.items() for lobe in lobes]
    there = [finding for finding in FINDINGS if rng.random() < PREVALENCE[finding]]
    instances = tuple(_place(finding, free, rng) for finding in there)
    return State(index, seed, scale, (shift[0], shift[1], shift[2]), contrast, instances)


def _place(finding: str, free: list[tuple[str, str]], rng: np.random.Generator) -> Instance:
    """Put a finding into a lobe that holds none yet: what lies under something else cannot be seen."""
    side = ("right", "left")[int(rng.integers(2))]
    large = bool(rng.random() < 0.5)
    size = "large" if large else "small"
    if finding in ("nodule", "mass", "consolidation"):
        side, lobe = free.pop(int(rng.integers(len(free))))
        low, high = RADII[finding]
        radius = float(rng.uniform(low, high))
        size = "small" if radius < (low + high) / 2 else "large"
        x, y, z = (
            float(c + rng.uniform(-reach, reach)) for c, reach in zip(PLACES[side, lobe], (9, 13, 13), strict=True)
        )
        return Instance(finding, side, lobe, size, (x, y, z), radius)
    if finding == "calcification":
        aortic = bool(rng.random() < 0.5)
        place = (-18.0, -45.0, float(rng.uniform(-40, 30))) if aortic else (-32.0, 44.0, float(rng.uniform(-45, -15)))
        radius = float(rng.uniform(*RADII[finding]))
        return Instance(finding, "", "aorta" if aortic else "heart", size, place, radius)
    if finding == "cardiomegaly":
        return Instance(finding, "", "", "mild" if not large else "marked", (-22.0, 18.0, -38.0), 60.0)
    sign = 1.0 if side == "right" else -1.0
    centre = {
        "effusion": (sign * 68.0, -62.0, -50.0),
        "pneumothorax": (sign * 66.0, 60.0, 30.0),
        "emphysema": (sign * 66.0, 0.0, 68.0),
    }[finding]
    return Instance(finding, side, "", size, centre, 40.0)
