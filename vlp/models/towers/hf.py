"""Image and text towers of transformers, by an architecture or a folder."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from vlp.batch import Tokens
from vlp.core.config import ConfigError, config
from vlp.core.errors import UnsupportedByFormat, first_line
from vlp.core.trust import check_model_folder, refuse_loaders
from vlp.modalities.text.processor import TextShape

from .base import (
    Features,
    ImageTower,
    OpenClipForm,
    TextFeatures,
    TextTower,
    Tower,
    TowerConfig,
    TransformersForm,
    add_prefix,
    image_towers,
    text_towers,
)
from .cls_attention import ClsAttention
from .patch_grid import trace_tower

if TYPE_CHECKING:
    from vlp.modalities.image.spec import ImageSpec

    from ..heads import HeadConfig

NOT_IN_AUTO = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel", "t5": "T5EncoderModel"}
POOLERS = {"cls": "cls_last_hidden_state_pooler", "mean": "mean_pooler", "pooler": "cls_pooler"}
"""open_clip's names of the ways to pool a transformers text tower."""


@config
class HfConfig(TowerConfig):
    """`config`: an architecture, `{model_type: bert, hidden_size: 128, ...}`; or `path`: a folder or cached hub name with
    one, whose weights are then loaded too unless `weights` is false.
    """

    config: dict[str, Any] | None = None
    path: str | None = None
    weights: bool = True

    def __post_init__(self) -> None:
        if (self.config is None) == (self.path is None):
            raise ValueError("kind hf takes either `config` (an architecture) or `path` (a folder or cached hub name)")


@config
class HfTextConfig(HfConfig):
    """`pooling`: how token states become one vector.

    `auto` is the first token, or the last in a causal tower, whose first sees no other. `pooler` is the model's own
    (BERT's dense layer, CLIP's end token).
    """

    pooling: Literal["auto", "cls", "last", "mean", "max", "mean_max", "pooler"] = "auto"


@config
class HfImageConfig(HfConfig):
    """`pooling`: `auto` is the model's own output where it has one, else the class token, else the mean of the cells."""

    pooling: Literal["auto", "cls", "mean", "pooler"] = "auto"


def read_config(options: HfConfig, part: str, where: str) -> Any:
    """Return the transformers configuration that the options lead to; of a two-tower model, its `part`."""
    from transformers import AutoConfig

    try:
        if options.config is not None:
            tree = dict(options.config)
            refuse_loaders(tree, f"{where}.config")
            found = AutoConfig.for_model(tree.pop("model_type"), **tree)
        else:
            if Path(str(options.path)).is_dir():
                check_model_folder(Path(str(options.path)), f"{where}.path")
            found = AutoConfig.from_pretrained(str(options.path).removeprefix("hf:"), trust_remote_code=False)
    except KeyError as error:
        raise ConfigError(f"{where}.config: missing or unknown model_type ({error})") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: no transformers configuration: {first_line(error)}") from None
    found = getattr(found, part) if hasattr(found, part) else found
    refuse_loaders(found.to_dict(), f"{where}.{'config' if options.config is not None else 'path: config.json'}")
    return found


def build(found: Any, pooler: bool, where: str) -> nn.Module:
    """Return the bare model of a transformers configuration, random; without a pooling layer that nothing would train."""
    import transformers

    found._attn_implementation = None
    try:
        if found.model_type in NOT_IN_AUTO:
            return cast(nn.Module, getattr(transformers, NOT_IN_AUTO[found.model_type])(found))
        cls = transformers.AutoModel._model_mapping[type(found)]
        cls = cls[0] if isinstance(cls, (list, tuple)) else cls
        takes_it = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
        options = {"add_pooling_layer": pooler} if takes_it else {}
        return cast(nn.Module, transformers.AutoModel.from_config(found, trust_remote_code=False, **options))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{where}.config: transformers cannot build a {found.model_type!r}: {error}") from None


class HfTower(Tower):
    """What text and image towers of transformers do alike."""

    config: HfConfig
    hf_config: Any
    model: nn.Module
    recorder: ClsAttention | None

    def default_weights(self) -> str | None:
        path = self.config.path
        if path is None or not self.config.weights:
            return None
        return path if Path(path).is_dir() else f"hf:{path.removeprefix('hf:')}"

    def checkpoint_activations(self) -> None:
        self.model.gradient_checkpointing_enable()  # type: ignore[operator]

    def to_config(self) -> dict[str, Any]:
        left_out = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
        tree = {key: value for key, value in self.hf_config.to_dict().items() if key not in left_out}
        return {**super().to_config(), "config": tree, "path": None}


