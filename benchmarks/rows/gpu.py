"""For a GPU: ViT-B/16 and BERT-base at 224, bf16, `vlp-train`'s own loop beside open_clip_train's on the same GPU.

The same shards, batch, number of workers and 256 tokens at most; everything else is each side's default. Rates are those
of each side's own log lines, the first third left out. Utilisation is what the towers' matrix products come to
(`FlopCounterMode` over a batch's forward and backward), over the device's peak. Runs when it is named; without a GPU, or
with `--quick`, only small towers, which shows that it works.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from ..data import radiographs, write_shards
from ..options import NoPeerError, Options, environment, peer_environment
from ..result import ROOT, Result
from .text_length import long_reports

PEER = "open_clip_train's loop"
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 operations a second, as NVIDIA's data sheets give them, by a part of the device's name."""


def run(options: Options) -> Iterator[Result]:
    small = options.quick or not torch.cuda.is_available()
    batch, steps = (8, 6) if small else (256, 60)
    shards = write_shards(options.work / "shards", radiographs(options.images, 512), long_reports(batch * steps))
    bert = write_bert(options.work / "bert", shards, small)
    width = {"width": 64, "layers": 2} if small else {"width": 768, "layers": 12}
    vision = {**width, "head_width": 64, "patch_size": 16, "image_size": 224}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    what = f"{'small towers' if small else 'ViT-B/16 and BERT-base'} on {device}, batches of {batch}"
    rates: dict[str, list[float]] = {"plain": [], "compiled": [], "peer": []}
    waits, missing = [], ""
    for repeat in range(options.repeats):
        for name, changes in (("plain", {}), ("compiled", {"compile": True})):
            recipe = options.work / f"{name}-{repeat}.yaml"
            tree = recipe_tree(shards, bert, vision, batch, batch * steps, small) | {"engine": changes}
            tree |= {"out": str(options.work), "name": f"{name}-{repeat}"}
            recipe.write_text(yaml.safe_dump(tree))
            said = output(["-m", "vlp.train", str(recipe)], machine())
            rates[name].append(late(re.findall(r"samples_per_s ([\d.]+)", said)))
            waits.append(late(re.findall(r"data_wait ([\d.e-]+)", said)))
        try:
            rates["peer"].append(peer_rate(options.work, shards, bert, vision, batch, steps, small, repeat))
        except (NoPeerError, RuntimeError) as error:
            missing = str(error)
    work = operations(recipe_tree(shards, bert, vision, batch, batch, small))
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    for name in ("plain", "compiled"):
        title = f"{what}, images/s" + (", engine.compile" if name == "compiled" else "")
        ours = statistics.median(rates[name])
        used = "" if peak is None else f"; {ours * work / peak:.0%} of the device's {peak / 1e12:.0f} Tflop/s"
        note = f"{work / 1e9:.1f} Gflop an image with its report{used}; waiting for data at most {max(waits):.1%}"
        theirs = statistics.median(rates["peer"]) if rates["peer"] else None
        ratio = None if theirs is None else statistics.median(
            a / b for a, b in zip(rates[name], rates["peer"], strict=True)
        )  # fmt: skip
        least = None if small else 1.3
        yield Result("G", title, PEER, "/s", ours, theirs, ratio, least, "; ".join(filter(None, [note, missing])))


def machine() -> dict[str, str]:
    """Return a measured process's environment, with this one's GPUs."""
    return environment(CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0"))


def workers() -> int:
    return max(1, min(16, (os.cpu_count() or 2) - 1))


def write_bert(folder: Path, shards: Path, small: bool) -> Path:
    """Write a random BERT and its tokenizer as transformers reads them."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from vlp.data.loader import DataConfig, open_stream
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    texts = open_stream(DataConfig(train=str(shards), batch_size=1), 0, "train", 1).texts()
    build_tokenizer(TextSpec(kind="wordpiece", length=256, vocab_size=1000), texts).save(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    size = (
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128} if small else {}
    )
    BertModel(BertConfig(**size)).save_pretrained(folder)  # open_clip takes no configuration without weights
    return folder


def recipe_tree(
    shards: Path, bert: Path, vision: dict[str, Any], batch: int, samples: int, small: bool
) -> dict[str, Any]:
    """Return our recipe: plain CLIP on those towers."""
    return {
        "image": {"size": 224, "channels": 3},
        "tokenizer": {"kind": "hf", "path": str(bert), "length": 256},
        "model": {
            "dim": 512,
            "image": {"kind": "open_clip", "config": {"embed_dim": 512, "vision_cfg": vision}},
            "image_head": {"kind": "none"},
            "text": {"kind": "hf", "config": json.loads((bert / "config.json").read_text()), "pooling": "cls"},
        },
        "data": {"train": str(shards), "batch_size": batch, "workers": 1 if small else workers()},
        "objectives": ["clip"],
        "optim": {"lr": 1e-4, "clip": 0.0, "schedule": "constant"},
        "train": {"samples": samples, "log_every": 1 if small else 5},
    }


def peer_rate(
    work: Path, shards: Path, bert: Path, vision: dict[str, Any], batch: int, steps: int, small: bool, repeat: int
) -> float:
    """Return open_clip_train's images/s with the same towers. Raises NoPeerError, RuntimeError."""
    config = work / "peer.json"
    names = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert)}
    text = {**names, "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "linear", "context_length": 256}
    config.write_text(json.dumps({"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}))
    flags = {
        "train-data": f"{shards}/train-{{000000..{len(list(shards.glob('*.tar'))) - 1:06d}}}.tar",
        "train-num-samples": batch * steps,
        "dataset-type": "webdataset",
        "batch-size": batch,
        "epochs": 1,
        "workers": 1 if small else workers(),
        "model": "peer",
        "precision": "amp_bf16" if torch.cuda.is_available() else "fp32",
        "lr": 1e-4,
        "warmup": 0,
        "lr-scheduler": "const",
        "log-every-n-steps": 1 if small else 5,
        "logs": work / "logs",
        "name": repeat,
    }
    given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    surroundings = machine() | {"PYTHONPATH": peer_environment()["PYTHONPATH"]}
    said = output(["-m", "benchmarks.peers.train", str(config), *given], surroundings)
    return late(re.findall(r"([\d.]+)/s, [\d.]+/s/gpu", said))


def late(found: list[str]) -> float:
    """Return the median of the last two thirds of the figures in a log."""
    if not found:
        raise RuntimeError("a run logged no step")
    return statistics.median(float(one) for one in found[len(found) // 3 :])


def output(command: list[str], surroundings: dict[str, str]) -> str:
    """Return what a command says. Raises RuntimeError."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT, env=surroundings
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or ["no message"]
        raise RuntimeError(f"{command[1]} failed: {said[-1][:300]}")
    return done.stdout + done.stderr


def operations(tree: dict[str, Any]) -> float:
    """Return the floating-point operations of one image with its report: forward and backward of both towers."""
    from torch.utils.flop_counter import FlopCounterMode

    from vlp.core.config import validate
    from vlp.data.loader import DataConfig, Loader
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    spec = ImageSpec(size=224, channels=3)
    tokenizer = build_tokenizer(validate(TextSpec, tree["tokenizer"], "tokenizer"))
    model = build_model(validate(ModelConfig, tree["model"], "model"), spec, tokenizer)
    config = DataConfig(train=tree["data"]["train"], batch_size=8, workers=0)
    batch = next(iter(Loader(config, ImageProcessor(spec), tokenizer)))
    with FlopCounterMode(display=False) as counted:
        found = model(batch)
        (found.image.sum() + found.text.sum()).backward()
    return counted.get_total_flops() / len(batch)
