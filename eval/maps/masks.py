"""From a map to a mask: threshold, k-means or a CRF, then box or point prompts to any SAM of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlp.core.config import ConfigError
from vlp.core.errors import first_line
from vlp.core.trust import check_model_folder

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rule = Literal["threshold", "kmeans", "crf"]


def scaled(heat: ArrayLike) -> Floats:
    """Return a map scaled to [0, 1]; unseen (NaN) pixels become 0."""
    values = np.asarray(heat, dtype=np.float64)
    seen = np.isfinite(values)
    if not seen.any():
        return np.zeros_like(values)
    low, high = values[seen].min(), values[seen].max()
    return np.where(seen, (values - low) / (high - low) if high > low else 0.0, 0.0)


def by_threshold(heat: ArrayLike, threshold: float) -> Mask:
    """Return where the scaled map exceeds a threshold."""
    return scaled(heat) > threshold


def by_kmeans(heat: ArrayLike, iterations: int = 50) -> Mask:
    """Return the brighter of two clusters of the scaled map's values (Lloyd's algorithm from the extremes, exact in 1-D)."""
    values = scaled(heat)
    low, high = float(values.min()), float(values.max())
    for _ in range(iterations):
        bright = values > (low + high) / 2
        if not bright.any() or bright.all():
            break
        new = float(values[~bright].mean()), float(values[bright].mean())
        if new == (low, high):
            break
        low, high = new
    return values > (low + high) / 2


def by_crf(heat: ArrayLike, image: NDArray[np.uint8], longest: int = 64) -> Mask:
    """Return the labels of a fully connected CRF (Krähenbühl & Koltun 2011) over the map and the image [H, W(, 3)].

    The field is solved on the image reduced to `longest` pixels, where all pairs of pixels fit into memory and nothing is
    approximated, and its log-odds are spread back bilinearly: a map of patches has no finer detail of its own.
    """
    import cv2

    probability = np.clip(scaled(heat), 0.01, 0.99)
    height, width = probability.shape
    ratio = min(1.0, longest / max(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    reduced = cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
    colours = cv2.resize(np.atleast_3d(image).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    odds = mean_field(np.log(reduced / (1 - reduced)), colours.reshape(*size[::-1], -1))
    return np.asarray(cv2.resize(odds, (width, height), interpolation=cv2.INTER_LINEAR) > 0)


def mean_field(
    unary: Floats,
    colours: NDArray[np.float32],
    steps: int = 10,
    weights: tuple[float, float] = (2.0, 4.0),
    spreads: tuple[float, float, float] = (2.0, 8.0, 20.0),
) -> Floats:
    """Return log-odds [H, W] after mean-field steps of a two-label Potts model in which every pair of pixels is joined.

    `unary`: log-odds [H, W]; `colours` [H, W, C] in 0..255. `weights` of the smoothness and the appearance kernel;
    `spreads`: pixels of the first, pixels and grey levels of the second. Kernels have no diagonal and are normalised as
    D^-1/2 K D^-1/2, so that a weight means the same at any spread.
    """
    from scipy.spatial.distance import cdist

    place = np.indices(unary.shape).reshape(2, -1).T.astype(np.float64)
    shade = colours.reshape(len(place), -1).astype(np.float64)
    distance, contrast = (cdist(rows, rows, "sqeuclidean") for rows in (place, shade))
    kernel = np.zeros_like(distance)
    for weight, exponent in (
        (weights[0], distance / (2 * spreads[0] ** 2)),
        (weights[1], distance / (2 * spreads[1] ** 2) + contrast / (2 * spreads[2] ** 2)),
    ):
        alike = np.exp(-exponent)
        np.fill_diagonal(alike, 0)
        scale = 1 / np.sqrt(np.maximum(alike.sum(1), 1e-12))
        kernel += weight * scale[:, None] * alike * scale
    odds = start = unary.reshape(-1)
    for _ in range(steps):
        odds = start + kernel @ np.tanh(odds / 2)  # of a log-odds x, the beliefs differ by tanh(x / 2)
    return np.asarray(odds.reshape(unary.shape))


def largest_parts(mask: ArrayLike, count: int = 1) -> list[Mask]:
    """Return the largest connected parts of a mask, largest first."""
    from scipy.ndimage import label

    parts, found = label(np.asarray(mask, dtype=bool))
    sizes = np.bincount(parts.ravel(), minlength=found + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:count]
    return [parts == part + 1 for part in order]


def box_of(mask: Mask) -> list[float]:
    """Return the bounding box (x1, y1, x2, y2) of a mask."""
    rows, columns = np.nonzero(mask)
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def point_of(mask: Mask) -> list[float]:
    """Return the point (x, y) of a mask that is farthest from its edge."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return [float(column) + 0.5, float(row) + 0.5]


class Sam:
    """A promptable segmenter of transformers (SAM, SAM 2, SAM-HQ, EdgeTAM, ...): masks from boxes or points."""

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self._model, self._processor, self._device = model.to(device).eval(), processor, device

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> Sam:
        """Load a folder, or what the local Hub cache holds of a name, with its processor. Nothing is fetched.

        Raises ConfigError.
        """
        from huggingface_hub import snapshot_download
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        try:
            folder = name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)
            check_model_folder(Path(folder), f"SAM {name!r}")
            safe = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModelForMaskGeneration.from_pretrained(folder, use_safetensors=True, **safe)
            processor = AutoProcessor.from_pretrained(folder, **safe)
        except ConfigError:
            raise
        except Exception as error:  # a wrong type in a configuration ends in any of them
            hint = "expected a folder that transformers' save_pretrained wrote, or a name in the local Hub cache"
            raise ConfigError(f"no SAM in {name!r}: {first_line(error)}; {hint}") from None
        return cls(model, processor, device)

    def __call__(self, image: NDArray[np.uint8], parts: Sequence[Mask], prompt: Literal["box", "points"]) -> Mask:
        """Return the union [H, W] of the best masks for each part's box or inner point, on an RGB image [H, W, 3]."""
        import torch

        result = np.zeros(image.shape[:2], dtype=bool)
        for part in parts:
            if prompt == "box":
                asked: dict[str, Any] = {"input_boxes": [[box_of(part)]]}
            else:
                asked = {"input_points": [[[point_of(part)]]], "input_labels": [[[1]]]}
            inputs = self._processor(images=image, return_tensors="pt", **asked).to(self._device)
            with torch.inference_mode():
                output = self._model(**inputs)
            sizes = [inputs["original_sizes"].cpu()]
            if "reshaped_input_sizes" in inputs:  # the first SAM pads; its successors squash
                sizes.append(inputs["reshaped_input_sizes"].cpu())
            masks = self._processor.post_process_masks(output.pred_masks.cpu(), *sizes)[0].flatten(0, 1)
            best = int(output.iou_scores.flatten()[: len(masks)].argmax())
            result |= np.asarray(masks[best].numpy(), dtype=bool)
        return result
