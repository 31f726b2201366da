"""Initial weights for a tower or a whole model, from wherever they are, with a report of what happened to each tensor.

A file is matched to a tower by the common names of `naming`, under whichever prefix fits best; positions are interpolated
with their special tokens kept apart, first layers go between one and three channels. Source: reference, section 11.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlp.core.config import ConfigError

from ..towers.base import ImageTower, Tower, TowerConfig, with_inner
from .expectations import tell
from .files import locate_weights, read_weights
from .inflation import Rule, inflate
from .names import Part, canonical, looks_like_sam, tensorflow_efficientnet
from .positions import place_positions
from .roles import needed, role

if TYPE_CHECKING:
    from ..dual_encoder import DualEncoder, ModelConfig

log = logging.getLogger("vlp")

TEACHERS = ("target_encoder.", "teacher.", "ema.")
"""Of two copies that fit equally, the exponential moving average is the one to start from, unless told otherwise."""


@dataclass(slots=True)
class Report:
    """What became of the tensors: names of the model's that were `loaded` or are `missing`, of the file's `unexpected`.

    `resized` names tensors whose shape was changed on the way, with both shapes; `prefix` is where the tower was found.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    prefix: str = ""

    @property
    def share(self) -> float:
        return len(self.loaded) / max(len(self.loaded) + len(self.missing), 1)

    def __str__(self) -> str:
        sizes = [f"{name} {list(old)} -> {list(new)}" for name, (old, new) in self.resized.items()]
        return (
            f"{self.source}: loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors"
            f"{f' from {self.prefix}*' if self.prefix else ''}; missing {_few(self.missing)}; "
            f"unexpected {_few(self.unexpected)}; resized {_few(sizes)}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def load_tower(tower: Tower, tensors: Mapping[str, Tensor], source: str, student: bool = False) -> Report:
    """Copy what fits of a file's tensors into a tower, in place; raises ConfigError for a SAM-style image encoder.

    `student`: where a teacher fits as well as another copy, take the other.
    """
    inner = getattr(tower, "model", None)
    core = inner if isinstance(inner, nn.Module) else tower
    image = isinstance(tower, ImageTower)
    if image and looks_like_sam(tensors):
        raise ConfigError(
            f"{source} is a SAM-style image encoder: its blocks add relative positions and attend in windows, so a plain "
            "ViT with these weights computes something else. Choose a file with a plain ViT or a ResNet"
        )
    own = core.state_dict()
    if any(name.endswith("_conv_stem.weight") for name in tensors):
        if not str(getattr(tower.config, "name", "")).startswith("tf_"):
            raise ConfigError(
                f"{source} is an EfficientNet ported from TensorFlow, which pads as TensorFlow does; in another model it "
                "would load and predict nonsense. Use timm's variant whose name begins with tf_"
            )
        tensors = tensorflow_efficientnet(tensors, own)
    wanted = {name: part for name, part in canonical(own).items() if not part.name.endswith("num_batches_tracked")}
    rule: Rule = tower.inflation if isinstance(tower, ImageTower) else "mean"
    prefix, given = _best(tensors, wanted, image, student, rule)
    if isinstance(tower, ImageTower):
        tower.check_weights({name: part.value for name, part in given.items()}, source)
    report = Report(source, prefix=prefix)
    table, ours = given.get("tokens.weight"), wanted.get("tokens.weight")
    if table is not None and ours is not None and table.value.shape != ours.value.shape:
        raise ConfigError(
            f"{source} has an embedding table for {table.value.shape[0]} tokens of width {table.value.shape[1]}, this tower "
            f"{ours.value.shape[0]} of width {ours.value.shape[1]}: use the tokenizer that belongs to the weights "
            "(tokenizer.path), and its vocab_size in the tower's config"
        )
    filled: dict[str, bool] = {}
    used: set[str] = set()
    with torch.no_grad():
        found = {**given, **place_positions(wanted, given, tower)}
        for name, part in wanted.items():
            value = _fitting(found.get(name) or _projection(name, tensors, part), part, rule)
            if value is not None:
                part.value.copy_(value)
                if name in given:
                    used.add(given[name].name)
                    if given[name].value.squeeze().shape != part.value.squeeze().shape:
                        report.resized[part.name] = (tuple(given[name].value.shape), tuple(part.value.shape))
            filled[part.name] = filled.get(part.name, True) and value is not None
    report.loaded = [name for name, done in filled.items() if done]
    report.missing = [name for name, done in filled.items() if not done]
    report.unexpected = sorted(
        name for name in tensors if name.removeprefix(prefix) not in used and not name.endswith("num_batches_tracked")
    )
    return report


def _best(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Part], image: bool, student: bool, rule: Rule
) -> tuple[str, dict[str, Part]]:
    """Return the prefix under which most of the tower is found, and the tensors there by common name."""
    prefixes = {""}
    for name in tensors:
        parts = name.split(".")
        for depth in range(1, min(5, len(parts))):
            if parts[depth - 1].isdigit():
                break
            prefixes.add(".".join(parts[:depth]) + ".")
    best: tuple[int, int, int, str, dict[str, Part]] = (-1, 0, 0, "", {})
    for prefix in sorted(prefixes):
        inside = canonical({name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})
        score = sum(
            name in inside and (name in ("pos", "cls") or _fitting(inside[name], part, rule) is not None)
            for name, part in wanted.items()
        )
        teacher = any(name in prefix for name in TEACHERS)
        entry = (score, int(teacher != student), -len(inside), prefix, inside)
        if entry[:3] > best[:3]:
            best = entry
    return best[3], best[4]


