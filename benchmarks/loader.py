"""The loader against its peers: `python -m benchmarks.loader [--images FOLDER]`. Ratios of CPU time within one run.

Peer of the worker's time: open_clip's training pipeline (webdataset, Pillow, its image transform, its tokeniser padded to
256), put together here from the installed open_clip and webdataset, since open_clip_train's own needs an older
webdataset. Peer of start and resume: a plain webdataset loader, which can only skip by reading.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

PIXELS, SIZE, BATCH, REPEATS = 512, 224, 32, 5
WORDS = "the heart size is normal and lungs are clear without focal consolidation effusion or pneumothorax"


def make_shards(out: Path, images: Path | None, n: int) -> Path:
    """Write n chest images of 512 px as JPEG with 60-word reports, as shards of 100."""
    from vlp.types import Report, Sample
    from vlp_prep.writer import ShardWriter

    rng = np.random.default_rng(0)
    sources = sorted(images.glob("*.jpg")) if images and images.is_dir() else []
    with ShardWriter(out, shard_size=100) as writer:
        for index in range(n):
            if sources:
                pixels = cv2.imread(str(sources[index % len(sources)]), cv2.IMREAD_GRAYSCALE)
            else:
                noise = rng.integers(0, 256, (32, 32)).astype(np.uint8)
                pixels = cv2.resize(noise, (PIXELS, PIXELS), interpolation=cv2.INTER_CUBIC)
            pixels = cv2.resize(pixels, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)
            data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            text = " ".join(rng.choice(WORDS.split(), 60))
            writer.write(Sample(f"k{index:06d}", data, Report(text), split="train"))
    return out


def cpu(run: Callable[[], int]) -> float:
    """Return the CPU milliseconds per image of one call, which returns its number of images."""
    gc.collect()
    start = time.process_time()
    images = run()
    return 1000 * (time.process_time() - start) / images


def wall(run: Callable[[], object]) -> float:
    """Return the wall milliseconds of one call."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def ours(shards: Path, channels: int, interpolation: str) -> Callable[[], int]:
    from vlp.data.loader import DataConfig, Loader
    from vlp.preprocess import ImageSpec, Preprocess
    from vlp.tokenize import TextSpec, build_tokenizer

    config = DataConfig(train=str(shards), batch_size=BATCH, workers=0)
    texts = list(Loader.training_texts(config, 200))
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", length=256, vocab_size=1000), texts)
    spec = ImageSpec(size=SIZE, channels=channels, interpolation=interpolation)  # type: ignore[arg-type]

    def run() -> int:
        mean, std = 127.5, 63.75
        loader = Loader(config, Preprocess(spec), tokenizer)
        images = 0
        for batch in loader:
            batch.image.float().sub_(mean).div_(std)  # the model does this; counted here to compare like with like
            images += len(batch)
            if images >= loader.samples - BATCH:
                break
        return images

    return run


def decode_alone(shards: Path, channels: int) -> Callable[[], int]:
    from vlp.data.manifest import Manifest, ShardSet
    from vlp.preprocess import decode

    every = ShardSet(Manifest.read(shards))
    encoded = [every.sample(index).image for index in range(len(every))]

    def run() -> int:
        for data in encoded:
            assert isinstance(data, bytes)
            decode(data, channels)
        return len(encoded)

    return run


def open_clip_pipeline(shards: Path, with_text: bool) -> Callable[[], int]:
    import open_clip
    import webdataset

    transform = open_clip.image_transform(SIZE, is_train=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    tokenize = open_clip.SimpleTokenizer(context_length=256)
    paths = sorted(str(path) for path in shards.glob("*.tar"))

    def run() -> int:
        pipeline = webdataset.DataPipeline(
            webdataset.SimpleShardList(paths),
            webdataset.tarfile_to_samples(),
            webdataset.shuffle(1000, initial=100),
            webdataset.decode("pilrgb"),
            webdataset.rename(image="jpg", text="json"),
            webdataset.map_dict(
                image=transform, text=lambda one: tokenize(one["report"]["text"])[0] if with_text else 0
            ),
            webdataset.to_tuple("image", "text"),
            webdataset.batched(BATCH, partial=False),
        )
        return sum(len(images) for images, _ in pipeline)

    return run


def interleaved(runs: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Return the median CPU time per image of each, the repetitions taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            taken = cpu(run)
            if repeat:
                times[name].append(taken)
    return {name: statistics.median(found) for name, found in times.items()}


def start_and_resume(shards: Path, folder: Path) -> dict[str, float]:
    """Return wall milliseconds: first sample of 1,000 shards, and the sample in the middle of a pass, ours and plain."""
    import webdataset

    from vlp.data.loader import DataConfig
    from vlp.data.sources import Stream

    many = folder / "many"
    many.mkdir()
    lines = (shards / "manifest.jsonl").read_text().splitlines()
    for number in range(1000):
        line = lines[number % len(lines)]
        old = line.split('"')[3]
        name = f"train-{number:06d}.tar"
        (many / name).hardlink_to(shards / old)
        lines_file = many / "manifest.jsonl"
        with lines_file.open("a") as file:
            file.write(line.replace(f'"{old}"', f'"{name}"', 1) + "\n")
    config = DataConfig(train=str(many), batch_size=BATCH)
    paths = sorted(str(path) for path in many.glob("*.tar"))

    def sample_at(position: int) -> None:
        stream = Stream(config, 0)
        stream.sources[0].shards.sample(stream.plan.draw(position).index)

    def skip(samples: int) -> None:
        pipeline = webdataset.DataPipeline(webdataset.SimpleShardList(paths), webdataset.tarfile_to_samples())
        for index, _ in enumerate(pipeline):
            if index == samples:
                return

    total = Stream(config, 0).samples
    far = min(20_000, total // 2)
    return {
        "first": statistics.median(wall(lambda: sample_at(0)) for _ in range(REPEATS)),
        "plain first": statistics.median(wall(lambda: skip(0)) for _ in range(REPEATS)),
        "middle": statistics.median(wall(lambda: sample_at(total // 2)) for _ in range(REPEATS)),
        "plain middle": wall(lambda: skip(far)) * (total // 2) / far,  # reading is linear in what is skipped
    }


def main() -> None:
    """Measure and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, help="a folder of JPEG radiographs (default: smooth noise)")
    parser.add_argument("--n", type=int, default=400, help="number of images (default: 400)")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="vlp-bench-"))
    try:
        shards = make_shards(folder / "shards", options.images, options.n)
        found = interleaved(
            {
                "ours, grey, area": ours(shards, 1, "area"),
                "ours, rgb, area": ours(shards, 3, "area"),
                "ours, grey, bicubic": ours(shards, 1, "bicubic"),
                "decode alone, grey": decode_alone(shards, 1),
                "open_clip": open_clip_pipeline(shards, with_text=False),
                "open_clip, text": open_clip_pipeline(shards, with_text=True),
            }
        )
        for name, taken in found.items():
            peer = found["open_clip, text"]
            print(f"{name:24} {taken:7.2f} ms/image of CPU   {peer / taken:5.2f}x open_clip with text")
        print(f"share of decoding in ours (grey, area): {found['decode alone, grey'] / found['ours, grey, area']:.0%}")
        times = start_and_resume(shards, folder)
        print(f"first sample of 1,000 shards: {times['first']:.0f} ms (plain webdataset {times['plain first']:.0f} ms)")
        ratio = times["plain middle"] / times["middle"]
        print(
            f"middle of a pass: {times['middle']:.0f} ms, by skipping {times['plain middle']:.0f} ms "
            f"(extrapolated): {ratio:.0f}x"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
