"""Organs: which sentences speak of each, whether it is normal by them, and which cells of the image show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Grid, Ragged, Tokens
from vlp.core.config import ConfigError, config
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume import store
from vlp.sample import Sample, code_of, fold, mentions_by_sentence

from .base import DataSetup, Need, Rows, needs

ABNORMAL = ("present", "uncertain")


@config
class Organ:
    """What belongs to an organ.

    A sentence speaks of it that holds one of `words` or their beginnings (`cardi` for cardiac; the organ's name where none
    is given) or a mention whose code is one of `codes`. `masks`: the names of its masks, the organ's name where none is given.
    """

    words: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class OrganSettings:
    """What is asked of organs, as the objective `anatomy` says it."""

    organs: Mapping[str, Organ]
    masked: bool
    whole: bool
    normal: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Organs(Ragged):
    """Organs that a batch's reports speak of: T entries, each an organ of a sample.

    `tokens` of its sentences; `organ` [T] int64, its place among the settings'; `code` [T] int64, equal where the sentences
    are; `normal` [T] bool; `cells` [T, P] bool, those of the grid that hold a part of its mask, None where masks are not asked
    for.
    """

    tokens: Tokens
    organ: Tensor
    code: Tensor
    normal: Tensor
    cells: Tensor | None = None


@dataclass(frozen=True, slots=True)
class OrganText:
    """An organ of a sample: its number, its sentences, whether it is normal by them, its cells [P]."""

    organ: int
    text: str
    is_normal: bool
    cells: np.ndarray | None = None


@needs.register("extras.organs")
class OrganTexts(Need):
    """`Batch.extras["organs"]`, and the embeddings of the sentences `ModelOutput.extras["organs"]` [T, D].

    With masks, an organ without a mask is left out, and (`whole`) one that touches the border of the source or the input.
    """

    key = "organs"
    hint = "train with the loader that the objective `anatomy` sets up"
    in_batch = True
    axis = "organs"

    def open(self, setup: DataSetup) -> None:
        settings = setup.settings.get(self.name)
        if not isinstance(settings, OrganSettings):
            raise ConfigError(f"an objective needs {self.name}, and no objective says which (need_settings)")
        if settings.masked and setup.grid is None:
            raise ConfigError("masks of organs need an image tower with a feature map (model.image)")
        self.settings, self.grid, self.reads_masks = settings, setup.grid, settings.masked
        self.organs = [
            (_matcher(organ.words or (name,)), frozenset(organ.codes), organ.masks or (name,))
            for name, organ in settings.organs.items()
        ]
        self.is_normal = _matcher(settings.normal)

    def holds(self) -> str:
        masks = " and a mask of it" if self.settings.masked else ""
        return (
            f"any sentence on one of the organs {list(self.settings.organs)}{masks}: name their words, codes and masks"
        )

    def is_in(self, sample: Sample) -> bool:
        found = [masks for masks, said in zip(self._masks(), self._said(sample), strict=True) if said]
        return any(not self.settings.masked or not sample.masks.keys().isdisjoint(masks) for masks in found)

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> list[OrganText]:
        found = []
        for number, (masks, said) in enumerate(zip(self._masks(), self._said(sample), strict=True)):
            cells = self._cells(sample, masks, geometry) if said and self.settings.masked else None
            if said and (cells is not None or not self.settings.masked):
                text = " ".join(sentence for sentence, _ in said)
                found.append(OrganText(number, text, all(is_normal for _, is_normal in said), cells))
        return found

    def texts(self, prepared: Sequence[list[OrganText]]) -> list[str]:
        return [entry.text for entries in prepared for entry in entries]

    def collate(self, rows: Rows) -> Organs:
        found = [(row, entry) for row, entries in enumerate(rows.prepared) for entry in entries]
        cells = torch.zeros((0, 0), dtype=torch.bool) if self.settings.masked else None
        if self.settings.masked and found:
            cells = torch.from_numpy(np.stack([entry.cells for _, entry in found]))
        return Organs(
            owner=torch.tensor([row for row, _ in found], dtype=torch.int64),
            tokens=rows.own,
            organ=torch.tensor([entry.organ for _, entry in found], dtype=torch.int64),
            code=torch.tensor([code_of(fold(entry.text)) for _, entry in found], dtype=torch.int64),
            normal=torch.tensor([entry.is_normal for _, entry in found], dtype=torch.bool),
            cells=cells,
        )

    def short_texts(self, batch: Batch) -> Tokens | None:
        organs = batch.extras.get(self.key)
        return organs.tokens if isinstance(organs, Organs) else None

    def _masks(self) -> list[tuple[str, ...]]:
        return [masks for *_, masks in self.organs]

    def _said(self, sample: Sample) -> list[list[tuple[str, bool]]]:
        """Return of each organ the sentences that speak of it, and whether each says that all is normal.

        It does where it asserts nothing, and denies a finding or has one of the words for it.
        """
        said: list[list[tuple[str, bool]]] = [[] for _ in self.organs]
        for text, inside in mentions_by_sentence(sample):
            asserts = any(mention.assertion in ABNORMAL for mention in inside)
            is_normal = not asserts and bool(inside or self.is_normal.search(text))
            codes = {mention.code for mention in inside}
            for own, (words, own_codes, _) in zip(said, self.organs, strict=True):
                if words.search(text) or not own_codes.isdisjoint(codes):
                    own.append((text, is_normal))
        return said

    def _cells(self, sample: Sample, names: Sequence[str], geometry: Geometry) -> np.ndarray | None:
        """Return the cells that hold a part of an organ, None where there are none or where it is cut off."""
        assert self.grid is not None
        masks = [read_mask(sample, name, geometry) for name in names if name in sample.masks]
        if not masks:
            return None
        axes = len(geometry.source)  # of a picture in a model of volumes, the cells of its one slice
        grid = Grid(self.grid.shape[-axes:], self.grid.stride[-axes:], self.grid.offset[-axes:])
        cells, is_whole = touched_cells(np.logical_or.reduce(masks), geometry, grid)
        return cells if cells.any() and (is_whole or not self.settings.whole) else None


def read_mask(sample: Sample, name: str, geometry: Geometry) -> np.ndarray:
    """Return a sample's mask, bool of its source's shape; raises ImageError for a damaged one and for another shape."""
    from vlp.modalities.image.decode import decode_mask

    data = sample.masks[name]
    mask = store.decode_mask(data, store.MAX_VOXELS) if len(geometry.source) == 3 else decode_mask(data)
    if mask.shape != geometry.source:
        raise ImageError(
            f"mask {name!r} is {' x '.join(map(str, mask.shape))}, its image as decoded "
            f"{' x '.join(map(str, geometry.source))}: write it again, and leave data.decode at full",
            "bad_mask",
        )
    return mask


def touched_cells(mask: np.ndarray, geometry: Geometry, grid: Grid) -> tuple[np.ndarray, bool]:
    """Return which cells [P] of a grid hold a part of a mask of the source, and whether all of the mask is seen.

    It is not where it reaches the border of the source or of the input: there may be more of it beyond. A voxel that is
    larger than the input's counts by parts no larger than these.
    """
    touched = np.zeros(grid.shape, bool)
    planes = np.flatnonzero(mask.any(tuple(range(1, mask.ndim))))
    if not len(planes):
        return touched.reshape(-1), False
    mask, firsts = _merged(mask[planes[0] : planes[-1] + 1], int(planes[0]), geometry, grid)
    voxels = np.argwhere(mask)
    voxels[:, 0] = firsts[voxels[:, 0]]
    within = bool((voxels.min(0) > 0).all() and (voxels.max(0) < np.array(geometry.source) - 1).all())
    counts = [max(1, int(np.ceil(scale - 1e-6))) for scale in geometry.scale]
    margin = np.array(geometry.scale) / counts / 2
    for part in product(*(range(count) for count in counts)):
        places = geometry.to_input(voxels + (np.array(part) + 0.5) / counts)
        within = within and bool((places > margin).all() and (places < np.array(geometry.input) - margin).all())
        index = np.floor((places - grid.offset) / grid.stride + 0.5).astype(np.int64)
        inside = ((index >= 0) & (index < grid.shape)).all(1)
        touched[tuple(index[inside].T)] = True
    return touched.reshape(-1), within


def _merged(mask: np.ndarray, start: int, geometry: Geometry, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask with the planes joined that lie in one cell, where no turn mixes the axes, and the first of each.

    A mask of 300 x 512 x 512 voxels with an organ of 4 million takes .03 s instead of .6.
    """
    first = np.arange(start, start + len(mask))
    turn = None if geometry.turn is None else np.asarray(geometry.turn)
    if geometry.scale[0] > 1 or (turn is not None and (turn[0, 1:-1].any() or turn[1:, 0].any() or turn[0, 0] < 0)):
        return mask, first
    centres = np.zeros((len(mask), mask.ndim))
    centres[:, 0] = first + 0.5
    cells = np.floor((geometry.to_input(centres)[:, 0] - grid.offset[0]) / grid.stride[0] + 0.5)
    edges = sorted({0, *(np.flatnonzero(np.diff(cells)) + 1), len(mask) - 1, len(mask)})  # the last plane is its end
    return np.stack([mask[low:high].any(0) for low, high in pairwise(edges)]), first[edges[:-1]]


def _matcher(words: Sequence[str]) -> re.Pattern[str]:
    """Return what finds the words, or words that begin with them; nothing where there are none."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})" if words else r"(?!)", re.IGNORECASE)
