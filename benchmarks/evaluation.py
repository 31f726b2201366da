"""Speed of the harness: embedding against the tower's bare forward, and retrieval against open_clip's own metric.

    python -m benchmarks.evaluation [--model MODEL ...] [--pairs 20000]

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


def rates(model: str, images: int, side: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return images a second of the tower's bare forward, and through the cache (decode, preprocess, forward, write).

    Bare is the tower under `inference_mode` on one batch that is there already, again and again. The two alternate, so
    that a neighbour on the machine slows both.
    """
    import cv2
    import torch

    from vlp_eval.data.load import read
    from vlp_eval.data.spec import Columns, DataSpec
    from vlp_eval.embeddings.cache import ROWS, EmbeddingCache
    from vlp_eval.models.load import load

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for index in range(images):
            coarse = rng.integers(0, 255, (16, 16), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(coarse, (side, side)))
        (folder / "table.csv").write_text("image\n" + "".join(f"{index}.jpg\n" for index in range(images)))
        embedder = load(model)
        data = read(DataSpec(table="table.csv", split=None, columns=Columns()), folder)
        pixels = np.stack([embedder.prepare(data.image(index))[0] for index in range(ROWS)])
        tower = embedder.tower()
        blocks = max(1, images // ROWS)
        bare, whole = [], []
        with torch.inference_mode():
            batch = tower.normalise(torch.from_numpy(pixels).to(tower.device))
            tower.encode(batch)
            for attempt in range(rounds):
                started = time.perf_counter()
                for _ in range(blocks):
                    rows = tower.encode(batch)
                rows.cpu()  # a GPU's forward has ended only now
                bare.append(blocks * ROWS / (time.perf_counter() - started))
                cache = EmbeddingCache(folder / f"cache-{attempt}", embedder)
                started = time.perf_counter()
                cache.images(data, range(blocks * ROWS))
                whole.append(blocks * ROWS / (time.perf_counter() - started))
    return bare, whole


def embedding(model: str, images: int, side: int, rounds: int) -> None:
    """Print both rates and the median of their shares."""
    bare, whole = rates(model, images, side, rounds)
    shares = np.array(whole) / np.array(bare)
    print(
        f"embedding {model}, JPEG of {side}: cache {np.median(whole):.1f} images/s, bare forward {np.median(bare):.1f}, "
        f"share {np.median(shares):.3f} (of {rounds} rounds {shares.min():.3f} to {shares.max():.3f})"
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
    from vlp_eval.embeddings.search import rank
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
        "--model",
        nargs="*",
        default=["open_clip:ViT-B-32", "open_clip:ViT-B-16"],
        help="what vlp-eval's --model takes (by default two with random weights)",
    )
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--side", type=int, default=320, help="of the JPEG files that are decoded")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--pairs", type=int, default=20_000, help="0 leaves the retrieval out")
    chosen = options.parse_args()
    if chosen.pairs:
        retrieval(chosen.pairs)
    for model in chosen.model:
        embedding(model, chosen.images, chosen.side, chosen.rounds)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
