"""Draw a synthetic study: density of chest and findings, then the film's own curve, blur, noise and marks.

Densities add up along the ray and end in a curve, as on film, so that a finding behind the heart is fainter than one in
air. Each finding is drawn as a map of its own, and its box is where that map is, in pixels: no box is ever guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .anatomy import HILUM, Bytes, Camera, Floats, bones, heart, lung, outline, smooth, vessels
from .patient import Instance, State

ZONES = {"upper": -0.38, "mid": -0.02, "lower": 0.31}
SIGN = {"right": -1, "left": 1}  # the patient's right is on the image's left
VISIBLE = 0.35
"""Where a finding's map, at most 1, counts as inside its box."""

Span = tuple[float, float, float, float]


@dataclass(slots=True)
class Scene:
    """What the painters need to know of the chest. Maps are [H, W]; `contours` and `lungs` by side of the image (-1, 1).

    `rng` belongs to the findings alone: the same seed with a finding less is the same chest and film without it.
    """

    camera: Camera
    x: Floats
    y: Floats
    contours: dict[int, NDArray[np.float64]]
    lungs: dict[int, Floats]
    heart: Floats
    rng: np.random.Generator

    def blob(self, x: float, y: float, wide: float, high: float, angle: float = 0.0) -> Floats:
        """Return a Gaussian of height 1."""
        dx, dy = self.x - x, self.y - y
        if angle:
            c, s = float(np.cos(angle)), float(np.sin(angle))
            dx, dy = c * dx + s * dy, c * dy - s * dx
        return np.asarray(np.exp(-0.5 * ((dx / wide) ** 2 + (dy / high) ** 2)), dtype=np.float32)

    def texture(self, cells: int, rng: np.random.Generator) -> Floats:
        """Return smooth noise of about unit variance with `cells` grains across the image."""
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        size = self.camera.size
        return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))

    def soft(self, canvas: Bytes, radius: float) -> Floats:
        """Return a painted canvas as floats from 0 to 1, blurred by a radius in units of the body."""
        sigma = max(radius * self.camera.scale, 0.3)
        return np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma).astype(np.float32) * np.float32(1 / 255))


def render(state: State, size: int, seed: list[int]) -> tuple[NDArray[np.uint8], list[Span]]:
    """Return the image [size, size] uint8 and the box (x1, y1, x2, y2) of each of the state's instances, in pixels."""
    rng, own = (np.random.Generator(np.random.PCG64([*seed, part])) for part in (0, 1))
    patient = state.patient
    camera = Camera.draw(size, patient.width, patient.height, rng)
    domes = {-1: rng.uniform(0.02, 0.06), 1: rng.uniform(-0.03, 0.01)}
    stretch, wet = rng.uniform(0.90, 1.02), 1.0
    for instance in state.instances:
        severe = instance.size == "severe"
        if instance.finding == "atelectasis" and instance.zone == "lower":
            domes[SIGN[instance.side]] += 0.10 if severe else 0.03
        elif instance.finding == "cardiomegaly":
            stretch = own.uniform(1.50, 1.66) if severe else own.uniform(1.22, 1.31)
        elif instance.finding == "edema":
            wet = 1.5 if severe else 1.25
    contours = {sign: lung(sign, domes[sign], rng) for sign in (-1, 1)}
    scene = Scene(camera, *camera.grid(), contours, {}, np.empty(0, np.float32), own)
    for sign in (-1, 1):
        scene.lungs[sign] = scene.soft(camera.fill(smooth(contours[sign])), 0.012)
    scene.heart = scene.soft(camera.fill(heart(stretch, rng)), 0.014)
    density = np.zeros((size, size), np.float32)
    air = np.ones((size, size), np.float32)
    calm = np.ones((size, size), np.float32)
    spans = [_span(PAINTERS[instance.finding](scene, instance, density, air, calm)) for instance in state.instances]
    density += _chest(scene, state, air, calm, wet, rng)
    return _film(scene, state, density, rng), spans


