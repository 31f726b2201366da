"""Images annotated in Pascal VOC's XML: a file of boxes for each image, masks by class number.

    vlp-prep build voc --raw DIR --out DIR

`Annotations/*.xml` (or XML beside the images), `JPEGImages/`, splits from `ImageSets/Main/{train,val,test}.txt` or from the
names of folders. `SegmentationClass/*.png` are read as masks where `--classes` names the numbers, from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.config import ConfigError, config
from vlp.core.untrusted import read_regular, read_text
from vlp.data.tables.boxes import corners
from vlp.data.tables.cells import CellError
from vlp.modalities.image.decode import open_picture
from vlp.sample import Box

from ..readers.hub_folder import IMAGES
from ..readers.regions import MAX_XML, parse_xml
from .base import Record, Reject, sources
from .detection import DetectionConfig, DetectionSource, Regions, same_size

BORDER = 255
EDGES = ("xmin", "ymin", "xmax", "ymax")


@sources.register("voc")
class PascalVoc(DetectionSource):
    name = "voc"
    licence = "that of the data set"
    homepage = "http://host.robots.ox.ac.uk/pascal/VOC/"

    @config
    class Config(DetectionConfig):
        """`one_based`: the first pixel is 1 and `xmax` lies inside, as VOC counts; `--no-one-based` for tools that write
        edges from 0. `classes`: the names of the masks' numbers, from 1; 255 is a border and belongs to none.

        `closed_labels`: a category without a box in an image is absent (0) there.
        """

        one_based: bool = True
        classes: tuple[str, ...] = ()

    def categories(self) -> Sequence[str]:
        return self._names

    @cached_property
    def _names(self) -> list[str]:
        found = set(self.config.classes)
        for path in self._files:
            try:
                found.update((entry.findtext("name") or "").strip() for entry in self._read(path).iter("object"))
            except CellError:
                continue  # told when the image's own sample is made
        return sorted(found - {""})

    @cached_property
    def _files(self) -> list[Path]:
        found = sorted(path for path in self.raw.rglob("*.xml") if path.is_file())
        if not found:
            raise ConfigError(f"voc: no XML below {self.raw}: expected Annotations/*.xml")
        if self.config.masks and not self.config.classes and (self.raw / "SegmentationClass").is_dir():
            raise ConfigError("voc: SegmentationClass holds numbers: name them (--classes A B ...), or give --no-masks")
        return found

    def images(self) -> Iterable[Record]:
        splits = self._splits()
        for path in self._files:
            annotation = path.relative_to(self.raw).as_posix()
            name = ""
            with suppress(CellError):  # told when the sample is made, under the annotation's name
                name = (self._read(path).findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
            folders = [self.raw / "JPEGImages", path.parent, self.raw / "images", path.parent.parent / "JPEGImages"]
            folders += [path.parent.parent / "images", self.raw]
            folders = [folder for folder in folders if folder.is_relative_to(self.raw)]
            names = [name] if name else []
            names += [path.stem + ending for ending in sorted(IMAGES)]
            file = self.found(
                *(folder / file_name for file_name in names for folder in folders if "/" not in file_name)
            )
            split = splits.get(path.stem) if splits else self.split_of(path)
            file = file or name or f"{path.stem}.jpg"
            yield Record("", {"file": file, "annotation": annotation, "stem": path.stem}, split=split)

    def _splits(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for split in ("train", "val", "test"):
            place = self.raw / "ImageSets" / "Main" / f"{split}.txt"
            for line in read_text(place).splitlines() if place.is_file() else ():
                stem = line.split()[0] if line.split() else ""
                if stem and found.setdefault(stem, split) != split:
                    raise ConfigError(f"{place}: an image of it is in {found[stem]}.txt too")
        return found

    def _read(self, path: Path) -> Any:
        root = parse_xml(read_regular(path, MAX_XML))
        if root.tag != "annotation":
            raise CellError("bad_xml", "expected an <annotation>")
        return root

    def regions(self, data: Any, height: int, width: int) -> Regions:
        root = self._read(self.path(data["annotation"]))
        same_size((_whole(root, "size/height"), _whole(root, "size/width")), height, width)
        found = Regions()
        first = 1 if self.config.one_based else 0
        for entry in root.iter("object"):
            name = (entry.findtext("name") or "").strip()
            if not name:
                raise CellError("bad_box", "an object without a name")
            edges = [_number(entry, f"bndbox/{edge}") for edge in EDGES]
            place = [edges[0] - first, edges[1] - first, edges[2], edges[3]]
            found.boxes.append(Box(name, corners(place, "xyxy", "bndbox"), name))
        mask = self.raw / "SegmentationClass" / f"{data['stem']}.png"
        if self.config.masks and mask.is_file():
            self._add_masks(found, self.path(mask), height, width)
        return found

    def _add_masks(self, found: Regions, path: Path, height: int, width: int) -> None:
        with open_picture(read_regular(path)) as image:
            if (image.height, image.width) != (height, width):
                size = f"{image.width} x {image.height}"
                raise Reject("bad_mask", f"the mask is {size}, its image {width} x {height}: masks are never stretched")
            if image.mode not in ("P", "L"):
                raise Reject("bad_mask", f"a mask of class numbers is a palette or grey PNG, found {image.mode}")
            numbers = np.asarray(image)
        for number in np.unique(numbers):
            if number in (0, BORDER):
                continue
            if number > len(self.config.classes):
                raise Reject("bad_mask", f"class number {number}, --classes names {len(self.config.classes)}")
            inside = np.where(numbers == number, np.uint8(255), np.uint8(0))
            found.masks.setdefault(self.config.classes[number - 1], []).append(inside)


def _whole(root: Any, place: str) -> int | None:
    text = (root.findtext(place) or "").strip()
    return int(text) if text.isdigit() and int(text) else None


def _number(entry: Any, place: str) -> float:
    try:
        return float(entry.findtext(place) or "")
    except ValueError:
        raise CellError("bad_box", f"{place} is no number") from None
