"""Synthetic chest radiographs (`data_prep/synthetic/generate.py`): no raw data, any number of them, exact boxes and labels.

Concepts are read out of the report by the extractor, as for real data: the generator's own spans never reach a shard, so
that what a model learns from mentions, it learns from text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.sample import Sample

from .base import Record, Source, sources


@sources.register("synthetic")
class Synthetic(Source):
    name = "synthetic"
    version = "1"
    licence = "CC0-1.0"
    needs_raw = False

    @config
    class Config:
        """`n` studies of the world `seed`, from study `start` on, drawn at `size` x `size` pixels."""

        n: int = 8000
        size: int = 128
        seed: int = 0
        start: int = 0

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        if config.n < 1 or config.size < 32 or config.seed < 0 or config.start < 0:
            raise ConfigError(
                f"synthetic: n >= 1, size >= 32, seed >= 0 and start >= 0 are needed, found n={config.n}, "
                f"size={config.size}, seed={config.seed}, start={config.start}"
            )
        self._extract: Any = None

    def records(self) -> Iterator[Record]:
        from ..synthetic.generate import identify

        for index in range(self.config.start, self.config.start + self.config.n):
            key, patient, study = identify(index, self.config.seed)
            yield Record(key=key, patient=patient, study=study, data={"index": index})

    def sample(self, record: Record) -> Sample:
        from ..synthetic.generate import generate

        sample = generate(record.data["index"], self.config.seed, self.config.size)
        if self._extract is None:
            self._extract = self._extractor()
        return replace(sample, concepts=self._extract(sample.report))

    def _extractor(self) -> Any:
        """Return the package's extractor, pacemakers and ports rolled up to the device that the labels speak of."""
        import cv2

        from ..reports.concepts import Extractor
        from ..synthetic.patient import FINDINGS

        cv2.setNumThreads(1)  # images this small are drawn faster without a pool of threads
        return Extractor(roll_up=FINDINGS).of_report
