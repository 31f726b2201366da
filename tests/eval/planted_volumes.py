"""An embedder of volumes that knows where the boxes of a set of shards are: its cells point at what a phrase speaks of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.eval.planted import direction
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.volume import store
from vlp.sample import Sample
from vlp_eval.models.base import Card

SIZE = CELLS = (24, 20, 24)
DIM = 32


class PlantedVolumes:
    """Cells inside a box of a phrase are like its text, the one in the middle the most; `sign` -1 turns the texts around."""

    def __init__(self, shards: Path, sign: float = 1.0) -> None:
        source = ShardSet(Manifest.read(shards))
        samples = (source.sample(index) for index in range(len(source)))
        self.known: dict[str, Sample] = {digest_of(sample.image).tobytes().hex(): sample for sample in samples}
        self.sign = sign
        self.card = Card(
            name="planted",
            kind="planted",
            weights_sha256="0" * 64,
            fingerprint=f"planted-volumes-{sign}",
            dim=DIM,
            image_spec={"kind": "volume", "spacing": [12.0] * 3, "size": list(SIZE), "windows": ["lung"]},
            grid=(*CELLS, (1.0,) * 3, (0.5,) * 3),
            params=0,
        )

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        volume = store.decode(image, 1 << 20)
        return digest_of(image), (*volume.shape, *volume.spacing)

    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        if modality == "text":
            return {"text": self.sign * np.stack([direction(text, DIM) for text in items]).astype(np.float32)}
        samples = [self.known[bytes(row).hex()] for row in items]
        arrays = {"image": np.stack([direction(sample.key, DIM) for sample in samples])}
        if modality == "patches":
            arrays["patches"] = np.stack([cells_of(sample) for sample in samples])
        return {name: rows.astype(np.float32) for name, rows in arrays.items()}


def digest_of(image: Any) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(image).digest(), np.uint8).copy()


def cells_of(sample: Sample) -> NDArray[np.float64]:
    count = int(np.prod(CELLS))
    cells = direction(f"{sample.key}|cells", count * DIM).reshape(*CELLS, DIM) * 0.05 * count**0.5
    cells += 0.5 * direction("background", DIM)
    centres = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in CELLS), indexing="ij"), -1)
    for box in sample.boxes:
        low, high = np.array(box.xyxy[2::-1]), np.array(box.xyxy[:2:-1])
        middle = tuple(((low + high) / 2).astype(int))
        meaning = 2 * (direction(box.phrase, DIM) + direction(str(box.label), DIM))
        cells[((centres >= low) & (centres < high)).all(-1)] += meaning
        cells[middle] += 1.5 * meaning
    return np.asarray(cells.reshape(count, DIM))


def perfect() -> PlantedVolumes:
    return PlantedVolumes(Path(os.environ["VLP_TEST_SHARDS"]))


def inverted() -> PlantedVolumes:
    return PlantedVolumes(Path(os.environ["VLP_TEST_SHARDS"]), sign=-1)
