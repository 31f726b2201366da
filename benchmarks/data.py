"""Shards for the benchmarks, as anybody's: a `jpg` and a `txt` member a sample, indexed by `vlp-prep index`'s own function.

Both sides read the same files. Radiographs are real where a folder of them is at hand (`--images`), else drawn.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from .result import ROOT

REAL = ROOT.parent / "shared" / "data" / "covid_cxr" / "images"
VOCABULARY = (
    "the heart size is normal and lungs are clear without focal consolidation effusion or pneumothorax there is mild "
    "bibasilar atelectasis stable cardiomegaly no acute osseous abnormality is seen in comparison to prior study"
)
WORDS = VOCABULARY.split()
QUALITY, DISTINCT = 90, 48


def radiographs(images: Path | None, side: int, count: int = DISTINCT) -> list[bytes]:
    """Return `count` grey JPEG files of `side` x `side` pixels."""
    folder = images or REAL
    sources = sorted(folder.glob("*.jp*g")) if folder.is_dir() else []
    found = []
    for index in range(count):
        if sources:
            pixels = cv2.imread(str(sources[index * len(sources) // count]), cv2.IMREAD_GRAYSCALE)
            pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        else:
            from vlp_prep.synthetic.generate import generate

            drawn = np.asarray(generate(index, 0, side).image, np.float32)
            grain = np.random.default_rng(index).normal(0, 2, drawn.shape)
            pixels = np.clip(drawn + grain, 0, 255).astype(np.uint8)
        found.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return found


def reports(count: int, words: int, seed: int = 0) -> list[str]:
    """Return `count` texts of so many words of radiology."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(count)]


def write_shards(folder: Path, images: Sequence[bytes], texts: Sequence[str], shard_size: int = 96) -> Path:
    """Write a sample for each text, the images over and over, as `train-NNNNNN.tar` with a manifest."""
    from vlp.data.shards.verify import index_folder

    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, len(texts), shard_size)):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as tar:
            for index in range(first, min(first + shard_size, len(texts))):
                for extension, data in (("jpg", images[index % len(images)]), ("txt", texts[index].encode())):
                    member = tarfile.TarInfo(f"k{index:07d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    index_folder(folder)
    return folder


def repeat_shard(folder: Path, out: Path, count: int) -> Path:
    """Return a set of `count` shards that are all the only one in `folder`, as links to it."""
    out.mkdir()
    (line,) = (folder / "manifest.jsonl").read_text().splitlines()
    name = json.loads(line)["shard"]
    names = [f"train-{number:06d}.tar" for number in range(count)]
    for one in names:
        (out / one).hardlink_to(folder / name)
    (out / "manifest.jsonl").write_text("".join(line.replace(f'"{name}"', f'"{one}"', 1) + "\n" for one in names))
    return out
