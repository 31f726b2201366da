"""What a folder of weights says that they expect, compared with what the recipe gives them.

Activation, normalisation, size, resizing: a model with others loads without an error and computes something else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vlp.core.config import ConfigError, validate
from vlp.core.untrusted import read_object
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.volume.spec import VolumeSpec

from .files import IN_FOLDER
from .names import TABLES

if TYPE_CHECKING:
    from ..dual_encoder import DualEncoder

log = logging.getLogger("vlp")

ACTIVATIONS: dict[str, str] = TABLES["activations"]
SPELLINGS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "swish": "silu"}
CROPS, PADS = ("crop", "shortest", "center"), ("pad", "longest", "border")
RESIZES = {"squash": "squash", **dict.fromkeys(CROPS, "crop"), **dict.fromkeys(PADS, "pad")}
INTERPOLATIONS = {name: name for name in ("area", "bilinear", "bicubic")} | {2: "bilinear", 3: "bicubic", 4: "area"}


@dataclass(slots=True)
class Expected:
    """What the files beside weights state, None (or no entry) for what they do not; `activation` by tower."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    interpolation: str | None = None
    resize: str | None = None
    activation: dict[str, str] = field(default_factory=dict)
    volume: VolumeSpec | None = None


def tell(source: str, path: Path, model: DualEncoder, towers: Sequence[str], where: str) -> list[str]:
    """Log, and return, one line for each thing that weights expect and the recipe does otherwise."""
    expected = of_tag(source) if source.startswith("open_clip:") else of_folder(path)
    built: dict[str, nn.Module] = {"image": model.image_tower, "text": model.text_tower}
    lines = []
    for name in towers:
        wanted, found = expected.activation.get(name), activation_of(built[name])
        if wanted is not None and found is not None and wanted != found:
            lines.append(
                f"these weights were trained with the activation {wanted}, model.{name} computes {found}: say so in its config "
                "(open_clip: quick_gelu: true beside vision_cfg or text_cfg; transformers: hidden_act)"
            )
    if "image" in towers:
        lines += _differences(model.spec, expected)
    for line in lines:
        log.info("%s.pretrained: %s", where, line)
    return lines


def _differences(spec: ImageSpec | VolumeSpec, expected: Expected) -> list[str]:
    """Return a line for each setting of images or volumes that weights expect otherwise."""
    of_volumes, known = isinstance(spec, VolumeSpec), expected.volume
    if known is not None and not of_volumes:
        return [
            f"these weights were trained on volumes ({known.spacing} mm, windows {known.windows}), the recipe has images"
        ]
    lines, section, keys = [], "volume" if of_volumes else "image", ["mean", "std"]
    if known is not None:
        keys += ["modality", "spacing", "size", "windows"]
    elif not of_volumes:  # weights of images say of a volume no more than what its values are
        keys += ["size", "interpolation", "resize"]
    for key in keys:
        own, theirs = getattr(spec, key), getattr(known or expected, key)
        values = isinstance(theirs, tuple) and not isinstance(theirs[0], str) if theirs else False
        if theirs is not None and not (_agree(own, theirs) if values else own == theirs):
            shown = f"[{', '.join(f'{value:.6g}' for value in theirs)}]" if values else theirs
            lines.append(f"these weights expect {section}.{key}={shown}, the recipe has {list(own) if values else own}")
    return lines


