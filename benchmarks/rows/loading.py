"""Rows 1 and 2: CPU time per image of the loader beside open_clip_train's own pipeline, and the loader's workers.

One process reads, decodes, transforms, tokenises, batches and normalises 512-px radiographs to 224-px batches of 32.
Row 1 has reports of one word and a peer that does not tokenise; row 2 has reports of 60 words, at most 256 tokens.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..data import radiographs, reports, write_shards
from ..options import NoPeerError, Options, environment, peer_environment
from ..result import Result, Rival, compare, interleave, wall_s

SIZE, BATCH = 224, 32
PEER = "open_clip_train's pipeline"


def run(options: Options) -> Iterator[Result]:
    torch.set_num_threads(1)
    samples = 64 if options.quick else 256
    images = radiographs(options.images, 512)
    word = write_shards(options.work / "word", images, ["normal"] * samples)
    full = write_shards(options.work / "full", images, reports(samples, 60))
    runs: dict[str, Callable[[], float]] = {
        "1": ours(word),
        "1 grey": ours(word, channels=1),
        "1 fast": ours(word, channels=1, decode="fast"),
        "decode": decode_alone(images, samples, "full"),
        "decode fast": decode_alone(images, samples, "fast"),
        "2": ours(full),
        "2 grey": ours(full, channels=1),
        "2 bicubic": ours(full, interpolation="bicubic"),
    }
    rivals: list[Rival] = []
    missing = ""
    try:
        surroundings = peer_environment()
        for name, shards in (("peer 1", word), ("peer 2", full)):
            command = [
                "-m",
                "benchmarks.peers.loader",
                str(shards),
                str(samples),
                str(BATCH),
                "1" if name == "peer 2" else "0",
            ]
            rivals.append(Rival(command, surroundings))
            runs[name] = rivals[-1]
    except (NoPeerError, RuntimeError) as error:
        missing = str(error)
    found = interleave(runs, options.repeats)
    for rival in rivals:
        rival.close()
    what = {
        "1": "loader, ms of CPU per image, defaults (3 channels)",
        "1 grey": "loader, 1 channel",
        "1 fast": "loader, 1 channel, decode: fast",
        "2": "loader with 60-word reports to 256 tokens, defaults (3 channels)",
        "2 grey": "loader with reports, 1 channel",
        "2 bicubic": "loader with reports, 3 channels, bicubic as the peer's",
    }
    for name, words in what.items():
        peer, least = f"peer {name[0]}", 3.0 if name != "2 bicubic" else None
        if missing:
            yield Result(name[0], words, PEER, "ms", statistics.median(found[name]), None, None, least, missing)
        else:
            yield compare(name[0], words, PEER, "ms", found[name], found[peer], least)
    yield compare("1", "decode: fast, share of decoding", "decoding alone, at the same scale", "ms",
                  found["1 fast"], found["decode fast"], 0.5)  # fmt: skip
    yield compare("1", "full quality, share of decoding", "decoding alone, in full", "ms",
                  found["1 grey"], found["decode"], None)  # fmt: skip
    quality = [difference(data) for data in images]
    yield Result("1", "decode: fast, likeness of the 224-px input", "decode: full", "dB", statistics.median(quality), None,
                 None, None, f"PSNR, {min(quality):.1f} to {max(quality):.1f} over {len(quality)} radiographs")  # fmt: skip
    yield from scaling(full, options)


def make_loader(
    shards: Path, workers: int = 0, channels: int = 3, interpolation: str = "area", decode: str = "full"
) -> Any:
    from vlp.data.loader import DataConfig, Loader, open_stream
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    config = DataConfig(train=str(shards), batch_size=BATCH, workers=workers, decode=decode)  # type: ignore[arg-type]
    texts = open_stream(config, 0, "train", 1).texts()
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", length=256, vocab_size=1000), texts)
    spec = ImageSpec(size=SIZE, channels=channels, interpolation=interpolation)  # type: ignore[arg-type]
    return Loader(config, ImageProcessor(spec), tokenizer)


def ours(shards: Path, **how: Any) -> Callable[[], float]:
    """Return what measures one pass of our loader in this process, the model's own normalisation included."""
    from vlp.models.dual_encoder import DualEncoder

    loader = make_loader(shards, **how)
    channels = loader.collator.preprocess.spec.channels
    statistics_of = SimpleNamespace(
        mean=torch.full((1, channels, 1, 1), 0.5), std=torch.full((1, channels, 1, 1), 0.25)
    )
    batches = iter(loader)

    def one_pass() -> float:
        images = 0
        started = time.process_time()
        while images < loader.samples:
            batch = next(batches)
            DualEncoder.normalise(statistics_of, batch.image)  # type: ignore[arg-type]
            images += len(batch)
        return 1000 * (time.process_time() - started) / images

    return one_pass


