"""The body of a synthetic CT as a function of world millimetres (x right, y front, z head) to Hounsfield units.

Every file of a body is another sampling of it, and the body itself is the oracle: what preparation makes of a file must equal
its mean over each voxel. It is not symmetric, so that no mirrored or turned axis passes: the heart lies to the left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..patient import stream
from .state import Instance, State

AIR, FAT, MUSCLE, BONE, DISC = -1000.0, -100.0, 45.0, 320.0, 90.0
CALCIUM, FLUID, SOLID = 800.0, 8.0, 40.0
_NOISE = 12

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""x, y, z in millimetres, of shapes that broadcast to the grid's."""


def grid(shape: tuple[int, int, int], affine: np.ndarray) -> Axes:
    """Return the world coordinates of the voxels of an array [i, j, k]; open axes where the affine is not oblique."""
    index = np.ogrid[: shape[0], : shape[1], : shape[2]]
    linear = np.asarray(affine, np.float64)[:3, :3]
    x, y, z = (
        sum((linear[row, axis] * index[axis] for axis in range(3) if linear[row, axis]), np.zeros((1, 1, 1)))
        + affine[row][3]
        for row in range(3)
    )
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def hounsfield(state: State, axes: Axes) -> np.ndarray:
    """Return the HU of a body at places, float32 of their broadcast shape, without noise."""
    x, y, z = _own(state, axes)
    shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
    values = np.full(shape, AIR, np.float32)
    values[np.broadcast_to((abs(x) < 118) & (y < -108) & (y > -114), shape)] = -250
    body = (x / 138) ** 2 + (y / 98) ** 2
    values[np.broadcast_to(body < 1, shape)] = FAT
    values[np.broadcast_to(body < 0.9, shape)] = MUSCLE
    ribs = (body < 0.87) & (body > 0.79) & ((z + 0.35 * y) % 26 < 9) & (z > -80) & (abs(x) > 14)
    values[np.broadcast_to(ribs, shape)] = 500
    lungs = _lungs(state, (x, y, z))
    for lung in lungs.values():
        values = np.where(lung, -845 - 0.35 * y, values)
    _middle(state, (x, y, z), values)
    for instance in state.instances:
        inside = _inside(instance, (x, y, z), lungs)
        if inside is not None:
            values = np.where(inside, _density(instance), values)
        if instance.finding == "pneumothorax":
            line = lungs[instance.side] & (abs(y - _edge(instance)) < 2.5)
            values = np.where(line, -100, values)
    drawn: np.ndarray = values.astype(np.float32, copy=False)
    return drawn


def scan(state: State, shape: tuple[int, int, int], affine: np.ndarray, deviation: float = 20.0) -> np.ndarray:
    """Return a scan of the body, int16 [i, j, k], with noise of a standard deviation in HU."""
    values = hounsfield(state, grid(shape, affine))
    rng = stream(state.seed, _NOISE, state.index)
    values = values + rng.standard_normal(values.shape, dtype=np.float32) * np.float32(deviation)
    stored: np.ndarray = np.rint(np.clip(values, -1024, 3071)).astype(np.int16)
    return stored


def masks(state: State, axes: Axes) -> Mapping[str, np.ndarray]:
    """Return where each finding is, bool of the grid's shape, by its name."""
    own = _own(state, axes)
    lungs = _lungs(state, own)
    shape = np.broadcast_shapes(*(axis.shape for axis in own))
    found = {}
    for instance in state.instances:
        inside = _heart(state, own) if instance.finding == "cardiomegaly" else _inside(instance, own, lungs)
        assert inside is not None
        found[instance.finding] = np.array(np.broadcast_to(inside, shape))
    return found


def _own(state: State, axes: Axes) -> Axes:
    x, y, z = ((axis - move) / state.scale for axis, move in zip(axes, state.shift, strict=True))
    return x, y, z


