"""What `vlp-eval check` finds out about the data of a task: counts, prevalence, hashes, and patients seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..tasks.base import Context, Task
from . import dataset
from . import load as data_files
from .dataset import Data
from .labels import label_of
from .spec import DataSpec


def check_task(
    task: Task, root: Path, train: Path | None, train_split: str, decode: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return facts about a task's data and the problems found. Raises DataError when it cannot be read at all."""
    data = data_files.read(task.spec.data, root)
    facts: dict[str, Any] = {
        "task": task.spec.id,
        "data": data.name,
        "split": data.split,
        "images": len(data),
        "patients": len({data.patient(one) for one in range(len(data))}),
        "data_digest": data.digest,
    }
    problems = [f"damaged record: {why}" for why in data.rejected.values()]
    try:
        facts |= scored(task, data)
    except ValueError as error:
        problems.append(f"{error}")
    classes = getattr(task.settings, "classes", ())
    if "labels" in task.needs and classes:
        aliases = getattr(task.settings, "aliases", None) or {}
        called = {name: (name, *aliases.get(name, ())) for name in classes}
        facts["prevalence"] = prevalence(data, called, getattr(task.settings, "truth", "labels"))
        for name, one in facts["prevalence"].items():
            if not one["positive"]:
                problems.append(f"no image is positive for {name!r}")
    if "boxes" in task.needs:
        boxes = [box for one in data.records for box in one.boxes]
        facts["boxes"] = {"images": sum(bool(one.boxes) for one in data.records), "boxes": len(boxes)}
        facts["boxes"]["phrases"] = len({box.phrase for box in boxes})
        if not boxes:
            problems.append("no image has a box")
        flat = sum(box.xyxy[2] <= box.xyxy[0] or box.xyxy[3] <= box.xyxy[1] for box in boxes)
        if flat:
            problems.append(f"{flat} boxes have no area")
    if "masks" in task.needs:
        facts["masks"] = {
            name: sum(data.mask(one, name) is not None for one in range(len(data))) for name in task.settings.masks
        }
        problems += [f"no image has a mask {name!r}" for name, count in facts["masks"].items() if not count]
    if "report" in task.needs:
        texts = [one.report.text for one in data.records if one.report and one.report.text.strip()]
        facts["reports"] = {"images": len(texts), "distinct": len(set(texts))}
        if not texts:
            problems.append("no image has a report")
    if train is not None:
        facts["training"] = overlap(data, train, train_split)
        shared = [(key.split("_")[0], facts["training"][key]) for key in ("patients_shared", "images_shared")]
        problems += [f"{count} {what} are in the training data too" for what, count in shared if count]
    if decode:
        problems += unreadable(data)
    return facts, problems


def scored(task: Task, data: Data) -> dict[str, Any]:
    """Return how many images the results will list, and the hash of their ids. Raises DataError when there are none."""
    nothing: Any = None  # what will be listed is chosen before anything is encoded
    indices = task.listed(Context(data=data, store=nothing, split=nothing, read=nothing))
    return {"n": len(indices), "ids_sha256": dataset.ids_digest([data.records[one].key for one in indices])}


def prevalence(data: Data, classes: Mapping[str, tuple[str, ...]], truth: str) -> dict[str, dict[str, int]]:
    """Return how often each class, by any of its names, is stated present, absent, uncertain, or not at all."""
    result = {}
    for name, called in classes.items():
        counts = Counter(label_of(one, called, truth) for one in data.records)
        result[name] = {"positive": counts[1], "negative": counts[0], "uncertain": counts[-1], "unknown": counts[None]}
    return result


def overlap(data: Data, train: Path, split: str) -> dict[str, int]:
    """Return how many patients, and how many image keys, the data shares with training shards."""
    other = data_files.read(DataSpec(split=split), train)
    patients = {one.patient for one in other.records if one.patient}
    keys = {one.key for one in other.records}
    shared = {one.patient for one in data.records if one.patient in patients}
    return {
        "images": len(other),
        "patients_shared": len(shared),
        "images_shared": sum(one.key in keys for one in data.records),
    }


def unreadable(data: Data) -> list[str]:
    """Return a line for each image that does not decode, and for each box that its image does not show."""
    from vlp.modalities.image.decode import decode

    problems = []
    for index, record in enumerate(data.records):
        try:
            height, width = decode(data.image(index), 1).shape[:2]
        except (ValueError, OSError) as error:
            problems.append(f"image {record.key!r}: {error}")
            continue
        for box in record.boxes:
            x1, y1, x2, y2 = box.xyxy
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                problems.append(f"image {record.key!r}: a box of {box.label or 'a phrase'} lies outside of it")
    return problems
