"""Speed of the harness: embedding against the tower's bare forward, and retrieval against open_clip's own metric.

    python -m benchmarks.evaluation [--model FOLDER] [--pairs 20000]

Prints one line per measurement; both sides run in this process, one after the other, on the same data.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def embedding(model: str | None, images: int) -> None:
    """Print images a second through the store (decode, preprocess, forward, write) and of the bare forward."""
    import cv2
    import torch

    from vlp_eval.data import Columns, DataSpec, read
    from vlp_eval.embedder import load
    from vlp_eval.store import ROWS, Store

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for index in range(images):
            coarse = rng.integers(0, 255, (16, 16), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(coarse, (320, 320)))
        (folder / "table.csv").write_text("image\n" + "".join(f"{index}.jpg\n" for index in range(images)))
        embedder = load(model or "open_clip:ViT-B-32")
        data = read(DataSpec(table="table.csv", split=None, columns=Columns()), folder)
        batch = np.stack([embedder.prepare(data.image(index))[0] for index in range(ROWS)])
        embedder.images(batch, False)  # warm up
        rounds = max(1, images // ROWS)
        bare, whole = [], []
        for attempt in range(3):  # alternate, so that a busy machine slows both
            started = time.perf_counter()
            with torch.inference_mode():
                for _ in range(rounds):
                    embedder.images(batch, False)
            bare.append(rounds * ROWS / (time.perf_counter() - started))
            store = Store(folder / f"cache-{attempt}", embedder, workers=2)
            started = time.perf_counter()
            store.images(data, range(images))
            whole.append(images / (time.perf_counter() - started))
    share = max(whole) / max(bare)
    print(
        f"embedding {embedder.card.name}: store {max(whole):.1f} images/s, bare forward {max(bare):.1f}, share {share:.2f}"
    )


RETRIEVAL = """
import resource, sys, time
import numpy as np
sys.path.insert(0, {root!r})
rng = np.random.default_rng(0)
text = rng.standard_normal(({pairs}, 256)).astype(np.float32)
image = text + 3 * rng.standard_normal(({pairs}, 256)).astype(np.float32)
text /= np.linalg.norm(text, axis=1, keepdims=True); image /= np.linalg.norm(image, axis=1, keepdims=True)
if {ours}:
    from vlp_eval.index import rank
    group = np.arange({pairs})
    rank(image[:64], text[:64], group[:64], group[:64])
else:
    import torch
    from open_clip_train.train import get_clip_metrics
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
if {ours}:
    hits = [float(rank(a, b, group, group).hits(10, "index").mean()) for a, b in ((image, text), (text, image))]
else:
    found = get_clip_metrics(torch.from_numpy(image), torch.from_numpy(text), torch.tensor(1.0))
    hits = [float(found[name + "_R@10"]) for name in ("image_to_text", "text_to_image")]
seconds = time.perf_counter() - started
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024, *hits)
"""


def retrieval(pairs: int) -> None:
    """Print seconds and extra memory of both directions of `pairs` x `pairs`, each side in a process of its own."""
    for name, ours in (("vlp-eval", True), ("open_clip", False)):
        code = RETRIEVAL.format(root=str(Path(__file__).parent.parent), pairs=pairs, ours=ours)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"retrieval {pairs} x {pairs}, {name}: failed: {done.stderr.strip().splitlines()[-1][:160]}")
            continue
        seconds, memory, *hits = (float(one) for one in done.stdout.split())
        print(
            f"retrieval {pairs} x {pairs}, {name}: {seconds:.1f} s, {memory:.0f} MiB more, R@10 {hits[0]:.4f} {hits[1]:.4f}"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--model", help="what vlp-eval's --model takes (default: open_clip's ViT-B-32, random weights)"
    )
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--pairs", type=int, default=20_000)
    chosen = options.parse_args()
    retrieval(chosen.pairs)
    embedding(chosen.model, chosen.images)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
