"""open_clip_train's own training pipeline, measured: `loader.py SHARDS SAMPLES BATCH TEXT` in an environment it runs in.

Answers each line it reads with the CPU milliseconds per image of one pass. TEXT 0 leaves the tokenizer out.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.result import serve


def one_pass(shards: Path, samples: int, batch: int, text: bool) -> Callable[[], float]:
    import open_clip
    import torch
    from open_clip_train.data import get_wds_dataset

    torch.set_num_threads(1)
    transform = open_clip.image_transform(224, is_train=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    tokenize = open_clip.SimpleTokenizer(context_length=256)
    arguments = Namespace(
        train_data=str(shards / f"train-{{000000..{len(list(shards.glob('*.tar'))) - 1:06d}}}.tar"),
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=batch,
        workers=0,
        world_size=1,
    )

    def run() -> float:
        loader = get_wds_dataset(arguments, transform, True, tokenizer=tokenize if text else lambda _: [0]).dataloader
        started = time.process_time()
        images = sum(len(images) for images, _ in loader)
        return 1000 * (time.process_time() - started) / images

    return run


if __name__ == "__main__":
    serve(one_pass(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"))
