"""Memory and time of the objectives against the usual way to write them, in the same run.

    python benchmarks/objectives.py                 # about a minute on one core
    python benchmarks/objectives.py --only large    # one step at N = 65,536: some minutes

Each measurement is a process of its own, so that its peak memory is its own; rivals take turns and the least CPU time of
`--repeats` counts. Extra memory is the growth of the resident peak over the inputs and their gradients.
"""

from __future__ import annotations

import argparse
import json
import math
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
    "mgca": [("mgca loop", 64), ("mgca ours", 64), ("mgca ours", 256)],
    "concept": [("concept loop", 64), ("concept ours", 64), ("concept ours", 256)],
    "concept_lse": [("concept_lse loop", 64), ("concept_lse ours", 64), ("concept_lse ours", 256)],
    "medslip": [("medslip loop", 64), ("medslip ours", 64)],
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
    from vlp.batch import Batch, ModelOutput, Tokens
    from vlp.objectives import build_objectives

    blank = torch.zeros((count, 1), dtype=torch.int64)
    batch = Batch(
        image=torch.zeros(count, 1),
        text=Tokens(blank, blank == 0, blank),
        group=torch.arange(2 * count).view(-1, 2),
        keys=[""] * count,
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


def token_inputs(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P = 196 patches and W = 97 words of D = 128, and their attention from the pooling token; every word real."""
    generator = torch.Generator().manual_seed(0)
    patches, words = (0.3 * torch.randn(count, size, 128, generator=generator) for size in (196, 97))
    attention = [torch.rand(count, size, generator=generator) for size in (196, 97)]
    return patches.requires_grad_(), words.requires_grad_(), attention[0], attention[1]


def mgca(name: str, count: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The token-wise part."""
    from vlp.batch import ModelOutput
    from vlp.objectives.mgca import Mgca

    patches, words, patch_attention, word_attention = token_inputs(count)
    objective = Mgca(Mgca.Config(prototypes=1), 128)

    def weights(attention: Tensor) -> Tensor:
        low, high = torch.quantile(attention, torch.tensor([0.1, 0.9]))
        clipped = attention.clamp(low, high)
        return clipped / clipped.sum()

    def side(queries: Tensor, context: Tensor, weight: Tensor) -> Tensor:
        attended = torch.softmax(queries @ context.T / 0.1, 1) @ context
        match = queries @ torch.nn.functional.normalize(attended, dim=1).T / 0.1
        target = torch.arange(len(queries))
        losses = [torch.nn.functional.cross_entropy(one, target, reduction="none") for one in (match, match.T)]
        return (weight * (losses[0] + losses[1])).sum() / 2

    def loop() -> Tensor:
        total = torch.zeros(())
        for index in range(count):
            one, other = (torch.nn.functional.normalize(each[index], dim=1) for each in (patches, words))
            total = total + side(other, one, weights(word_attention[index]))
            total = total + side(one, other, weights(patch_attention[index]))
        return total / count

    def ours() -> Tensor:
        output = ModelOutput(
            image=patches[:, 0],
            text=words[:, 0],
            patches=patches,
            words=words,
            word_mask=torch.ones(words.shape[:2], dtype=torch.bool),
            patch_attention=patch_attention,
            word_attention=word_attention,
        )
        return objective._tokens(output).mean()

    return loop if name == "mgca loop" else ours, [patches, words]


def concept(name: str, count: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Four mentions a sample, the mean of two tokens each, against every image's patches; ConceptCLIP's loss, or its pooling
    by log-mean-exp."""
    from vlp.batch import Batch, ModelOutput, Spans, Tokens
    from vlp.objectives import build_objectives

    patches, words, _, _ = token_inputs(count)
    lse = name.startswith("concept_lse")
    blank = torch.zeros((count, 97), dtype=torch.int64)
    owner = torch.arange(count).repeat_interleave(4)
    start = torch.arange(4).repeat(count) * 3
    spans = Spans(
        owner=owner, start=start, end=start + 2, code=torch.arange(4 * count), assertion=torch.ones_like(owner)
    )
    batch = Batch(
        image=torch.zeros(count, 1),
        text=Tokens(blank, blank == 0, blank),
        group=torch.arange(2 * count).view(-1, 2),
        keys=[""] * count,
    )
    batch.spans = spans
    pool = {"pool": "lse", "gamma": 8.0} if lse else {"pool": "max"}
    objective = build_objectives(
        [{"kind": "concept", "align": "none", "alpha": 1.0, "matches": "negative", **pool}], 128
    )

    def loop() -> Tensor:
        unit = torch.nn.functional.normalize
        vectors = unit(
            torch.stack([words[row, at : at + 2].mean(0) for row in range(count) for at in (0, 3, 6, 9)]), dim=1
        )
        total = torch.zeros(())
        for index in range(count):
            similarity = unit(patches[index], dim=1) @ vectors.T
            pooled = torch.logsumexp(8 * similarity, 0).sub(math.log(196)) / 8 if lse else similarity.amax(0)
            sign = torch.where(owner == index, 1.0, -1.0)
            total = total - torch.nn.functional.logsigmoid(sign * (pooled / 0.07 - 10)).sum()
        return total / len(vectors)

    def ours() -> Tensor:
        total: Tensor = objective(
            ModelOutput(patches[:, 0], words[:, 0], patches=patches, tokens=words), batch, 0.0
        ).total
        return total

    return loop if name.endswith("loop") else ours, [patches, words]


def medslip(name: str, count: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """51 places and 75 findings, decoders of 4 layers of width 256; one sample after the other, or all together."""
    from vlp.batch import Batch, ModelOutput, Spans, Tokens
    from vlp.objectives.medslip import MedSlip

    patches, words, _, _ = token_inputs(count)
    torch.manual_seed(0)
    findings = tuple(f"finding {index}" for index in range(75))
    places = {f"place {index}": (f"side {index}", None) for index in range(51)}
    objective = MedSlip(MedSlip.Config(findings=findings, places=places, dropout=0.0), 128)
    matrix = torch.where(torch.rand(count, 51, 75) < 0.02, torch.randint(0, 2, (count, 51, 75)), -1).to(torch.int8)
    matrix[:, 0, 0], matrix[:, 1, 0] = 1, 0

    def loss(rows: slice) -> Tensor:
        blank = torch.zeros((len(patches[rows]), 1), dtype=torch.int64)
        keys = [str(row) for row in range(count)][rows]
        batch = Batch(torch.zeros(len(keys), 1), Tokens(blank, blank == 0, blank), group=blank.expand(-1, 2), keys=keys)
        owner, place, finding = (matrix[rows] >= 0).nonzero().T
        code, assertion = objective.codes[place, finding], matrix[rows][owner, place, finding].long()
        batch.spans = Spans(owner=owner, start=owner * 0, end=owner * 0 + 1, code=code, assertion=assertion)
        output = ModelOutput(patches[rows, 0], words[rows, 0], patches=patches[rows])
        total: Tensor = objective(output, batch).total
        return total

    def loop() -> Tensor:
        return torch.stack([loss(slice(row, row + 1)) for row in range(count)]).mean()

    return loop if name == "medslip loop" else lambda: loss(slice(0, count)), [patches]


TOKEN_LEVEL = {"gloria": gloria, "mgca": mgca, "concept": concept, "concept_lse": concept, "medslip": medslip}


def measure(name: str, count: int, threads: int) -> dict[str, float]:
    """Run one forward and backward in this process."""
    torch.set_num_threads(threads)
    build = TOKEN_LEVEL.get(name.partition(" ")[0], contrastive)
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
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "COUNT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        from benchmarks.result import serve

        serve(lambda: measure(asked.serve[0], int(asked.serve[1]), asked.threads))
        return
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]), asked.threads)))
        return
    print("| what | N | loss | CPU s | wall s | extra MiB | process MiB |\n|---|---|---|---|---|---|---|")
    for group in asked.only or [name for name in GROUPS if name != "large"]:
        rivals = GROUPS[group]
        found: dict[tuple[str, int], list[dict[str, float]]] = {rival: [] for rival in rivals}
        for _ in range(1 if group == "large" else asked.repeats):
            for name, count in rivals:
                command = [sys.executable, __file__, "--threads", str(asked.threads), "--one", name, str(count)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name, count].append(json.loads(done.stdout.splitlines()[-1]))
        for name, count in rivals:
            best = min(found[name, count], key=lambda one: one["cpu_s"])
            memory, peak = (max(one[size] for one in found[name, count]) for size in ("extra_mib", "peak_mib"))
            print(
                f"| {name} | {count} | {best['loss']:.5f} | {best['cpu_s']:.2f} | {best['wall_s']:.2f} | "
                f"{memory:.0f} | {peak:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
