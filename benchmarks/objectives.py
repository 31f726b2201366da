"""Memory and time of the objectives against the usual way to write them, in the same run.

    python benchmarks/objectives.py                 # about a minute on one core
    python benchmarks/objectives.py --only large    # one step at N = 65,536: some minutes

Each measurement is a process of its own, so that its peak memory is its own; rivals take turns and the least CPU time of
`--repeats` counts. Extra memory is the growth of the resident peak over the inputs and their gradients.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

WIDTH = 512
GROUPS: dict[str, list[tuple[str, int]]] = {
    "clip": [("clip open_clip", 8192), ("clip ours", 8192)],
    "siglip": [("siglip open_clip", 8192), ("siglip ours", 8192)],
    "dhn_nce": [("dhn_nce dense", 4096), ("dhn_nce ours", 4096)],
    "gloria": [("gloria loop", 64), ("gloria ours", 64)],
    "large": [("clip ours", 65536)],
}


def pairs(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1) for _ in range(2)]
    return sides[0].requires_grad_(), sides[1].requires_grad_()


def contrastive(name: str, count: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    kind, _, whose = name.partition(" ")
    image, text = pairs(count)
    scale = torch.tensor([10.0 if kind == "siglip" else 14.3], requires_grad=True)
    bias = torch.tensor([-10.0], requires_grad=True)
    inputs = [image, text]
    if whose == "open_clip":
        from open_clip.loss import ClipLoss, SigLipLoss

        if kind == "clip":
            return lambda: ClipLoss()(image, text, scale), inputs
        return lambda: SigLipLoss()(image, text, scale, bias), inputs
    if whose == "dense":
        return lambda: dense_dhn_nce(image, text), inputs
    from vlp.objectives import build_objectives
    from vlp.types import Batch, ModelOutput, Tokens

    blank = torch.zeros((count, 1), dtype=torch.int64)
    batch = Batch(
        torch.zeros(count, 1), Tokens(blank, blank == 0, blank), torch.arange(2 * count).view(-1, 2), [""] * count
    )
    objective = build_objectives([kind], WIDTH)

    def ours() -> Tensor:
        output = ModelOutput(image=image, text=text, logit_scale=scale, logit_bias=bias)
        total: Tensor = objective(output, batch, 0.0).total
        return total

    return ours, inputs


def dense_dhn_nce(image: Tensor, text: Tensor, temperature: float = 0.6, beta: float = 0.15) -> Tensor:
    logits = image @ text.T / temperature
    count = len(logits)
    own = torch.eye(count, dtype=torch.bool)
    total = torch.zeros(())
    for side in (logits, logits.T):
        weights = (count - 1) * torch.softmax((beta * side).masked_fill(own, -torch.inf), 1)
        total = total + (-side.diagonal() + (weights * side.exp()).sum(1).log()).mean()
    return total


def gloria(name: str, count: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """P = 196 regions, W = 97 words, D = 128; every word real, which favours the loop."""
    from vlp.objectives.gloria import WordMatch

    generator = torch.Generator().manual_seed(0)
    regions = (0.3 * torch.randn(count, 196, 128, generator=generator)).requires_grad_()
    words = (0.3 * torch.randn(count, 97, 128, generator=generator)).requires_grad_()

    def loop() -> Tensor:
        columns = []
        for text in words:
            by_word = torch.softmax(regions @ text.T, 2)
            context = torch.softmax(4 * by_word, 1).transpose(1, 2) @ regions
            cosine = torch.nn.functional.cosine_similarity(text.expand_as(context), context, dim=2)
            columns.append(torch.logsumexp(5 * cosine, 1))
        return torch.stack(columns, 1)

    def ours() -> Tensor:
        mask = torch.ones(words.shape[:2], dtype=torch.bool)
        matched: Tensor = WordMatch.apply(regions, words, mask, 4.0, 5.0)
        return matched

    matching = loop if name == "gloria loop" else ours
    return lambda: torch.logsumexp(10 * matching(), 1).mean(), [regions, words]


def measure(name: str, count: int, threads: int) -> dict[str, float]:
    """Run one forward and backward in this process."""
    torch.set_num_threads(threads)
    build = gloria if name.startswith("gloria") else contrastive
    step, inputs = build(name, count)
    for one in inputs:
        one.grad = torch.full_like(one, 0.0)
    build(name, 4)[0]().backward()  # first calls load libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    loss = step()
    loss.backward()
    spent, waited = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "loss": loss.item(), "cpu_s": spent, "wall_s": waited, "extra_mib": (peak - before) / 1024, "peak_mib": peak / 1024,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(GROUPS), action="append", help="default: all but large")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "COUNT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]), asked.threads)))
        return
    print("| what | N | loss | CPU s | wall s | extra MiB | process MiB |\n|---|---|---|---|---|---|---|")
    for group in asked.only or [name for name in GROUPS if name != "large"]:
        rivals = GROUPS[group]
        found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in rivals}
        for _ in range(1 if group == "large" else asked.repeats):
            for name, count in rivals:
                command = [sys.executable, __file__, "--threads", str(asked.threads), "--one", name, str(count)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
        for name, count in rivals:
            best = min(found[name], key=lambda one: one["cpu_s"])
            memory, peak = (max(one[size] for one in found[name]) for size in ("extra_mib", "peak_mib"))
            print(
                f"| {name} | {count} | {best['loss']:.5f} | {best['cpu_s']:.2f} | {best['wall_s']:.2f} | "
                f"{memory:.0f} | {peak:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
