"""Row 5: samples/s of `vlp-train`'s own loop beside the towers' bare forward and backward on a batch that is there.

One thread trains, one worker reads 512-px radiographs: as on a machine whose accelerator does the maths. The loop's rate
is its log's, first line left out.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..data import radiographs, write_shards
from ..options import Options
from ..result import Result, compare, interleave
from .text_length import demo_reports

BATCH = 32
VISION = {"width": 192, "layers": 12, "head_width": 64, "patch_size": 32, "image_size": 224}
TEXT = {"context_length": 256, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4}
EMBED = 128


def towers(depth: int = 12) -> dict[str, Any]:
    """Return open_clip's configuration of the towers: a ViT on patches of 32 and a text transformer, both 192 wide."""
    return {"embed_dim": EMBED, "vision_cfg": {**VISION, "layers": depth}, "text_cfg": TEXT}


def recipe_tree(shards: Path, out: Path, samples: int, **train: Any) -> dict[str, Any]:
    """Return a recipe for those towers, trained as CLIP by our trainer."""
    tree = towers()
    return {
        "name": "bench",
        "out": str(out),
        "image": {"size": 224, "channels": 3},
        "tokenizer": {"kind": "open_clip", "length": TEXT["context_length"]},
        "model": {
            "dim": EMBED,
            "image": {"kind": "open_clip", "config": {key: tree[key] for key in ("embed_dim", "vision_cfg")}},
            "text": {"kind": "open_clip", "config": {key: tree[key] for key in ("embed_dim", "text_cfg")}},
            "image_head": {"kind": "none"},
            "text_head": {"kind": "none"},
        },
        "data": {"train": str(shards), "batch_size": BATCH, "workers": 1},
        "objectives": ["clip"],
        "optim": {"lr": 1e-4, "clip": 0.0, "schedule": "constant"},
        "train": {"samples": samples, **train},
    }


def open_clip_tokenizer() -> Any:
    """Return the towers' tokenizer."""
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    return build_tokenizer(TextSpec(kind="open_clip", length=TEXT["context_length"]), None)


def build_step(depth: int = 12) -> Any:
    """Return the module that is trained, on the CPU."""
    from vlp.core.config import validate
    from vlp.modalities.image.spec import ImageSpec
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig
    from vlp.objectives import build_objectives
    from vlp.train.train_step import TrainStep

    torch.manual_seed(0)
    tree = recipe_tree(Path(), Path(), 1)
    tree["model"]["image"]["config"]["vision_cfg"] = {**VISION, "layers": depth}
    objectives = build_objectives(["clip"], EMBED)
    config = validate(ModelConfig, tree["model"], "model")
    model = build_model(config, ImageSpec(size=224), open_clip_tokenizer(), objectives.needs, objectives.scale_init)
    return TrainStep(model, objectives).train()


def run(options: Options) -> Iterator[Result]:
    torch.set_num_threads(1)
    lines, every = 3, 1 if options.quick else 3
    steps = (lines + 1) * every + 1
    shards = write_shards(options.work / "shards", radiographs(options.images, 512), demo_reports(BATCH * steps))
    from vlp.data.loader import DataConfig, Loader
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec

    config = DataConfig(train=str(shards), batch_size=BATCH, workers=0)
    loader = iter(Loader(config, ImageProcessor(ImageSpec(size=224)), open_clip_tokenizer()))
    resident = [next(loader) for _ in range(steps)]
    module = build_step()
    waits: list[float] = []

    def loop() -> float:
        from vlp.train.recipe import from_tree
        from vlp.train.trainer import train

        out = options.work / f"run-{len(waits)}"
        recipe = from_tree({**recipe_tree(shards, out, BATCH * steps, log_every=every), "log": {"console": False}})
        train(recipe)
        lines = map(json.loads, (recipe.folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
        found = [line for line in lines if line["event"] == "train"][1:-1]
        waits.append(statistics.mean(line["data_wait"] for line in found))
        return statistics.median(line["samples_per_s"] for line in found)

    found = interleave({"loop": loop, "bare": bare(module, resident[every:-1])}, options.repeats, False)
    yield compare("5", "vlp-train's loop, samples/s", "bare forward and backward, resident batches", "/s", found["loop"],
                  found["bare"], 0.95, more_is_better=True,
                  note=f"waiting for data {statistics.median(waits):.1%} of the time")  # fmt: skip


def bare(module: Any, resident: list[Any]) -> Callable[[], float]:
    """Return what measures samples/s of forward and backward through the towers, on the very batches that the loop sees."""

    def one_pass() -> float:
        started = time.perf_counter()
        for batch in resident:
            output = module.model(batch)
            (output.image.square().mean() + output.text.square().mean()).backward()
            for parameter in module.parameters():
                parameter.grad = None
        return sum(len(batch) for batch in resident) / (time.perf_counter() - started)

    return one_pass
