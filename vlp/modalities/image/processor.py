"""From encoded image to the model's square input, and where each pixel comes to lie on it, exactly.

Pixels stay uint8 until the batch; the model normalises. Torch is imported only where a tensor is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from vlp.core.config import config, to_tree

from ..base import ImageLike, processors
from ..geometry import Geometry
from .decode import decode_native, decode_opened, read_image, to_channels
from .spec import ImageSpec

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor

cv2.setNumThreads(0)  # loader workers are the parallelism; OpenCV's own threads would fight them

Decode = Literal["full", "fast"]
"""How training images are decoded: `fast` is `ImageProcessor.read_reduced`."""


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


@processors.register("image")
class ImageProcessor(ImageLike[np.ndarray]):
    """The way of an `ImageSpec`: `eval` is deterministic and its geometry exact, `train` adds an `Augment`."""

    Spec = ImageSpec
    spec: ImageSpec

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that changes the tensor that a model sees."""
        tree = {key: value for key, value in to_tree(self.spec).items() if key != "max_pixels"}
        return hashlib.sha256(json.dumps([self.version, tree], sort_keys=True).encode()).hexdigest()[:16]

    def read(self, data: bytes, window: str = "file") -> np.ndarray:
        """Decode encoded bytes (see `decode`) -> uint8 [H, W] where the file is grey or the model is, else [H, W, 3].

        `eval` and `train` give a grey image its three channels at the end: until then it is a third of the work. `window`
        is that of DICOM files.
        """
        return decode_native(data, self.spec.channels, self.spec.max_pixels, window=window)

    def native(self, item: Any, **options: Any) -> np.ndarray:
        """Return an image as users give it: a path, encoded bytes, uint8 pixels, or a PIL image; raises ImageError.

        `window` among the `options` is that of DICOM files.
        """
        if isinstance(item, np.ndarray):
            return item
        if not isinstance(item, (str, Path, bytes, bytearray)):
            return decode_opened(item).pixels
        return self.read(read_image(item) if isinstance(item, (str, Path)) else bytes(item), **options)

    def extent(self, pixels: np.ndarray) -> tuple[int, int]:
        return int(pixels.shape[0]), int(pixels.shape[1])

    def read_reduced(self, data: bytes, augment: Augment) -> np.ndarray:
        """As `read`, but a JPEG comes at 1/2, 1/4 or 1/8 of its size where that is enough.

        Enough: no view that `augment` may draw has to be enlarged more than it would be from the whole image. The
        pixels differ (about 40 dB for a 512-px radiograph on 224 px), so it is for training images only.
        """
        zoom = min(augment.crop_scale[0] ** 0.5, 1.0) if augment.crop_scale else 1.0

        def shrink(height: int, width: int) -> int:
            scale = self.geometry(height, width).scale
            sides = [(side, side * share / zoom) for side, share in zip((height, width), scale, strict=True)]
            return next((by for by in (8, 4, 2) if all(-(-side // by) >= least for side, least in sides)), 1)

        return decode_native(data, self.spec.channels, self.spec.max_pixels, shrink)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return where the pixels of an image of `height` x `width` come to lie on the input."""
        size = self.spec.size
        if self.spec.resize == "squash":
            new = (size, size)
        else:
            new = (self._side(height, width), self._side(width, height))
        margin = (size - new[0]) // 2, (size - new[1]) // 2
        if self.spec.resize == "crop":
            margin = -round((new[0] - size) / 2), -round((new[1] - size) / 2)
        scale = new[0] / height, new[1] / width
        return Geometry((height, width), (size, size), scale, (float(margin[0]), float(margin[1])))

    def _side(self, side: int, other: int) -> int:
        """Return what a side is resized to; `crop` rounds as timm's and torchvision's Resize and CenterCrop do."""
        size = self.spec.size
        if self.spec.resize == "pad":
            return max(1, round(side * size / max(side, other)))
        return int(int(size / self.spec.crop_share) * side / min(side, other))

    def eval(self, pixels: np.ndarray) -> tuple[Tensor, Geometry]:
        """Return uint8 pixels [H, W] or [H, W, 3] as the model's input, uint8 [C, S, S], and where they lie on it."""
        square, geometry = self._resized(self._checked(pixels))
        return self._tensor(square), geometry

    def train(self, pixels: np.ndarray, augment: Augment, rng: np.random.Generator) -> tuple[Tensor, Geometry]:
        """As `eval`, with the random changes of `augment` drawn from `rng`; the geometry tells all that moved a pixel."""
        pixels = self._checked(pixels)
        if augment.crop_scale is None and not augment.shift:
            square, geometry = self._resized(pixels)
        else:
            square, geometry = self._view(pixels, augment, rng)
        if augment.rotate:
            centre = (self.spec.size / 2 - 0.5, self.spec.size / 2 - 0.5)
            degrees = float(rng.uniform(-augment.rotate, augment.rotate))
            turn = cv2.getRotationMatrix2D(centre, degrees, 1.0)
            fill = (self.spec.pad_value,) * 3
            square = cv2.warpAffine(square, turn, square.shape[:2], flags=cv2.INTER_LINEAR, borderValue=fill)
            geometry = geometry.rotated(degrees)
        if augment.flip and rng.random() < 0.5:
            square, geometry = square[:, ::-1], geometry.flipped()
        return self._tensor(_recolour(square, augment, rng)), geometry

    def collate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return inputs [C, S, S] as a batch [B, C, S, S]; B may be 0."""
        import torch

        size = self.spec.size
        return (
            torch.stack(list(inputs)) if inputs else torch.zeros((0, self.spec.channels, size, size), dtype=torch.uint8)
        )

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels in the model's channels, grey ones as [H, W] whatever these are."""
        return to_channels(pixels, 1 if pixels.ndim == 2 else self.spec.channels)

    def _resized(self, pixels: np.ndarray) -> tuple[np.ndarray, Geometry]:
        geometry, size = self.geometry(*pixels.shape[:2]), self.spec.size
        height, width = (round(side * scale) for side, scale in zip(pixels.shape[:2], geometry.scale, strict=True))
        resized = resize(pixels, height, width, self.spec.interpolation)
        top, left = int(geometry.offset[0]), int(geometry.offset[1])
        resized = resized[max(-top, 0) : max(-top, 0) + size, max(-left, 0) : max(-left, 0) + size]
        return self._paste(resized, max(top, 0), max(left, 0)), geometry

    def _view(self, pixels: np.ndarray, augment: Augment, rng: np.random.Generator) -> tuple[np.ndarray, Geometry]:
        """Cut a randomly scaled and moved window out of the image and bring it to the input's size."""
        height, width = pixels.shape[:2]
        size = self.spec.size
        x1, y1, x2, y2 = self.geometry(height, width).box_to_source((0, 0, size, size))
        zoom = float(rng.uniform(*augment.crop_scale)) ** 0.5 if augment.crop_scale else 1.0
        reach = abs(1 - zoom) / 2 + augment.shift
        middle = (
            (y1 + y2) / 2 + float(rng.uniform(-reach, reach)) * (y2 - y1),
            (x1 + x2) / 2 + float(rng.uniform(-reach, reach)) * (x2 - x1),
        )
        source, target = [], []
        for centre, extent, side in ((middle[0], (y2 - y1) * zoom, height), (middle[1], (x2 - x1) * zoom, width)):
            start = centre - extent / 2
            first = min(max(round(start), 0), side - 1)
            last = max(min(round(start + extent), side), first + 1)
            edges = [min(max(round((edge - start) * size / extent), 0), size) for edge in (first, last)]
            source.append((first, last))
            target.append((min(edges[0], size - 1), max(edges[1], min(edges[0], size - 1) + 1)))
        (top, bottom), (left, right) = target
        rows, columns = (slice(*edges) for edges in source)
        window = resize(pixels[rows, columns], bottom - top, right - left, self.spec.interpolation)
        scale = (bottom - top) / (rows.stop - rows.start), (right - left) / (columns.stop - columns.start)
        offset = top - rows.start * scale[0], left - columns.start * scale[1]
        return self._paste(window, top, left), Geometry((height, width), (size, size), scale, offset)

    def _paste(self, pixels: np.ndarray, top: int, left: int) -> np.ndarray:
        size = self.spec.size
        if pixels.shape[:2] == (size, size):
            return pixels
        canvas = np.full((size, size, *pixels.shape[2:]), self.spec.pad_value, np.uint8)
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return canvas

    def _tensor(self, square: np.ndarray) -> Tensor:
        import torch

        size = self.spec.size
        planes = (
            np.broadcast_to(square, (self.spec.channels, size, size)) if square.ndim == 2 else square.transpose(2, 0, 1)
        )
        return torch.from_numpy(np.array(planes, np.uint8, order="C"))

    def example(self) -> Tensor:
        return self.batch([np.full((self.spec.size, self.spec.size), 128, np.uint8)])

    def probes(self) -> list[np.ndarray]:
        size, rng, images = self.spec.size, np.random.default_rng(0), []
        for shape in ((size, size), (size, size), (size, size), (330, 270)):
            y, x = np.mgrid[: shape[0], : shape[1]]
            waves = sum(
                rng.uniform(20, 60) * np.sin(y * rng.uniform(-1, 1) / 7 + x * rng.uniform(-1, 1) / 7) for _ in range(4)
            )
            images.append(np.clip(128 + waves + rng.normal(0, 4, shape), 0, 255).astype(np.uint8))
        return images

    def describe(self) -> str:
        spec = self.spec
        return f"images: {spec.size} x {spec.size}, {spec.channels} channel(s), {spec.resize}, {spec.interpolation}"


def _recolour(square: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
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


def resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Return uint8 pixels [H, W] or [H, W, 3] at another size: `area`, `bilinear` or `bicubic` (see `ImageSpec`)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation == "area":
        shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
        if shrinks and pixels.ndim == 2:
            return shrink_grey(pixels, height, width)
        how: Any = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=how))
    from PIL import Image

    how = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def shrink_grey(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return what OpenCV's INTER_AREA does to uint8 [H, W], in half of its time.

    Each pixel is the mean of the area it covers. That is one sparse matrix for the rows and one for the columns, so rows
    go first and whole rows are added up at once. The same to the last bit but for a pixel in 100,000 whose mean lies
    between two values.
    """
    rows, columns = coverage(pixels.shape[0], height), coverage(pixels.shape[1], width)
    narrow = columns @ np.ascontiguousarray((rows @ pixels.astype(np.float32)).T)
    return np.ascontiguousarray(np.rint(narrow).astype(np.uint8).T)


@lru_cache(maxsize=256)
def coverage(old: int, new: int) -> csr_matrix:
    """Return the shares of `old` cells in each of `new` that span the same length, float32 [new, old], rows sum to 1."""
    from scipy.sparse import csr_matrix

    scale = old / new
    start = np.arange(new)[:, None] * scale
    cells = np.floor(start + 1e-9).astype(np.int32) + np.arange(int(np.ceil(scale)) + 1, dtype=np.int32)
    shares = (np.minimum(np.minimum(start + scale, old), cells + 1) - np.maximum(start, cells)) / scale
    kept = shares > 1e-7
    counts = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return csr_matrix((shares[kept].astype(np.float32), cells[kept], counts), shape=(new, old))
