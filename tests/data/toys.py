"""Small sets of shards whose content is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vlp.sample import Mention, Report, Sample
from vlp_prep.images.volumes import store_volume
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.ct.generate import generate as generate_ct

FINDINGS = ("effusion", "nodule", "edema")


def make_sample(index: int, split: str | None = "train", size: int = 12) -> Sample:
    """Return sample `index`: its image encodes the index in its pixels, its report names one finding as present."""
    finding, other = FINDINGS[index % 3], FINDINGS[(index + 1) % 3]
    parts = [f"There is {finding} on the left.", f"No {other}.", f"Study number {index}."]
    text = " ".join(parts[: 2 + index % 2])
    spans, at = [], 0
    for part in parts[: 2 + index % 2]:
        spans.append((at, at + len(part)))
        at += len(part) + 1
    start = text.index(finding)
    concepts = (
        Mention(finding, finding, start, start + len(finding), "present", side="left"),
        Mention(other, other, text.index(other), text.index(other) + len(other), "absent"),
    )
    pixels = np.full((size, size), index % 251, np.uint8)
    pixels[0, :8] = [(index >> bit & 1) * 255 for bit in range(8)]
    return Sample(
        key=f"s{index:06d}",
        image=pixels,
        report=Report(text, tuple(spans)),
        study=f"study{index // 2}",
        concepts=concepts,
        labels={finding: 1, other: 0},
        split=split,
        source="toy",
    )


def make_scan(index: int, seed: int = 7, spacing: float = 12.0) -> Sample:
    """Return a synthetic CT as a shard holds it; of 12 mm it has 24 x 20 x 24 voxels."""
    sample = generate_ct(index, seed, spacing)
    stored = store_volume(sample.image, 1 << 20)  # type: ignore[arg-type]
    return replace(sample, image=stored.data, volume=stored.info)


def write_set(out: Path, n: int = 60, shard_size: int = 7, val: int = 0) -> Path:
    with ShardWriter(out, shard_size=shard_size, source="toy", version="1") as writer:
        for index in range(n):
            writer.write(make_sample(index))
        for index in range(n, n + val):
            writer.write(make_sample(index, split="val"))
    return out
