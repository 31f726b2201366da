"""Towers of open_clip: its own vision and text transformers, its ResNets, and timm trunks behind its wrapper.

These towers project into the joint space themselves, so their heads are usually `none`. Built from a model's name
("ViT-B-32") or from the same configuration written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vlp.batch import Tokens
from vlp.core.config import ConfigError, config
from vlp.core.errors import UnsupportedByFormat
from vlp.core.registry import did_you_mean
from vlp.modalities.text.processor import TextShape

from .base import (
    Features,
    ImageTower,
    OpenClipForm,
    TextFeatures,
    TextTower,
    Tower,
    TowerConfig,
    image_towers,
    text_towers,
)
from .patch_grid import to_map, trace_tower

if TYPE_CHECKING:
    from vlp.modalities.image.spec import ImageSpec

    from ..heads import HeadConfig


@config
class OpenClipConfig(TowerConfig):
    """`model`: the name of an open_clip configuration; or `config`: one written out, with `embed_dim` and the tower's own
    part (`vision_cfg` or `text_cfg`).
    """

    model: str | None = None
    config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.config is None):
            raise ValueError(
                "kind open_clip takes either `model` (a name) or `config` (embed_dim, vision_cfg or text_cfg)"
            )


def read_config(options: OpenClipConfig, part: str, where: str) -> dict[str, Any]:
    """Return `{embed_dim, quick_gelu, <part>: {...}}` of the options."""
    import open_clip

    if options.config is not None:
        tree = dict(options.config)
    else:
        found = open_clip.get_model_config(str(options.model))
        if found is None:
            raise ConfigError(
                f"{where}.model: open_clip has no model {options.model!r}"
                f"{did_you_mean(str(options.model), open_clip.list_models())[:100]}"
            )
        tree = dict(found)
    if part not in tree or "embed_dim" not in tree:
        raise ConfigError(f"{where}.config: expected `embed_dim` and `{part}`, found {', '.join(sorted(tree))}")
    return {"embed_dim": int(tree["embed_dim"]), part: dict(tree[part]), "quick_gelu": bool(tree.get("quick_gelu"))}


class OpenClipTower(Tower):
    """What image and text towers of open_clip do alike: they are a `part` of its models' configurations, and rebuilt by it."""

    Config = OpenClipConfig
    config: OpenClipConfig
    part: ClassVar[str]
    tree: dict[str, Any]
    model: Any

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "model": None, "config": self.tree}

    def as_open_clip(self, head: HeadConfig, dim: int) -> OpenClipForm:
        if head.kind != "none":
            raise UnsupportedByFormat(
                f"open_clip's {self.side} tower projects by itself and takes no head of kind {head.kind!r} behind it: "
                f"export with --format vlp, or train with model.{self.side}_head.kind=none"
            )
        config = {key: value for key, value in self.tree[self.part].items() if key != "output_tokens"}
        return OpenClipForm(config, self.model.state_dict(), shared={"quick_gelu": bool(self.tree["quick_gelu"])})


