"""What an image tower and a text tower are, how they are named in a recipe, and how parts of them are frozen.

A tower turns a batch into features; heads, objectives and normalisation are elsewhere. `kind:` is looked up in the registry
of the modality (`towers_of`), `"my_package.my_module:MyTower"` works too: subclass `ImageTower` or `TextTower`, and for
another modality `Tower`, with a `forward` from its processor's batch to `Features`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn

from vlp.batch import Grid, Tokens
from vlp.core.config import ConfigError, component, config, to_tree
from vlp.core.errors import UnsupportedByFormat
from vlp.core.registry import Registry
from vlp.modalities.text.processor import TextShape

if TYPE_CHECKING:
    from vlp.modalities.kinds import Spec

    from ..heads import HeadConfig


@config
class Adapter:
    """Low-rank adapters (LoRA, through peft) on the linear layers of an otherwise frozen tower; merged on export.

    `targets`: ends of the names of the layers, by default every linear layer.
    """

    kind: Literal["lora"] = "lora"
    r: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@config
class TowerConfig:
    """What every tower can be told.

    `pretrained`: weights to start from (a folder, a file, `hf:name`, `open_clip:name`), of which at least the share
    `minimum_loaded` of the tower's tensors must be found, and all that it needs but those in `allow_missing` (names, or
    their beginnings up to a dot: they start at random); of a self-supervised trainer's file the teacher is taken (the
    moving average), or with `student` the network that was trained. `frozen` keeps the whole tower as it is,
    `freeze_layers` the embeddings and the first n layers; frozen parts stay in eval mode. `checkpointing` trades compute
    for memory: blocks are computed again in the backward pass (batch normalisation then counts each batch twice in its
    running statistics).
    """

    pretrained: str | None = None
    minimum_loaded: float = 0.9
    allow_missing: tuple[str, ...] = ()
    student: bool = False
    frozen: bool = False
    freeze_layers: int = 0
    adapter: Adapter | None = None
    checkpointing: bool = False


class Features(NamedTuple):
    """`pooled` [B, width]; where asked for, `patch_tokens` [B, P, patch_width] and the pooling token's `attention` [B, P]."""

    pooled: Tensor
    patch_tokens: Tensor | None = None
    attention: Tensor | None = None


class TextFeatures(NamedTuple):
    """`pooled` [B, width]; `states` [B, L, width] of all tokens; the pooling token's `attention` [B, L] where it has any."""

    pooled: Tensor
    states: Tensor
    attention: Tensor | None = None


@dataclass(frozen=True)
class OpenClipForm:
    """A tower as a part of an open_clip model.

    `config`: its `vision_cfg` or `text_cfg`. `state`: its weights under open_clip's names in that part. `head`: where in
    that part the weights of the projection head belong, None where open_clip has none after this tower. `shared`: settings
    of the whole model that this tower needs. `files`: what has to be in the folder that `hf_model_name` points to.
    """

    config: dict[str, Any]
    state: Mapping[str, Tensor]
    head: str | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class TransformersForm:
    """A tower as a model of transformers.

    `model` holds the tower's weights, `config` builds it. `pooling` says what the tower pools its features by: "pooler" is
    the model's own `pooler_output`, "cls" its first state, and others have their own names. `reads_padding`: it attends to
    padding, as SigLIP does. `by_auto`: `AutoModel` builds it from its configuration.
    """

    model: Any
    config: Any
    pooling: str
    reads_padding: bool = False
    by_auto: bool = True


