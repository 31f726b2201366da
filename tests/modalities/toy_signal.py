"""A toy modality in one file: a signal of four numbers, its processor and its tower."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from vlp.modalities.base import Processor, processors
from vlp.modalities.geometry import Geometry
from vlp.models.towers.base import Features, Tower, TowerConfig, towers_of


class SignalSpec(NamedTuple):
    length: int = 4


@processors.register("signal")
class SignalProcessor(Processor[np.ndarray, Tensor]):
    """Little-endian floats to [B, 4], mirrored at random in training."""

    def __init__(self, spec: SignalSpec) -> None:
        self.spec = spec

    @property
    def fingerprint(self) -> str:
        return f"signal of {self.spec.length}"

    def read(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, "<f4")

    def eval(self, native: np.ndarray) -> tuple[Tensor, Geometry]:
        geometry = Geometry(native.shape, (self.spec.length,), (self.spec.length / len(native),), (0.0,))
        places = geometry.to_source(np.arange(self.spec.length)[:, None] + 0.5)[:, 0]
        return torch.from_numpy(native[places.astype(int)]), geometry

    def train(self, native: np.ndarray, augment: Any, rng: np.random.Generator) -> tuple[Tensor, Geometry]:
        found, geometry = self.eval(native)
        return (found.flip(0), geometry.flipped()) if rng.random() < 0.5 else (found, geometry)

    def collate(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(inputs))

    def example(self) -> Tensor:
        return torch.ones(1, self.spec.length)

    def save(self, folder: Path | str) -> None:
        (Path(folder) / "signal.json").write_text(json.dumps(self.spec))

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        return cls(SignalSpec(*json.loads((Path(folder) / "signal.json").read_text())))


@towers_of("signal").register("linear")
class LinearTower(Tower):
    def __init__(self, config: TowerConfig, spec: SignalSpec) -> None:
        super().__init__()
        self.width = 6
        self.layer = nn.Linear(spec.length, self.width)

    def forward(self, signal: Tensor) -> Features:
        return Features(self.layer(signal))
