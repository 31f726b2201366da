"""PMC-OA: 1.6 million figures and sub-figures of PubMed Central's open-access articles with captions.

Layout: `pmc_oa.jsonl` (`image`, `caption`, ...; one line per sub-figure) or `pmc_oa_beta.jsonl`, and the images,
`caption_T060_filtered_top4_sep_v0_subfigures/<image>`, unpacked or still in `images.zip`. Lines that speak of one image become
one sample with several captions; figures of one article (the first part of an image's name) stay on one side of a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vlp.data.tables.read import rows
from vlp.sample import Sample

from .base import Record, Source, safe_key, sources

FOLDER = "caption_T060_filtered_top4_sep_v0_subfigures"


@sources.register("pmc_oa")
class PmcOa(Source):
    name = "pmc_oa"
    version = "2023"
    licence = "by article: CC BY, CC BY-NC, CC0 and others"
    homepage = "https://huggingface.co/datasets/axiong/pmc_oa"

    def records(self) -> Iterator[Record]:
        table = self.require("pmc_oa.jsonl", "pmc_oa_beta.jsonl")
        for name, lines in groupby(rows(table, ("image", "caption")), key=lambda row: row["image"]):
            stem = Path(name).stem
            captions = [str(row["caption"]) for row in lines]
            yield Record(safe_key(stem), {"file": name, "captions": captions}, study=stem.partition("_")[0])

    def sample(self, record: Record) -> Sample:
        captions = dict.fromkeys(caption.strip() for caption in record.data["captions"])
        return self.sample_of(record, self._image(record.data["file"]), captions=tuple(captions))

    def _image(self, name: str) -> Any:
        archive = self.raw / "images.zip"
        self.path(name)
        if archive.is_file():
            return self.member(archive, f"{FOLDER}/{name}")
        return self.image(f"{FOLDER}/{name}", f"images/{FOLDER}/{name}", f"images/{name}", name)
