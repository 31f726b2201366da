"""CheXpert 8x200 (ConVIRT): 1,600 images to search, 200 that show each of eight classes, and the experts' query images.

Layout, as its repository: `image-retrieval/candidate.csv` (CheXpert's own columns: `Path`, `Sex`, `Age`, `Frontal/Lateral`,
`AP/PA`, 14 labels), `image-retrieval/query.csv` (`Variable`, `Path`: ten images of each class),
`text-retrieval/query.csv` (`Variable`, `Text`), and CheXpert's images: `chexpert` is the folder above `CheXpert-v1.0*/`.
A candidate answers a class when its label for it is 1, so it may answer two. Text queries have no image and belong into a
prompt set of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.core.config import config
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..images.modality_codes import RADIOGRAPH
from ..readers.labels import CHEXPERT
from .base import Record, Reject, Source, sources

CLASSES = (
    *(
        "No Finding",
        "Cardiomegaly",
        "Edema",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Fracture",
    ),
)


@sources.register("chexpert8x200")
class Chexpert8x200(Source):
    name = "chexpert8x200"
    version = "2020"
    licence = "Stanford University Dataset Research Use Agreement"
    homepage = "https://github.com/yuhaozhang/convirt"
    no_text = "keep"

    @config
    class Config:
        """`chexpert`: the folder that holds CheXpert's images (default: the raw folder itself).

        `queries`: the experts' query images too, as a split `query`; a set without them is the published gallery.
        """

        chexpert: Path | None = None
        queries: bool = False

    def records(self) -> Iterator[Record]:
        for row in rows(self.require("image-retrieval/candidate.csv", "candidate.csv"), ("Path", *CHEXPERT)):
            yield _record(row["Path"], "test", row)
        if self.config.queries:
            for row in rows(self.require("image-retrieval/query.csv", "query.csv"), ("Variable", "Path")):
                yield _record(row["Path"], "query", row)

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        if record.split == "query":
            labels = {row["Variable"]: 1}
        else:
            labels = from_columns(row, CHEXPERT)
        if not any(labels.get(name) == 1 for name in CLASSES):
            raise Reject("bad_label", f"expected one of {', '.join(CLASSES)}, found {labels}")
        inner = PurePosixPath(row["Path"])
        below = PurePosixPath(*inner.parts[1:]) if inner.parts[0].startswith("CheXpert") else inner
        groups = {"sex": str(row.get("Sex", ""))[:1], "age": str(row.get("Age", "")).removesuffix(".0")}
        return Sample(
            key=record.key,
            image=self.image(str(inner), str(below), root=self.config.chexpert),
            study=record.study,
            patient=record.patient,
            modality=RADIOGRAPH,
            view=row.get("AP/PA") or None,
            labels=labels,
            groups={name: value for name, value in groups.items() if value},
            source=self.name,
            licence=self.licence,
        )


def _record(path: str, split: str, row: dict[str, Any]) -> Record:
    *_, patient, study, view = PurePosixPath(path).with_suffix("").parts
    return Record(
        key=f"{patient}_{study}_{view}", patient=patient, study=f"{patient}_{study}", split=split, data={"row": row}
    )
