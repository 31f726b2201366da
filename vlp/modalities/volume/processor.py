"""From a volume to the model's input: one box of one spacing, and where each voxel comes to lie on it, exactly.

Values stay HU (float32) until the batch; the model makes its windows of them. Torch is imported only where a tensor is made.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlp.core.config import ConfigError, to_tree, validate

from ..base import ImageLike, processors
from ..geometry import Geometry
from ..image.errors import ImageError
from ..image.processor import Augment, ImageProcessor
from . import store
from .options import VolumeOptions
from .read import read_volume
from .resample import resample
from .spec import VolumeSpec, window_of
from .volume import Picture, Volume

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".jp2")
"""Endings of files that hold one 2-D image, never a volume."""


@processors.register("volume")
class VolumeProcessor(ImageLike[Volume]):
    """The way of a `VolumeSpec`: `eval` is deterministic and its geometry exact, `train` adds an `Augment`.

    Nothing that it draws turns left into right: of an `Augment` the flip is refused, and a rotation is about the axis from
    feet to head. Where the specification has an `image`, a 2-D image is read too: as one slice, uint8 [C, 1, H, W], with a
    geometry of two axes. Batches are of one kind.
    """

    Spec = VolumeSpec
    kind = "volume"
    spec: VolumeSpec

    def __init__(self, spec: VolumeSpec) -> None:
        super().__init__(spec)
        self.pictures = None if spec.image is None else ImageProcessor(spec.image)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that changes the tensor that a model sees."""
        tree = {key: value for key, value in to_tree(self.spec).items() if key not in ("max_voxels", "image")}
        if self.pictures is not None:
            tree["image"] = self.pictures.fingerprint
        return hashlib.sha256(json.dumps([self.kind, self.version, tree], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset({self.kind} if self.pictures is None else {self.kind, self.pictures.kind})

    def read(self, data: bytes) -> Volume:
        """Open the bytes of a shard's volume, or of a file (see `read`); what is stored is decoded where it is looked at."""
        if self.pictures is not None and not store.is_volume(data):
            return Picture.of(self.pictures.read(data))
        return self._checked(store.decode(data, self.spec.max_voxels))

    def native(self, item: Any, **options: Any) -> Volume:
        """Return a volume as users give it: a path of a file or of a DICOM series' folder, a shard's bytes, or a `Volume`.

        Where pictures are read too, also a path, bytes, pixels or PIL image of one.
        `options` are those of `VolumeOptions`. Raises ImageError, and ConfigError for an option that is none.
        """
        if isinstance(item, (bytes, bytearray)):
            return self.read(bytes(item))
        if self.pictures is not None and _is_picture(item):
            return Picture.of(self.pictures.native(item, **options))
        if isinstance(item, Volume):
            return self._checked(item)
        said = validate(VolumeOptions, {"modality": self.spec.modality, **options})
        return self._checked(read_volume(Path(item), self.spec.max_voxels, said))

    def extent(self, volume: Volume) -> tuple[float, ...]:
        """Return the volume's voxels and spacing along D, H and W; of a picture its height and width."""
        return volume.shape[1:] if isinstance(volume, Picture) else (*volume.shape, *volume.spacing)

    def geometry(self, *extent: float) -> Geometry:
        """Return where the voxels of a volume of this extent come to lie on the input.

        Each axis of n voxels, s millimetres apart, becomes m = max(1, floor(n s / t + 1/2)) voxels of exactly t, the middle
        of both at one place; the box is cut out or padded by floor((m - size) / 2) voxels at the low end.
        """
        if self.pictures is not None and len(extent) == 2:
            return self.pictures.geometry(int(extent[0]), int(extent[1]))
        shape = int(extent[0]), int(extent[1]), int(extent[2])
        axes = zip(shape, extent[3:], self.spec.spacing, self.spec.size, strict=True)
        scale, offset = [], []
        for count, old, new, size in axes:
            cells = max(1, math.floor(count * old / new + 0.5))
            scale.append(old / new)
            offset.append((cells - count * old / new) / 2 - (cells - size) // 2)
        return Geometry(shape, self.spec.size, tuple(scale), tuple(offset))

    def affine(self, volume: Volume, geometry: Geometry) -> np.ndarray:
        """Return the affine [4, 4] of the input: from (x, y, z, 1), its indices W, H, D, to millimetres in RAS."""
        corners = np.array([[0.5] * 3, [0.5, 0.5, 1.5], [0.5, 1.5, 0.5], [1.5, 0.5, 0.5]])
        origin, *axes = volume.world(geometry.to_source(corners))
        found = np.eye(4)
        found[:3, 3] = origin
        found[:3, :3] = np.column_stack([axis - origin for axis in axes])
        return found

    def eval(self, volume: Volume) -> tuple[Tensor, Geometry]:
        """Return a volume as the model's input, float32 [1, D, H, W] in HU (an MR in [0, 1]), and where it lies on it."""
        if isinstance(volume, Picture):
            return _as_slice(self._image_processor().eval(volume.pixels))
        geometry = self.geometry(*self.extent(volume))
        return self._tensor(self._values(volume, geometry)), geometry

    def train(self, volume: Volume, augment: Augment, rng: np.random.Generator) -> tuple[Tensor, Geometry]:
        """As `eval`, with the random changes of `augment` drawn from `rng`; the geometry tells all that moved a voxel.

        `crop_scale` is the share of the box's volume; `brightness`, `contrast` and `noise` are shares of 1,000 HU.
        """
        if isinstance(volume, Picture):
            return _as_slice(self._image_processor().train(volume.pixels, augment, rng))
        geometry = self.geometry(*self.extent(volume))
        if augment.crop_scale is not None or augment.shift:
            geometry = self._moved(geometry, augment, rng)
        values = self._values(volume, geometry)
        if augment.rotate:
            degrees = float(rng.uniform(-augment.rotate, augment.rotate))
            values, geometry = self._rotated(values, degrees), geometry.rotated(degrees)
        return self._tensor(self._changed(values, augment, rng)), geometry

    def check_training(self, augment: Augment, decode: str) -> None:
        if augment.flip:
            raise ConfigError(
                "data.augment.flip: a mirrored volume has its left on the right, and the report says which; leave it out"
            )
        if augment.gamma or augment.blur:
            raise ConfigError("data.augment: gamma and blur are of images; volumes have brightness, contrast and noise")
        if decode != "full":
            raise ConfigError("data.decode: fast is of JPEG images; a volume is read in parts as it is")

    def collate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return inputs [1, D, H, W] as a batch [B, 1, D, H, W], B may be 0; ValueError for volumes and images in one."""
        import torch

        if len({values.dtype for values in inputs}) > 1:
            raise ValueError("volumes and images in one batch: give them sets of their own")
        return torch.stack(list(inputs)) if inputs else torch.zeros((0, 1, *self.spec.size))

    def example(self) -> Tensor:
        import torch

        ramp = torch.linspace(-1000.0, 1000.0, math.prod(self.spec.size)).view(1, 1, *self.spec.size)
        return ramp if self.spec.modality == "CT" else (ramp + 1000) / 2000

    def probes(self) -> list[bytes]:
        """Return stored volumes: two of the input's own voxels, and one oblong and oblique that has to be resampled."""
        rng = np.random.default_rng(0)
        own = np.diag([*self.spec.spacing[::-1], 1.0])
        turn = np.diag([1.3, 0.8, 2.1, 1.0]) @ np.array(
            [[0.99, 0.1, 0, 9], [-0.1, 0.99, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]]
        )
        made = []
        for shape, affine in ((self.spec.size, own), (self.spec.size, own), ((37, 41, 29), turn)):
            z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
            waves = sum(300 * np.sin(z * rng.uniform(-1, 1) / 3 + y / 5 + x * rng.uniform(-1, 1) / 4) for _ in range(3))
            values = np.clip(waves - 300 + rng.normal(0, 20, shape), -1000, 1500).astype(np.int16)
            is_mr = self.spec.modality == "MR"
            volume = Volume(values, affine, self.spec.modality, (-700.0, 500.0) if is_mr else None)
            made.append(store.encode(volume))
        return made

    def describe(self) -> str:
        spec = self.spec
        lengths, sides = (" x ".join(f"{number:g}" for number in numbers) for numbers in (spec.spacing, spec.size))
        windows = ", ".join("{} ({:g}/{:g})".format(name, *window_of(name)) for name in spec.windows)
        return (
            f"volumes: {spec.modality}, {sides} voxels of {lengths} mm (depth to the head, height to the front, width to the "
            f"patient's right: RAS); {f'windows in HU (level/width): {windows}' if windows else 'no windows'}"
        )

    def _image_processor(self) -> ImageProcessor:
        if self.pictures is None:
            raise ImageError("a 2-D image, and the model reads volumes (volume.image: none)")
        return self.pictures

    def _checked(self, volume: Volume) -> Volume:
        wanted, found = self.spec.modality, "MR" if volume.modality == "MR" else "CT"
        if wanted != found:
            raise ImageError(
                f"the model reads {wanted} volumes ({self.spec.windows or 'no windows'}), this one is {volume.modality}"
            )
        if min(volume.spacing) <= 0:
            raise ImageError(
                "the volume's spacing is unknown, and the model asks for millimetres", "volume_without_spacing"
            )
        return volume

    def _values(self, volume: Volume, geometry: Geometry) -> np.ndarray:
        values = resample(volume.voxels, geometry, self.spec.pad_value)
        if self.spec.modality == "CT":
            return values
        low, high = volume.range or (0.0, 1.0)
        return np.clip((values - low) / max(high - low, 1e-6), 0, 1)

    def _moved(self, geometry: Geometry, augment: Augment, rng: np.random.Generator) -> Geometry:
        zoom = float(rng.uniform(*augment.crop_scale)) ** (1 / 3) if augment.crop_scale else 1.0
        reach = abs(1 - zoom) / 2 + augment.shift
        scale, offset = [], []
        for side, old, start in zip(geometry.input, geometry.scale, geometry.offset, strict=True):
            middle = side / 2 + float(rng.uniform(-reach, reach)) * side
            scale.append(old / zoom)
            offset.append((start - middle) / zoom + side / 2)
        return replace(geometry, scale=tuple(scale), offset=tuple(offset))

    def _rotated(self, values: np.ndarray, degrees: float) -> np.ndarray:
        import cv2

        height, width = values.shape[1:]
        turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
        fill = self.spec.pad_value
        return np.stack([cv2.warpAffine(plane, turn, (width, height), borderValue=fill) for plane in values])

    def _changed(self, values: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
        unit = 1000.0 if self.spec.modality == "CT" else 1.0
        if augment.brightness or augment.contrast:
            gain = 1 + rng.uniform(-augment.contrast, augment.contrast)
            values = values * np.float32(gain) + np.float32(rng.uniform(-augment.brightness, augment.brightness) * unit)
        if augment.noise:
            deviation = np.float32(rng.uniform(0, augment.noise) * unit)
            values = values + rng.standard_normal(values.shape, dtype=np.float32) * deviation
        return values

    def _tensor(self, values: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, np.float32)[None])


def _is_picture(item: Any) -> bool:
    is_path = isinstance(item, (str, Path))
    return Path(item).suffix.lower() in PICTURES if is_path else not isinstance(item, Volume)


def _as_slice(found: tuple[Tensor, Geometry]) -> tuple[Tensor, Geometry]:
    pixels, geometry = found
    return pixels.unsqueeze(1), geometry
