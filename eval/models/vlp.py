"""The embedder of a checkpoint or an export of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import to_tree
from vlp.modalities.volume.processor import VolumeProcessor

from ..data.spec import DataError
from ..data.training_overlap import training_of
from .base import TEXT_ROWS, DualEncoder, Floats, libraries, to_rows

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.batch import Tokens
    from vlp.modalities.base import ImageLike
    from vlp.modalities.text.tokenizers.base import Encoded


WIDTH_STEP = 16
"""Texts are padded to a multiple of so many tokens: a function of the text, not of its batch."""


@libraries.register("vlp")
class FolderEmbedder(DualEncoder):
    """A checkpoint or an export of ours, through the same `from_pretrained` that users call."""

    def __init__(self, loaded: Any, name: str, device: str, step: int | None) -> None:
        super().__init__(loaded.model, loaded.model.image_tower, device)
        self._tokenizer = loaded.tokenizer
        self._processor: ImageLike[Any] = loaded.preprocess
        reads = self._processor.fingerprint, self._tokenizer.fingerprint
        kind = {"kind": "volume"} if isinstance(self._processor, VolumeProcessor) else {}
        image_spec = kind | to_tree(self._processor.spec)
        self.card = self._describe("vlp", name, reads, image_spec, self._model.grid, step)

    @classmethod
    def load(cls, name: str, device: str, trust: Sequence[str] = ()) -> FolderEmbedder:
        from vlp.hub import from_pretrained

        resolved = Path(name).resolve()
        digits = resolved.name.rpartition("-")[2]
        step = int(digits) if resolved.name.startswith("step-") and digits.isdigit() else None
        names = resolved.parts
        title = names[-3] if step is not None and len(names) > 3 and names[-2] == "checkpoints" else resolved.name
        embedder = cls(from_pretrained(Path(name), trust), title, device, step)
        embedder.card = replace(embedder.card, trained_on=training_of(resolved))
        return embedder

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        native = self._processor.read(image)
        return self._processor.eval(native)[0].numpy(), self._processor.extent(native)

    def _normalise(self, inputs: Tensor) -> Tensor:
        pixels: Tensor = self._model.normalise(inputs)
        return pixels

    def _images(self, pixels: Tensor) -> Tensor:
        rows: Tensor = self._model.encode_image(pixels, is_normalised=True)
        return rows

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        rows, cells = self._model.encode_image(pixels, patches=True, is_normalised=True)
        return rows, cells

    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, Floats]:
        if modality == "words":
            return {"words": self._encode_words(*zip(*items, strict=True))}
        return super().encode(modality, items)

    def _encode_texts(self, texts: Sequence[str]) -> Floats:
        return self._batched(texts, lambda tokens, _encoded, _members: self._model.encode_text(tokens))

    def _encode_words(self, texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Floats:
        """Return the word features [n, D] of characters `[start, end)` of each text. Raises DataError where there are none."""
        import torch

        if self._model.word_head is None:
            raise DataError(f"{self.card.name} was trained without an objective that needs words, and has none")

        def encode(tokens: Tokens, encoded: Encoded, members: Sequence[int]) -> Tensor:
            inside = torch.zeros(tokens.ids.shape, dtype=torch.bool)
            for row, index in enumerate(members):
                found = encoded.find(row, *spans[index])
                if found is None:
                    words = texts[index][slice(*spans[index])]
                    raise DataError(f"{words!r} lies beyond the {self._tokenizer.length} tokens that the model reads")
                inside[row, slice(*found)] = True
            rows: Tensor = self._model.encode_part(tokens, inside.to(self._device))
            return rows

        return self._batched(texts, encode)

    def _batched(self, texts: Sequence[str], encode: Callable[[Tokens, Encoded, Sequence[int]], Tensor]) -> Floats:
        """Return a row of `encode` for each text; it is given tokens on the device, as encoded, and which texts they are."""
        import torch

        lengths = np.concatenate(
            [self._tokenizer(texts[at : at + 512]).tokens.mask.sum(1).numpy() for at in range(0, len(texts), 512)]
        )
        widths = np.minimum(-(-lengths // WIDTH_STEP) * WIDTH_STEP, self._tokenizer.length)
        order, blocks = [], []
        for width in np.unique(widths):
            members = np.flatnonzero(widths == width)
            for start in range(0, len(members), TEXT_ROWS):
                part = members[start : start + TEXT_ROWS]
                wanted = [*part, *[part[0]] * (TEXT_ROWS - len(part))]
                encoded = self._tokenizer([texts[index] for index in wanted])
                tokens = encoded.tokens.widened(int(width), self._tokenizer.pad_id)
                with torch.inference_mode():
                    rows = to_rows(encode(tokens.to(self._device), encoded, wanted))
                order.append(part)
                blocks.append(rows[: len(part)])
        found: Floats = np.concatenate(blocks)[np.argsort(np.concatenate(order))]
        return found
