"""Maps and masks at another size, without a geometry: of one image at the size of another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.geometry import Geometry


def resized(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array [H, W] or [D, H, W] at another shape: the mean where it shrinks, linear where it grows."""
    if len(shape) == 3:
        from vlp.modalities.volume.resample import resample

        scale = tuple(new / old for new, old in zip(shape, values.shape, strict=True))
        return np.asarray(resample(values, Geometry(values.shape, shape, scale, (0.0,) * 3), 0.0), np.float32)
    import cv2

    size = (int(shape[1]), int(shape[0]))
    smaller = size[0] < values.shape[1]
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR))


def stretched(heat: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a map of one image at the size of another; what was not seen stays unseen."""
    if len(shape) == 3:
        shares = resized(np.isfinite(heat).astype(np.float32), shape)
        field = resized(np.nan_to_num(heat), shape) / np.maximum(shares, 1e-6)
        return np.where(shares > 0.5, field, np.nan).astype(np.float32)
    import cv2

    size = (int(shape[1]), int(shape[0]))
    seen = cv2.resize(np.isfinite(heat).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    field = cv2.resize(np.nan_to_num(heat), size, interpolation=cv2.INTER_LINEAR)
    return np.where(seen, field, np.nan).astype(np.float32)
