"""Row 10: the first sample of a set of 1,000 shards, and the sample in the middle of a pass, beside a loader that skips."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ..data import radiographs, repeat_shard, reports, write_shards
from ..options import Options
from ..result import Result, compare, interleave, wall_s

SHARDS, SHARD_SIZE = 1000, 50


def run(options: Options) -> Iterator[Result]:
    count = 50 if options.quick else SHARDS
    first = write_shards(options.work / "one", radiographs(options.images, 256), reports(SHARD_SIZE, 30), SHARD_SIZE)
    shards = repeat_shard(first, options.work / "many", count)
    paths = sorted(str(path) for path in shards.glob("*.tar"))
    middle = count * SHARD_SIZE // 2 + 7

    from vlp.data.loader import DataConfig, Loader
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    config = DataConfig(train=str(shards), batch_size=1, workers=0)
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", length=64, vocab_size=100), reports(50, 30))
    keys: dict[str, str] = {}

    def ours(cursor: int) -> float:
        """Open the set, go to a position, and make its sample ready."""

        def first_batch() -> None:
            loader = Loader(config, ImageProcessor(ImageSpec(size=224, channels=1)), tokenizer)
            loader.load_state({**loader.state(), "cursor": cursor})
            keys["ours"] = next(iter(loader)).keys[0]

        return wall_s(first_batch)

    def plain(position: int) -> float:
        """Come to a position as a plain webdataset pipeline can: by reading what lies before, decoding nothing."""
        import webdataset

        def skip() -> None:
            pipeline = webdataset.DataPipeline(webdataset.SimpleShardList(paths), webdataset.tarfile_to_samples())
            keys["plain"] = next(one["__key__"] for index, one in enumerate(pipeline) if index == position)

        return wall_s(skip)

    found = interleave(
        {"first": lambda: ours(0), "middle": lambda: ours(middle), "plain": lambda: plain(middle)}, options.repeats
    )
    size = f"{count * SHARD_SIZE:,} samples in {count:,} shards"
    took = statistics.median(found["first"])
    yield Result(
        "10", "first sample of the set, opening it included", "the limit", "s", took, 1.0, 1.0 / took, 1.0, size
    )
    yield compare("10", "the sample in the middle of a pass, opening the set included",
                  "a plain webdataset pipeline, skipping", "s", found["middle"], found["plain"], 100.0, note=size)  # fmt: skip
