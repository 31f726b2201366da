"""Image-caption pairs with concepts linked by scispaCy and UMLS, in the JSON-lines layout that ConceptCLIP published.

Layout: `<table>.jsonl` with `image` (a path below the raw folder), `caption` and `umls_meta_info`; see
`vlp_prep.reports.umls`. The linker's concepts are used instead of the package's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from vlp.core.config import config
from vlp.sample import Report, Sample

from ..reports.statements import split_sentences
from ..reports.umls import SIMILARITY, read_linked
from .base import Record, Source, safe_key, sources


@sources.register("linked_concepts")
class LinkedConcepts(Source):
    name = "linked_concepts"
    licence = "that of the images"
    homepage = "https://github.com/JerrryNie/ConceptCLIP"

    @config
    class Config:
        """`table`: the JSON-lines file in the raw folder; links weaker than `similarity` are left out."""

        table: str
        similarity: float = SIMILARITY
        modality: str | None = None

    def records(self) -> Iterator[Record]:
        for linked in read_linked(self.path(self.config.table), self.config.similarity):
            stem = str(PurePosixPath(linked.image).with_suffix("")) if linked.image else ""
            yield Record(key=safe_key(stem.replace("/", "_")), data={"linked": linked})

    def sample(self, record: Record) -> Sample:
        linked = record.data["linked"]
        report = Report(linked.caption, tuple(split_sentences(linked.caption))) if linked.caption.strip() else None
        return self.sample_of(
            record,
            self.image(linked.image),
            report=report,
            concepts=linked.mentions,
            modality=self.config.modality,
            licence="",
        )
