"""CheXpert 8x200 (ConVIRT): 1,600 images to search, 200 that show each of eight classes, and the experts' query images.

Layout, as its repository: `image-retrieval/candidate.csv` (CheXpert's own columns: `Path`, `Sex`, `Age`, `Frontal/Lateral`,
`AP/PA`, 14 labels), `image-retrieval/query.csv` (`Variable`, `Path`: ten images of each class),
`text-retrieval/query.csv` (`Variable`, `Text`), and CheXpert's images: `chexpert` is the folder above `CheXpert-v1.0*/`.
A candidate answers a class when its label for it is 1, so it may answer two. Text queries have no image and belong into a
prompt set of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.core.config import config
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..readers.chexpert import CHEXPERT, ids_of, places_of
from .base import Radiographs, Record, Reject, sources

CLASSES = (
    "No Finding",
    "Cardiomegaly",
    "Edema",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Fracture",
)


@sources.register("chexpert8x200")
class Chexpert8x200(Radiographs):
    name = "chexpert8x200"
    version = "2020"
    licence = "Stanford University Dataset Research Use Agreement"
    homepage = "https://github.com/yuhaozhang/convirt"

    @config
    class Config:
        """`chexpert`: the folder that holds CheXpert's images (default: the raw folder itself).

        `queries`: the experts' query images too, as a split `query`; a set without them is the published gallery.
        """

        chexpert: Path | None = None
        queries: bool = False

    def records(self) -> Iterator[Record]:
        for row in rows(self.require("image-retrieval/candidate.csv", "candidate.csv"), ("Path", *CHEXPERT)):
            yield Record(**ids_of(row["Path"]), split="test", data={"row": row})
        if self.config.queries:
            for row in rows(self.require("image-retrieval/query.csv", "query.csv"), ("Variable", "Path")):
                yield Record(**ids_of(row["Path"]), split="query", data={"row": row})

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        labels = {row["Variable"]: 1} if record.split == "query" else from_columns(row, CHEXPERT)
        if not any(labels.get(name) == 1 for name in CLASSES):
            raise Reject("bad_label", f"expected one of {', '.join(CLASSES)}, found {labels}")
        return self.sample_of(
            record,
            self.image(*places_of(row["Path"]), root=self.config.chexpert),
            view=row.get("AP/PA") or None,
            labels=labels,
            groups={"sex": str(row.get("Sex", ""))[:1], "age": str(row.get("Age", "")).removesuffix(".0")},
        )
