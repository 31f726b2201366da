"""Checks of a task's data for `vlp-eval check`: counts, prevalence, hashes, and overlap with training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlp.modalities.volume import store

from ..metrics.grounding import has_content, spans
from . import load as data_files
from .dataset import Data, Findings
from .labels import label_of
from .spec import DataSpec


def check_labels(data: Data, called: Mapping[str, tuple[str, ...]], truth: str) -> Findings:
    """Return how often each class, by any of its names, is stated; a class without a positive image is a problem."""
    counts = prevalence(data, called, truth)
    problems = [f"no image is positive for {name!r}" for name, count in counts.items() if not count["positive"]]
    return {"prevalence": counts}, problems


def check_boxes(data: Data) -> Findings:
    """Return counts of boxes and phrases; that there are none, and boxes without area, are problems."""
    boxes = [box for record in data.records for box in record.boxes]
    images, phrases = sum(bool(record.boxes) for record in data.records), {box.phrase for box in boxes}
    facts = {"images": images, "boxes": len(boxes), "phrases": len(phrases)}
    flat = sum(not has_content(box.xyxy) for box in boxes)
    problems = ([] if boxes else ["no image has a box"]) + ([f"{flat} boxes have no area"] if flat else [])
    return {"boxes": facts}, problems


def check_masks(data: Data, names: Sequence[str]) -> Findings:
    """Return how many images have each mask; a mask that none has is a problem."""
    counts = {name: sum(data.mask(index, name) is not None for index in range(len(data))) for name in names}
    return {"masks": counts}, [f"no image has a mask {name!r}" for name, count in counts.items() if not count]


def check_reports(data: Data) -> Findings:
    """Return how many images have a report; that none has is a problem."""
    texts = [record.report.text for record in data.records if record.report and record.report.text.strip()]
    return {"reports": {"images": len(texts), "distinct": len(set(texts))}}, [] if texts else ["no image has a report"]


def prevalence(data: Data, classes: Mapping[str, tuple[str, ...]], truth: str) -> dict[str, dict[str, int]]:
    """Return how often each class, by any of its names, is stated present, absent, uncertain, or not at all."""
    result = {}
    for name, names in classes.items():
        counts = Counter(label_of(record, names, truth) for record in data.records)
        result[name] = {"positive": counts[1], "negative": counts[0], "uncertain": counts[-1], "unknown": counts[None]}
    return result


def overlap(data: Data, train: Path, split: str) -> dict[str, int]:
    """Return how many patients, and how many image keys, the data shares with training shards."""
    other = data_files.read(DataSpec(split=split), train)
    keys = {record.key for record in other.records}
    images = sum(record.key in keys for record in data.records)
    patients = {record.patient for record in other.records if record.patient}
    shared = patients & {record.patient for record in data.records}
    return {"images": len(other), "patients_shared": len(shared), "images_shared": images}


def unreadable(data: Data) -> list[str]:
    """Return a line for each image that does not decode, and for each box that its image does not show."""
    from vlp.modalities.image.decode import decode

    problems = []
    for index, record in enumerate(data.records):
        try:
            image = data.image(index)
            shape = store.decode(image).shape if store.is_volume(image) else decode(image, 1).shape[:2]
        except (ValueError, OSError) as error:
            problems.append(f"image {record.key!r}: {error}")
            continue
        problems += [
            f"image {record.key!r}: a box of {box.label or 'a phrase'} lies outside of it"
            for box in record.boxes
            if any(low >= side or high <= 0 for (low, high), side in zip(spans(box.xyxy), shape, strict=True))
        ]
    return problems
