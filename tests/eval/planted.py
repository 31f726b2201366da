"""An embedder that knows the answers of a set of shards, by the bytes of its images: perfect, noisy, random or inverted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_eval.data.spec import DataError
from vlp_eval.models.base import Card
from vlp_prep.synthetic.patient import FINDINGS
from vlp_prep.synthetic.report import EVAL_PHRASES, EVAL_PROMPTS

STATE, CELLS, SIZE = 64, 32, 128
DIM = STATE + len(FINDINGS)


def direction(text: str, width: int = STATE) -> NDArray[np.float64]:
    """Return a unit vector that only this text has."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(width)
    return np.asarray(vector / np.linalg.norm(vector))


class Planted:
    """`sign` -1 turns every text around; `noise` is the length of a random vector added to each image's unit vector."""

    def __init__(
        self, shards: Path, sign: float = 1.0, noise: float = 0.0, random: bool = False, seed: int = 0
    ) -> None:
        self.sign, self.noise, self.random, self.seed = sign, noise, random, seed
        source = ShardSet(Manifest.read(shards))
        self.known: dict[str, Sample] = {}
        self.texts_known: dict[str, NDArray[np.float64]] = {}
        for index in range(len(source)):
            sample = source.sample(index)
            assert isinstance(sample.image, bytes) and sample.report is not None
            self.known[hashlib.sha256(sample.image).hexdigest()] = sample
            self.texts_known[sample.report.text] = self._state(sample)
        for place, finding in enumerate(FINDINGS):
            unit = np.zeros(DIM)
            unit[STATE + place] = 1
            for affirm, deny in zip(*EVAL_PROMPTS[finding], strict=True):
                self.texts_known[affirm], self.texts_known[deny] = unit, -unit
        self.bare = {phrase: finding for finding, phrase in EVAL_PHRASES.items()}
        self.calls = 0
        self.card = Card(
            name="planted",
            kind="planted",
            weights_sha256="0" * 64,
            fingerprint=f"planted-{sign}-{noise}-{random}-{seed}",
            dim=DIM,
            image_spec={"size": SIZE, "channels": 1, "mean": [0.5], "std": [0.25]},
            grid=(CELLS, CELLS, (SIZE / CELLS, SIZE / CELLS), (SIZE / CELLS / 2, SIZE / CELLS / 2)),
            params=0,
        )

    def _state(self, sample: Sample) -> NDArray[np.float64]:
        flags = np.array([2.0 * sample.labels[one] - 1 for one in FINDINGS]) / np.sqrt(len(FINDINGS))
        return np.concatenate([direction(sample.groups["state"]), 0.7 * flags])

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[int, int]]:
        """Return the digest of the image as the model's input: this model reads no pixels."""
        digest = hashlib.sha256(image).digest()
        sample = self.known[digest.hex()]
        assert isinstance(sample.image, bytes)
        return np.frombuffer(digest, np.uint8).copy(), (SIZE, SIZE)

    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        if modality == "text":
            return {"text": self._texts(items)}
        if modality == "words":
            raise DataError("planted gives no word features")
        self.calls += 1
        samples = [self.known[bytes(row).hex()] for row in items]
        arrays = {"image": np.stack([self._noisy(self._state(one), one.key) for one in samples])}
        if modality == "patches":
            arrays["patches"] = np.stack([self._cells(one) for one in samples])
        return {name: rows.astype(np.float32) for name, rows in arrays.items()}

    def _noisy(self, row: NDArray[np.float64], key: str) -> NDArray[np.float64]:
        if self.random:
            return direction(f"{key}|{self.seed}", DIM)
        return row / np.linalg.norm(row) + self.noise * direction(f"{key}|{self.seed}", DIM)

    def _cells(self, sample: Sample) -> NDArray[np.float64]:
        count = CELLS * CELLS
        if self.random:
            return direction(f"{sample.key}|cells|{self.seed}", count * DIM).reshape(count, DIM) * 100
        cells = direction(f"{sample.key}|cells", count * DIM).reshape(count, DIM) * (0.05 + self.noise) * count**0.5
        step = SIZE / CELLS
        for box in sample.boxes:
            x1, y1, x2, y2 = box.xyxy
            middle = (int((y1 + y2) / 2 // step), int((x1 + x2) / 2 // step))
            meaning = direction(box.phrase) + direction(f"label {box.label}")
            for row in range(CELLS):
                for column in range(CELLS):
                    inside = y1 <= (row + 0.5) * step < y2 and x1 <= (column + 0.5) * step < x2
                    if inside or (row, column) == middle:
                        cells[row * CELLS + column, :STATE] += (1.0 + 0.5 * ((row, column) == middle)) * meaning
        return cells

    def _texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.random:
            return np.stack([direction(f"{one}|text", DIM) for one in texts]).astype(np.float32)
        return (self.sign * np.stack([self._text(one) for one in texts])).astype(np.float32)

    def _text(self, text: str) -> NDArray[np.float64]:
        if text in self.texts_known:
            return self.texts_known[text]
        phrase = f"label {self.bare[text]}" if text in self.bare else text
        return np.concatenate([direction(phrase), np.zeros(len(FINDINGS))])