class Tower(nn.Module):
    """What both kinds share: freezing, and the configuration that rebuilds the tower without its first weights."""

    Config: ClassVar[type[TowerConfig]] = TowerConfig
    side: ClassVar[str]
    kind: str
    config: TowerConfig
    width: int
    recorder: Any = None
    """What notes the pooling token's attention (a hook, a `ClsAttention`), None where nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen_modules: list[nn.Module] = []

    def stages(self) -> Sequence[Sequence[nn.Module | nn.Parameter]]:
        """Return the embeddings or stem, then the layers in order: what `freeze_layers` counts."""
        stack = longest_stack(self)
        inside = {id(parameter) for layer in stack for parameter in layer.parameters()}
        before: list[nn.Module | nn.Parameter] = []
        for parameter in self.parameters():
            if id(parameter) in inside:
                break
            before.append(parameter)
        return [before, *([layer] for layer in stack)]

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass; raises ValueError or AssertionError where that is not possible."""
        raise ConfigError(f"a tower of kind {self.kind} cannot recompute activations")

    def to_config(self) -> dict[str, Any]:
        """Return the recipe of this tower with everything written out, so that it is rebuilt without its sources."""
        return {"kind": self.kind, **to_tree(self.config), "pretrained": None}

    def inner_towers(self) -> dict[str, Tower]:
        """Return the towers that this one is made of, by the keys of their configurations in its own."""
        return {}

    def default_weights(self) -> str | None:
        """Return where this tower's weights are when `pretrained` says nothing: in the folder of its configuration."""
        return None

    def disable_attention_capture(self) -> None:
        """Stop noting the pooling token's attention, for good: what others do with the module has no use for it."""
        if self.recorder is not None:
            self.recorder.remove()

    def as_open_clip(self, head: HeadConfig, dim: int) -> OpenClipForm:
        """Return this tower, followed by `head` into `dim` dimensions, as open_clip builds it.

        Raises UnsupportedByFormat with the reason: here, for every tower that does not say otherwise.
        """
        raise UnsupportedByFormat(
            f"open_clip has no {self.side} tower like kind {self.kind!r}: export with --format vlp"
        )

    def as_transformers(self) -> TransformersForm:
        """Return this tower, without its head, as transformers builds it; raises UnsupportedByFormat as `as_open_clip`."""
        raise UnsupportedByFormat(
            f"transformers has no {self.side} tower like kind {self.kind!r}: export with --format vlp or onnx"
        )

    def apply_freezing(self, where: str) -> None:
        """Apply what the configuration says of freezing and recomputation; called once, after weights are loaded."""
        if self.config.checkpointing:
            try:
                self.checkpoint_activations()
            except (ValueError, AssertionError) as error:
                raise ConfigError(f"{where}.checkpointing: {error}; leave it out") from None
        if self.config.frozen or self.config.adapter is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_("lora_" in name)
        elif self.config.freeze_layers:
            stages = self.stages()
            if self.config.freeze_layers >= len(stages):
                raise ConfigError(
                    f"{where}.freeze_layers is {self.config.freeze_layers}, the tower has {len(stages) - 1} layers"
                )
            for part in itertools.chain.from_iterable(stages[: self.config.freeze_layers + 1]):
                part.requires_grad_(False)
        if self.config.frozen:
            self._frozen_modules = [self]
        elif self.config.freeze_layers:
            self._frozen_modules = list(_frozen_subtrees(self))
        self.train(self.training)

    @property
    def is_frozen(self) -> bool:
        return self.config.frozen and self.config.adapter is None

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except of frozen parts: their dropout and running statistics stay as they are."""
        super().train(mode)
        for module in self._frozen_modules:
            for inner in module.modules():
                inner.training = False
        return self


def with_inner(towers: Mapping[str, Tower]) -> dict[str, Tower]:
    """Return towers by their places in the recipe (`image`), and those that they are made of (`image.tower`)."""
    inner = {f"{place}.{key}": found for place, tower in towers.items() for key, found in tower.inner_towers().items()}
    return {**towers, **inner}


def _frozen_subtrees(module: nn.Module) -> list[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [found for child in module.children() for found in _frozen_subtrees(child)]


def longest_stack(module: nn.Module) -> list[nn.Module]:
    """Return the layers of the longest list of equal layers in a tower: the blocks of a transformer."""
    stacks = [
        list(stack.children())
        for stack in module.modules()
        if isinstance(stack, (nn.ModuleList, nn.Sequential)) and len({type(child) for child in stack.children()}) == 1
    ]
    return max(stacks, key=len, default=[])


def add_prefix(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a module under longer names."""
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


