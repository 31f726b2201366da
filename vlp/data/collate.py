"""From samples to a `Batch`: runs in the loader's workers. One decode per sample, one tokeniser call per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Grid, PromptSpec
from vlp.modalities.base import ImageLike
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.processor import Augment, Decode
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.needs.base import DataSetup, Rows, SelectedText, find_needs, put
from vlp.sample import Sample, code_of, fold, sentences, split_sentences

from .config import TextView
from .shards.sample_io import SampleError


class LoaderError(RuntimeError):
    """Loading cannot go on: a worker died, a shard is missing, or too many samples are damaged."""


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What a worker returns: a batch with the keys that were rejected for it and why, or why there is none."""

    batch: Batch | None
    rejected: tuple[tuple[str, str], ...] = ()
    failure: str = ""

    def pin_memory(self) -> WorkerResult:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """A sample that was read and decoded: its input image, uint8 [C, S, S] (of a volume float32 [1, D, H, W]), and its text.

    `geometry` says how the decoded pixels lie on the input, so that boxes and masks follow what an augmentation did.
    `needs` holds what each need prepared of it.
    """

    sample: Sample
    image: Tensor
    geometry: Geometry
    shown: SelectedText
    needs: Sequence[Any] = ()


class Collator:
    """Build batches as a recipe asks: `needs` are those of its objectives.

    `texts_missing`: some samples of the set have no text, so that each batch says which (`Batch.has_text`). `settings` and
    `grid` as in `DataSetup`.
    """

    def __init__(
        self,
        preprocess: ImageLike[Any],
        tokenizer: Tokenizer,
        view: TextView,
        augment: Augment,
        labels: Sequence[str],
        needs: frozenset[str],
        prompts: PromptSpec | None,
        decode: Decode = "full",
        texts_missing: bool = True,
        settings: Mapping[str, Any] | None = None,
        grid: Grid | None = None,
    ) -> None:
        self.preprocess, self.tokenizer, self.view, self.augment = preprocess, tokenizer, view, augment
        self.labels, self.decoding, self.texts_missing = tuple(labels), decode, texts_missing
        self._augments = augment != Augment()  # without any, `train` is `eval` and a generator is not worth its time
        setup = DataSetup(
            labels=self.labels,
            prompts=prompts,
            encode=lambda texts: tokenizer(list(texts)).tokens,
            select_text=partial(select_text, view=view),
            is_random=bool(view.subset or view.sentence or view.field == "captions"),
            settings=settings or {},
            grid=grid,
        )
        self.needs = find_needs(needs | {"labels"} if labels else needs)  # columns that are named are read
        for need in self.needs:
            need.open(setup)
        self.reads_masks = any(need.reads_masks for need in self.needs)

    def decode(self, sample: Sample, seed: int | None) -> DecodedSample:
        """Decode and transform a sample; random choices follow from `seed` alone, None makes none.

        Raises ValueError (ImageError, SampleError) for a sample that cannot be used.
        """
        if not isinstance(sample.image, bytes):
            raise TypeError(
                f"key {sample.key!r}: a shard's image is encoded bytes, found {type(sample.image).__name__}"
            )
        if seed is not None and self.decoding == "fast":
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
        shown = select_text(sample, text_rng, self.view)
        if not (self.texts_missing or shown.text.strip()):
            raise SampleError(f"key {sample.key!r} has no text, though its manifest says that all have: index it again")
        prepared = []
        for need in self.needs:
            rng = None if seed is None or need.stream is None else _generator(seed, need.stream)
            prepared.append(need.prepare(sample, rng, geometry))
        return DecodedSample(sample, image, geometry, shown, prepared)

    def collate(self, rows: Sequence[DecodedSample]) -> Batch:
        """Put prepared samples together. Images stay uint8; texts are padded to the longest of them."""
        samples = [row.sample for row in rows]
        texts = [row.shown.text for row in rows]
        prepared = [[row.needs[index] for row in rows] for index in range(len(self.needs))]
        own = [need.texts(values) for need, values in zip(self.needs, prepared, strict=True)]
        encoded = self.tokenizer(list(chain(texts, *own)))
        batch = Batch(
            image=self.preprocess.collate([row.image for row in rows]),
            text=encoded.tokens.trimmed(slice(len(texts))),
            group=torch.tensor([group_of(sample) for sample in samples], dtype=torch.int64).reshape(-1, 2),
            keys=[sample.key for sample in samples],
            label_names=self.labels,
            has_text=[bool(text.strip()) for text in texts] if self.texts_missing else None,
            sources=[sample.source for sample in samples],
            truncated=sum(1 for row in encoded.cut if row < len(texts)),
        )
        shown, first = [row.shown for row in rows], len(texts)
        for need, values, extra in zip(self.needs, prepared, own, strict=True):
            tokens = encoded.tokens.trimmed(slice(first, first + len(extra)))
            put(batch, need.key, need.collate(Rows(samples, shown, encoded, values, tokens)))
            first += len(extra)
        return batch


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))


def select_text(sample: Sample, rng: np.random.Generator | None, view: TextView) -> SelectedText:
    """Return the text of a sample that `view` asks for; random choices are drawn from `rng`, and None makes none."""
    report = sample.report
    if sample.captions and (view.field == "captions" or report is None or not report.text.strip()):
        caption = sample.captions[0 if rng is None else int(rng.integers(len(sample.captions)))]
        return _choose_sentences(caption, split_sentences(caption), view, rng, offset=None)
    if report is None:
        return SelectedText("", ())
    start, end = 0, len(report.text)
    if view.field in ("findings", "impression") and report.section(view.field).strip():
        start, end = report.sections[view.field]
    text = report.text[start:end]
    inside = [(first - start, last - start) for first, last in sentences(report) if start <= first and last <= end]
    return _choose_sentences(text, inside or split_sentences(text), view, rng, offset=start)


def _choose_sentences(
    text: str, spans: Sequence[tuple[int, int]], view: TextView, rng: np.random.Generator | None, offset: int | None
) -> SelectedText:
    chosen: Sequence[int] | None = None
    if rng is not None and spans:
        if view.sentence:
            chosen = [int(rng.integers(len(spans)))]
        elif view.subset and rng.random() < view.subset:
            size = int(rng.integers(1, len(spans) + 1))
            chosen = sorted(int(place) for place in rng.choice(len(spans), size, replace=False))
    if chosen is None:
        return SelectedText(text, tuple(spans), () if offset is None else ((offset, offset + len(text), 0),))
    parts, shown, segments, at = [], [], [], 0
    for index in chosen:
        first, last = spans[index]
        parts.append(text[first:last])
        shown.append((at, at + last - first))
        if offset is not None:
            segments.append((first + offset, last + offset, at))
        at += last - first + 1
    return SelectedText(" ".join(parts), tuple(shown), tuple(segments))


def group_of(sample: Sample) -> tuple[int, int]:
    """Return the two hashes by which samples count as equal: of the study, and of the text.

    The study's falls back to the key. The text is the report (or the captions) in lower case with white space and
    punctuation folded, so that two normal reports that differ by a comma are equal; without one it is the key.
    """
    key = f"key\0{sample.source}\0{sample.key}"
    study = code_of(f"study\0{sample.source}\0{sample.study}" if sample.study else key)
    text = sample.report.text if sample.report else " ".join(sample.captions)
    folded = fold(text)
    return study, code_of(f"text\0{folded}" if folded else key)
