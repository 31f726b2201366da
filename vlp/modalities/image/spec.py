"""What a model expects of an image: the `image` section of a recipe."""

from __future__ import annotations

from typing import Literal

from vlp.core.config import config

from .decode import MAX_PIXELS


@config
class ImageSpec:
    """What the model expects of an image.

    `resize`: `pad` keeps the whole image, centred on a square of `pad_value`; `crop` fills the square and loses the ends
    of the longer side (`crop_share` < 1 also cuts a border, as timm's crop_pct); `squash` ignores the aspect ratio.
    `interpolation`: `area` is OpenCV's, the fastest; `bilinear` and `bicubic` are Pillow's anti-aliased ones, as
    torchvision, open_clip and transformers resize. `mean` and `std` are of pixels in [0, 1], one value or one a channel.
    """

    size: int = 224
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    resize: Literal["pad", "crop", "squash"] = "pad"
    interpolation: Literal["area", "bilinear", "bicubic"] = "area"
    crop_share: float = 1.0
    pad_value: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be positive, found {self.size}")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be in (0, 1], found {self.crop_share}")
        if len(self.mean) not in (1, 3) or len(self.std) not in (1, 3) or min(self.std) <= 0:
            raise ValueError(f"mean and std take one or three values, std positive: {self.mean}, {self.std}")