@image_towers.register("open_clip")
class OpenClipImageTower(OpenClipTower, ImageTower):
    """`pooled` is projected, [B, embed_dim]; patch tokens are the tokens or the map before the projection."""

    part = "vision_cfg"

    def __init__(self, config: OpenClipConfig, spec: ImageSpec) -> None:
        from open_clip.model import _build_vision_tower

        super().__init__()
        self.config, self.tree = config, read_config(config, self.part, "model.image")
        vision = self.tree["vision_cfg"]
        vision.update(image_size=spec.size, timm_model_pretrained=False, output_tokens=False)
        try:
            self.model = _build_vision_tower(self.tree["embed_dim"], vision, self.tree["quick_gelu"])
        except (TypeError, AssertionError) as error:
            raise ConfigError(f"model.image.config.vision_cfg: open_clip does not take it: {error}") from None
        self.width = self.tree["embed_dim"]

        def run(image: Tensor) -> tuple[tuple[int, ...], int]:
            _, cells = self._features(image)
            return cells.shape[2:], cells.shape[1]

        blank = torch.zeros(1, 3, spec.size, spec.size)
        self.grid, self.patch_width = trace_tower(self.model, run, blank, "this open_clip tower")
        self.seen: Tensor | None = None
        if hasattr(self.model, "transformer") and self.model.pool_type == "tok" and self.model.attn_pool is None:
            self.recorder = self.model.transformer.resblocks[-1].ln_1.register_forward_hook(self._watch)

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled [B, embed_dim] and cells [B, C, h, w]."""
        if hasattr(self.model, "trunk"):
            trunk = self.model.trunk
            final = trunk.forward_features(image)
            prefix, layout = int(getattr(trunk, "num_prefix_tokens", 0)), getattr(trunk, "output_fmt", "NCHW")
            return self.model.head(trunk.forward_head(final)), to_map(final, prefix, layout)
        if hasattr(self.model, "attnpool"):
            final = self.model.stem(image)
            for layer in (self.model.layer1, self.model.layer2, self.model.layer3, self.model.layer4):
                final = layer(final)
            return self.model.attnpool(final), final
        self.model.output_tokens = True
        pooled, tokens = self.model(image)
        self.model.output_tokens = False
        return pooled, to_map(tokens, 0, "NLC")

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        if not patches:
            pooled = self.model(image)
            self.seen = None
            return Features(pooled)
        pooled, cells = self._features(image)
        attention, self.seen = self.seen, None
        return Features(pooled, cells.flatten(2).transpose(1, 2), attention)

    def _watch(self, norm: nn.Module, inputs: tuple[Tensor, ...], states: Tensor) -> None:
        """Note the class token's attention in the last block, detached (`states` [B, N, C] enter its attention)."""
        attention = self.model.transformer.resblocks[-1].attn
        if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
            return
        with torch.no_grad():
            width, heads = attention.embed_dim, attention.num_heads
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            query = nn.functional.linear(states[:, :1], weight[:width], bias[:width])
            key = nn.functional.linear(states, weight[width : 2 * width], bias[width : 2 * width])
            query, key = (states.view(*states.shape[:2], heads, -1).transpose(1, 2).float() for states in (query, key))
            weights = (query @ key.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1).mean(1)[:, 0]
            self.seen = weights[:, 1:]

    def pool_projection(self, patch_tokens: Tensor) -> Tensor | None:
        projection = getattr(self.model, "proj", None)
        if isinstance(projection, Tensor):
            return patch_tokens @ projection
        if hasattr(self.model, "head") and self.patch_width == self.model.trunk.num_features:
            return cast(Tensor, self.model.head(patch_tokens))
        return None

    def checkpoint_activations(self) -> None:
        if hasattr(self.model, "attnpool"):  # it takes the call, and does nothing
            raise ConfigError("open_clip's own ResNet cannot recompute activations")
        model = self.model.trunk if hasattr(self.model, "trunk") else self.model
        model.set_grad_checkpointing(True)


@text_towers.register("open_clip")
class OpenClipTextTower(OpenClipTower, TextTower):
    """open_clip's text transformer; `pooled` is projected, [B, embed_dim], states are before the projection."""

    part = "text_cfg"

    def __init__(self, config: OpenClipConfig, shape: TextShape) -> None:
        from open_clip.model import _build_text_tower

        super().__init__()
        self.config, self.tree = config, read_config(config, self.part, "model.text")
        text = self.tree["text_cfg"]
        if text.get("hf_model_name"):
            raise ConfigError(
                f"model.text: this open_clip model's text tower is transformers' {text['hf_model_name']!r}; "
                "use kind hf with its path, and a head of kind mlp or linear"
            )
        if config.config is not None:
            text.setdefault("vocab_size", shape.vocab_size)
            text.setdefault("context_length", shape.length)
        text["output_tokens"] = True
        pooling = text.get("pool_type", "argmax")
        if pooling == "argmax" and shape.closing_id != shape.vocab_size - 1:
            raise ConfigError(
                "model.text: this tower pools at the token with the highest id, which is the closing token only with "
                "open_clip's own tokenizer; set tokenizer.kind to open_clip, or pool_type to first or eos"
            )
        if pooling == "eos":
            text["eos_id"] = shape.closing_id
        try:
            self.model = _build_text_tower(self.tree["embed_dim"], text, self.tree["quick_gelu"])
        except (TypeError, AssertionError) as error:
            raise ConfigError(f"model.text.config.text_cfg: open_clip does not take it: {error}") from None
        self.width, self.state_width = self.tree["embed_dim"], self.model.ln_final.normalized_shape[0]
        self.vocab_size = self.model.token_embedding.num_embeddings
        self.max_length = int(self.model.context_length)
        # without a mask over the padding (SigLIP), a text means what it meant at the length it was trained at
        unmasked = self.model.attn_mask is None and not self.model.use_pad_mask and self.model.cls_emb is None
        self.fixed_length, self.pad_id = unmasked or pooling == "last", shape.pad_id

    def forward(self, tokens: Tokens) -> TextFeatures:
        ids, length = tokens.ids, tokens.ids.shape[1]
        mask = self.model.attn_mask
        if self.fixed_length:
            ids = nn.functional.pad(ids, (0, self.max_length - length), value=self.pad_id)
        elif mask is not None:  # open_clip's own forward takes full-length texts only
            self.model.attn_mask = mask[: ids.shape[1], : ids.shape[1]]
        try:
            pooled, states = self.model(ids)
        finally:
            self.model.attn_mask = mask
        return TextFeatures(pooled, states[:, :length])

    def checkpoint_activations(self) -> None:
        self.model.set_grad_checkpointing(True)
