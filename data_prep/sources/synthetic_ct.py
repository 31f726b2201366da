"""Synthetic chest CTs (`data_prep/synthetic/ct`): no raw data, any number of them, exact boxes, masks and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.sample import Sample

from .base import Record, Source, sources


@sources.register("synthetic_ct")
class SyntheticCt(Source):
    name = "synthetic_ct"
    version = "1"
    licence = "CC0-1.0"
    needs_raw = False

    @config
    class Config:
        """`n` studies of the world `seed`, from study `start` on, with voxels of `voxel` millimetres."""

        n: int = 2000
        voxel: float = 6.0
        seed: int = 0
        start: int = 0

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        if config.n < 1 or not 0.5 <= config.voxel <= 20 or config.seed < 0 or config.start < 0:
            raise ConfigError(
                "synthetic_ct: n >= 1, voxel from 0.5 to 20 mm, seed >= 0 and start >= 0 are needed, found "
                f"n={config.n}, voxel={config.voxel}, seed={config.seed}, start={config.start}"
            )
        self._extract: Any = None

    def records(self) -> Iterator[Record]:
        from ..synthetic.ct.generate import identify

        for index in range(self.config.start, self.config.start + self.config.n):
            key, patient, study = identify(index, self.config.seed)
            yield Record(key=key, patient=patient, study=study, data={"index": index})

    def sample(self, record: Record) -> Sample:
        from ..reports.concepts import Extractor
        from ..synthetic.ct.generate import generate
        from ..synthetic.ct.state import FINDINGS

        if self._extract is None:
            self._extract = Extractor(roll_up=FINDINGS).of_report
        sample = generate(record.data["index"], self.config.seed, self.config.voxel)
        return replace(sample, concepts=self._extract(sample.report))