class ImageTower(Tower):
    """An image encoder: float images [B, channels, S, S] or volumes [B, channels, D, H, W], normalised, to `Features`.

    `width` of the pooled features, `patch_width` of a cell's, `channels` of the input, `grid` of the cells. `takes`: which
    of the two it is built for, by an `ImageSpec` or a `VolumeSpec`; `takes_both`: a tower of volumes that also takes one slice
    for a picture.
    """

    side = "image"
    takes: ClassVar[Literal["image", "volume"]] = "image"
    takes_both: ClassVar[bool] = False
    inflation: Literal["centre", "mean"] = "mean"
    """Where the kernels of 2-D weights go along depth, in a tower of volumes."""
    pretrained_grid: tuple[int, int, int] | None = None
    """The cells of 3-D weights whose table of positions is of another grid than the tower's, where that is no cube."""
    channels: int = 3
    patch_width: int
    grid: Grid

    @abstractmethod
    def forward(self, image: Tensor, patches: bool = False) -> Features: ...

    def grid_of(self, size: Sequence[int]) -> Grid:
        """Return the cells of images of a size, the one that the tower is built for."""
        return self.grid

    def drop_local_branch(self) -> None:
        """Drop parameters that only patch tokens need: called when no objective asks for patches."""

    def check_weights(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Raise ConfigError for a file's tensors, by the names that they are matched by, that this tower would misread."""

    def pool_projection(self, patch_tokens: Tensor) -> Tensor | None:
        """Return patch tokens [B, P, patch_width] as if each were an image's pooled features, None where that has no meaning.

        A heat map of a model without a patch head is made of these.
        """
        return patch_tokens if self.patch_width == self.width else None


class TextTower(Tower):
    """A text encoder: `Tokens` of B texts to `TextFeatures`.

    `width` of the pooled features, `state_width` of a token's; `vocab_size`, `max_length` are the limits of its tables.
    """

    side = "text"
    state_width: int
    vocab_size: int
    max_length: int

    @abstractmethod
    def forward(self, tokens: Tokens) -> TextFeatures: ...


_registries: dict[str, Registry[Any]] = {}


def towers_of(modality: str) -> Registry[Any]:
    """Return the registry of a modality's towers: `@towers_of("signal").register("my_tower")` adds one."""
    return _registries.setdefault(modality, Registry(f"{modality} tower", package="vlp.models.towers"))


image_towers: Registry[type[ImageTower]] = towers_of("image")
text_towers: Registry[type[TextTower]] = towers_of("text")


def build_image_tower(tree: Any, spec: Spec, where: str = "model.image") -> ImageTower:
    """Return the image tower of `{kind: ..., ...}`, with random weights; raises ConfigError for one of the other dimension."""
    given = "image" if isinstance(spec.size, int) else "volume"
    cls, _ = component(image_towers, tree, where)
    if cls.takes != given:
        kind = tree if isinstance(tree, str) else tree["kind"]
        fitting = [name for name in image_towers if image_towers.get(name).takes == given]
        raise ConfigError(
            f"{where}.kind: {kind!r} is a tower of {cls.takes}s, and the recipe has a section {given!r}: "
            f"use one of {', '.join(fitting)}"
        )
    tower: ImageTower = build_tower(image_towers, tree, where, spec)
    if given == "image" and tower.channels == 1 and spec.channels != 1:
        raise ConfigError(f"{where}: the tower takes one channel, image.channels is {spec.channels}; set it to 1")
    return tower


def build_text_tower(tree: Any, shape: TextShape, where: str = "model.text") -> TextTower:
    """Return the text tower of `{kind: ..., ...}`, with random weights; raises ConfigError where the tokenizer does not fit."""
    tower: TextTower = build_tower(text_towers, tree, where, shape)
    if shape.vocab_size > tower.vocab_size:
        raise ConfigError(
            f"{where}: the tokenizer has {shape.vocab_size} tokens, the tower's embedding table {tower.vocab_size}; "
            "they belong to different models"
        )
    if shape.length > tower.max_length:
        raise ConfigError(
            f"{where}: tokenizer.length is {shape.length}, the tower has {tower.max_length} positions; "
            f"set tokenizer.length={tower.max_length} or give the tower more positions"
        )
    return tower


def build_tower(registry: Registry[Any], tree: Any, where: str, given: Any) -> Any:
    """Return the tower of `{kind: ..., ...}`, with random weights; `given` is the specification of its modality's processor."""
    cls, options = component(registry, tree, where)
    tower = cls(options, given)
    tower.kind = tree if isinstance(tree, str) else str(tree["kind"])
    tower.config = options if tower.__dict__.get("config") is None else tower.config
    return tower
