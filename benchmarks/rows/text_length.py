"""Row 3: the text tower's step on texts as long as reports are, beside padding each to 256 tokens; and length bucketing.

Forward and backward of a BERT of one layer, width 256, on batches of 32 that the real loader made. Two sets of reports:
the demo's (37 words on average, about Open-I's), and long ones, log-normal about 80 words as hospitals' are. Nobody's
real reports can be kept here; what the ratio depends on is their lengths, which are printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Tokens

from ..data import WORDS, radiographs, write_shards
from ..options import Options
from ..result import Result, compare, interleave

LENGTH, BATCH = 256, 32
CONFIG = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def run(options: Options) -> Iterator[Result]:
    torch.set_num_threads(1)
    full, count, pool = (1, 2, 4) if options.quick else (2, 4, 16)  # a pool of buckets holds 16 batches
    for name, texts in (("the demo's reports", demo_reports()), ("long reports", long_reports())):
        shards = write_shards(options.work / name.replace(" ", "-"), radiographs(options.images, 32, 4), texts)
        tokenizer = tokenizer_of(shards)
        plain, bucketed = batches(shards, tokenizer, False, count), batches(shards, tokenizer, True, pool)
        model = make_model(tokenizer)
        with torch.no_grad():
            error = max(float((as_trained(model, one) - model.encode_text(padded(one))).abs().max()) for one in plain)
        if error > 1e-5:
            raise AssertionError(f"outputs on the texts as they are and padded to {LENGTH} differ by {error:g}")
        runs = {
            "padded": step(model.encode_text, [padded(one) for one in plain[:full]]),
            "plain": step(partial(as_trained, model), plain),
            "bucketed": step(partial(as_trained, model), bucketed),
        }
        found = interleave(runs, options.repeats)
        lengths = torch.cat([one.mask.sum(1) for one in [*plain, *bucketed]]).float()
        note = f"{lengths.mean():.0f} tokens on average, at most {lengths.max():.0f}; outputs differ by {error:.0e}"
        yield compare("3", f"text step, ms of CPU per report, {name}", f"padded to {LENGTH}", "ms", found["plain"],
                      found["padded"], 1.8, note=note)  # fmt: skip
        note = f"padding {waste(plain):.0%} of tokens, {waste(bucketed):.0%} with buckets"
        yield compare("3", f"text step with data.bucket, {name}", f"padded to {LENGTH}", "ms", found["bucketed"],
                      found["padded"], 1.8, note=note)  # fmt: skip


def demo_reports(count: int = 1536) -> list[str]:
    """Return the reports of the synthetic world."""
    from vlp_prep.synthetic.patient import draw_state, stream
    from vlp_prep.synthetic.report import write

    return [write(draw_state(index, 0), stream(0, 4, index))[0].text for index in range(count)]


def long_reports(count: int = 1536) -> list[str]:
    """Return texts of a log-normal number of words: median 80, 5 % under 35 and over 180."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(80), 0.5, count), 8, 400).astype(int)
    return [" ".join(rng.choice(WORDS, words)) for words in lengths]


def tokenizer_of(shards: Path) -> Any:
    from vlp.data.loader import DataConfig, open_stream
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

    spec = TextSpec(kind="wordpiece", length=LENGTH, vocab_size=1000)
    return build_tokenizer(spec, open_stream(DataConfig(train=str(shards), batch_size=BATCH), 0, "train", 1).texts())


def batches(shards: Path, tokenizer: Any, bucket: bool, count: int) -> list[Tokens]:
    """Return the texts of the loader's first batches of a pass."""
    from vlp.data.loader import DataConfig, Loader
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec

    config = DataConfig(train=str(shards), batch_size=BATCH, workers=0, bucket=bucket)
    loader = iter(Loader(config, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer))
    return [next(loader).text for _ in range(count)]


def make_model(tokenizer: Any) -> Any:
    from vlp.modalities.image.spec import ImageSpec
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    torch.manual_seed(0)
    text = {"kind": "hf", "config": CONFIG}
    config = ModelConfig(image={"kind": "conv", "width": 8, "blocks": [1, 1, 1]}, text=text, dim=256)
    return build_model(config, ImageSpec(size=32, channels=1), tokenizer)


def as_trained(model: Any, tokens: Tokens) -> Tensor:
    """Return text embeddings as a training step makes them: through the model's forward, beside next to no image."""
    image = torch.zeros((len(tokens), 1, 32, 32), dtype=torch.uint8)
    rows = torch.arange(2 * len(tokens)).view(-1, 2)
    text: Tensor = model(Batch(image, tokens, group=rows, keys=[""] * len(tokens))).text
    return text


def padded(tokens: Tokens) -> Tokens:
    from torch.nn.functional import pad

    extra = LENGTH - tokens.ids.shape[1]
    return replace(
        tokens,
        ids=pad(tokens.ids, (0, extra)),
        mask=pad(tokens.mask, (0, extra), value=False),
        words=pad(tokens.words, (0, extra), value=-1),
        sentences=None,
    )


def waste(tokens: list[Tokens]) -> float:
    """Return the share of a tower's tokens that are padding."""
    real, all_of_them = sum(int(one.mask.sum()) for one in tokens), sum(one.mask.numel() for one in tokens)
    return 1 - real / all_of_them


def step(tower: Callable[[Tokens], Tensor], tokens: list[Tokens]) -> Callable[[], float]:
    def one_pass() -> float:
        started = time.process_time()
        for one in tokens:
            tower(one).square().mean().backward()
        return 1000 * (time.process_time() - started) / sum(len(one) for one in tokens)

    return one_pass
