"""Images annotated in COCO's JSON: boxes, polygons and run lengths, captions.

    vlp-prep build coco --raw DIR --out DIR

Every JSON file below the raw folder that holds `images` and `annotations` is read (`annotations/instances_train.json`,
`train/_annotations.coco.json`, ...), or those of `--annotations`. Files about the same images are joined; several captions
of an image are several texts of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.core.untrusted import read_json
from vlp.data.tables.boxes import corners
from vlp.data.tables.cells import CellError, absent, describe, identity, unicode_text
from vlp.sample import Box

from ..readers.regions import polygon_mask, run_length_mask
from .base import Record, sources
from .detection import DetectionConfig, DetectionSource, Regions, same_size

MAX_BYTES = 1 << 30


@sources.register("coco")
class Coco(DetectionSource):
    name = "coco"
    licence = "that of the data set"
    homepage = "https://cocodataset.org/#format-data"

    @config
    class Config(DetectionConfig):
        """`annotations`: the JSON files to read, below the raw folder; `folder`: where the images are, if not beside them.

        `masks`: polygons and run lengths become masks, one for each category. `closed_labels`: a category without a region
        in an image is absent (0) there.
        """

        annotations: tuple[str, ...] = ()
        folder: str | None = None

    def categories(self) -> Sequence[str]:
        return sorted({name for tree in self._trees.values() for name in tree["names"].values()})

    @cached_property
    def _trees(self) -> dict[Path, dict[str, Any]]:
        if self.config.annotations:
            paths = [self.path(name) for name in self.config.annotations]
        else:
            paths = sorted(path for path in self.raw.rglob("*.json") if path.is_file())
        found = {path: tree for path in paths if (tree := self._tree(path)) is not None}
        if not found:
            raise ConfigError(
                f"coco: no JSON file with images and annotations below {self.raw} (--annotations names one)"
            )
        return found

    def _tree(self, path: Path) -> dict[str, Any] | None:
        """Return a file's images and names by id, and its annotations by image; None for JSON of another kind."""
        try:
            tree = read_json(path, MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON: {error}") from None
        if not isinstance(tree, dict) or not {"images", "annotations"} <= set(tree):
            if self.config.annotations:
                raise ConfigError(f"{path}: expected COCO's images and annotations, found {describe(tree)}")
            return None
        images = {_id(image, "id", f"{path}: image"): image for image in _objects(tree["images"], path, "images")}
        names: dict[Any, str] = {}
        for category in _objects(tree.get("categories", []), path, "categories"):
            name = category.get("name")
            if not isinstance(name, str):
                raise ConfigError(f"{path}: a category without a name")
            names[_id(category, "id", f"{path}: category")] = name
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in _objects(tree["annotations"], path, "annotations"):
            image = _id(annotation, "image_id", f"{path}: annotation")
            if image not in images:
                raise ConfigError(f"{path}: an annotation of an image that is not listed (image_id)")
            by_image.setdefault(image, []).append(annotation)
        if len(images) != len(tree["images"]):
            raise ConfigError(f"{path}: two images have one id")
        return {"images": images, "names": names, "annotations": by_image}

    def images(self) -> Iterable[Record]:
        found: dict[str, Record] = {}
        for path, tree in self._trees.items():
            split = self.split_of(path)
            for number, image in tree["images"].items():
                name = image.get("file_name")
                if not isinstance(name, str) or not name:
                    raise ConfigError(f"{path}: an image without a file_name")
                file = self._place(path, name)
                marks = [
                    self._mark(annotation, tree["names"], path) for annotation in tree["annotations"].get(number, ())
                ]
                data = {"file": file, "marks": [], "captions": [], "size": (None, None)}
                known = found.get(file, Record("", data, split=split))
                if known.split != split:
                    raise ConfigError(f"{path}: an image of this file is in another split's file too")
                captions = [mark["caption"] for mark in marks if isinstance(mark.get("caption"), str)]
                data = {
                    **known.data,
                    "size": (image.get("height"), image.get("width")),
                    "marks": _with_new(known.data["marks"], marks),
                    "captions": _with_new(known.data["captions"], captions),
                }
                try:
                    patient = known.patient or _first_id(image, "patient", "patient_id")
                    study = known.study or _first_id(image, "study", "study_id")
                except CellError as error:
                    raise ConfigError(f"{path}: {error.detail}") from None
                found[file] = replace(known, data=data, patient=patient, study=study)
        return found.values()

    def _place(self, path: Path, name: str) -> str:
        """Return where an image is, below the raw folder; the name as it is where it is nowhere, to be rejected."""
        self.path(name)
        stem = path.stem.removeprefix("instances_").removeprefix("captions_")
        folders = [path.parent, self.raw, self.raw / "images", path.parent.parent / stem, self.raw / "images" / stem]
        if self.config.folder:
            folders = [self.path(self.config.folder)]
        places = [folder / name for folder in folders if folder.is_relative_to(self.raw)]
        return self.found(*places) or name

    @staticmethod
    def _mark(annotation: Mapping[str, Any], names: Mapping[Any, str], path: Path) -> dict[str, Any]:
        """Return what is needed of an annotation."""
        kept = {
            name: annotation[name] for name in ("bbox", "segmentation", "caption") if not absent(annotation.get(name))
        }
        if "bbox" in kept or "segmentation" in kept:
            category = annotation.get("category_id")
            if not isinstance(category, (int, str)) or category not in names:
                raise ConfigError(f"{path}: an annotation of a category that is not listed (category_id)")
            kept["name"] = names[category]
        if isinstance(kept.get("caption"), str):
            unicode_text(kept["caption"], "caption")
        return kept

    def regions(self, data: Any, height: int, width: int) -> Regions:
        same_size(data["size"], height, width)
        found = Regions()
        for mark in data["marks"]:
            if "bbox" in mark:
                found.boxes.append(Box(mark["name"], corners(mark["bbox"], "xywh", "bbox"), mark["name"]))
            segmentation = mark.get("segmentation")
            if not self.config.masks or not segmentation:
                continue
            masks = found.masks.setdefault(mark["name"], [])
            if isinstance(segmentation, dict):
                masks.append(run_length_mask(segmentation, height, width))
            elif isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
                masks += [polygon_mask(part, height, width) for part in segmentation]
            else:
                raise CellError(
                    "bad_mask", f"a segmentation is polygons or run lengths, found {describe(segmentation)}"
                )
        return found


def _with_new(known: list[Any], more: list[Any]) -> list[Any]:
    return [*known, *(item for item in more if item not in known)]


def _objects(value: Any, path: Path, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigError(f"{path}: {what} is not a list of objects")
    return value


def _id(entry: Mapping[str, Any], name: str, what: str) -> int | str:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError(f"{what} without {name}")
    return value


def _first_id(image: Mapping[str, Any], *names: str) -> str | None:
    return next((found for name in names if (found := identity(image.get(name), name))), None)