def _fitting(part: Part | None, target: Part, rule: Rule) -> Tensor | None:
    """Return the source's tensor in the target's shape, None where no allowed change leads there."""
    if part is None:
        return None
    value, shape = part.value, target.value.shape
    if value.shape == shape:
        return value
    if value.dim() in (4, 5) and len(shape) == 5:  # before what follows: three colours are no three planes
        return inflate(value, shape, rule, "patch" in target.name)
    if value.squeeze().shape == target.value.squeeze().shape:
        return value.reshape(shape)
    if value.dim() == 4 == len(shape) and value.shape[0] == shape[0]:
        if value.shape[1] == 3 and shape[1] == 1:
            value = value.sum(1, keepdim=True)
        elif value.shape[1] == 1 and shape[1] == 3:
            value = value.repeat(1, 3, 1, 1) / 3
        if value.shape[2:] != shape[2:] and value.shape[1] == shape[1] and target.name.find("patch") >= 0:
            from timm.layers import resample_patch_embed

            value = resample_patch_embed(value.float(), list(shape[2:]))
        return value if value.shape == shape else None
    return None


def _projection(name: str, tensors: Mapping[str, Tensor], part: Part) -> Part | None:
    """Return open_clip's raw projection [width, D] from transformers' linear layer [D, width] beside the tower."""
    other = {"proj": "visual_projection.weight", "text_projection": "text_projection.weight"}.get(name, "")
    if other in tensors and tensors[other].T.shape == part.value.shape:
        return Part(other, tensors[other].T)
    return None


def fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Report:
    """Copy tensors into a module where name and shape agree; nothing else is touched."""
    own = module.state_dict()
    taken = {name: tensors[name] for name in own if name in tensors and tensors[name].shape == own[name].shape}
    module.load_state_dict(taken, strict=False)
    missing = [name for name in own if name not in taken]
    return Report(source, loaded=list(taken), missing=missing, unexpected=sorted(set(tensors) - set(taken)))


def require(report: Report, minimum: float, lacking: Sequence[str], where: str) -> Report:
    """Log the report and return it.

    Raises ConfigError when less than the share `minimum` was loaded, or when tensors that the model needs are `lacking`.
    """
    log.info("%s <- %s", where, report)
    if report.share < minimum:
        raise ConfigError(
            f"{where}.pretrained: {report}. That is {report.share:.0%}, less than {where}.minimum_loaded={minimum:.0%}: "
            "probably weights of another architecture"
        )
    if lacking:
        named = _few([f"{name} ({role(name)})" for name in lacking])
        raise ConfigError(
            f"{where}.pretrained: {report}. Without {named} the model is another one than the file's: describe the "
            f"file's architecture in the recipe, or list what may start at random in {where}.allow_missing"
        )
    return report


HEADS = {
    "image_head": ("visual.head.proj", "visual.head.mlp", "visual_projection", "visual.proj"),
    "text_head": ("text.proj", "text_projection", "text.text_projection"),
}
"""Where open_clip and transformers keep the projections that are heads here."""


def load_heads(model: DualEncoder, tensors: Mapping[str, Tensor], report: Report) -> None:
    """Copy the projections and the scale of a CLIP-like model's file into the heads, where their layers correspond."""
    with torch.no_grad():
        for head, places in HEADS.items():
            own = dict(model.get_submodule(head).named_parameters())
            layers = sorted({name.split(".")[0] for name in own if "." in name}, key=int)
            for name, parameter in own.items():
                value = _head_tensor(name, layers, places, tensors, parameter.shape)
                if value is None:
                    report.missing.append(f"{head}.{name}")
                else:
                    parameter.copy_(value)
                    report.loaded.append(f"{head}.{name}")
        for name, scalar in (("logit_scale", model.logit_scale), ("logit_bias", model.logit_bias)):
            if scalar is not None and name in tensors:
                scalar.copy_(tensors[name].reshape(1))
                report.loaded.append(name)


