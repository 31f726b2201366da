"""The chest that the synthetic radiographs show: outlines in body coordinates, and the camera that puts them on the film.

Body coordinates: x and y from -1 to 1 over the film of an average patient, y down, x to the right of the *image*, so that
the patient's right lung has x < 0. Nothing here knows of findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlp.core.config import read_yaml

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

HILUM = (0.21, 0.0)


@dataclass(frozen=True, slots=True)
class Camera:
    """An affine map from body coordinates to pixels, whose pixel i covers [i, i + 1); `scale` pixels to one unit."""

    size: int
    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: float

    @classmethod
    def draw(cls, size: int, width: float, height: float, rng: np.random.Generator) -> Camera:
        """Draw a pose (turn of 4 degrees, shift of 4 %, 8 % in scale) for a patient of a width and height."""
        angle = np.deg2rad(rng.uniform(-4, 4))
        zoom = rng.uniform(0.93, 1.05) * size / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = zoom * turn @ np.diag([1.08 * width, 1.08 * height])
        shift = size / 2 * (1 + rng.uniform(-0.04, 0.04, 2) + (0, 0.06))
        return cls(size, matrix, shift, float(np.sqrt(np.linalg.det(matrix))))

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points [..., 2] of the body as points of the image."""
        return np.asarray(points @ self.matrix.T + self.shift)

    def grid(self) -> tuple[Floats, Floats]:
        """Return the body's x and y at the centre of every pixel, both [H, W]."""
        inverse = np.linalg.inv(self.matrix)
        offset = -inverse @ self.shift
        centres = np.arange(self.size, dtype=np.float64) + 0.5
        across = (inverse[:, :1] * centres + offset[:, None]).astype(np.float32)
        down = (inverse[:, 1:] * centres).astype(np.float32)
        return across[0][None] + down[0][:, None], across[1][None] + down[1][:, None]

    def fill(self, points: NDArray[np.float64], canvas: Bytes | None = None, value: int = 255) -> Bytes:
        """Return [H, W] uint8 with the inside of an outline [N, 2] painted, its edge smoothed."""
        canvas = np.zeros((self.size, self.size), np.uint8) if canvas is None else canvas
        cv2.fillPoly(canvas, [self._fixed(points)], (value,), cv2.LINE_AA, 4)
        return canvas

    def lines(self, curves: NDArray[np.float64], width: float, canvas: Bytes, value: int = 255) -> None:
        """Draw curves [K, N, 2] of a width in units of the body; thinner than a pixel, they get fainter."""
        pixels = width * self.scale
        value = min(255, round(value * min(1.0, max(pixels, 0.3))))
        cv2.polylines(canvas, list(self._fixed(curves)), False, (value,), max(1, round(pixels)), cv2.LINE_AA, 4)

    def _fixed(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        return np.round((self.pixels(points) - 0.5) * 16).astype(np.int32)


@lru_cache
def _closed(points: int, steps: int) -> NDArray[np.float64]:
    """Return the matrix [points * steps, points] of a closed Catmull-Rom spline."""
    weights = np.zeros((points * steps, points))
    for step in range(steps):
        t = step / steps
        basis = (-t + 2 * t * t - t**3, 2 - 5 * t * t + 3 * t**3, t + 4 * t * t - 3 * t**3, -t * t + t**3)
        for point in range(points):
            for neighbour, weight in enumerate(basis):
                weights[point * steps + step, (point + neighbour - 1) % points] += weight / 2
    return weights


def smooth(points: NDArray[np.float64], closed: bool = True, steps: int = 5) -> NDArray[np.float64]:
    """Return a curve through points [N, 2]."""
    if closed:
        return np.asarray(_closed(len(points), steps) @ points)
    ends = np.concatenate([points, points[-2:0:-1]])  # there and back again
    return np.asarray((_closed(len(ends), steps) @ ends)[: (len(points) - 1) * steps + 1])


@lru_cache
def outline(name: str) -> NDArray[np.float64]:
    """Return an outline of `outlines.yaml`, "torso" with its mirror image; not to be written to."""
    points = np.array(read_yaml(Path(__file__).parent / "outlines.yaml")[name])
    return np.concatenate([points, points[::-1] * (-1, 1)]) if name == "torso" else points


def lung(sign: int, dome: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the control points [16, 2] of a lung; `sign` -1 for the image's left; `dome` > 0 lifts the diaphragm."""
    points = outline("lung")
    points = points + rng.uniform(-0.012, 0.012, points.shape)
    low = points[:, 1] > 0.3
    points[low, 1] -= dome * np.clip((points[low, 1] - 0.3) / 0.2, 0, 1)
    return np.asarray(points * (sign, 1))


def heart(stretch: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the outline [N, 2] of heart and great vessels; `stretch` 1 is normal; the apex goes to x > 0."""
    points = outline("heart")
    points = points + rng.uniform(-0.008, 0.008, points.shape)
    low = np.clip((points[:, 1] + 0.12) / 0.25, 0, 1)  # the vessels do not grow with the heart
    left = np.where(points[:, 0] > 0, stretch, 0.45 + 0.55 * stretch)
    points[:, 0] *= 1 + low * (left - 1)
    points[:, 1] -= 0.10 * (stretch - 1) * low * (points[:, 1] < 0.3)
    return smooth(points)


@lru_cache
def _rib_shapes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the backs [18, 9, 2] and the fronts [10, 9, 2] of the ribs: y is what the slope of a chest multiplies."""
    along = np.linspace(0, 1, 9)
    backs, fronts = [], []
    for number in range(9):
        reach = 0.50 + 0.27 * np.sin(min(1.0, (number + 0.5) / 5) * np.pi / 2)
        for sign in (-1, 1):
            across = sign * (0.08 + (reach - 0.08) * np.sin(along * np.pi / 2))
            backs.append(np.stack([across, -0.07 * np.sin(along * np.pi) + 0.27 * along**2.2], axis=1))
            if 1 < number < 7:
                across = sign * (reach - (reach - 0.30) * along)
                fronts.append(np.stack([across, 0.27 + 0.22 * along**1.3], axis=1))
    return np.array(backs), np.array(fronts)


def bones(camera: Camera, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """Return ribs and clavicles, [H, W] uint8 each."""
    ribs = np.zeros((camera.size, camera.size), np.uint8)
    slope, step = rng.uniform(0.9, 1.15), rng.uniform(0.137, 0.150)
    backs, fronts = (shapes * (1, slope) for shapes in _rib_shapes())
    tops = -0.74 + step * np.repeat(np.arange(9), 2)
    backs[..., 1] += tops[:, None]
    fronts[..., 1] += tops[4:14, None]
    camera.lines(fronts, 0.034, ribs, 55)
    camera.lines(backs, 0.042, ribs, 150)
    camera.lines(backs, 0.020, ribs, 95)
    clavicles = np.zeros_like(ribs)
    points = np.array([(0.06, -0.52), (0.22, -0.60), (0.42, -0.62), (0.60, -0.70), (0.80, -0.74)])
    points = smooth(points + np.array((0, rng.uniform(-0.03, 0.03))), closed=False)
    curves = np.stack([points * (-1, 1), points]) + rng.uniform(-0.01, 0.01, (2, 1, 2))
    camera.lines(curves, 0.066, clavicles, 170)
    camera.lines(curves, 0.034, clavicles, 120)
    return ribs, clavicles


def vessels(camera: Camera, amount: float, rng: np.random.Generator) -> Bytes:
    """Return the branching shadows of the lungs' vessels, [H, W] uint8; `amount` 1 is normal."""
    canvas = np.zeros((camera.size, camera.size), np.uint8)
    signs = np.repeat([-1.0, 1.0], 9)
    angles = np.tile(np.linspace(-1.25, 1.25, 9), 2) + rng.uniform(-0.12, 0.12, 18)
    heading = angles[:, None] + rng.uniform(-0.35, 0.35, (18, 1)) * np.linspace(0, 1, 5)
    length = rng.uniform(0.30, 0.48, (18, 1, 1)) * min(1.25, amount)
    steps = np.stack([np.cos(heading), 1.25 * np.sin(heading)], axis=2) * (length / 4)
    steps[:, 0] = np.stack([np.full(18, HILUM[0]), HILUM[1] + rng.uniform(-0.10, 0.12, 18)], axis=1)
    flip = np.stack([signs, np.ones(18)], axis=1)[:, None]
    curves = np.cumsum(steps, axis=1) * flip
    turned = np.cumsum(steps[:, 1:4] @ np.array([[0.9, 0.5], [-0.5, 0.9]]), axis=1) * 0.7 * flip
    camera.lines(np.concatenate([curves[:, 2:3], curves[:, 2:3] + turned], axis=1), 0.009, canvas, int(85 * amount))
    camera.lines(curves[:, 2:], 0.013, canvas, int(105 * amount))
    camera.lines(curves[:, :3], 0.026, canvas, int(150 * amount))
    return canvas
