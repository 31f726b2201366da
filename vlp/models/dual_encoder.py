"""The dual encoder: two towers and their heads, one forward for everything that the objectives of a run need.

It computes what is in `needs` and nothing else, registers `logit_scale` and `logit_bias` only where an objective asks for
them, and returns unnormalised embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Grid, ModelOutput, Tokens
from vlp.core.config import ConfigError, config, to_tree
from vlp.core.declared import Kinds
from vlp.modalities.kinds import Spec
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.windows import Windows
from vlp.needs.base import Features as Computed
from vlp.needs.base import Part, find_needs
from vlp.needs.words import by_word

from .heads import HeadConfig, build_head, project
from .towers.base import Features, ImageTower, TextFeatures, TextTower, Tower


@config
class ModelConfig:
    """The two towers (`{kind: ..., ...}`, see `vlp.models.towers.base`), the joint width, and the four heads.

    `encoders`: towers of further modalities by their names, each into the same space through a head of its own.
    `patch_head` and `word_head` are as the global heads unless given. `pretrained`: weights of a whole model, towers and
    heads (a folder or file); `minimum_loaded` and `allow_missing` are as of a tower.
    """

    image: Annotated[dict[str, Any], Kinds("vlp.models.towers.base:image_towers")]
    text: Annotated[dict[str, Any], Kinds("vlp.models.towers.base:text_towers")]
    dim: int = 512
    image_head: HeadConfig = HeadConfig()
    text_head: HeadConfig = HeadConfig()
    patch_head: HeadConfig | None = None
    word_head: HeadConfig | None = None
    pretrained: str | None = None
    minimum_loaded: float = 0.9
    allow_missing: tuple[str, ...] = ()
    mask_share: float = 0.75
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)


LENGTH_PARTS = 3  # of more, the padding saved is little


class Encoder(nn.Module):
    """A further modality's tower and its head: a processor's batch to embeddings [B, D], unnormalised."""

    def __init__(self, tower: Tower, dim: int, where: str) -> None:
        super().__init__()
        if tower.config.pretrained:
            raise ConfigError(f"{where}.pretrained: only image and text towers start from weights of their own")
        self.tower = tower
        self.head = build_head(HeadConfig(), tower.width, dim, where)

    def forward(self, inputs: Any) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.tower.is_frozen):
            features = self.tower(inputs)
        return cast(Tensor, self.head(features.pooled))


class DualEncoder(nn.Module):
    """A set of named encoders into one joint space: image and text with their heads, and `encoders` of further modalities.

    `grid` states where the patches lie on the input; `dim` is the joint width D.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        spec: Spec,
        image_tower: ImageTower,
        text_tower: TextTower,
        needs: Iterable[str] = (),
        scale_init: tuple[float, float | None] | None = None,
        others: Mapping[str, Tower] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spec, self.dim = config, spec, config.dim
        self.needs = frozenset(needs)
        self.provided = find_needs(self.needs)
        self.uses: frozenset[Part] = frozenset().union(*(need.uses for need in self.provided))
        self.scale_init, self.mask_share = scale_init, config.mask_share
        local = "patch_head" in self.uses or config.image_head.add_patches is not None
        if not local:
            image_tower.drop_local_branch()
        if "attention" not in self.uses:
            image_tower.disable_attention_capture()
            text_tower.disable_attention_capture()
        self.image_tower, self.text_tower, self.grid = image_tower, text_tower, image_tower.grid
        dim = config.dim
        self.image_head = build_head(config.image_head, image_tower.width, dim, "model.image_head")
        self.text_head = build_head(config.text_head, text_tower.width, dim, "model.text_head")
        patch_head, word_head = config.patch_head or config.image_head, config.word_head or config.text_head
        self.patch_head = build_head(patch_head, image_tower.patch_width, dim, "model.patch_head") if local else None
        words = "word_head" in self.uses
        self.word_head = build_head(word_head, text_tower.state_width, dim, "model.word_head") if words else None
        self.encoders = nn.ModuleDict(
            {name: Encoder(tower, dim, f"model.encoders.{name}") for name, tower in (others or {}).items()}
        )
        scale, bias = scale_init or (math.log(1 / 0.07), None)
        # shape (1,): DeepSpeed cannot broadcast 0-dim parameters
        self.logit_scale = nn.Parameter(torch.full((1,), float(scale))) if "logit_scale" in self.uses else None
        self.logit_bias = nn.Parameter(torch.full((1,), float(bias or 0.0))) if "logit_bias" in self.uses else None
        channels = image_tower.channels
        axes = len(self.grid.shape)
        self.register_buffer("mean", _per_channel(spec.mean, channels, axes), persistent=False)
        self.register_buffer("std", _per_channel(spec.std, channels, axes), persistent=False)
        self.windows = Windows(spec) if isinstance(spec, VolumeSpec) else None

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers by the place of their configuration: `image`, `text`, `encoders.signal`."""
        found: dict[str, Tower] = {"image": self.image_tower, "text": self.text_tower}
        return found | {f"encoders.{name}": cast(Encoder, encoder).tower for name, encoder in self.encoders.items()}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the range that the optimiser keeps the log scale in: 0 to ln 100, wider where it starts outside."""
        if self.logit_scale is None:
            return {}
        start = self.scale_init[0] if self.scale_init is not None else 0.0
        return {"logit_scale": scale_bounds(start)}

    def grid_of(self, image: Tensor) -> Grid:
        """Return where the patches of a batch's images lie: of a picture in a model of volumes, those of its one slice."""
        return self.image_tower.grid_of(image.shape[2:])

    def normalise(self, image: Tensor) -> Tensor:
        """Return uint8 pixels [B, C, H, W] as normalised floats with the tower's channels; floats pass as they are.

        A volume's values [B, 1, D, H, W] become windows, normalised; what has the windows' channels passes. Images in a
        model of volumes are uint8 [B, C, 1, H, W].
        """
        if self.windows is not None:
            is_raw = image.dtype == torch.uint8 or image.shape[1] != self.mean.shape[1] or self.mean.shape[1] == 1
            return cast(Tensor, self.windows(image)) if is_raw else image
        if image.dtype == torch.uint8:
            if image.shape[1] != self.mean.shape[1] and image.shape[1] == 1:
                image = image.expand(-1, self.mean.shape[1], -1, -1)
            return image.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)  # in place: a batch is large
        return image.expand(-1, self.mean.shape[1], -1, -1) if image.shape[1] == 1 else image

    def forward(self, batch: Batch) -> ModelOutput:
        """Return what the run's objectives need of a batch (see `ModelOutput`)."""
        image = self._image(batch.image, "patches" in self.uses)
        text = None if self.word_head is None else self._text(batch.text)
        pooled = self._pooled(batch.text) if text is None else text.pooled
        # Normalisation counts the texts that are there.
        real = None if batch.has_text is None else torch.tensor(batch.has_text).to(pooled.device, non_blocking=True)
        output = ModelOutput(image=image.pooled, text=project(self.text_head, pooled, real))
        for name, encoder in self.encoders.items():
            output.pooled[name] = encoder(batch.inputs[name])
        states, attention = (None, None) if text is None else (text.states, text.attention)
        computed = Computed(image.patch_tokens, image.attention, states, attention, real)
        for need in self.provided:
            need.compute(self, batch, computed, output)
        self._embed_short_texts(output, batch)
        return output

    def embed_patches(self, image: Tensor) -> Tensor:
        """Embed the patches of normalised images -> [B, P, D]."""
        found = self._image(image, True, is_normalised=True).patch_tokens
        assert found is not None
        return found

    def embed_texts(self, tokens: Tokens, counted: Tensor | None) -> Tensor:
        """Embed texts -> [B, D], of which normalisation counts those in `counted` [B] bool."""
        return project(self.text_head, self._text(tokens).pooled, counted)

    def project_words(self, states: Tensor, counted: Tensor | None) -> Tensor:
        """Project states of words or tokens [B, N, C] -> [B, N, D], of which normalisation counts those in `counted`."""
        assert self.word_head is not None
        return project(self.word_head, states, counted)

    def _image(self, pixels: Tensor, patches: bool, is_normalised: bool = False) -> Features:
        """Embed images [B, D], and their patches [B, P, D] where they are asked for."""
        pooling = self.config.image_head.add_patches
        pixels = pixels if is_normalised else self.normalise(pixels)
        # A saliency map asks for the gradient of the pixels.
        asked = pixels.requires_grad or not self.image_tower.is_frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and asked):
            features: Features = self.image_tower(pixels, patches=patches or pooling is not None)
        image: Tensor = self.image_head(features.pooled)
        if features.patch_tokens is None:
            return Features(image)
        embedded = self._patches(features.patch_tokens)
        if pooling is not None:
            image = image + (embedded.amax(1) if pooling == "max" else embedded.mean(1))
        return Features(image, embedded, features.attention)

    def _patches(self, patch_tokens: Tensor) -> Tensor:
        head: nn.Module = self.image_head if self.patch_head is None else self.patch_head
        pooled = self.image_tower.pool_projection(patch_tokens) if self.patch_head is None else patch_tokens
        if pooled is None:
            raise ValueError(
                "this model has no patch embeddings: it was trained without an objective that needs patches, and its "
                "image head does not fit the tower's cells"
            )
        return cast(Tensor, head(pooled))

    def _text(self, tokens: Tokens) -> TextFeatures:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.text_tower.is_frozen):
            features: TextFeatures = self.text_tower(tokens)
        return features

    def _embed_short_texts(self, output: ModelOutput, batch: Batch) -> None:
        """Embed the short texts of all needs together, in one pass, on every rank: where all are empty, one other text."""
        asked = [(need, need.short_texts(batch)) for need in self.provided]
        present = [(need, tokens) for need, tokens in asked if tokens is not None]
        if not present:
            return
        filled = [tokens for _, tokens in present if len(tokens)]
        joined = join_tokens(filled, self.text_tower_pad) if filled else batch.text.take(slice(1))
        embedded = self.text_head(self._pooled(joined))
        first = 0
        for need, tokens in present:
            need.receive(embedded[first : first + len(tokens)], batch, output)
            first += len(tokens)

    def _pooled(self, tokens: Tokens) -> Tensor:
        """Pool the states of texts, on a CPU in parts of like length: padding costs there what words cost, calls nothing.

        A part without any text still calls the tower, on one: where parameters are spread over ranks (FSDP2, ZeRO 3),
        every rank has to call it as often as the others, or they wait for each other.
        """
        if tokens.ids.device.type != "cpu":
            return self._text(tokens).pooled
        order = tokens.mask.sum(1).argsort(stable=True)
        found = []
        for part in order.tensor_split(LENGTH_PARTS):
            rows = part if len(part) else order[:1]
            found.append(self._text(tokens.trimmed(rows)).pooled[: len(part)])
        return torch.cat(found)[order.argsort()]

    text_tower_pad: int = 0
    """The tokenizer's padding id, for joining batches of texts; set by `build_model`."""

    @overload
    def encode_image(self, image: Tensor, patches: Literal[False] = False, is_normalised: bool = False) -> Tensor: ...

    @overload
    def encode_image(
        self, image: Tensor, patches: Literal[True], is_normalised: bool = False
    ) -> tuple[Tensor, Tensor]: ...

    def encode_image(
        self, image: Tensor, patches: bool = False, is_normalised: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Embed images, uint8 or normalised floats [B, C, S, S] -> [B, D], unnormalised.

        `is_normalised`: `image` is what `normalise` returned. Of a volume of one window its values do not tell.
        With `patches` also their patches [B, P, D], P the cells of `grid` row by row. A model that was trained without
        patches gives those of its global head, applied to each cell; ValueError where that has no meaning.
        """
        found = self._image(image, patches, is_normalised)
        if not patches:
            return found.pooled
        assert found.patch_tokens is not None
        return found.pooled, found.patch_tokens

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Embed tokenised texts -> [B, D], unnormalised."""
        return cast(Tensor, self.text_head(self._text(tokens).pooled))

    def encode_part(self, tokens: Tokens, part: Tensor) -> Tensor:
        """Embed a part of each text within its context -> [B, D]: the mean over its tokens, in the space of the patches.

        `part`: bool [B, L], a token or more of each text. The mean is over whole words where the model was trained on words
        (GLoRIA, MGCA) and not on tokens (ConceptCLIP). ValueError for a model that was trained on neither.
        """
        if self.word_head is None:
            raise ValueError("this model has no word embeddings: it was trained without an objective that needs them")
        states = self._text(tokens).states
        if "token_states" not in self.uses:
            states, of_word = by_word(states, tokens)
            part = (of_word & part.unsqueeze(-1)).any(1)
        share = part.to(states.dtype).unsqueeze(-1)
        return cast(Tensor, (self.word_head(states) * share).sum(1) / share.sum(1))

    def resolved_config(self) -> dict[str, Any]:
        """Return plain JSON values from which `rebuild` makes the same architecture, without any of its sources."""
        tree: dict[str, Any] = to_tree(self.config)
        tree.update(image=self.image_tower.to_config(), text=self.text_tower.to_config(), pretrained=None)
        tree["encoders"] = {name: cast(Encoder, encoder).tower.to_config() for name, encoder in self.encoders.items()}
        return {"model": tree, "needs": sorted(self.needs), "scale_init": self.scale_init}


def scale_bounds(start: float) -> tuple[float, float]:
    """Return the bounds of a learnt log scale: CLIP's 0 and ln 100, moved out to where a pretrained one starts."""
    return min(0.0, start), max(math.log(100), start)


def _per_channel(values: tuple[float, ...], channels: int, axes: int) -> Tensor:
    if channels == 1 and len(values) > 1:
        values = (sum(values) / len(values),)
    each = torch.tensor(values if len(values) == channels else values * channels, dtype=torch.float32)
    return each.view(1, -1, *[1] * axes)


def join_tokens(parts: list[Tokens], pad_id: int) -> Tokens:
    """Stack batches of tokens [B_i, L_i] -> [sum of B_i, longest L]."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.ids.shape[1] for part in parts)
    wide = [part.widened(width, pad_id) for part in parts]
    return Tokens(
        ids=torch.cat([part.ids for part in wide]),
        mask=torch.cat([part.mask for part in wide]),
        words=torch.cat([part.words for part in wide]),
    )
