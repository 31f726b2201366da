"""What a set of samples is made of: counts by split, view, label, text lengths. Added up sample by sample, mergeable.

The same counts are kept while a build writes (for the data card) and filled from shards by `vlp-prep stats`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from vlp.sample import HU_EDGES, Sample, VolumeInfo

from ..images.modality_codes import UNKNOWN

GROUPED_BY = "grouped by"
"""What stands for the patient of a sample, in splits and intervals: the patient, else the study, else the image."""
LABEL_VALUES = {1: "present", 0: "absent", -1: "uncertain"}


class DatasetStats:
    """Counts over samples; memory grows with the number of distinct values and patients, not with texts or pixels."""

    def __init__(self) -> None:
        self.samples = 0
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.words: Counter[int] = Counter()
        self.labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.people: dict[str, set[str]] = {"patient": set(), "study": set()}
        self.volumes: defaultdict[str, Counter[float]] = defaultdict(Counter)
        """Of volumes: voxels, spacing (mm) and extent (mm) along z, y and x, each with how many have it."""
        self.histogram = [0] * (len(HU_EDGES) + 1)
        """Voxels of all CTs below, between and above `HU_EDGES`, as they were counted when they were stored."""

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.samples += 1
        self._count("split", sample.split or "none")
        self._count(GROUPED_BY, "patient" if sample.patient else "study" if sample.study else "image")
        for column in ("modality", "view", "licence"):
            self._count(column, getattr(sample, column) or "not stated")
        for name, value in sample.groups.items():
            if name in ("sex", "site") or value == UNKNOWN:
                self._count(name, value)
        for name, stated in sample.labels.items():
            self.labels[name][LABEL_VALUES.get(stated, str(stated))] += 1
        texts = ([sample.report.text] if sample.report else []) + list(sample.captions)
        self._count("texts per image", str(len(texts)))
        self.words.update(len(text.split()) for text in texts)
        for mention in sample.concepts:
            self._count("concepts", mention.assertion)
        for kind in ("boxes", "concepts", "masks"):
            if getattr(sample, kind):
                self._count("with", kind)
        for step in sample.steps:
            self._count("steps", step.split(":")[0].split(" from ")[0])
        if sample.volume is not None:
            self._add_volume(sample.volume)
        for kind, identity in (("patient", sample.patient), ("study", sample.study)):
            if identity:
                self.people[kind].add(hashlib.blake2b(identity.encode(), digest_size=6).hexdigest())

    def _add_volume(self, volume: VolumeInfo) -> None:
        for axis, side, spacing in zip("zyx", volume.shape, volume.spacing, strict=True):
            self.volumes[f"voxels {axis}"][side] += 1
            if spacing > 0:
                self.volumes[f"spacing {axis} (mm)"][round(spacing, 3)] += 1
                self.volumes[f"extent {axis} (mm)"][round(side * spacing)] += 1
        self._count("orientation of the file", volume.orientation)
        self._count("unit", volume.unit)
        self._add_histogram(volume.histogram)

    def _add_histogram(self, counts: Sequence[int]) -> None:
        if counts:
            self.histogram = [known + more for known, more in zip(self.histogram, counts, strict=True)]

    def _count(self, column: str, value: str) -> None:
        self.counts[column][value] += 1

    def merge(self, record: Mapping[str, Any]) -> None:
        """Add the counts that another one's `to_json` returned."""
        self.samples += record["samples"]
        self.words.update({int(length): count for length, count in record["words"].items()})
        for mine, theirs in ((self.counts, record["counts"]), (self.labels, record["labels"])):
            for name, counter in theirs.items():
                mine[name].update(counter)
        for kind, known in record["people"].items():
            self.people[kind].update(known)
        for name, seen in record.get("volumes", {}).items():
            self.volumes[name].update({float(value): count for value, count in seen.items()})
        self._add_histogram(record.get("histogram", ()))

    def to_json(self) -> dict[str, Any]:
        """Return the stats as plain JSON values, in a fixed order; those of volumes where there are any."""
        volumes = {
            name: {f"{value:g}": seen[value] for value in sorted(seen)} for name, seen in sorted(self.volumes.items())
        }
        return {
            "samples": self.samples,
            "counts": {column: dict(sorted(self.counts[column].items())) for column in sorted(self.counts)},
            "words": {str(length): self.words[length] for length in sorted(self.words)},
            "labels": {name: dict(sorted(self.labels[name].items())) for name in sorted(self.labels)},
            "people": {kind: sorted(known) for kind, known in self.people.items()},
            **({"volumes": volumes, "histogram": self.histogram} if volumes else {}),
        }

    def shares(self) -> dict[str, float]:
        """Return the share of all voxels of CTs in each part of the histogram, {} where there is none."""
        total = sum(self.histogram)
        edges = [f"{edge}" for edge in HU_EDGES]
        names = [f"below {edges[0]}", *(f"{low} to {high}" for low, high in pairwise(edges)), f"{edges[-1]} and more"]
        return {name: count / total for name, count in zip(names, self.histogram, strict=True)} if total else {}


def quantiles(lengths: Counter[int] | Counter[float]) -> dict[str, float]:
    """Return minimum, 5, 50 and 95 % quantiles, mean and maximum of a histogram {value: count}, {} when it is empty."""
    if not lengths.total():
        return {}
    values, counts = zip(*sorted(lengths.items()), strict=True)
    seen, total = list(accumulate(counts)), sum(counts)
    found = {"min": float(values[0])}
    found |= {f"p{share * 100:g}": float(values[bisect_left(seen, share * total)]) for share in (0.05, 0.5, 0.95)}
    mean = sum(value * count for value, count in lengths.items()) / total
    return found | {"mean": mean, "max": float(values[-1])}
