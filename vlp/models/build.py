"""Build the model of a recipe: towers, weights, adapters, freezing."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vlp.batch import Batch
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.tokenizers.base import Tokenizer

from .dual_encoder import DualEncoder, ModelConfig, log
from .lora import inject_all
from .towers import conv, hf, open_clip, timm  # noqa: F401  (each registers its towers)
from .towers.base import (
    TextShape,
    build_image_tower,
    build_text_tower,
)


def text_shape(tokenizer: Tokenizer) -> TextShape:
    """Return what a text tower must know of a tokenizer."""
    empty = tokenizer([""])
    closing = int(empty.tokens.ids[0, -1]) if empty.tokens.ids.shape[1] and int(empty.tokens.words[0, -1]) < 0 else None
    return TextShape(tokenizer.vocab_size, tokenizer.pad_id, tokenizer.length, closing)


def assemble(
    config: ModelConfig,
    spec: ImageSpec,
    tokenizer: Tokenizer,
    needs: Iterable[str] = (),
    scale_init: tuple[float, float | None] | None = None,
) -> DualEncoder:
    """Return the model with random weights, nothing loaded, nothing frozen."""
    image_tower = build_image_tower(config.image, spec)
    text_tower = build_text_tower(config.text, text_shape(tokenizer))
    model = DualEncoder(config, spec, image_tower, text_tower, needs, scale_init)
    model.text_tower_pad = tokenizer.pad_id
    return model


def build_model(
    config: ModelConfig,
    image_spec: ImageSpec,
    tokenizer: Tokenizer,
    needs: Iterable[str] = (),
    scale_init: tuple[float, float | None] | None = None,
) -> DualEncoder:
    """Return the model of a recipe, its initial weights loaded and its frozen parts frozen, in training mode.

    `needs`: what the objectives read (`ObjectiveSum.needs`); `scale_init`: their initial log scale and bias. Raises
    ConfigError, with the path in the recipe, for parts that do not fit each other or for weights that do not fit a tower.
    """
    from .weights.load import load_initial

    model = assemble(config, image_spec, tokenizer, needs, scale_init)
    load_initial(model, lambda: set(unreached(model, tokenizer)))
    if model.logit_scale is not None and scale_init is not None:  # a pretrained one may lie outside the usual bounds
        model.scale_init = (float(model.logit_scale.detach()), scale_init[1])
    return made_ready(model, tokenizer)


def made_ready(model: DualEncoder, tokenizer: Tokenizer) -> DualEncoder:
    """Add the adapters and freeze what the configuration says, and what no output depends on; returns the model."""
    inject_all(model)
    model.image_tower.prepare("model.image")
    model.text_tower.prepare("model.text")
    lost = unreached(model, tokenizer)
    for name in lost:
        model.get_parameter(name).requires_grad_(False)
    if lost:
        log.info("no output depends on %s: left as they are", ", ".join(lost))
    return model


def unreached(model: DualEncoder, tokenizer: Tokenizer) -> list[str]:
    """Return the trained parameters that no output depends on: DDP fails on them, weight decay would shrink them.

    Towers bring such along: mask tokens, poolers that another pooling passes by. Found with one backward of one sample.
    """
    was_training = model.training
    model.eval()
    spec = model.spec
    batch = Batch(
        image=torch.full((1, spec.channels, spec.size, spec.size), 128, dtype=torch.uint8),
        text=tokenizer(["a"]).tokens,
        group=torch.zeros(1, 2, dtype=torch.int64),
        keys=[""],
    )
    output = model(batch)
    reached = (output.image, output.text, output.patches, output.words, output.tokens, output.masked_patches)
    with torch.enable_grad():
        total = torch.stack([one.float().square().sum() for one in reached if one is not None]).sum()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    lost = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None and name not in ("logit_scale", "logit_bias"):
            lost.append(name)
        parameter.grad = None
    model.train(was_training)
    return lost