@text_towers.register("hf")
class HfTextTower(HfTower, TextTower):
    """Any encoder of transformers that takes ids and a mask."""

    Config = HfTextConfig
    config: HfTextConfig

    def __init__(self, config: HfTextConfig, shape: TextShape) -> None:
        super().__init__()
        found = read_config(config, "text_config", "model.text")
        given = config.config or {}
        if config.config is not None:  # what the architecture leaves open is made for the tokenizer
            found.vocab_size = given.get("vocab_size", shape.vocab_size)
            found.pad_token_id = given.get("pad_token_id", shape.pad_id)
            for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
                value = getattr(found, name, None)
                if isinstance(value, int) and value >= found.vocab_size:
                    setattr(found, name, None)
            if found.model_type.startswith("clip"):
                found.eos_token_id = given.get("eos_token_id", shape.closing_id)
        self.config, self.pad_id = config, shape.pad_id
        self.hf_config = found
        self.model = build(found, config.pooling == "pooler", "model.text")
        # SigLIP attends to its padding and pools at the last position: a text only means something at full length
        self.fixed_length = found.model_type.startswith("siglip")
        self.max_length = getattr(found, "max_position_embeddings", None) or 1 << 30
        if "roberta" in found.model_type:  # it counts positions from behind the padding id
            self.max_length -= shape.pad_id + 1
        self.state_width, is_causal, has_pooler = self._look(found.model_type)
        pooling = config.pooling if config.pooling != "auto" else "last" if is_causal else "cls"
        if pooling == "cls" and is_causal:
            raise ConfigError(
                f"model.text.pooling: cls is the first token, and in a causal {found.model_type!r} it sees no other: all "
                "texts would have one vector. Use last, mean or max"
            )
        if pooling == "pooler" and not has_pooler:
            raise ConfigError(f"model.text.pooling: a {found.model_type!r} has no pooler; use cls, last, mean or max")
        self.config = config = dataclasses.replace(config, pooling=pooling)
        self.width = (2 if pooling == "mean_max" else 1) * self.state_width
        table: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        self.vocab_size = int(table.num_embeddings)
        # CLIP and SigLIP pool at their last token, so what the first attends to says nothing
        first = config.pooling in ("cls", "pooler") and not found.model_type.startswith(("clip", "siglip"))
        self.recorder = ClsAttention(self.model) if first else None
        # Given as a row of texts, the mask is looked at to see whether it hides anything, and the host waits for the device
        plain = found.model_type in ("bert", "roberta", "xlm-roberta", "camembert", "electra") and not found.is_decoder
        self.takes_pairs = plain and found._attn_implementation == "sdpa"

    def _look(self, model_type: str) -> tuple[int, bool, bool]:
        """Run the model on two texts with one first token; return its width, whether it is causal, whether it has a pooler.

        Raises ConfigError for a model that does not run on ids and a mask.
        """
        ids = torch.tensor([[1, 1, 1, 1], [1, 2, 2, 2]])
        length = self.max_length if self.fixed_length else min(4, self.max_length)
        ids = nn.functional.pad(ids, (0, max(length - 4, 0)), value=1)[:, :length]
        was_training = self.model.training
        try:
            with torch.no_grad():
                result = self.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
            states, pooler = result.last_hidden_state, result.get("pooler_output")
            is_causal = length > 1 and torch.allclose(states[0, 0], states[1, 0], rtol=1e-5, atol=1e-6)
            return int(states.shape[2]), is_causal, pooler is not None
        except Exception as error:  # whatever the library's model says of inputs that it was not made for
            raise ConfigError(
                f"model.text: transformers' {model_type!r} does not run as a text tower, on token ids and a mask: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            self.model.train(was_training)

    def forward(self, tokens: Tokens) -> TextFeatures:
        length = tokens.ids.shape[1]
        if self.fixed_length:
            ids = nn.functional.pad(tokens.ids, (0, self.max_length - length), value=self.pad_id)
            result = self.model(input_ids=ids)
        else:
            mask = tokens.mask[:, None, None] if self.takes_pairs else tokens.mask.long()
            result = self.model(input_ids=tokens.ids, attention_mask=mask)
        states: Tensor = result.last_hidden_state[:, :length]
        pooled = (
            result.pooler_output if self.config.pooling == "pooler" else pool(states, tokens.mask, self.config.pooling)
        )
        return TextFeatures(pooled, states, self.recorder.take() if self.recorder is not None else None)

    def as_open_clip(self, head: HeadConfig, dim: int) -> OpenClipForm:
        if self.config.pooling not in POOLERS or self.hf_config.model_type.startswith(("clip", "siglip")):
            raise UnsupportedByFormat(
                f"open_clip has no text pooling like {self.config.pooling!r} of this tower: export with --format vlp"
            )
        hidden = (self.width + dim) // 2
        fits = head.kind == "mlp" and head.activation == "gelu" and head.bias is False and head.hidden == hidden
        if not fits and head.kind != "none" and (head.kind != "linear" or head.bias):
            raise UnsupportedByFormat(
                "open_clip projects a transformers text tower with a linear layer without bias, or two with GELU between "
                f"and {hidden} hidden; this text head is another: export with --format vlp"
            )
        config = {
            "hf_model_pretrained": False,
            "hf_proj_type": None if head.kind == "none" else head.kind,
            "hf_pooler_type": POOLERS[self.config.pooling],
        }
        files = {"config.json": self.hf_config.to_json_string(use_diff=True).encode()}
        return OpenClipForm(config, add_prefix("transformer.", self.model), "proj.", files=files)

    def as_transformers(self) -> TransformersForm:
        by_auto = self.hf_config.model_type not in NOT_IN_AUTO
        return TransformersForm(self.model, self.hf_config, self.config.pooling, self.fixed_length, by_auto)


def pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """Pool token states [B, L, C] over real tokens (mask [B, L]) -> [B, C], or [B, 2C] for `mean_max`."""
    if how == "cls":
        return states[:, 0]
    if how == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, places, 0).amax(1)
        return states[torch.arange(len(states), device=states.device), last]
    real = mask.unsqueeze(-1)
    mean = (states * real).sum(1) / real.sum(1).clamp(min=1)
    if how == "mean":
        return mean
    highest = states.masked_fill(~real, torch.finfo(states.dtype).min).amax(1)
    return highest if how == "max" else torch.cat([mean, highest], -1)