def _agree(own: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether two lists of a value for each channel, or one for all, are the same."""
    return len({1, len(own), len(theirs)}) < 3 and np.allclose(own, theirs, rtol=0, atol=2e-3)


def activation_of(tower: nn.Module) -> str | None:
    """Return the activation between a tower's layers, None where none of the known ones is a module of it."""
    for module in tower.modules():
        if isinstance(module, nn.GELU):
            return "gelu_tanh" if module.approximate == "tanh" else "gelu"
        if type(module).__name__ in ACTIVATIONS:
            return ACTIVATIONS[type(module).__name__]
    return None


def of_tag(source: str) -> Expected:
    """Return what open_clip's list of pretrained weights says of `open_clip:MODEL/TAG`."""
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = source.removeprefix("open_clip:").partition("/")
    return _of_open_clip({"model_cfg": {}, "preprocess_cfg": dict(get_pretrained_cfg(model, tag))})


def of_folder(path: Path) -> Expected:
    """Return what stands beside weights, in the words of open_clip, transformers, timm, or ours; all None without any."""
    if path.is_file() and path.name not in IN_FOLDER:
        return Expected()
    folder = path if path.is_dir() else path.parent
    if tree := _read(folder / "open_clip_config.json"):
        return _of_open_clip(tree)
    tree = _read(folder / "config.json")
    if _part(tree, "pretrained_cfg"):
        return _of_preprocessing(_part(tree, "pretrained_cfg"), "input_size", "crop_mode")
    if "model_type" in tree:
        return _of_transformers(tree, _read(folder / "preprocessor_config.json"))
    shown = _read(folder / "preprocess.json")
    return _of_volumes(shown) if shown.get("kind") == "volume" else _of_preprocessing(shown)


def _of_volumes(shown: Mapping[str, Any]) -> Expected:
    tree = {key: value for key, value in shown.items() if key not in ("kind", "version")}
    try:
        return Expected(volume=validate(VolumeSpec, tree))
    except ConfigError as error:
        log.info("%s: what the weights expect is not known", str(error)[:300])
        return Expected()


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, {} without the file; one that is no such file is named and passed by."""
    if not path.is_file():
        return {}
    try:
        return read_object(path)
    except ConfigError as error:
        log.info("%s: what the weights expect is not known", str(error)[:300])
        return {}


def _part(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _floats(value: Any) -> tuple[float, ...] | None:
    values = value if isinstance(value, (list, tuple)) else [value]
    plain = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return tuple(float(value) for value in values) if plain and len(values) in (1, 3) else None


def _side(value: Any) -> int | None:
    """Return the side of a square size, spelt as a number, a list, or `{height: ..., width: ...}`."""
    if isinstance(value, dict):
        value = value.get("height", value.get("shortest_edge"))
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _word(value: Any, table: Mapping[Any, str]) -> str | None:
    return table.get(value) if isinstance(value, (str, int)) else None


def _of_preprocessing(
    shown: Mapping[str, Any],
    size: str = "size",
    resize: str = "resize",
    interpolation: str = "interpolation",
    prefix: str = "",
) -> Expected:
    """Return what a library's preprocessing says, by its names of the same settings."""
    return Expected(
        mean=_floats(shown.get(f"{prefix}mean")),
        std=_floats(shown.get(f"{prefix}std")),
        size=_side(shown.get(size)),
        interpolation=_word(shown.get(interpolation), INTERPOLATIONS),
        resize=_word(shown.get(resize), RESIZES),
    )


def _of_open_clip(tree: Mapping[str, Any]) -> Expected:
    model, shown = _part(tree, "model_cfg"), _part(tree, "preprocess_cfg")
    expected = _of_preprocessing(shown, resize="resize_mode")
    expected.size = expected.size or _side(_part(model, "vision_cfg").get("image_size"))
    if model.get("quick_gelu", shown.get("quick_gelu", False)) is True:
        expected.activation = {"image": "quick_gelu", "text": "quick_gelu"}
    elif model:
        own = {"image": _part(model, "vision_cfg"), "text": _part(model, "text_cfg")}
        plain = {name: part for name, part in own.items() if not {"timm_model_name", "hf_model_name"} & part.keys()}
        expected.activation = {name: "gelu" for name, part in plain.items() if "act_kwargs" not in part}
    return expected


def _of_transformers(tree: Mapping[str, Any], shown: Mapping[str, Any]) -> Expected:
    crops = shown.get("do_center_crop") is True
    squashes = shown.get("do_resize", True) is True and "height" in _part(shown, "size") and not crops
    expected = _of_preprocessing(shown, "crop_size" if crops else "size", interpolation="resample", prefix="image_")
    expected.resize = "crop" if crops else "squash" if squashes else None
    if shown.get("do_normalize", True) is not True:
        expected.mean = expected.std = None
    for name, part in (("image", "vision_config"), ("text", "text_config")):
        given = _part(tree, part) or tree
        act = given.get("hidden_act", given.get("activation_function"))
        if act is None and str(tree.get("model_type")) == "clip":
            act = "quick_gelu"  # what is left out of a configuration is the class's own default
        if isinstance(act, str):
            expected.activation[name] = SPELLINGS.get(act, act)
    return expected
