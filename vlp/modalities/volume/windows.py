"""The windows of a CT as a model's channels: clip((HU - (level - width / 2)) / width, 0, 1), as DICOM's LINEAR_EXACT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .spec import VolumeSpec, window_of


class Windows(nn.Module):
    """HU [B, 1, D, H, W] to channels in [0, 1], one a window; values that are in [0, 1] already (an MR) pass."""

    low: Tensor
    width: Tensor

    def __init__(self, spec: VolumeSpec) -> None:
        super().__init__()
        found = [window_of(name) for name in spec.windows] or [(0.5, 1.0)]
        low, width = [level - width / 2 for level, width in found], [width for _, width in found]
        self.register_buffer("low", torch.tensor(low).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("width", torch.tensor(width).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return ((values - self.low) / self.width).clamp(0, 1)
