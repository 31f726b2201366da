"""VQA-RAD as published: one JSON of questions and answers about radiology images, and the folder of images.

Layout: `VQA_RAD Dataset Public.json` (a list; `image_name`, `image_organ`, `question`, `answer`, `phrase_type`, ...) and
`VQA_RAD Image Folder/`. Several questions speak of one image: they become one sample, whose text is each question with its
answer. The published test questions (`phrase_type` test_*) ask about images that training questions ask about too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from vlp.core.config import config
from vlp.data.tables.read import rows
from vlp.sample import Sample

from .base import Record, Source, grouped, safe_key, sources

TABLES = ("VQA_RAD Dataset Public.json", "VQA_RAD_Dataset_Public.json")
FOLDERS = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")
ORGANS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}


@sources.register("vqa_rad")
class VqaRad(Source):
    name = "vqa_rad"
    version = "2018"
    licence = "CC0 1.0"
    homepage = "https://osf.io/89kps"

    @config
    class Config:
        """`questions`: whose text a sample carries, all or the published training or test ones."""

        questions: Literal["all", "train", "test"] = "all"

    def records(self) -> Iterator[Record]:
        table = self.require(*TABLES)
        found = rows(table, ("image_name", "image_organ", "question", "answer", "phrase_type"))
        for name, asked in grouped(found, "image_name").items():
            case = str(asked[0].get("image_case_url") or "")
            patient = case.rpartition("id=")[2] or case
            yield Record(key=safe_key(PurePosixPath(name).stem), patient=patient or None, data={"rows": asked})

    def sample(self, record: Record) -> Sample:
        asked = record.data["rows"]
        folder = next((name for name in FOLDERS if (self.raw / name).is_dir()), FOLDERS[0])
        wanted = [row for row in asked if self.config.questions in ("all", _split(row))]
        organ = ORGANS.get(str(asked[0]["image_organ"]).strip().upper(), "")
        return self.sample_of(
            record,
            self.image(f"{folder}/{asked[0]['image_name']}"),
            report=" ".join(_sentence(row) for row in wanted),
            labels={name: int(name == organ) for name in sorted(ORGANS.values())} if organ else {},
        )


def _split(row: dict[str, Any]) -> str:
    return "test" if str(row["phrase_type"]).startswith("test") else "train"


def _sentence(row: dict[str, Any]) -> str:
    question, answer = str(row["question"]).strip(), str(row["answer"]).strip()
    question = question if question.endswith(("?", ".")) else f"{question}?"
    return f"{question} {answer}" + ("" if answer.endswith((".", "!", "?")) else ".")
