"""A labelled image set made into image-caption pairs by a file of sentences (as UniMed-CLIP and FLAIR do).

Raw is a folder of folders named for their class (with or without train/, val/, test/ above), or holds a table with a column
of image paths and one of labels (a name, names joined by a bar, or a Python list as FLAIR writes them). The sentences come
from a YAML file:

    templates: ["a fundus photograph of {}"]         # tried with each description
    labels:
      no diabetic retinopathy: ["no microaneurysms", "a healthy retina"]
      mild diabetic retinopathy: ["few microaneurysms"]

Every sentence of every label of an image becomes one of its captions; the labels stay labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vlp.core.config import ConfigError, config, read_yaml, validate
from vlp.core.registry import did_you_mean
from vlp.data.tables.labels import names_in
from vlp.data.tables.read import rows
from vlp.sample import Sample

from .base import Record, Source, safe_key, sources

IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm"}
SPLITS = {"train", "val", "valid", "validation", "test"}


@config
class Captions:
    """A file of sentences: `templates` hold `{}`; `labels` maps a label to its descriptions ([] is the label itself)."""

    labels: dict[str, list[str]]
    templates: tuple[str, ...] = ("{}",)


@sources.register("label_captions")
class LabelCaptions(Source):
    name = "label_captions"
    licence = "that of the labelled set"

    @config
    class Config:
        """`captions`: the YAML file; `table`, `image`, `label`: a table in raw and its columns instead of class folders."""

        captions: Path
        table: str | None = None
        image: str = "image"
        label: str = "label"
        encoding: str = "utf-8"
        modality: str | None = None
        licence: str = ""

    def records(self) -> Iterator[Record]:
        captions = self._captions()
        for name, labels, split in self._rows():
            for label in labels:
                if label not in captions.labels:
                    known = did_you_mean(label, captions.labels)
                    raise ConfigError(f"{self.config.captions}: no sentences for label {label!r} of {name}{known}")
            texts = [sentence for label in labels for sentence in _sentences(captions, label)]
            yield Record(
                key=safe_key(str(PurePosixPath(name).with_suffix("")).replace("/", "_")),
                split=split,
                data={"file": name, "labels": labels, "captions": texts, "known": sorted(captions.labels)},
            )

    def _captions(self) -> Captions:
        captions = validate(Captions, read_yaml(self.config.captions), str(self.config.captions))
        for template in captions.templates:
            if template.count("{}") != 1:
                raise ConfigError(f"{self.config.captions}: template {template!r} must hold {{}} once")
        return captions

    def _rows(self) -> Iterator[tuple[str, list[str], str | None]]:
        """Yield (path below raw, labels, split) of each image."""
        if self.config.table:
            columns = (self.config.image, self.config.label)
            for row in rows(self.path(self.config.table), columns, self.config.encoding):
                yield str(row[columns[0]]), names_in(row[columns[1]], "|"), row.get("split") or None
            return
        for path in sorted(self.raw.rglob("*")):
            if path.suffix.lower() in IMAGES and path.is_file():
                name = path.relative_to(self.raw)
                split = name.parts[0].lower() if name.parts[0].lower() in SPLITS and len(name.parts) > 2 else None
                yield name.as_posix(), [path.parent.name], split

    def sample(self, record: Record) -> Sample:
        data = record.data
        return self.sample_of(
            record,
            self.image(data["file"]),
            captions=tuple(dict.fromkeys(data["captions"])),
            modality=self.config.modality,
            labels={name: int(name in data["labels"]) for name in data["known"]},
            licence=self.config.licence,
        )


def _sentences(captions: Captions, label: str) -> list[str]:
    described = captions.labels[label] or [label]
    return [template.replace("{}", text) for text in described for template in captions.templates]
