"""The embeddings of a run: each image and each text encoded once, kept on disk, read back without the model.

Rows are keyed by (model, preprocessing), (data, sample) and the text itself, and written in files that appear whole or
not at all, so a killed run goes on where it was. The model always sees as many images at a time, the last ones padded:
results do not depend on order, batch size, workers, or on what else was asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlp.batch import Grid
from vlp.core.config import ConfigError
from vlp.core.output import locked, write_whole
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.decode import VERSION

from ..data.dataset import Data, UnreadableError
from ..data.spec import DataError
from ..models.base import Card, Embedder
from .decode_ahead import Prepared, Transform, prepared
from .row_files import RowFiles

if TYPE_CHECKING:
    from vlp.modalities.base import ImageLike

Floats = NDArray[np.float32]
ROWS = 32
BLOCKS = 8
AHEAD = 4
"""The model works on `ROWS` images while the next `AHEAD` times as many are decoded; so many `BLOCKS` are one file."""
VOXELS = 1 << 24
"""Of large volumes fewer than `ROWS` are worked on at a time: so many voxels of input, 64 MiB, or a single one."""


class EmbeddingCache:
    """Embeddings in `folder`, made by `embedder` when missing; without one (`vlp-eval score`) a missing row is an error."""

    def __init__(
        self, folder: Path, embedder: Embedder | None, workers: int = 2, progress: Progress | None = None
    ) -> None:
        self.folder, self.embedder, self.workers = folder, embedder, max(1, workers)
        self.progress = progress or Progress(disable=True)
        path = folder / "card.json"
        if embedder is not None:
            self.card = embedder.card
            with locked(folder / ".lock"):
                if path.is_file() and read_card(path).fingerprint != self.card.fingerprint:
                    what = "the embeddings of another model or preprocessing"
                    raise ConfigError(f"{folder} holds {what}; choose another folder")
                write_whole(path, json.dumps(asdict(self.card), indent=1) + "\n")
        elif path.is_file():
            self.card = read_card(path)
        else:
            raise ConfigError(f"no embeddings in {folder}: make them with `vlp-eval embed`")
        self._at = cache(lambda place: RowFiles(self.folder / place))
        self._reasons = cache(self._known_reasons)

    def _known_reasons(self, place: str) -> dict[str, str]:
        """Return why images of a place did not decode, by key; none for a model, for a file may have been put right."""
        return read_reasons(self.folder / f"{place}.unreadable.json") if self.embedder is None else {}

    @property
    def grid(self) -> Grid | None:
        """Where the cells of patch features lie on the input; None for a model without them."""
        if self.card.grid is None:
            return None
        *shape, stride, offset = self.card.grid
        return Grid(tuple(shape), tuple(stride), tuple(offset))

    @property
    def rows(self) -> int:
        """How many images the model works on at a time, whatever machine this is: a row may depend on it."""
        if not self.card.reads_volumes:
            return ROWS
        voxels: int = math.prod(self.card.image_spec["size"])
        return max(1, min(ROWS, VOXELS // voxels))

    @cached_property
    def _processor(self) -> ImageLike[Any]:
        from vlp.core.config import validate
        from vlp.modalities.kinds import KINDS, processor_of

        spec = dict(self.card.image_spec)
        kind = KINDS[spec.pop("kind", "image")]
        return processor_of(validate(kind.Spec, spec, "image"))

    def geometry(self, data: Data, index: int) -> Geometry:
        """Return how an encoded image, or a volume, lies on the model's input."""
        return self._processor.geometry(*self._at(_place(data)).facts[data.records[index].key])

    def spacing(self, data: Data, index: int) -> tuple[float, ...]:
        """Return the millimetres from voxel to voxel of an encoded volume along D, H and W; empty for an image."""
        extent = self._at(_place(data)).facts[data.records[index].key]
        return tuple(map(float, extent[3:]))

    def encode_images(
        self,
        data: Data,
        indices: Sequence[int],
        patches: bool = False,
        view: str = "",
        transform: Transform | None = None,
    ) -> None:
        """Encode those of the images that are not there yet. `view` names a `transform` of the pixels (corruptions).

        Raises UnreadableError for images that do not decode, after the others are done.
        """
        if transform and self.card.reads_volumes:
            raise DataError(f"{view}: changes of grey pixels are of images, and {self.card.name} reads volumes in HU")
        place, modality = _place(data, view), "patches" if patches else "image"
        files, unreadable = self._at(place), self._reasons(place)
        asked = [index for index in sorted(set(indices)) if not files.has(data.records[index].key, modality)]
        todo = [index for index in asked if data.records[index].key not in unreadable]
        if todo and self.embedder is None:
            what = f"{'patch features' if patches else 'embedding'} of image {data.records[todo[0]].key!r}"
            raise DataError(f"{self.folder} has no {what} ({len(todo)} are missing)")
        if todo and self.embedder is not None:
            bad: dict[str, str] = {}
            task = self.progress.add_task(f"encode {len(todo)} images{f' ({view})' if view else ''}", total=len(todo))
            images = prepared(self.embedder, data, todo, transform, self.workers, AHEAD * self.rows)
            blocks = self._encoded(modality, _readable(images, bad), task)
            while part := list(islice(blocks, BLOCKS)):
                arrays = {name: np.concatenate([block[2][name] for block in part]) for name in part[0][2]}
                keys, extents = ([row for block in part for row in block[side]] for side in (0, 1))
                files.add(keys, extents, arrays)
            self.progress.remove_task(task)
            if bad:
                unreadable |= bad
                path = self.folder / f"{place}.unreadable.json"
                with locked(self.folder / ".lock"):
                    write_whole(path, json.dumps(read_reasons(path) | bad, indent=1, sort_keys=True) + "\n")
        if found := {key: unreadable[key] for index in asked if (key := data.records[index].key) in unreadable}:
            raise UnreadableError(found, data)

    def _encoded(
        self, modality: str, images: Iterator[Prepared], task: Any
    ) -> Iterator[tuple[Sequence[str], Sequence[Any], dict[str, Floats]]]:
        """Yield keys, extents and arrays of as many images as go at a time."""
        assert self.embedder is not None
        rows = self.rows
        while batch := list(islice(images, rows)):
            keys, extents, inputs = zip(*batch, strict=True)
            arrays = self.embedder.encode(modality, [*inputs, *[inputs[0]] * (rows - len(batch))])
            yield keys, extents, {name: array[: len(batch)] for name, array in arrays.items()}
            self.progress.advance(task, len(batch))

    def images(self, data: Data, indices: Sequence[int], view: str = "", transform: Transform | None = None) -> Floats:
        """Return raw embeddings [n, D] of images."""
        self.encode_images(data, indices, view=view, transform=transform)
        return self._rows(_place(data, view), [data.records[index].key for index in indices], "image")

    def patches(self, data: Data, indices: Sequence[int]) -> Floats:
        """Return raw patch features [n, P, D] of images."""
        self.encode_images(data, indices, patches=True)
        return self._rows(_place(data), [data.records[index].key for index in indices], "patches")

    def texts(self, texts: Sequence[str]) -> Floats:
        """Return raw embeddings [n, D] of texts; equal texts are encoded once."""
        return self._written("text", texts)

    def words(self, words: Sequence[tuple[str, tuple[int, int]]]) -> Floats:
        """Return raw word features [n, D] of texts' characters `[start, end)`. Raises DataError for a model without any."""
        return self._written("words", words)

    def _written(self, modality: str, items: Sequence[Any]) -> Floats:
        """Return the rows [n, D] of what is written; those that are not there yet are encoded."""
        written = (item if isinstance(item, str) else json.dumps(item) for item in items)
        codes = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in written]
        files = self._at(modality)
        todo = {code: item for code, item in sorted(zip(codes, items, strict=True)) if not files.has(code, modality)}
        if todo and self.embedder is None:
            raise DataError(f"{self.folder} has no embedding of a text that this task needs ({len(todo)} are missing)")
        if todo and self.embedder is not None:
            task = self.progress.add_task(f"encode {len(todo)} texts", total=None)
            files.add(list(todo), [None] * len(todo), self.embedder.encode(modality, list(todo.values())))
            self.progress.remove_task(task)
        return self._rows(modality, codes, modality)

    def _rows(self, place: str, keys: Sequence[str], name: str) -> Floats:
        return self._at(place).rows(keys, name) if keys else np.zeros((0, self.card.dim), np.float32)


def _readable(images: Iterator[Prepared | tuple[str, str]], bad: dict[str, str]) -> Iterator[Prepared]:
    """Yield the images that decode; enter the reasons of the others in `bad`."""
    for image in images:
        if len(image) == 2:
            bad[image[0]] = image[1]
        else:
            yield image


def _place(data: Data, view: str = "") -> str:
    return f"{data.digest[:16]}-{VERSION}{f'-{view}' if view else ''}"


def read_reasons(path: Path) -> dict[str, str]:
    """Return why images did not decode, by key; empty where none is remembered."""
    reasons: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return reasons


def read_card(path: Path) -> Card:
    """Return the card of the model that made a folder of embeddings."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["grid"]:
            *shape, stride, offset = tree["grid"]
            tree["grid"] = (*shape, tuple(stride), tuple(offset))
        return Card(**tree)
    except (ValueError, LookupError, TypeError):
        raise ConfigError(f"{path} is no card of embeddings that vlp-eval wrote: choose another folder") from None