def decode_alone(images: list[bytes], count: int, how: str) -> Callable[[], float]:
    from vlp.modalities.image.processor import Augment, ImageProcessor
    from vlp.modalities.image.spec import ImageSpec

    preprocess, none = ImageProcessor(ImageSpec(size=SIZE, channels=1)), Augment()

    def one_pass() -> float:
        started = time.process_time()
        for index in range(count):
            data = images[index % len(images)]
            _ = preprocess.read(data) if how == "full" else preprocess.read_reduced(data, none)
        return 1000 * (time.process_time() - started) / count

    return one_pass


def difference(data: bytes) -> float:
    """Return the PSNR in dB of the input made by `decode: fast` against that made in full."""
    from vlp.modalities.image.processor import Augment, ImageProcessor
    from vlp.modalities.image.spec import ImageSpec

    preprocess = ImageProcessor(ImageSpec(size=SIZE, channels=1))
    full, fast = (
        preprocess.eval(pixels)[0].numpy().astype(float)
        for pixels in (preprocess.read(data), preprocess.read_reduced(data, Augment()))
    )
    return float(10 * np.log10(255**2 / np.square(full - fast).mean()))


def scaling(shards: Path, options: Options) -> Iterator[Result]:
    """Compare each of 2 workers with a single one: by the wall, which needs idle cores, and by the workers' own CPU time."""
    sides = {
        count: Rival(["-m", "benchmarks.rows.loading", str(shards), str(count)], environment()) for count in ("1", "2")
    }
    cpu: dict[str, list[float]] = {count: [] for count in sides}

    def take(count: str) -> float:
        wall, own = sides[count]()
        cpu[count].append(own)
        return float(wall)

    wall = interleave({count: partial(take, count) for count in sides}, options.repeats)
    for side in sides.values():
        side.close()
    yield compare("2", "samples/s of each of 2 workers", "1 worker", "/s", wall["2"], wall["1"], 0.9,
                  more_is_better=True, note="wall, with one thread that takes the batches")  # fmt: skip
    yield compare("2", "samples per CPU second of each of 2 workers", "1 worker", "/s", cpu["2"][1:], cpu["1"][1:], 0.9,
                  more_is_better=True)  # fmt: skip
    yield machine(options)


def machine(options: Options) -> Result:
    """Return what this machine makes of 2 processes that share nothing: no loader's workers can do better."""
    rivals = [Rival(["-m", "benchmarks.rows.loading", "-", "decode"], environment()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        runs = {
            "one": lambda: float(rivals[0]()),
            "two": lambda: statistics.mean(pool.map(lambda rival: float(rival()), rivals)),
        }
        found = interleave(runs, options.repeats)
    for rival in rivals:
        rival.close()
    return compare("2", "the machine: decodes/s of each of 2 processes", "1 process", "/s", found["two"], found["one"], None,
                   more_is_better=True, note="nothing but decoding, nothing shared")  # fmt: skip


def worker_seconds() -> float:
    """Return the CPU seconds that this process's live children have used."""
    total = 0.0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def throughput(batches: Iterator[Any], count: int, workers: int) -> tuple[float, float]:
    """Return samples/s of each worker over `count` batches: by the wall, and by its CPU time."""
    for _ in range(2 * workers + 1):  # what was made ready while the other side ran
        next(batches)
    started, used = time.perf_counter(), worker_seconds()
    for _ in range(count):
        next(batches)
    made = count * BATCH
    return made / (time.perf_counter() - started) / workers, made / (worker_seconds() - used)


if __name__ == "__main__":
    import sys

    from ..result import serve

    if sys.argv[2] == "decode":
        decode = decode_alone(radiographs(None, 512), 2000, "full")
        serve(lambda: 2000 / wall_s(decode))
        sys.exit()
    workers = int(sys.argv[2])
    loader = make_loader(Path(sys.argv[1]), workers=workers)
    batches = iter(loader)
    serve(lambda: throughput(batches, max(8, 3 * loader.samples // BATCH), workers))
