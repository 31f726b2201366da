"""A source of images with regions: what COCO, Pascal VOC and YOLO data sets have in common once their files are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlp.core.config import config
from vlp.data.tables.keys import Names, path_name
from vlp.sample import Box, Sample

from ..images.store import image_size
from ..readers.hub_folder import split_of
from ..readers.regions import Mask, join
from .base import Record, Reject, Source


@config
class DetectionConfig:
    """`masks`: read polygons and run lengths as masks, one for each category. `closed_labels`: a category without a region
    in an image is absent (0) there, as where every image was searched for every category.
    """

    masks: bool = True
    closed_labels: bool = False
    modality: str | None = None
    licence: str = ""


@dataclass
class Regions:
    """What is marked in an image: boxes, and masks `[H, W]` by category."""

    boxes: list[Box] = field(default_factory=list)
    masks: dict[str, list[Mask]] = field(default_factory=dict)


class DetectionSource(Source):
    """Images with boxes and masks. A subclass lists them and reads what is marked in one."""

    no_text = "keep"

    @abstractmethod
    def images(self) -> Iterable[Record]:
        """Return the images, in a stable order; raises ConfigError.

        The data of each is its `file` below the raw folder, and what `regions` needs; keys are made here.
        """

    @abstractmethod
    def regions(self, data: Any, height: int, width: int) -> Regions:
        """Return what is marked in an image of this size; raises Reject and CellError."""

    @abstractmethod
    def categories(self) -> Sequence[str]:
        """Return the names of all categories."""

    def records(self) -> Iterator[Record]:
        found = list(self.images())
        names = Names()
        for image in found:
            names.add(path_name(image.data["file"]), True, image.data["file"])
        names.close()
        categories = list(self.categories()) if self.config.closed_labels else []
        for image in found:
            key = names.key(path_name(image.data["file"]), True)
            yield replace(image, key=key, data={**image.data, "categories": categories})

    def sample(self, record: Record) -> Sample:
        path = self.image(record.data["file"])
        height, width = image_size(path)
        regions = self.regions(record.data, height, width)
        present = dict.fromkeys(box.label or box.phrase for box in regions.boxes)
        return self.sample_of(
            record,
            path,
            captions=tuple(record.data.get("captions", ())),
            modality=self.config.modality,
            labels={**dict.fromkeys(record.data["categories"], 0), **dict.fromkeys(present, 1)},
            boxes=tuple(regions.boxes),
            masks={name: join(masks) for name, masks in regions.masks.items()} if self.config.masks else {},
            licence=self.config.licence,
        )

    def found(self, *places: Path) -> str | None:
        """Return the path below the raw folder of the first place that is a file, None where none is."""
        for place in places:
            if place.is_file():
                return place.relative_to(self.raw).as_posix()
        return None

    def split_of(self, path: Path) -> str | None:
        """Return the split that a path below the raw folder names."""
        return split_of(path.relative_to(self.raw).as_posix())


def same_size(stated: tuple[Any, Any], height: int, width: int) -> None:
    """Raise Reject where annotations were made for another size (height, width) than the image's; None is not stated."""
    for said, real, what in ((stated[0], height, "high"), (stated[1], width, "wide")):
        if said is not None and said != real:
            raise Reject("bad_box", f"annotated as {said} pixels {what}, the image is {real}: its boxes are elsewhere")