@image_towers.register("hf")
class HfImageTower(HfTower, ImageTower):
    """Any vision model of transformers: ViT, DINOv2, CLIP's, SigLIP's, Swin, ResNet, ConvNeXt, ..."""

    Config = HfImageConfig
    config: HfImageConfig

    def __init__(self, config: HfImageConfig, spec: ImageSpec) -> None:
        super().__init__()
        found = read_config(config, "vision_config", "model.image")
        if found.is_encoder_decoder:
            raise ConfigError(
                f"model.image.config: a {found.model_type!r} is an encoder and a decoder; a tower is one encoder"
            )
        if hasattr(found, "image_size"):
            found.image_size = spec.size
        if found.model_type.startswith("siglip") and config.pooling in ("cls", "mean"):
            found.vision_use_head = False
        if found.model_type == "vit_mae":
            found.mask_ratio = 0.0
        self.config, self.hf_config = config, found
        self.channels = int(getattr(found, "num_channels", 3))
        self.model = build(found, config.pooling == "pooler", "model.image")

        def run(image: Tensor) -> tuple[tuple[int, ...], tuple[int, int, bool]]:
            result = self._run(image)
            states, has_pooler = result.last_hidden_state, result.get("pooler_output") is not None
            if states.dim() == 4:
                return states.shape[2:], (states.shape[1], 0, has_pooler)
            side, prefix = _square(states.shape[1], spec.size, found)
            return (side, side), (states.shape[2], prefix, has_pooler)

        blank = torch.zeros(1, self.channels, spec.size, spec.size)
        self.grid, known = trace_tower(self.model, run, blank, f"transformers' {found.model_type!r}")
        self.width, self.prefix, has_pooler = known
        self.patch_width = self.width
        self.pooling: str = config.pooling
        if config.pooling == "auto":
            own = found.model_type.startswith(("clip", "siglip")) or not self.prefix
            self.pooling = "pooler" if own and has_pooler else "cls" if self.prefix else "mean"
        if self.pooling == "pooler" and not has_pooler:
            raise ConfigError(f"model.image.pooling: a {found.model_type!r} has no pooler; use auto, cls or mean")
        if self.pooling == "cls" and not self.prefix:
            raise ConfigError(f"model.image.pooling is cls, but a {found.model_type!r} has no class token")
        self.recorder = ClsAttention(self.model) if self.prefix and self.pooling in ("cls", "pooler") else None

    def _run(self, image: Tensor) -> Any:
        """Return the model's output, of all patches in their order: an MAE would hide most and shuffle the rest."""
        if self.hf_config.model_type != "vit_mae":
            return self.model(pixel_values=image)
        cells = (image.shape[-2] // self.hf_config.patch_size) * (image.shape[-1] // self.hf_config.patch_size)
        order = torch.arange(cells, dtype=torch.float32, device=image.device).expand(len(image), -1)
        return self.model(pixel_values=image, noise=order)

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        result = self._run(image)
        states: Tensor = result.last_hidden_state
        if states.dim() == 4:
            states = states.flatten(2).transpose(1, 2)
        cells = states[:, self.prefix :]
        if self.pooling == "pooler":
            pooled = result.pooler_output.flatten(1)
        else:
            pooled = states[:, 0] if self.pooling == "cls" else cells.mean(1)
        attention = self.recorder.take() if self.recorder is not None else None
        if not patches:
            return Features(pooled)
        return Features(pooled, cells, None if attention is None else attention[:, self.prefix :])

    def as_transformers(self) -> TransformersForm:
        return TransformersForm(self.model, self.hf_config, self.pooling)


def _square(tokens: int, size: int, found: Any) -> tuple[int, int]:
    """Return the side of the square of cells in a sequence, and how many tokens stand before it."""
    patch = getattr(found, "patch_size", None)
    side = size // int(patch) if isinstance(patch, int) else int(tokens**0.5)
    if side * side > tokens:  # patches were merged on the way (Swin)
        side = int(tokens**0.5)
    return side, tokens - side * side