def _lungs(state: State, axes: Axes) -> dict[str, np.ndarray]:
    x, y, z = axes
    found = {}
    for side, sign, wide in (("right", 1.0, 50.0), ("left", -1.0, 46.0)):
        narrow = np.sqrt(np.clip(1 - (np.clip(z, 0, None) / 118) ** 2, 0, 1))
        across, along = (sign * x - 68) / (wide * narrow + 1e-3), (y + 2) / (76 * narrow + 1e-3)
        dome = -72 + (22 if side == "right" else 12) * np.clip(1 - ((sign * x - 62) / 50) ** 2 - (y / 80) ** 2, 0, 1)
        found[side] = (across**2 + along**2 < 1) & (z > dome) & (z < 118)
    return found


def _heart(state: State, axes: Axes) -> np.ndarray:
    x, y, z = axes
    enlarged = state.find("cardiomegaly")
    grown = 1.0 if enlarged is None else (1.22 if enlarged.size == "mild" else 1.35)
    inside: np.ndarray = ((x + 22) / 44) ** 2 + ((y - 18) / 36) ** 2 + ((z + 38) / 40) ** 2 < grown**2
    return inside


def _middle(state: State, axes: Axes, values: np.ndarray) -> None:
    """Draw what lies between and below the lungs."""
    x, y, z = axes
    blood = 160.0 if state.contrast else 42.0
    parts = [
        (abs(x) / 20 + abs(y - 4) / 62 < 1, MUSCLE),
        (_heart(state, axes), blood),
        (((x + 18) ** 2 + (y + 45) ** 2 < 13**2) & (z < 46), blood),
        (((x - 4) ** 2 + (y - 14) ** 2 < 14**2) & (z > -10) & (z < 46), blood),
        (((x + 7) / 26) ** 2 + ((y + 14) / 40) ** 2 + ((z - 46) / 14) ** 2 < 1, blood),
        (((x - 2) ** 2 + (y + 12) ** 2 < 9**2) & (z > 20), -990.0),
        ((x**2 + (y + 66) ** 2 < 17**2) & (z % 28 >= 7), BONE),
        ((x**2 + (y + 66) ** 2 < 17**2) & (z % 28 < 7), DISC),
        (((x - 55) / 62) ** 2 + ((y - 8) / 70) ** 2 + ((z + 118) / 44) ** 2 < 1, 105.0 if state.contrast else 58.0),
    ]
    for inside, density in parts:
        values[np.broadcast_to(inside, values.shape)] = density


def _density(instance: Instance) -> float:
    return {"effusion": FLUID, "consolidation": 15.0, "emphysema": -978.0, "pneumothorax": -998.0}.get(
        instance.finding, CALCIUM if instance.finding == "calcification" else SOLID
    )


def _edge(instance: Instance) -> float:
    """Return the height y in front of which a pneumothorax is, or behind which an effusion."""
    if instance.finding == "pneumothorax":
        return 44.0 if instance.size == "small" else 30.0
    return -52.0 if instance.size == "small" else -38.0


def _inside(instance: Instance, axes: Axes, lungs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return where a finding is; None for the heart, which is drawn where it is."""
    x, y, z = axes
    across, along, up = (axis - middle for axis, middle in zip(axes, instance.centre, strict=True))
    square = across**2 + along**2 + up**2
    if instance.finding in ("nodule", "mass"):
        return np.asarray(square < instance.radius**2)
    if instance.finding == "consolidation":
        ragged = 1 + 0.25 * np.sin(across / 5) * np.sin(along / 6 + 1) * np.sin(up / 5.5 + 2)
        return lungs[instance.side] & (square < (instance.radius * ragged) ** 2)
    if instance.finding == "effusion":
        return lungs[instance.side] & (y < _edge(instance) - 0.12 * (z + 60)) & (z < 40)
    if instance.finding == "pneumothorax":
        return lungs[instance.side] & (y > _edge(instance))
    if instance.finding == "emphysema":
        holes = np.sin(x / 4.6) * np.sin(y / 5.2 + 1) * np.sin(z / 4.9 + 2)
        return lungs[instance.side] & (z > 38) & (holes > (0.05 if instance.size == "large" else 0.15))
    if instance.finding == "calcification":
        lumps = np.sin(across / 2.6) * np.sin(along / 2.9 + 1) + np.sin(up / 2.7)
        return np.asarray((square < instance.radius**2) & (lumps > -0.4))
    return None
