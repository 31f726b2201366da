"""Random changes of a training image."""

from __future__ import annotations

import cv2
import numpy as np

from vlp.core.config import config


@config
class Augment:
    """Random changes of a training image; everything is off by default, and a flip never comes by itself.

    `crop_scale`: share of the view's area that is kept, drawn between the two (above 1 zooms out); `shift`: largest
    move, as a share of the side; `rotate`: largest angle in degrees; `brightness`, `contrast`, `gamma`: largest relative
    change; `noise`: largest standard deviation in [0, 1] intensity; `blur`: largest Gaussian sigma in input pixels;
    `flip`: mirror every second image. Off in chest work: left and right are in the reports, and the heart is not in
    the middle.
    """

    crop_scale: tuple[float, float] | None = None
    shift: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    flip: bool = False


def recolour(square: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return pixels blurred, brightened and with noise, each as `augment` draws it."""
    if augment.blur:
        sigma = float(rng.uniform(0, augment.blur))
        square = cv2.GaussianBlur(square, (0, 0), sigma) if sigma > 0.05 else square
    if augment.brightness or augment.contrast or augment.gamma:
        gain = 1 + rng.uniform(-augment.contrast, augment.contrast)
        lift = rng.uniform(-augment.brightness, augment.brightness)
        power = float(np.exp(rng.uniform(-1, 1) * np.log1p(augment.gamma)))
        levels = np.clip(((np.arange(256) / 255.0) ** power - 0.5) * gain + 0.5 + lift, 0, 1)
        square = np.rint(levels * 255).astype(np.uint8)[square]
    if augment.noise:
        grain = rng.standard_normal(square.shape[:2], dtype=np.float32) * float(rng.uniform(0, augment.noise) * 255)
        grain = grain if square.ndim == 2 else grain[..., None]
        square = np.clip(np.rint(square + grain), 0, 255).astype(np.uint8)
    return square
