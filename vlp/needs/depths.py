"""Depths: sentences of which the sample says where along a volume's first axis they belong, in millimetres."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Ragged, Tokens
from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry
from vlp.sample import Sample, mentions_by_sentence

from .base import DataSetup, Need, Rows, needs
from .organs import read_mask


@dataclass(frozen=True)
class DepthSettings:
    """What is asked of depths, as the objective `depth` says it: the mask at whose height a level lies, by its words."""

    levels: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Depths(Ragged):
    """Sentences whose depth is known: `tokens` of T, and where each lies.

    `place` [T]: along the input's first axis, in its voxels, on edges; `unit` [T]: millimetres from voxel to voxel there, as
    augmentation left them; `seen` [T, 2]: from where to where the input shows the volume, what is beyond is padding.
    """

    tokens: Tokens
    place: Tensor
    unit: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class DepthText:
    """A sentence and its place, unit and seen range as in `Depths`."""

    text: str
    place: float
    unit: float
    seen: tuple[float, float]


@needs.register("extras.depths")
class DepthTexts(Need):
    """`Batch.extras["depths"]`, and the embeddings of the sentences `ModelOutput.extras["depths"]` [T, D].

    A depth is the middle of a box along z: of the box's phrase, and of a sentence whose present findings have the label of no
    other box. A sentence that names one of the settings' levels is at the middle of its mask. What a crop leaves out is left
    out here.
    """

    key = "depths"
    hint = "train with the loader that the objective `depth` sets up, on volumes"
    in_batch = True
    axis = "depths"

    def open(self, setup: DataSetup) -> None:
        settings = setup.settings.get(self.name)
        if not isinstance(settings, DepthSettings):
            raise ConfigError(f"an objective needs {self.name}, and no objective says which (need_settings)")
        self.levels = {re.compile(rf"\b{re.escape(word)}\b", re.I): mask for word, mask in settings.levels.items()}
        self.reads_masks = bool(settings.levels)

    def holds(self) -> str:
        levels = f", and no sentence names one of the levels {list(self.levels.values())}" if self.levels else ""
        return f"any volume with a box that has a phrase{levels}"

    def is_in(self, sample: Sample) -> bool:
        if sample.volume is None:
            return False
        text = sample.report.text if sample.report else ""
        named = any(word.search(text) and mask in sample.masks for word, mask in self.levels.items())
        return named or any(box.phrase.strip() for box in sample.boxes)

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> list[DepthText]:
        if sample.volume is None or len(geometry.source) != 3:
            return []
        middle = np.array(geometry.source) / 2
        unit = sample.volume.spacing[0] / geometry.scale[0]
        _, _, low, _, _, high = geometry.content
        found = []
        for text, depth in self._depths(sample, geometry):
            place = float(geometry.to_input([depth, *middle[1:]])[0])
            if low < place < high:
                found.append(DepthText(text, place, unit, (low, high)))
        return found

    def texts(self, prepared: Sequence[list[DepthText]]) -> list[str]:
        return [entry.text for entries in prepared for entry in entries]

    def collate(self, rows: Rows) -> Depths:
        found = [(row, entry) for row, entries in enumerate(rows.prepared) for entry in entries]
        numbers = torch.tensor(
            [(entry.place, entry.unit, *entry.seen) for _, entry in found], dtype=torch.float32
        ).reshape(-1, 4)
        return Depths(
            owner=torch.tensor([row for row, _ in found], dtype=torch.int64),
            tokens=rows.own,
            place=numbers[:, 0].clone(),
            unit=numbers[:, 1].clone(),
            seen=numbers[:, 2:].clone(),
        )

    def short_texts(self, batch: Batch) -> Tokens | None:
        depths = batch.extras.get(self.key)
        return depths.tokens if isinstance(depths, Depths) else None

    def _depths(self, sample: Sample, geometry: Geometry) -> list[tuple[str, float]]:
        """Return texts and their depths in voxels of the source."""
        found = [(box.phrase, _middle(box.xyxy)) for box in sample.boxes if box.phrase.strip()]
        for text, mentions in mentions_by_sentence(sample):
            named = [mask for word, mask in self.levels.items() if word.search(text) and mask in sample.masks]
            codes = {mention.code for mention in mentions if mention.assertion == "present"}
            boxes = [box for box in sample.boxes if box.label in codes]
            if named:
                planes = np.flatnonzero(read_mask(sample, named[0], geometry).any((1, 2)))
                if len(planes):
                    found.append((text, float(planes[0] + planes[-1] + 1) / 2))
            elif len(boxes) == 1:
                found.append((text, _middle(boxes[0].xyxy)))
        return found


def _middle(box: Sequence[float]) -> float:
    """Return the middle of a volume's box along z."""
    return (box[2] + box[5]) / 2
