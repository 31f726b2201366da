"""The embedder of a checkpoint or an export of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import to_tree

from ..data.spec import DataError
from ..data.training_overlap import training_of
from .base import TEXT_ROWS, Floats, Tower, card_of, to_rows

if TYPE_CHECKING:
    import torch

    from vlp.batch import Tokens
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.text.tokenizers.base import Encoded


WIDTH_STEP = 16
"""Texts are padded to a multiple of so many tokens: a function of the text, not of its batch."""


class FolderEmbedder:
    """A checkpoint or an export of ours, through the same `from_pretrained` that users call."""

    def __init__(self, loaded: Any, name: str, device: str, step: int | None) -> None:
        self._model, self._tokenizer, self._device = loaded.model.to(device).eval(), loaded.tokenizer, device
        self._preprocess: ImageProcessor = loaded.preprocess
        self.card = card_of(
            self._model,
            name=name,
            kind="vlp",
            reads=(self._preprocess.fingerprint, self._tokenizer.fingerprint),
            dim=self.texts(["a"]).shape[1],
            image_spec=to_tree(self._preprocess.spec),
            grid=self._model.grid,
            step=step,
            device=device,
        )

    @classmethod
    def load(cls, folder: Path, device: str, trust: Sequence[str] = ()) -> FolderEmbedder:
        from vlp.hub import from_pretrained

        resolved = folder.resolve()
        digits = resolved.name.rpartition("-")[2]
        step = int(digits) if resolved.name.startswith("step-") and digits.isdigit() else None
        names = resolved.parts
        name = names[-3] if step is not None and len(names) > 3 and names[-2] == "checkpoints" else resolved.name
        embedder = cls(from_pretrained(folder, trust), name, device, step)
        embedder.card = replace(embedder.card, trained_on=training_of(resolved))
        return embedder

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[int, int]]:
        pixels = self._preprocess.read(image)
        return self._preprocess.eval(pixels)[0].numpy(), (pixels.shape[0], pixels.shape[1])

    def images(self, inputs: NDArray[Any], patches: bool) -> tuple[Floats, Floats | None]:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(inputs).to(self._device)
            if not patches:
                return to_rows(self._model.encode_image(batch)), None
            rows, cells = self._model.encode_image(batch, patches=True)
            return to_rows(rows), to_rows(cells)

    def tower(self) -> Tower:
        """Return the image tower with gradients, for saliency maps."""
        model = self._model
        return Tower(model.image_tower, lambda pixels: model.encode_image(pixels), model.normalise, self._device)

    def texts(self, texts: Sequence[str]) -> Floats:
        return self._batched(texts, lambda tokens, _encoded, _members: self._model.encode_text(tokens))

    def parts(self, texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Floats:
        """Return the word features [n, D] of characters `[start, end)` of each text. Raises DataError where there are none."""
        import torch

        if self._model.word_head is None:
            raise DataError(f"{self.card.name} was trained without an objective that needs words, and has none")

        def encode(tokens: Tokens, encoded: Encoded, members: Sequence[int]) -> torch.Tensor:
            inside = torch.zeros(tokens.ids.shape, dtype=torch.bool)
            for row, index in enumerate(members):
                found = encoded.find(row, *spans[index])
                if found is None:
                    words = texts[index][slice(*spans[index])]
                    raise DataError(f"{words!r} lies beyond the {self._tokenizer.length} tokens that the model reads")
                inside[row, slice(*found)] = True
            rows: torch.Tensor = self._model.encode_part(tokens, inside.to(self._device))
            return rows

        return self._batched(texts, encode)

    def _batched(
        self, texts: Sequence[str], encode: Callable[[Tokens, Encoded, Sequence[int]], torch.Tensor]
    ) -> Floats:
        """Return a row of `encode` for each text; it is given tokens on the device, as encoded, and which texts they are."""
        import torch

        result = np.zeros((len(texts), self.card.dim if hasattr(self, "card") else 0), np.float32)
        lengths = np.concatenate(
            [self._tokenizer(texts[at : at + 512]).tokens.mask.sum(1).numpy() for at in range(0, len(texts), 512)]
            or [np.zeros(0, np.int64)]
        )
        widths = np.minimum(-(-lengths // WIDTH_STEP) * WIDTH_STEP, self._tokenizer.length)
        for width in np.unique(widths):
            members = np.flatnonzero(widths == width)
            for start in range(0, len(members), TEXT_ROWS):
                part = members[start : start + TEXT_ROWS]
                wanted = [*part, *[part[0]] * (TEXT_ROWS - len(part))]
                encoded = self._tokenizer([texts[index] for index in wanted])
                tokens = encoded.tokens.widened(int(width), self._tokenizer.pad_id)
                with torch.inference_mode():
                    rows = to_rows(encode(tokens.to(self._device), encoded, wanted))
                result = result if result.shape[1] else np.zeros((len(texts), rows.shape[1]), np.float32)
                result[part] = rows[: len(part)]
        return result