def _chest(scene: Scene, state: State, air: Floats, calm: Floats, wet: float, rng: np.random.Generator) -> Floats:
    """Return the density of the chest itself, 0 = air.

    `air` [H, W] says how much of a lung still holds any, `calm` where its vessels still show, `wet` how full they are.
    """
    camera, x, y = scene.camera, scene.x, scene.y
    body = scene.soft(camera.fill(smooth(outline("torso"))), 0.02)
    lungs = scene.lungs[-1] + scene.lungs[1]
    square = x * x
    knob = scene.blob(0.125, -0.33, 0.065, 0.075) * (0.8 if state.patient.age == "65+" else 0.4)
    middle = np.exp(square * square * np.float32(-1 / 0.12**4)) * np.clip(1.5 - 2 * np.abs(y), 0, 1)
    solid = np.maximum(np.maximum(scene.heart, middle), knob)
    free = lungs * (1 - 0.93 * solid) * air
    ribs, clavicles = bones(camera, rng)
    vertebrae = np.exp(square * np.float32(-1 / 0.07**2)) * (0.07 + 0.025 * np.sin(y * np.float32(46)))
    windpipe = x + 0.01
    windpipe = np.exp(windpipe * windpipe * np.float32(-1 / 0.034**2)) * np.clip(-6 * (y + 0.20), 0, 1)
    density = 0.60 - 0.05 * np.abs(x) + 0.05 * y  # the abdomen is denser than the shoulders
    density += vertebrae + 0.14 * scene.soft(ribs, 0.008) + 0.15 * scene.soft(clavicles, 0.010)
    density += 0.06 * solid - 0.10 * windpipe + 0.012 * scene.texture(14, rng)
    density *= body
    density -= free * (0.40 + 0.025 * rng.uniform(-1, 1))
    hila = scene.blob(-HILUM[0], HILUM[1], 0.055, 0.10) + scene.blob(HILUM[0], HILUM[1] - 0.04, 0.055, 0.10)
    marks = 0.12 * wet * hila + 0.14 * scene.soft(vessels(camera, wet, rng), 0.006)
    density += free * calm * marks
    if state.patient.sex == "F":
        drop = rng.uniform(0.30, 0.42)
        breasts = scene.blob(-0.47, drop, 0.20, 0.17) + scene.blob(0.47, drop, 0.20, 0.17)
        density += 0.05 * np.where(y < drop + 0.12, np.minimum(breasts * 1.4, 1), breasts * 0.6)
    if rng.random() < 0.6:
        density -= 0.13 * scene.blob(0.36, 0.66, 0.10, 0.055) * (1 - lungs)  # air in the stomach
    density += 0.012 * lungs * scene.texture(30, rng)
    return np.asarray(density, dtype=np.float32)


