"""The windows of a CT as a model's channels: clip((HU - (level - width / 2)) / width, 0, 1), as DICOM's LINEAR_EXACT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..image.spec import ImageSpec
from .spec import VolumeSpec, window_of


class Windows(nn.Module):
    """HU [B, 1, D, H, W] to normalised channels, one a window; of an MR, whose values lie in [0, 1] already, to one.

    2-D images, uint8 [B, C, 1, H, W], to as many, by the mean and deviation of their own specification.

    Window, mean and deviation are one product, one sum and one clamp: of a batch of volumes every pass costs.
    """

    gain: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, spec: VolumeSpec) -> None:
        super().__init__()
        level, width = torch.tensor([window_of(name) for name in spec.windows] or [(0.5, 1.0)], dtype=torch.float64).T
        mean, std = (torch.tensor(values, dtype=torch.float64).expand(len(level)) for values in (spec.mean, spec.std))
        constants = {
            "gain": 1 / (width * std),
            "shift": (0.5 - level / width - mean) / std,
            "low": -mean / std,
            "high": (1 - mean) / std,
        }
        for name, values in constants.items():
            self.register_buffer(name, values.float().view(1, -1, 1, 1, 1), persistent=False)

        self.channels = spec.channels
        picture = spec.image or ImageSpec()
        for name, numbers in (("mean", picture.mean), ("std", picture.std)):
            self.register_buffer(name, torch.tensor(numbers).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        if values.dtype == torch.uint8:
            channels = values.to(self.mean.dtype).div(255).expand(-1, self.channels, -1, -1, -1)
            return (channels - self.mean[:, : self.channels]) / self.std[:, : self.channels]
        return torch.addcmul(self.shift, values, self.gain).clamp(self.low, self.high)