def _head_tensor(
    name: str, layers: list[str], places: tuple[str, ...], tensors: Mapping[str, Tensor], shape: torch.Size
) -> Tensor | None:
    first, _, last = name.rpartition(".")
    for place in places:
        # timm's Mlp, in open_clip's wrapper
        mlp = [f"{place}.fc{layers.index(first) + 1}.{last}"] if first else []
        for option in (f"{place}.{name}", *mlp):
            if option in tensors and tensors[option].shape == shape:
                return tensors[option]
        raw = tensors.get(place)  # open_clip's own projections are [width, D], without a layer around them
        if name == "weight" and raw is not None and raw.T.shape == shape:
            return raw.T
    return None


WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What data parallelism, torch.compile and trainers put before every name of the model inside."""


def unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors under their names in the model itself."""
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return unwrapped({name.removeprefix(wrapper): value for name, value in tensors.items()})
    return tensors


def load_whole(model: DualEncoder, tensors: Mapping[str, Tensor], source: str) -> Report:
    """Load both towers and the heads from one file: ours, open_clip's, or a transformers dual encoder's."""
    tensors = unwrapped(tensors)
    own = set(model.state_dict())
    if len(own & set(tensors)) >= 0.5 * len(own):
        return _without_new_heads(fit(model, tensors, source), tensors)
    image, text = (load_tower(tower, tensors, source) for tower in (model.image_tower, model.text_tower))
    report = Report(source, prefix=f"{image.prefix or '(root)'} and {text.prefix or '(root)'}")
    for part, name in ((image, "image_tower."), (text, "text_tower.")):
        report.loaded += [name + key for key in part.loaded]
        report.missing += [name + key for key in part.missing]
        report.resized |= {name + key: sizes for key, sizes in part.resized.items()}
    load_heads(model, tensors, report)
    projections = {place for places in HEADS.values() for place in places}
    report.unexpected = [
        key
        for key in sorted(set(image.unexpected) & set(text.unexpected))
        if key not in report.loaded and not any(key == place or key.startswith(place + ".") for place in projections)
    ]
    return report


def _short(name: str) -> str:
    """Return a parameter's name without the part that holds another library's model inside of a tower."""
    return re.sub(r"^((?:image_tower|text_tower)(?:\.tower)?)\.model\.", r"\1.", name)


def _without_new_heads(report: Report, tensors: Mapping[str, Tensor]) -> Report:
    """Take what only patches and words need off what is missing where the file was trained without any: it is new."""
    for head in ("patch_head.", "word_head.", "image_tower.local."):
        if not any(name.startswith(head) for name in tensors):
            kept = [name for name in report.missing if not name.startswith(head)]
            if len(kept) < len(report.missing):
                report.missing = kept
                log.info("%s has no %s: it starts at random", report.source, head.rstrip("."))
    return report


def load_initial(model: DualEncoder, unused: Callable[[], set[str]] = set) -> dict[str, Report]:
    """Load the initial weights that the configuration names; returns the reports by part (`model`, `image`, `text`).

    `unused` returns the names of parameters that no output depends on, which may be missing. Raises ConfigError for weights
    that are not the model's.
    """
    reports: dict[str, Report] = {}
    state = {_short(name): value for name, value in model.state_dict().items()}
    towers = with_inner({"image": model.image_tower, "text": model.text_tower})

    def load(part: str, source: str, options: ModelConfig | TowerConfig) -> None:
        side, _, rest = part.partition(".")
        where, inside = (f"model.{part}", f"{side}_tower.{rest}{'.' if rest else ''}") if part in towers else (part, "")
        path = locate_weights(source, f"{where}.pretrained")
        try:
            if isinstance(options, TowerConfig):
                shown = Path(source).name if Path(source).exists() else source
                report = load_tower(towers[part], read_weights(path, options.student), shown, options.student)
            else:
                report = load_whole(model, read_weights(path), source)
        except ConfigError as error:
            raise ConfigError(f"{where}.pretrained: {error}") from None
        lacking = needed(
            report.missing,
            lambda name: state[inside + _short(name)],
            options.allow_missing,
            lambda: {_short(name).removeprefix(inside) for name in unused()},
        )
        reports[part] = require(report, options.minimum_loaded, lacking, where)
        tell(source, path, model, (side,) if part in towers else ("image", "text"), where)

    if model.config.pretrained:
        load("model", model.config.pretrained, model.config)
    for name, tower in towers.items():
        source = tower.config.pretrained or tower.default_weights()
        if source:
            load(name, source, tower.config)
    return reports