def _consolidation(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Fluffy air-space shadow with dark bronchi in it."""
    rng, sign = scene.rng, SIGN[instance.side]
    small = instance.size == "small"
    reach = 0.105 if small else 0.185
    x, y = _where(scene, instance, 0.44, 0.05)
    extent = np.zeros_like(density)
    for dx, dy in rng.uniform(-0.8, 0.8, (5 if small else 8, 2)) * reach:
        wide, high = reach * rng.uniform(0.34, 0.56, 2)
        extent += 0.62 * scene.blob(x + float(dx), y + float(dy), float(wide), float(high))
    extent *= 1 + 0.30 * scene.texture(30, rng)
    extent = np.clip(extent, 0, 1) * scene.lungs[sign]
    bronchi = np.zeros(density.shape, np.uint8)
    starts = np.stack([np.full(3, x - sign * 0.8 * reach), y + rng.uniform(-0.3, 0.3, 3) * reach], axis=1)
    stops = np.stack([np.full(3, x + sign * 0.6 * reach), y + rng.uniform(-0.7, 0.7, 3) * reach], axis=1)
    scene.camera.lines(np.stack([starts, stops], axis=1), 0.014, bronchi, 120)
    density += 0.34 * extent * (1 - 0.5 * scene.soft(bronchi, 0.006)) * (1 - 0.45 * scene.heart)
    calm *= 1 - 0.8 * extent
    return extent


def _nodule(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Round shadow with a sharp edge."""
    rng = scene.rng
    radius = rng.uniform(0.048, 0.058) if instance.size == "small" else rng.uniform(0.090, 0.110)
    x, y = _where(scene, instance, 0.45, 0.08)
    squash = rng.uniform(0.88, 1.12)
    distance = np.sqrt(((scene.x - x) * squash) ** 2 + ((scene.y - y) / squash) ** 2)
    extent = np.asarray(np.clip((radius - distance) * 35 + 0.5, 0, 1), dtype=np.float32)
    density += 0.28 * extent * (1 - 0.3 * scene.heart)
    calm *= 1 - extent
    return extent


def _effusion(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Fluid over the diaphragm that climbs up the wall and hides both."""
    rng, sign = scene.rng, SIGN[instance.side]
    lateral = rng.uniform(0.26, 0.33) if instance.size == "small" else rng.uniform(-0.12, 0.02)
    fall = 0.30 if instance.size == "small" else 0.26
    inward = np.clip((0.73 - sign * scene.x) / 0.55, 0, 1)
    level = lateral + fall * inward * np.sqrt(inward)
    pocket = scene.soft(scene.camera.fill(smooth(scene.contours[sign] + np.array((sign * 0.01, 0.02)))), 0.01)
    extent = np.asarray(np.clip((scene.y - level) * 14 + 0.5, 0, 1) * pocket, dtype=np.float32)
    air *= 1 - 0.95 * extent
    density += 0.03 * extent
    return np.asarray(extent * (1 - scene.heart * (scene.x * sign < 0.3)), dtype=np.float32)


def _pneumothorax(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Air without vessels between the wall and the edge of a lung that has come away from it, at the apex first."""
    rng, sign = scene.rng, SIGN[instance.side]
    shrink, depth = (rng.uniform(0.26, 0.32), 0.05) if instance.size == "small" else (rng.uniform(0.40, 0.48), 0.46)
    contour = smooth(scene.contours[sign])
    hilum = np.array([sign * HILUM[0], 0.06])
    along = np.clip((depth - contour[:, 1]) / (depth + 0.74), 0, 1)
    lateral = np.clip((sign * contour[:, 0] - 0.14) / 0.2, 0, 1)
    pull = shrink * (along**0.8 * lateral)[:, None]
    inner = hilum + (contour - hilum) * (1 - pull)
    edge = inner[(pull[:, 0] > 0.03) & (inner[:, 1] < min(depth, 0.38))]
    lung_left = scene.soft(scene.camera.fill(inner), 0.006)
    extent = np.asarray(np.clip(scene.lungs[sign] - lung_left, 0, 1), dtype=np.float32)
    line = np.zeros(density.shape, np.uint8)
    if len(edge) > 1:
        order = np.argsort(np.unwrap(np.arctan2(edge[:, 1] - hilum[1], sign * (edge[:, 0] - hilum[0]))))
        scene.camera.lines(edge[None, order], 0.020, line)
    density -= 0.10 * extent
    density += 0.14 * scene.soft(line, 0.005) * scene.lungs[sign] + 0.05 * lung_left * shrink
    calm *= 1 - extent
    return extent


def _cardiomegaly(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """The heart was drawn large: this only says where it is, the great vessels left out."""
    return np.asarray(scene.heart * (scene.y > -0.12), dtype=np.float32)


def _edema(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Haze about both hila, like wings, with short lines at the wall below."""
    rng = scene.rng
    severe = instance.size == "severe"
    wings = scene.blob(-0.36, 0.04, 0.17, 0.27, 0.15) + scene.blob(0.36, 0.04, 0.17, 0.27, -0.15)
    lungs = scene.lungs[-1] + scene.lungs[1]
    extent = np.asarray(np.clip(wings * 1.15, 0, 1) * lungs, dtype=np.float32)
    lines = np.zeros(density.shape, np.uint8)
    for sign in (-1, 1):
        starts = rng.uniform((0.60, 0.05), (0.66, 0.42), (9 if severe else 5, 2)) * (sign, 1)
        scene.camera.lines(np.stack([starts, starts + np.array((sign * 0.07, 0.01))], axis=1), 0.010, lines, 200)
    grain = 1 + 0.28 * scene.texture(30, rng)
    density += (0.23 if severe else 0.125) * extent * grain * (1 - 0.6 * scene.heart)
    density += 0.10 * scene.soft(lines, 0.004) * lungs
    return extent


def _atelectasis(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """Plates of airless lung, nearly level, above a raised diaphragm."""
    rng = scene.rng
    severe = instance.size == "severe"
    x, y = _where(scene, instance, 0.45, 0.04)
    if instance.zone == "lower":
        y -= 0.04
    canvas = np.zeros(density.shape, np.uint8)
    tilt = rng.uniform(-0.12, 0.12)
    for number in range(4 if severe else 1):
        half = rng.uniform(0.15, 0.19)
        level = y + (0.066 * (number - 1.5) if severe else 0.0)
        middle = x + rng.uniform(-0.03, 0.03)
        points = np.array([(middle - half, level + tilt * half), (middle, level), (middle + half, level - tilt * half)])
        scene.camera.lines(points[None], 0.036 if severe else 0.030, canvas)
    extent = scene.soft(canvas, 0.008) * scene.lungs[SIGN[instance.side]]
    density += 0.23 * extent * (1 - 0.4 * scene.heart)
    if severe:
        density += 0.08 * scene.blob(x, y, 0.14, 0.09) * scene.lungs[SIGN[instance.side]]
    return np.asarray(extent / max(float(extent.max()), 0.2), dtype=np.float32)


def _device(scene: Scene, instance: Instance, density: Floats, air: Floats, calm: Floats) -> Floats:
    """A pacemaker with its lead, or a port with its catheter: the wire is part of the device and of its box."""
    rng, sign = scene.rng, SIGN[instance.side]
    metal, wire = np.zeros(density.shape, np.uint8), np.zeros(density.shape, np.uint8)
    x, y = sign * rng.uniform(0.53, 0.60), rng.uniform(-0.52, -0.40)
    vein = [(sign * 0.34, -0.62), (sign * 0.16, -0.54), (-0.10, -0.38), (-0.125, -0.10)]
    if instance.size == "pacemaker":
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        c, s = np.cos(angle), np.sin(angle)
        body = np.stack([0.105 * np.sign(c) * np.abs(c) ** 0.6, 0.085 * np.sign(s) * np.abs(s) ** 0.6], axis=1)
        scene.camera.fill(body + np.array((x, y)), metal)
        path = np.array([(x - sign * 0.05, y - 0.08), *vein, (-0.10, 0.18), (0.02, 0.36), (0.24, 0.42)])
        width, strength = 0.015, 0.40
    else:
        angle = np.linspace(0, 2 * np.pi, 24)
        ring = np.stack([0.062 * np.cos(angle), 0.062 * np.sin(angle)], axis=1) + np.array((x, y))
        scene.camera.lines(ring[None], 0.030, metal)
        path = np.array([(x - sign * 0.04, y - 0.06), *vein, (-0.12, 0.06)])
        width, strength = 0.015, 0.32
    curve = smooth(path + rng.uniform(-0.012, 0.012, path.shape), closed=False)
    scene.camera.lines(curve[None], width, wire)
    drawn = scene.soft(metal, 0.004) * (0.55 if instance.size == "pacemaker" else 0.40)
    density += np.maximum(drawn, scene.soft(wire, 0.003) * strength)
    return np.asarray(np.maximum(metal, wire) * np.float32(1 / 255), dtype=np.float32)


PAINTERS = {
    "consolidation": _consolidation,
    "nodule": _nodule,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "cardiomegaly": _cardiomegaly,
    "edema": _edema,
    "atelectasis": _atelectasis,
    "device": _device,
}


def _where(scene: Scene, instance: Instance, across: float, play: float) -> tuple[float, float]:
    """Return a point in the instance's side and zone, clear of the heart's usual place."""
    x = across + scene.rng.uniform(-play, play)
    if instance.zone == "upper":
        x -= 0.05
    if instance.zone == "lower":
        x += 0.06
    return SIGN[instance.side] * float(x), ZONES[instance.zone] + float(scene.rng.uniform(-0.05, 0.05))


def _span(extent: Floats) -> Span:
    """Return the edges (x1, y1, x2, y2) of where a map says that a finding is; lower the bar for a faint one."""
    inside = extent > min(VISIBLE, 0.5 * float(extent.max()))
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    if not len(columns):
        raise ValueError("a synthetic finding was painted outside the image: its pose or place is drawn too widely")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _film(scene: Scene, state: State, density: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Expose, blur, add noise, collimate and mark: [H, W] uint8. The two sites do each of these differently."""
    size = scene.camera.size
    first = state.patient.site == "northgate"
    gain, offset = rng.uniform(0.92, 1.08), rng.uniform(-0.03, 0.03)
    gain, offset, gamma = (gain * 1.18, offset + 0.05, 0.95) if first else (gain * 1.02, offset + 0.11, 1.2)
    blur = rng.uniform(0.35, 0.6) * size / 128
    film = cv2.GaussianBlur(density, (0, 0), blur)
    film = np.clip(film * np.float32(gain) + np.float32(offset), 0.0, 1.15)
    film = (film / np.float32(1.15)) ** np.float32(gamma * rng.uniform(0.94, 1.06))
    noise = rng.standard_normal((size, size), dtype=np.float32)
    film += noise * (np.float32(rng.uniform(0.008, 0.018)) * (1.25 - film))
    pixels: NDArray[np.uint8] = np.clip(film * np.float32(235) + np.float32(8), 0, 255).astype(np.uint8)
    marker, corner = ("R", 0.06) if first else ("L", 0.86)
    place = (int(size * (corner + rng.uniform(-0.02, 0.02))), int(size * rng.uniform(0.10, 0.16)))
    if first:
        cv2.putText(pixels, marker, place, cv2.FONT_HERSHEY_SIMPLEX, size / 300, (245,), 1, cv2.LINE_AA)
    else:
        cv2.putText(pixels, marker, place, cv2.FONT_HERSHEY_DUPLEX, size / 330, (225,), 1, cv2.LINE_AA)
        top, bottom, left, right = (int(size * share) for share in rng.uniform(0.0, 0.05, 4))
        pixels[:top] = pixels[size - bottom :] = 4
        pixels[:, :left] = pixels[:, size - right :] = 4
    return pixels
