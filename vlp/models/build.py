"""Build the model of a recipe: towers, weights, adapters, freezing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from vlp.batch import Batch
from vlp.core.config import ConfigError
from vlp.modalities.base import Processor
from vlp.modalities.kinds import Spec, processor_of
from vlp.modalities.text.processor import TextProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.volume.spec import VolumeSpec

from .dual_encoder import DualEncoder, ModelConfig
from .lora import add_lora_to_towers
from .shapes import standing_in
from .towers.base import build_image_tower, build_text_tower, build_tower, towers_of

log = logging.getLogger("vlp")

Processors = Mapping[str, Processor[Any, Any]]
NONE: Processors = {}


def build_untrained(
    config: ModelConfig,
    spec: Spec,
    tokenizer: Tokenizer,
    needs: Iterable[str] = (),
    scale_init: tuple[float, float | None] | None = None,
    others: Processors = NONE,
) -> DualEncoder:
    """Return the model with random weights, nothing loaded, nothing frozen; raises ConfigError."""
    image_tower = build_image_tower(config.image, spec)
    if isinstance(spec, VolumeSpec) and spec.image is not None and not image_tower.takes_both:
        raise ConfigError(f"volume.image: the tower {image_tower.kind!r} takes volumes alone; `slices` takes both")
    text_tower = build_text_tower(config.text, TextProcessor(tokenizer).spec)
    if set(others) != set(config.encoders):
        raise ConfigError(f"model.encoders: {sorted(config.encoders)} need a processor each, found {sorted(others)}")
    more = {
        name: build_tower(towers_of(name), tree, f"model.encoders.{name}", others[name].spec)
        for name, tree in config.encoders.items()
    }
    model = DualEncoder(config, spec, image_tower, text_tower, needs, scale_init, more)
    model.text_tower_pad = tokenizer.pad_id
    return model


def build_model(
    config: ModelConfig,
    image_spec: Spec,
    tokenizer: Tokenizer,
    needs: Iterable[str] = (),
    scale_init: tuple[float, float | None] | None = None,
    others: Processors = NONE,
) -> DualEncoder:
    """Return the model of a recipe, its initial weights loaded and its frozen parts frozen, in training mode.

    `needs`: what the objectives read (`ObjectiveSum.needs`); `scale_init`: their initial log scale and bias; `others`: the
    processors of `config.encoders`. Raises ConfigError, with the path in the recipe, for parts that do not fit each other or
    for weights that do not fit a tower.
    """
    from .weights.load import load_initial

    model = build_untrained(config, image_spec, tokenizer, needs, scale_init, others)
    load_initial(model, lambda: set(unused_parameters(model, tokenizer, others)))
    if model.logit_scale is not None and scale_init is not None:  # a pretrained one may lie outside the usual bounds
        model.scale_init = (float(model.logit_scale.detach()), scale_init[1])
    return prepare_for_training(model, tokenizer, others)


def prepare_for_training(model: DualEncoder, tokenizer: Tokenizer, others: Processors = NONE) -> DualEncoder:
    """Add the adapters and freeze what the configuration says, and what no output depends on; returns the model."""
    add_lora_to_towers(model)
    for place, tower in model.towers.items():
        tower.apply_freezing(f"model.{place}")
    lost = unused_parameters(model, tokenizer, others)
    for name in lost:
        model.get_parameter(name).requires_grad_(False)
    if lost:
        log.info("no output depends on %s: left as they are", ", ".join(lost))
    return model


def unused_parameters(model: DualEncoder, tokenizer: Tokenizer, others: Processors = NONE) -> list[str]:
    """Return the trained parameters that no output depends on: DDP fails on them, weight decay would shrink them.

    Towers bring such along: mask tokens, poolers that another pooling passes by. Found with one backward of one sample; of a
    volume, by its shape alone.
    """
    reached = _reached_by_shape(model, tokenizer, others) if model.image_tower.takes == "volume" else None
    reached = _reached(model, tokenizer, others) if reached is None else reached
    reached |= {"logit_scale", "logit_bias"}
    return [name for name, value in model.named_parameters() if value.requires_grad and name not in reached]


def _reached_by_shape(model: DualEncoder, tokenizer: Tokenizer, others: Processors) -> set[str] | None:
    """Return as `_reached`, the image tower's by its shapes; None for a tower that must see values."""
    with standing_in(model.image_tower) as stand_in:
        try:
            reached = _reached(model, tokenizer, others)
            unreached = stand_in.unreached()
        except (RuntimeError, NotImplementedError):
            return None
    every = {name for name, _ in model.image_tower.named_parameters()}
    return reached | {f"image_tower.{name}" for name in every - unreached}


def _reached(model: DualEncoder, tokenizer: Tokenizer, others: Processors) -> set[str]:
    """Return the parameters that the outputs of one sample depend on."""
    was_training = model.training
    model.eval()
    every: Processors = {"image": processor_of(model.spec), "text": TextProcessor(tokenizer), **others}
    inputs = {name: processor.example() for name, processor in every.items()}
    batch = Batch(inputs=inputs, group=torch.zeros(1, 2, dtype=torch.int64), keys=[""])
    output = model(batch)
    outputs = [*output.pooled.values(), *(need.find(output, batch) for need in model.provided)]
    with torch.enable_grad():
        total = torch.stack([found.float().square().sum() for found in outputs if torch.is_tensor(found)]).sum()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    model.train(was_training)
    return reached
