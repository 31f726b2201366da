"""Synthetic worlds: no raw data, any number of studies, exact boxes and labels. Here radiographs, in `synthetic_ct` volumes.

Concepts are read out of the report by the extractor, as for real data: the generator's own spans never reach a shard, so
that what a model learns from mentions, it learns from text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from vlp.core.config import ConfigError, config, to_tree
from vlp.sample import Sample

from .base import Record, Source, sources


class World(Source):
    """Studies that are each a function of a number and of the world's seed: `n` of them from `start` on."""

    version = "1"
    licence = "CC0-1.0"
    needs_raw = False
    limits: ClassVar[str]
    """What its options must be, in words."""

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        if config.n < 1 or config.seed < 0 or config.start < 0 or not self.can_draw():
            found = ", ".join(f"{name}={value}" for name, value in to_tree(config).items())
            raise ConfigError(f"{self.name}: {self.limits} are needed, found {found}")
        self._extract: Any = None

    @abstractmethod
    def can_draw(self) -> bool:
        """Return whether its studies can be drawn at the size that is asked for."""

    @abstractmethod
    def identify(self, index: int) -> tuple[str, str, str]:
        """Return key, patient and study without drawing it."""

    @abstractmethod
    def draw(self, index: int) -> Sample:
        """Return a study."""

    @abstractmethod
    def findings(self) -> tuple[str, ...]:
        """Return the codes that its labels speak of: mentions are rolled up to them."""

    def records(self) -> Iterator[Record]:
        for index in range(self.config.start, self.config.start + self.config.n):
            key, patient, study = self.identify(index)
            yield Record(key=key, patient=patient, study=study, data={"index": index})

    def sample(self, record: Record) -> Sample:
        if self._extract is None:
            from ..reports.concepts import Extractor

            self._extract = Extractor(roll_up=self.findings()).of_report
        sample = self.draw(record.data["index"])
        return replace(sample, concepts=self._extract(sample.report))


@sources.register("synthetic")
class Synthetic(World):
    """Chest radiographs (`data_prep/synthetic/generate.py`)."""

    name = "synthetic"
    limits = "n >= 1, size >= 32, seed >= 0 and start >= 0"

    @config
    class Config:
        """`n` studies of the world `seed`, from study `start` on, drawn at `size` x `size` pixels."""

        n: int = 8000
        size: int = 128
        seed: int = 0
        start: int = 0

    def can_draw(self) -> bool:
        return bool(self.config.size >= 32)

    def identify(self, index: int) -> tuple[str, str, str]:
        from ..synthetic.generate import identify

        return identify(index, self.config.seed)

    def draw(self, index: int) -> Sample:
        import cv2

        from ..synthetic.generate import generate

        cv2.setNumThreads(1)  # images this small are drawn faster without a pool of threads
        return generate(index, self.config.seed, self.config.size)

    def findings(self) -> tuple[str, ...]:
        from ..synthetic.patient import FINDINGS

        return FINDINGS
