"""Images annotated in YOLO's text files: a line for each box or polygon, in fractions of the image.

    vlp-prep build yolo --raw DIR --out DIR

`images/train/x.png` has its lines in `labels/train/x.txt` (or beside it); names of the classes are in `data.yaml`,
`classes.txt` or `obj.names`; splits are named by the folders. An image without a file has no regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config, read_yaml
from vlp.core.untrusted import read_text
from vlp.data.tables.boxes import corners
from vlp.data.tables.cells import CellError
from vlp.sample import Box

from ..readers.hub_folder import IMAGES
from ..readers.regions import polygon_mask
from .base import Record, sources
from .detection import DetectionConfig, DetectionSource, Regions

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "labels/classes.txt")
FAR = 1.5
"""Fractions beyond it are no fractions: the numbers are pixels."""


@sources.register("yolo")
class Yolo(DetectionSource):
    name = "yolo"
    licence = "that of the data set"
    homepage = "https://docs.ultralytics.com/datasets/detect/"

    @config
    class Config(DetectionConfig):
        """`names`: the file with the names of the classes, if it is none of the usual ones; `masks`: polygons become masks.

        `closed_labels`: a class without a region in an image is absent (0) there.
        """

        names: str | None = None

    def categories(self) -> Sequence[str]:
        return list(self._names.values())

    @cached_property
    def _names(self) -> dict[int, str]:
        place = self.path(self.config.names) if self.config.names else None
        if place is None:
            place = next((self.raw / name for name in NAMES if (self.raw / name).is_file()), None)
        if place is None:
            listed = ", ".join(NAMES)
            raise ConfigError(f"yolo: {self.raw} names no classes: expected one of {listed}, or --names FILE")
        if place.suffix in (".yaml", ".yml"):
            found = read_yaml(place).get("names")
            pairs = list(found.items()) if isinstance(found, dict) else list(enumerate(found or []))
        else:
            pairs = list(enumerate(line.strip() for line in read_text(place).splitlines() if line.strip()))
        if not pairs or not all(str(key).isdigit() and isinstance(name, str) for key, name in pairs):
            raise ConfigError(f"{place}: expected the names of the classes, by their numbers or in order")
        return {int(key): name for key, name in pairs}

    def images(self) -> Iterable[Record]:
        found = sorted(self.raw.rglob("*")) if self._names else []
        pictures = [path for path in found if path.suffix.lower() in IMAGES and path.is_file()]
        labels = [self._labels(path) for path in pictures]
        if not any(labels):
            raise ConfigError(f"yolo: no image below {self.raw} has its text file: expected labels/ beside images/")
        for path, label in zip(pictures, labels, strict=True):
            file = path.relative_to(self.raw).as_posix()
            yield Record("", {"file": file, "label": label}, split=self.split_of(path))

    def _labels(self, path: Path) -> str | None:
        parts = list(path.relative_to(self.raw).parts)
        places = [path.with_suffix(".txt")]
        if "images" in parts:
            at = len(parts) - 1 - parts[::-1].index("images")
            places.insert(0, self.raw.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt"))
        return self.found(*places)

    def regions(self, data: Any, height: int, width: int) -> Regions:
        found = Regions()
        if data["label"] is None:
            return found
        for number, line in enumerate(self.text(self.path(data["label"])).splitlines(), start=1):
            words = line.split()
            if words:
                self._add(found, words, number, height, width)
        return found

    def _add(self, found: Regions, words: list[str], line: int, height: int, width: int) -> None:
        try:
            numbers = [float(word) for word in words[1:]]
        except ValueError:
            raise CellError("bad_box", f"line {line}: expected numbers") from None
        if not re.fullmatch(r"\d+", words[0]) or int(words[0]) not in self._names:
            raise CellError("bad_box", f"line {line}: expected the number of a class that has a name")
        if not all(-FAR < value < FAR for value in numbers):
            raise CellError("bad_box", f"line {line}: expected fractions of the image, found pixels or no numbers")
        name = self._names[int(words[0])]
        if len(numbers) == 4:
            x, y, across, down = numbers
            place = [
                (x - across / 2) * width,
                (y - down / 2) * height,
                (x + across / 2) * width,
                (y + down / 2) * height,
            ]
            found.boxes.append(Box(name, corners(place, "xyxy", f"line {line}"), name))
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            points = [value * (width, height)[at % 2] for at, value in enumerate(numbers)]
            place = [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
            found.boxes.append(Box(name, corners(place, "xyxy", f"line {line}"), name))
            if self.config.masks:
                found.masks.setdefault(name, []).append(polygon_mask(points, height, width))
        else:
            raise CellError("bad_box", f"line {line}: expected a class and 4 numbers, or a class and a polygon")
