"""From samples to a `Batch`: runs in the loader's workers. One decode per sample, one tokeniser call per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Phrases, Prompts, PromptSpec, Spans, Tokens
from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.augment import Augment
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.processor import Decode, ImageProcessor
from vlp.modalities.text.tokenizers.base import Encoded, Tokenizer
from vlp.sample import PRESENT, UNCERTAIN, UNKNOWN, Sample

from .shards.sample_io import SampleError
from .text_view import ASSERTIONS, Shown, TextView, asserted, concept_code, group_of, phrases, show

FILLED = ("extras.category", "extras.text_labels")
"""Entries of `Batch.extras` that are filled where an objective needs them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sample that was read and decoded: its input image, uint8 [C, S, S], and the text that is shown.

    `geometry` says how the decoded pixels lie on the input, so that boxes and masks follow what an augmentation did.
    `second` is another random part of its text, and `category` one of its present labels (see `Batch`), where needed.
    """

    sample: Sample
    image: Tensor
    geometry: Geometry
    shown: Shown
    second: Shown | None = None
    category: int = 0


class Assembler:
    """Build batches as a recipe asks: `needs` says which of labels, spans, phrases and prompts are wanted.

    `texts_missing`: some samples of the set have no text, so that each batch says which (`Batch.has_text`).
    """

    def __init__(
        self,
        preprocess: ImageProcessor,
        tokenizer: Tokenizer,
        view: TextView,
        augment: Augment,
        labels: Sequence[str],
        needs: frozenset[str],
        prompts: PromptSpec | None,
        decode: Decode = "full",
        texts_missing: bool = True,
    ) -> None:
        if "prompts" in needs and prompts is None:
            raise ConfigError("an objective needs prompts, and no objective says which (prompt_spec)")
        for need in sorted(needs & {"labels", *FILLED}):
            if not labels:
                raise ConfigError(
                    f"an objective needs {need}, and there are no label columns: name them in data.labels"
                )
        for need in sorted(needs):
            if need.startswith("extras.") and need not in FILLED:
                raise ConfigError(
                    f"an objective needs Batch.{need}, which the loader does not fill (it fills {', '.join(FILLED)})"
                )
        if "text_view" in needs and not (view.subset or view.sentence or view.field == "captions"):
            raise ConfigError(
                "an objective needs text_view, another random part of the text: set data.text.subset or data.text.sentence"
            )
        self.preprocess, self.tokenizer, self.view, self.augment = preprocess, tokenizer, view, augment
        self.labels, self.needs, self.decode, self.texts_missing = tuple(labels), needs, decode, texts_missing
        self._augments = augment != Augment()  # without any, `train` is `eval` and a generator is not worth its time
        self.findings = prompts.findings if prompts is not None and "prompts" in needs else ()
        self._asked = tuple(dict.fromkeys(self.findings))  # a finding in many wordings is looked up once
        self._asked_at = [self._asked.index(code) for code in self.findings]
        self._prompt_tokens: Tokens | None = None
        if prompts is not None and self.findings:
            texts = [*prompts.affirm, *prompts.deny]
            place = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # an equal text is encoded once
            self._prompt_tokens = tokenizer(list(place)).tokens
            self._prompt_rows = torch.tensor([place[text] for text in texts], dtype=torch.int64)

    def prepare(self, sample: Sample, seed: int | None) -> Prepared:
        """Decode and transform a sample; random choices follow from `seed` alone, None makes none.

        Raises ValueError (ImageError, SampleError) for a sample that cannot be used.
        """
        if not isinstance(sample.image, bytes):
            raise TypeError(
                f"key {sample.key!r}: a shard's image is encoded bytes, found {type(sample.image).__name__}"
            )
        if seed is not None and self.decode == "fast":
            pixels = self.preprocess.read_reduced(sample.image, self.augment)
        else:
            pixels = self.preprocess.read(sample.image)
        try:
            if seed is None or not self._augments:
                image, geometry = self.preprocess.eval(pixels)
            else:
                image, geometry = self.preprocess.train(pixels, self.augment, _generator(seed, 0))
        except cv2.error as error:
            raise ImageError(f"an image of {list(pixels.shape)} cannot be resized: {error}") from error
        draws = self.view.subset or self.view.sentence or sample.captions
        # a stream of its own, so that another augmentation does not change the text that is shown
        text_rng = None if seed is None or not draws else _generator(seed, 1)
        shown = show(sample, self.view, text_rng)
        if not (self.texts_missing or shown.text.strip()):
            raise SampleError(f"key {sample.key!r} has no text, though its manifest says that all have: index it again")
        second, category = None, 0
        if "text_view" in self.needs:
            second = show(sample, self.view, None if seed is None else _generator(seed, 3))
        if "extras.category" in self.needs:
            category = self._category(sample, None if seed is None else _generator(seed, 4))
        return Prepared(sample, image, geometry, shown, second, category)

    def batch(self, rows: Sequence[Prepared]) -> Batch:
        """Put prepared samples together. Images stay uint8; texts are padded to the longest of them."""
        samples = [row.sample for row in rows]
        said = [phrases(sample) for sample in samples] if "phrases" in self.needs else []
        texts = [row.shown.text for row in rows]
        extra = [text for one in said for text, _ in one]
        second = [row.second.text for row in rows if row.second is not None]
        encoded = self.tokenizer([*texts, *extra, *second])
        return Batch(
            image=self.preprocess.collate([row.image for row in rows]),
            text=encoded.tokens.trimmed(slice(len(texts))),
            group=torch.tensor([group_of(sample) for sample in samples], dtype=torch.int64).reshape(-1, 2),
            keys=[sample.key for sample in samples],
            labels=self._labels(samples) if self.labels else None,
            label_names=self.labels,
            spans=_spans(rows, encoded) if "spans" in self.needs else None,
            phrases=_phrases(said, encoded.tokens, len(texts)) if "phrases" in self.needs else None,
            prompts=self._prompts(samples),
            text_view=encoded.tokens.trimmed(slice(len(texts) + len(extra), None))
            if "text_view" in self.needs
            else None,
            extras=self._extras(rows),
            has_text=[bool(text.strip()) for text in texts] if self.texts_missing else None,
            sources=[sample.source for sample in samples],
            truncated=sum(1 for row in encoded.cut if row < len(texts)),
        )

    def _labels(self, samples: Sequence[Sample]) -> Tensor:
        table = [[sample.labels.get(name, UNKNOWN) for name in self.labels] for sample in samples]
        return torch.tensor(table, dtype=torch.int8).reshape(len(samples), len(self.labels))

    def _category(self, sample: Sample, rng: np.random.Generator | None) -> int:
        stated = [sample.labels[name] for name in self.labels if name in sample.labels]
        present = [index for index, name in enumerate(self.labels) if sample.labels.get(name) == PRESENT]
        if not present:
            return len(self.labels) + 1 if stated and UNCERTAIN not in stated else 0
        return 1 + present[0 if rng is None else int(rng.integers(len(present)))]

    def _extras(self, rows: Sequence[Prepared]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "extras.category" in self.needs:
            found["category"] = torch.tensor([row.category for row in rows], dtype=torch.int64)
        if "extras.text_labels" in self.needs:
            table = [asserted(row.shown.mentions(row.sample), self.labels) for row in rows]
            found["text_labels"] = torch.tensor(table, dtype=torch.int8).reshape(len(rows), len(self.labels))
        return found

    def _prompts(self, samples: Sequence[Sample]) -> Prompts | None:
        if self._prompt_tokens is None:
            return None
        table = [asserted(sample.concepts, self._asked) for sample in samples]
        said = torch.tensor(table, dtype=torch.int8).reshape(len(samples), len(self._asked))[:, self._asked_at]
        return Prompts(tokens=self._prompt_tokens, rows=self._prompt_rows, findings=list(self.findings), asserted=said)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))


def _phrases(said: Sequence[Sequence[tuple[str, int]]], tokens: Tokens, first: int) -> Phrases:
    owner = [row for row, one in enumerate(said) for _ in one]
    part = tokens.trimmed(slice(first, first + len(owner)))
    code = [code for one in said for _, code in one]
    return Phrases(
        tokens=part, owner=torch.tensor(owner, dtype=torch.int64), code=torch.tensor(code, dtype=torch.int64)
    )


def _spans(rows: Sequence[Prepared], encoded: Encoded) -> Spans:
    """Return the mentions that are shown, as tokens; those that the tokeniser's limit cut, wholly or partly, are counted."""
    found: list[tuple[int, int, int, int, int]] = []
    dropped = 0
    for owner, row in enumerate(rows):
        starts, ends = encoded.offsets[owner, :, 0], encoded.offsets[owner, :, 1]
        reach = int(ends.max(initial=-1))
        for mention in row.sample.concepts:
            place = row.shown.place(mention.start, mention.end)
            if place is None:
                continue
            touched = np.flatnonzero((starts < place[1]) & (ends > place[0]) & (ends > starts))
            if not len(touched) or (owner in encoded.cut and reach < place[1]):
                dropped += 1
                continue
            assertion = ASSERTIONS[mention.assertion]
            found.append((int(touched[0]), int(touched[-1]) + 1, owner, concept_code(mention), assertion))
    table = torch.tensor(found, dtype=torch.int64).reshape(-1, 5)
    start, end, owners, code, assertion_column = (table[:, column].clone() for column in range(5))
    return Spans(start=start, end=end, owner=owners, code=code, assertion=assertion_column, dropped=dropped)
