"""Image towers from timm, by name: convolutional and transformer, with the exact geometry of their cells."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlp.core.config import ConfigError, config
from vlp.core.errors import UnsupportedByFormat
from vlp.core.registry import did_you_mean
from vlp.core.trust import refuse_loaders

from .base import Features, ImageTower, OpenClipForm, TowerConfig, TransformersForm, add_prefix, image_towers
from .patch_grid import to_map, trace_tower

if TYPE_CHECKING:
    from vlp.modalities.image.spec import ImageSpec

    from ..heads import HeadConfig


@config
class TimmConfig(TowerConfig):
    """`name` of the model; `options` for its constructor (`drop_path_rate: 0.1`); `channels` of its input, 3 unless given.

    `stage`: which feature level the cells are taken from, counted from 0 (MGCA takes 3 of a ResNet-50); by default the
    last. Grey images are repeated for a 3-channel tower; `channels: 1` makes the first layer take one.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    stage: int | None = None


class TimmBased(ImageTower):
    """A tower around a model of timm: what its classifier would see, its attention, its layers."""

    model: Any
    prefix: int

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def watch_attention(self) -> None:
        """Note in each forward what the class token attends to, where the model pools at it."""
        last = _last_attention(self.model)
        pools_at_token = self.prefix > 0 and getattr(self.model, "global_pool", "") == "token"
        self.recorder = last.register_forward_pre_hook(self._watch) if last is not None and pools_at_token else None

    def _watch(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        """Note the class token's attention in the last block, detached; its tokens are projected a second time for it."""
        states = inputs[0]
        with torch.no_grad():
            batch, length, _ = states.shape
            mixed = module.qkv(states).reshape(batch, length, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
            query, key = module.q_norm(mixed[0][:, :, :1]), module.k_norm(mixed[1])
            weights = ((query * module.scale) @ key.transpose(-1, -2)).float().softmax(-1).mean(1)[:, 0]
            self.seen = weights[:, self.prefix :]

    def checkpoint_activations(self) -> None:
        self.model.set_grad_checkpointing(True)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        from timm.models import group_parameters

        groups = group_parameters(self.model, self.model.group_matcher(coarse=True), reverse=True)
        by_group: dict[int, list[nn.Module | nn.Parameter]] = {}
        for name, group in groups.items():
            by_group.setdefault(int(group), []).append(self.model.get_parameter(name))
        return [by_group[group] for group in sorted(by_group)]


@image_towers.register("timm")
class TimmTower(TimmBased):
    """A timm model without its classifier: `pooled` is what its classifier would see."""

    Config = TimmConfig
    config: TimmConfig

    def __init__(self, config: TimmConfig, spec: ImageSpec) -> None:
        super().__init__()
        self.config, self.channels, self.size = config, config.channels, spec.size
        self.model: Any = create(config, spec.size)
        self.prefix = int(getattr(self.model, "num_prefix_tokens", 0))

        def run(image: Tensor) -> tuple[tuple[int, ...], tuple[int, int]]:
            pooled, cells = self._features(image, patches=True)
            return cells.shape[2:], (pooled.shape[1], cells.shape[1])

        blank = torch.zeros(1, config.channels, spec.size, spec.size)
        self.grid, (self.width, self.patch_width) = trace_tower(self.model, run, blank, f"timm's {config.name!r}")
        self.watch_attention()

    def _features(self, image: Tensor, patches: bool) -> tuple[Tensor, Tensor]:
        """Return pooled [B, width] and cells [B, C, h, w]."""
        level = None
        if self.config.stage is not None and patches:
            final, levels = self.model.forward_intermediates(image, indices=[self.config.stage], output_fmt="NCHW")
            level = levels[0]
        else:
            final = self.model.forward_features(image)
        pooled: Tensor = self.model.forward_head(final, pre_logits=True)
        if level is not None or not patches:
            return pooled.flatten(1), final if level is None else level
        return pooled.flatten(1), to_map(final, self.prefix, getattr(self.model, "output_fmt", "NCHW"))

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        pooled, cells = self._features(image, patches)
        attention, self.seen = self.seen, None
        if not patches:
            return Features(pooled)
        return Features(pooled, cells.flatten(2).transpose(1, 2), attention)

    def as_open_clip(self, head: HeadConfig, dim: int) -> OpenClipForm:
        if head.kind != "linear":
            raise UnsupportedByFormat(
                f"open_clip projects a timm tower with one linear layer, this image head is {head.kind!r}: --format vlp"
            )
        _require_same_by_name(self.config.name, self.model)
        config = {
            "timm_model_name": self.config.name,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "timm_proj_bias": bool(head.bias),
            "image_size": self.size,
        }
        return OpenClipForm(config, add_prefix("trunk.", self.model), "head.proj.")

    def as_transformers(self) -> TransformersForm:
        from transformers import TimmWrapperConfig, TimmWrapperModel

        names = {"img_size": self.size, **self.config.options, "in_chans": self.channels}
        if not hasattr(self.model, "patch_embed"):
            names.pop("img_size")
        config = TimmWrapperConfig(architecture=self.config.name, model_args=names, hidden_size=self.width)
        model = TimmWrapperModel(config)
        model.timm_model = self.model
        return TransformersForm(model.eval(), config, "pooler")


def create(config: TimmConfig, size: int) -> nn.Module:
    """Return the random timm model, told its input size where it has a fixed one; raises ConfigError for an unknown name."""
    import timm

    refuse_loaders(config.options, "model.image.options")
    if not timm.is_model(config.name):
        near = did_you_mean(config.name, timm.list_models()) if timm.list_models() else ""
        raise ConfigError(f"model.image.name: timm has no model {config.name!r}{near if len(near) < 100 else ''}")
    given = {"pretrained": False, "num_classes": 0, "in_chans": config.channels, **config.options}
    try:
        model: nn.Module = timm.create_model(config.name, img_size=size, **given)
    except TypeError:  # convolutional models take any size, and no such argument
        try:
            model = timm.create_model(config.name, **given)
        except TypeError as error:
            raise ConfigError(f"model.image.options: timm's {config.name!r} does not take them: {error}") from None
    return model


def _last_attention(model: nn.Module) -> nn.Module | None:
    found = None
    for module in model.modules():
        if all(hasattr(module, name) for name in ("qkv", "q_norm", "k_norm", "num_heads", "scale")):
            found = module
    return found


def _require_same_by_name(name: str, model: nn.Module) -> None:
    """Refuse timm models that their name alone does not rebuild: open_clip passes on neither options nor image size."""
    import timm

    plain, ours = timm.create_model(name, num_classes=0).state_dict(), model.state_dict()
    for key in sorted(set(plain) | set(ours)):
        if key not in plain or key not in ours or plain[key].shape != ours[key].shape:
            raise UnsupportedByFormat(
                f"open_clip builds timm's {name!r} from its name, with its own image size and options, and there {key!r} "
                "differs: train at the model's own size without options, or export with --format vlp or transformers"
            )
